"""Utilities: what makes a set of candidates a good one, each with the solver that maximises it."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from partitionsel_jax.selection import matroid
from partitionsel_jax.selection.gram import DenseGram
from partitionsel_jax.selection.matroid import play
from partitionsel_jax.selection.problem import Options, Pool, Solution, unweighted
from partitionsel_jax.selection.pursuit import gradient_matching
from partitionsel_jax.selection.transport import fair_transport


@dataclasses.dataclass(frozen=True)
class Utility:
    """An entry of the registry.

    Attributes:
      solve: (pool, options) -> Solution, on the pool after its coupling.
      rules: the rules that make sense with it. A score that does not depend on the other picks is
        ranked once, and leaves nothing to draw.
      refits: whether it has weights, which swaps and the named solvers need.
      draws: whether it draws from `key`, whatever the rule.
      takes_all: whether it only makes sense when `size` is the pool's.
      needs: the fields of `Problem` that may be None and that it reads.
      also_reads: those that it reads where they are given.
      gradients: whether it reads alignment or Gram matrix.
    """

    solve: Callable[[Pool, Options], Solution]
    rules: tuple[str, ...] = ("greedy",)
    refits: bool = False
    draws: bool = False
    takes_all: bool = False
    needs: tuple[str, ...] = ()
    also_reads: tuple[str, ...] = ()
    gradients: bool = True


def taylor(pool: Pool, options: Options) -> Solution:
    """eta sum_S s_i - eta^2 sum_{i<j in S} K_ij, with eta = step_scale (GREATS; ID).

    The second-order model of one update's effect on the anchors' loss. A pick is worth
    eta s_i - eta^2 sum_{j in S} K_ij, which may be negative; the last picks of a budget often are.
    As eta goes to 0 the picks become those of `alignment`.
    """
    eta = options.step_scale

    def score(redundancy_N: jax.Array) -> jax.Array:
        return eta * pool.alignment - eta**2 * redundancy_N

    def add(
        redundancy_N: jax.Array, indices: jax.Array, slot: jax.Array, pick: jax.Array
    ) -> jax.Array:
        return redundancy_N + jnp.where(pick >= 0, pool.gram.row(pick), 0.0)

    rounds = play(jnp.zeros_like(pool.alignment), score, add, pool, options)
    return unweighted(rounds.indices, rounds.gains)


def facility_location(pool: Pool, options: Options) -> Solution:
    """sum_j max(0, max_{i in S} K_ij) over the whole pool (CRAIG, CoLM).

    Every candidate is served by the most similar pick, and by nothing until there is one.
    Similarities below 0 therefore count as 0, which makes the function monotone and submodular.
    """
    assert isinstance(pool.gram, DenseGram)  # `select` has seen to it
    similarity_NxN = pool.gram.masked()

    def score(cover_N: jax.Array) -> jax.Array:
        return jnp.sum(jnp.maximum(similarity_NxN - cover_N[None, :], 0.0), axis=1)

    def add(cover_N: jax.Array, indices: jax.Array, slot: jax.Array, pick: jax.Array) -> jax.Array:
        return jnp.maximum(cover_N, jnp.where(pick >= 0, similarity_NxN[pick], 0.0))

    rounds = play(jnp.zeros_like(pool.alignment), score, add, pool, options)
    return unweighted(rounds.indices, rounds.gains)


def anchor_coverage(pool: Pool, options: Options) -> Solution:
    """sum_a max(0, max_{i in S} sim_ia) over the anchors; see `facility_location`.

    With `independent` coupling every domain covers the anchors on its own, and the sums add up.
    """
    similarity_NxA = pool.anchor_similarity
    assert similarity_NxA is not None  # `select` has seen to it

    def score(cover_GxA: jax.Array) -> jax.Array:
        return jnp.sum(jnp.maximum(similarity_NxA - cover_GxA[pool.groups], 0.0), axis=1)

    def add(
        cover_GxA: jax.Array, indices: jax.Array, slot: jax.Array, pick: jax.Array
    ) -> jax.Array:
        row_A = jnp.where(pick >= 0, similarity_NxA[pick], 0.0)
        return cover_GxA.at[pool.groups[pick]].max(row_A)

    start = jnp.zeros((pool.group_count, similarity_NxA.shape[1]), jnp.float32)
    rounds = play(start, score, add, pool, options)
    return unweighted(rounds.indices, rounds.gains)


# Utilities whose score does not depend on the other picks: each domain's top candidates.


def alignment(pool: Pool, options: Options) -> Solution:
    """The sum of s_i over the picks (LESS-style influence)."""
    return _ranked(pool, options, pool.alignment)


def grad_norm(pool: Pool, options: Options) -> Solution:
    """The sum of the gradient norms over the picks (GradNorm).

    `Problem.norms` where given: features that were scaled to unit norm have all the same one.
    """
    norm_N = pool.norms
    if norm_N is None:
        norm_N = jnp.sqrt(jnp.maximum(pool.gram.diagonal(), 0.0))
    return _ranked(pool, options, norm_N)


def loss(pool: Pool, options: Options) -> Solution:
    """The sum of the losses over the picks (MaxLoss)."""
    assert pool.losses is not None  # `select` has seen to it
    return _ranked(pool, options, pool.losses)


def lowest_loss(pool: Pool, options: Options) -> Solution:
    """The sum of the losses over the picks with its sign turned: the easiest rows."""
    assert pool.losses is not None  # `select` has seen to it
    return _ranked(pool, options, -pool.losses)


def reducible_loss(pool: Pool, options: Options) -> Solution:
    """The sum over the picks of loss less the reference model's loss (RHO-LOSS)."""
    assert pool.losses is not None  # `select` has seen to it
    reference_N = 0.0 if pool.reference_losses is None else pool.reference_losses
    return _ranked(pool, options, pool.losses - reference_N)


def uds(pool: Pool, options: Options) -> Solution:
    """The sum over the picks of their logits' nuclear norm and their novelty (UDS)."""
    assert pool.nuclear_norms is not None  # `select` has seen to it
    novelty_N = 0.0 if pool.novelty is None else pool.novelty
    return _ranked(pool, options, pool.nuclear_norms + novelty_N)


def random(pool: Pool, options: Options) -> Solution:
    """A base of the matroid drawn uniformly from `key`."""
    return _ranked(pool, options, options.draw(pool.alignment.shape), valued=False)


def full(pool: Pool, options: Options) -> Solution:
    """Every candidate that the budgets admit, in index order; `size` must be the pool's."""
    return _ranked(pool, options, jnp.zeros_like(pool.alignment), valued=False)


def _ranked(pool: Pool, options: Options, score: jax.Array, valued: bool = True) -> Solution:
    """The base of greatest total score, which is the utility if `valued`; else it has none."""
    elements = matroid.before_picks(pool.domains, pool.budgets, pool.candidates)
    indices = matroid.best_base(elements, score, options.size)
    if not valued:
        zeros_K = jnp.zeros(indices.shape, jnp.float32)
        return unweighted(indices, zeros_K)._replace(utility=None)
    return unweighted(indices, jnp.where(indices >= 0, score[indices], 0.0))


_BOTH_RULES = ("greedy", "residual_random")

UTILITIES = {
    "gradient_matching": Utility(gradient_matching, rules=_BOTH_RULES, refits=True),
    "taylor": Utility(taylor, rules=_BOTH_RULES),
    "facility_location": Utility(facility_location, rules=_BOTH_RULES, needs=("gram",)),
    "anchor_coverage": Utility(anchor_coverage, rules=_BOTH_RULES, needs=("anchor_similarity",)),
    "fair_transport": Utility(fair_transport, rules=_BOTH_RULES, needs=("anchor_similarity",)),
    "alignment": Utility(alignment),
    "grad_norm": Utility(grad_norm, also_reads=("norms",)),
    "loss": Utility(loss, needs=("losses",), gradients=False),
    "lowest_loss": Utility(lowest_loss, needs=("losses",), gradients=False),
    "reducible_loss": Utility(
        reducible_loss, needs=("losses",), also_reads=("reference_losses",), gradients=False
    ),
    "uds": Utility(uds, needs=("nuclear_norms",), also_reads=("novelty",), gradients=False),
    "random": Utility(random, draws=True, gradients=False),
    "full": Utility(full, takes_all=True, gradients=False),
}
