"""Scores of rows from their logits alone: nuclear norms, and distances from rows selected lately.

Utility-Diversity Sampling (UDS, arXiv 2510.16882) ranks a row by the nuclear norm of its logits L
[T, V], plus a weight times the mean distance of their random projection P L Q from those of the
rows selected last. Here tokens outside the response are left out, and no logits are made: with the
head W [D, V] and its input X [T, D], L = X W; with W W^T = C C^T, X C has the singular values of L;
and L Q = X (W Q).

The nuclear norm of M is <U, M>, U being its polar factor. Newton-Schulz steps, scaled as by Chen
and Chow (2014), take M to U by products of matrices alone, which suit an accelerator.

Letters of the shape comments: N pool, K selected, B rows, T tokens, D width, V vocabulary, E
embedding, S slots of the memory, R and C rows and columns of what a row's logits are projected to.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from partitionsel_jax import models
from partitionsel_jax.data.rows import Rows
from partitionsel_jax.gradients.microbatches import Buckets, map_microbatches
from partitionsel_jax.gradients.two_sided import Side

# Rows and columns of a row's projected logits (the published ones), and entries together.
POSITIONS, COLUMNS = 8, 128
EMBEDDING = POSITIONS * COLUMNS
# Shares of a row's tokens that responses are computed at, whichever holds all of a microbatch's;
# and the name of that choice in a traced program.
SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
SCOPE = "packed_responses"
# Singular values of at least this share of the Frobenius norm count in full, smaller ones in part.
_LEAST = 1e-5

_product = functools.partial(jnp.matmul, precision="highest", preferred_element_type=jnp.float32)


class Memory(NamedTuple):
    """Embeddings of the rows that were selected last; the oldest make room for the next.

    Attributes:
      embeddings: f32[S, E].
      seen: i32[], how many rows there have been.
    """

    embeddings: jax.Array
    seen: jax.Array

    @classmethod
    def empty(cls, slots: int) -> "Memory":
        """The memory before the first update."""
        return cls(jnp.zeros((slots, EMBEDDING)), jnp.zeros((), jnp.int32))

    def distances(self, embeddings_BxE: jax.Array) -> jax.Array:
        """f32[B], mean Euclidean distances from what is remembered; 0 where nothing is."""
        known_S = jnp.arange(len(self.embeddings)) < self.seen
        squares_BxS = (
            jnp.sum(embeddings_BxE**2, axis=1)[:, None]
            + jnp.sum(self.embeddings**2, axis=1)[None, :]
            - 2 * _product(embeddings_BxE, self.embeddings.T)
        )
        distances_BxS = jnp.sqrt(jnp.maximum(squares_BxS, 0.0))
        total_B = jnp.sum(jnp.where(known_S[None, :], distances_BxS, 0.0), axis=1)
        return total_B / jnp.maximum(known_S.sum(), 1)

    def after(self, embeddings_NxE: jax.Array | None, indices_K: jax.Array) -> "Memory":
        """The memory once rows of a pool are selected; an index of -1 is padding, and K <= S."""
        assert embeddings_NxE is not None  # as there is a memory
        picked_K = indices_K >= 0
        slots = len(self.embeddings)
        place_K = (self.seen + jnp.cumsum(picked_K) - 1) % slots
        # Out of bounds, hence nowhere, for padding.
        place_K = jnp.where(picked_K, place_K, slots)
        embeddings = self.embeddings.at[place_K].set(embeddings_NxE[indices_K], mode="drop")
        return Memory(embeddings, self.seen + picked_K.sum(dtype=jnp.int32))


class LogitScores(NamedTuple):
    """Scores of rows by their logits.

    Attributes:
      nuclear_norms: f32[B]; 0 for a row without a response.
      novelty: f32[B], weighted distances from the memory; None without one.
      embeddings: f32[B, E], what it remembers of rows that are selected.
    """

    nuclear_norms: jax.Array
    novelty: jax.Array | None = None
    embeddings: jax.Array | None = None


def logit_scores(
    model: models.Model,
    parameters: Any,
    rows: Rows,
    *,
    microbatch: int,
    buckets: Buckets,
    memory: Memory | None = None,
    weight: float = 1.0,
) -> LogitScores:
    """Scores this device's rows by a forward pass each.

    Args:
      model, parameters: whose logits.
      rows: [B, T].
      microbatch: rows at once.
      buckets: the widths that a microbatch may have.
      memory: of the rows selected last; None for nuclear norms alone.
      weight: of the distances from it.
    """
    head_DxV = model.head(parameters)
    root_DxD = _root(head_DxV)
    columns_DxC, signs_TxR = None, None
    if memory is not None:
        # One projection for all steps and runs, since the memory compares steps.
        left, right = jax.random.split(jax.random.key(0))
        columns_DxC = Side(right, head_DxV.shape[1], COLUMNS).apply(head_DxV)
        columns_DxC /= math.sqrt(EMBEDDING)
        signs_TxR = Side(left, rows.tokens.shape[1], POSITIONS).rows(0, rows.tokens.shape[1])

    def of_packed(x_BxTxD: jax.Array) -> LogitScores:
        norms_B = nuclear_norms(_product(x_BxTxD, root_DxD[None]))
        if columns_DxC is None or signs_TxR is None:
            return LogitScores(norms_B)
        signs_RxT = signs_TxR[: x_BxTxD.shape[1]].T
        # From the left: the response becomes R rows before it meets the columns.
        projected_BxRxC = _product(_product(signs_RxT[None], x_BxTxD), columns_DxC[None])
        embeddings_BxE = projected_BxRxC.reshape(len(norms_B), EMBEDDING)
        return LogitScores(norms_B, embeddings=embeddings_BxE)

    def one(rows: Rows) -> LogitScores:
        x_BxTxD = model.hidden(parameters, rows.tokens)[:, :-1].astype(jnp.float32)
        counted_BxT = rows.response[:, 1:]
        # Counted tokens first: what is left of a row is zeros, and adds nothing.
        order_BxT = jnp.argsort(~counted_BxT, axis=1, stable=True)
        x_BxTxD = jnp.where(counted_BxT[:, :, None], x_BxTxD, 0.0)
        x_BxTxD = jnp.take_along_axis(x_BxTxD, order_BxT[:, :, None], axis=1)
        widths = [math.ceil(share * counted_BxT.shape[1]) for share in SHARES]
        longest = counted_BxT.sum(axis=1).max()
        with jax.named_scope(SCOPE):
            found: LogitScores = jax.lax.switch(
                jnp.searchsorted(jnp.asarray(widths), longest),
                [lambda x, width=width: of_packed(x[:, :width]) for width in widths],
                x_BxTxD,
            )
        return found

    scores: LogitScores = map_microbatches(one, rows, microbatch, buckets=buckets)
    if memory is None or scores.embeddings is None:
        return scores
    return scores._replace(novelty=weight * memory.distances(scores.embeddings))


def nuclear_norms(matrices: jax.Array) -> jax.Array:
    """The sums of the singular values of f32[B, I, J], f32[B].

    Singular values below 1e-5 of a matrix's Frobenius norm count in part.
    """
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.swapaxes(1, 2)
    # By the largest entry first, whose square neither overflows nor vanishes then.
    largest = jnp.max(jnp.abs(wide), axis=(1, 2), keepdims=True, initial=0.0)
    unit = wide / jnp.where(largest > 0, largest, 1.0)
    unit /= jnp.maximum(jnp.sqrt(jnp.sum(unit**2, axis=(1, 2), keepdims=True)), 1.0)

    def step(polar: jax.Array, ab: jax.Array) -> tuple[jax.Array, None]:
        gram = _product(polar, polar.swapaxes(1, 2))
        return ab[0] * polar + ab[1] * _product(gram, polar), None

    polar, _ = jax.lax.scan(step, unit, jnp.asarray(_newton_schulz(_LEAST)))
    return jnp.sum(polar * wide, axis=(1, 2))


@functools.cache
def _newton_schulz(least: float) -> np.ndarray:
    """The (a, b) of steps x -> a x + b x^3 that take all of [least, 1] to within 1e-5 of 1.

    Each is scaled so that both ends of the interval come to the new least value.
    """
    found = []
    while least < 1 - 1e-5:
        scale = math.sqrt(3 / (1 + least + least**2))
        found.append((1.5 * scale, -0.5 * scale**3))
        least = found[-1][0] * least + found[-1][1] * least**3
    return np.asarray(found, np.float32)


def _root(head_DxV: jax.Array) -> jax.Array:
    """A triangular C f32[D, D] with C C^T = W W^T."""
    gram_DxD = _product(head_DxV, head_DxV.T)
    # More than rounding takes off the least eigenvalue, which is 0 where V < D: a share of each
    # entry of the diagonal (Higham, Accuracy and Stability, theorem 10.7), and not nothing of 0.
    eps, diagonal_D = jnp.finfo(jnp.float32).eps, jnp.diagonal(gram_DxD)
    added_D = len(diagonal_D) * eps * diagonal_D + eps**2 * jnp.max(diagonal_D)
    return jnp.linalg.cholesky(gram_DxD + jnp.diag(added_D))
