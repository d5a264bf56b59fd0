"""The loss that candidates, anchors, updates and validation all share.

`response_loss` is its definition, on given logits. `head_losses` gives its terms from the
activations before the head, without logits of the whole batch: blocks of (tokens x vocabulary) are
made, reduced and dropped, and only response tokens reach the head.

Letters: B batch, T tokens, D width, V vocabulary, N = B T tokens in one list, C columns of a block
of the vocabulary, K width of a probe.
"""

import dataclasses
import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap, sequential_vmap
from jax.custom_derivatives import SymbolicZero

from partitionsel_jax.models.varying import varying_like

_LANES = 128  # blocks are multiples of it, as matrix units like them


def response_loss(logits: jax.Array, tokens: jax.Array, response: jax.Array) -> jax.Array:
    """Mean cross-entropy of every example over its response tokens.

    Args:
      logits: f32[B, T, V], `logits[:, t]` predicts `tokens[:, t + 1]`.
      tokens: i32[B, T].
      response: bool[B, T], True at response tokens; the prompt and the padding are False.

    Returns:
      f32[B], in nats per token; 0 for an example without a response token.
    """
    targets, counted = shift(tokens, response)
    predictions = logits[:, :-1]
    gold = jnp.take_along_axis(predictions, targets[..., None], axis=-1)[..., 0]
    nll = jax.nn.logsumexp(predictions, axis=-1) - gold
    return mean_over_response(jnp.where(counted, nll, 0.0), counted)


def shift(tokens_BxT: jax.Array, response_BxT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Targets i32[B, T-1] of positions 0 .. T-2, and bool[B, T-1], True where one counts."""
    return tokens_BxT[:, 1:], response_BxT[:, 1:]


def mean_over_response(nll_BxT: jax.Array, counted_BxT: jax.Array) -> jax.Array:
    """f32[B], the mean over counted tokens of an nll that is 0 elsewhere; 0 where none counts."""
    return nll_BxT.sum(axis=-1) / jnp.maximum(counted_BxT.sum(axis=-1), 1)


@dataclasses.dataclass(frozen=True)
class Chunks:
    """The largest block of logits that is ever held: `tokens` x `vocab` entries.

    The last block of tokens is computed in full however few it holds: small ones waste less, and
    large ones suit an accelerator.

    Args:
      vocab: columns of the head used at once.
      tokens: counted tokens that meet them at once; 0 for an eighth of all tokens, counted or not,
        though at least 128 and at most 2,048.

    Raises:
      ValueError: vocab below 1, or tokens below 0.
    """

    vocab: int = 8192
    tokens: int = 0

    def __post_init__(self):
        for name, least in (("vocab", 1), ("tokens", 0)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"chunks.{name} must be at least {least}, not {getattr(self, name)}"
                )

    def token_block(self, tokens: int) -> int:
        """Counted tokens of a block, of so many tokens in all."""
        even = -(-tokens // (8 * _LANES)) * _LANES
        return min(self.tokens or min(even, 16 * _LANES), tokens)


class Probe(Protocol):
    """A matrix Q [V, K] that is made in blocks of rows; a registered pytree."""

    @property
    def width(self) -> int:
        """K, static."""

    def rows(self, start: jax.Array | int, count: int) -> jax.Array:
        """f32[count, K], rows start .. start + count - 1; `start` may be traced."""

    def at(self, rows: jax.Array) -> jax.Array:
        """f32[..., K], the rows of i32[...]."""


def head_losses(
    x_BxTxD: jax.Array,
    head: jax.Array,
    targets_BxT: jax.Array,
    counted_BxT: jax.Array,
    *,
    vocab_axis: int,
    chunks: Chunks | None = None,
    probe: Probe | None = None,
) -> Any:
    """Cross-entropy of every counted token, in blocks that never hold the whole vocabulary.

    * No array of (tokens, vocabulary) exceeds one block of `chunks`, and the head is neither
      transposed nor padded: one block of it at a time is cast to x's dtype.
    * Tokens that do not count never reach the head: the number of blocks follows the mask at run
      time. What they hold, NaN included, changes nothing.
    * Products are in x's dtype with float32 accumulation, the softmax is float32, and gradients
      are exact. The loss costs one product of (counted tokens, D, V). A gradient for x adds one:
      an online softmax accumulates d nll / dx in the same sweep (as flash attention does, arXiv
      2205.14135, with the head as keys and values). One for the head adds two, since it makes
      the logits again. The gradient has no derivative of its own.
    * Rows are independent: one that is not finite breaks its own nll and gradient only (and the
      head's gradient, unless its cotangent is 0).
    * `jax.vmap` over examples joins them to one list of tokens, as if they had been one batch; a
      head or probe that differs per example, and a head gradient per example, are taken one
      example after the other.

    Args:
      x_BxTxD: f[B, T, D], the activations before the head.
      head: f[V, D] (vocab_axis=0, a tied embedding) or f[D, V] (vocab_axis=1).
      targets_BxT: i32[B, T] in 0 .. V-1 where counted; anything else counted gives NaN.
      counted_BxT: bool[B, T].
      vocab_axis: the axis of `head` that runs over the vocabulary.
      chunks: `Chunks()` by default.
      probe: a matrix Q [V, K] to project the error at the logits on.

    Returns:
      nll f32[B, T], 0 where not counted. With a probe also the residual f32[B, T, K],
      softmax @ Q - Q[target], 0 where not counted: an auxiliary output, whose cotangent is
      ignored; the probe gets no gradient.

    Raises:
      ValueError: shapes or dtypes that do not fit, or another vocab_axis.
    """
    if vocab_axis not in (0, 1):
        raise ValueError(
            f"vocab_axis must be 0 for a head [V, D] or 1 for [D, V], not {vocab_axis!r}"
        )
    if x_BxTxD.ndim != 3 or head.ndim != 2 or x_BxTxD.shape[2] != head.shape[1 - vocab_axis]:
        raise ValueError(
            f"x must be [B, T, D] and head {'[V, D]' if vocab_axis == 0 else '[D, V]'} with the "
            f"same D; got {x_BxTxD.shape} and {head.shape}: check vocab_axis={vocab_axis}"
        )
    # Before the custom rule, so that a replicated head's gradient is summed over the devices.
    x_BxTxD, head = varying_like((x_BxTxD, head), (x_BxTxD, head, targets_BxT, counted_BxT))
    batch, tokens, width = x_BxTxD.shape
    for name, array, kind in (
        ("targets", targets_BxT, np.integer),
        ("counted", counted_BxT, np.bool_),
    ):
        if array.shape != (batch, tokens) or not jnp.issubdtype(array.dtype, kind):
            raise ValueError(
                f"{name} must be {kind.__name__} of shape {(batch, tokens)}, as x is "
                f"{x_BxTxD.shape}; got {array.dtype} of shape {array.shape}"
            )
    if not batch * tokens:
        nothing = jnp.zeros((batch, tokens), jnp.float32)
        return nothing if probe is None else (nothing, jnp.zeros((batch, tokens, probe.width)))
    nll_N, residual_NxK = _losses(_Cut(vocab_axis, Chunks() if chunks is None else chunks))(
        x_BxTxD.reshape(-1, width),
        head,
        targets_BxT.reshape(-1),
        counted_BxT.reshape(-1),
        probe,
    )
    nll_BxT = nll_N.reshape(batch, tokens)
    if probe is None:
        return nll_BxT
    return nll_BxT, residual_NxK.reshape(batch, tokens, probe.width)


@dataclasses.dataclass(frozen=True)
class _Cut:
    """How the head is read: which axis is the vocabulary, and how large its blocks are."""

    axis: int
    chunks: Chunks

    def blocks(self, vocab: int) -> tuple[int, int]:
        """(number, columns) of the blocks; even ones, so that the last repeats few columns."""
        number = -(-vocab // self.chunks.vocab)
        even = -(-vocab // (number * _LANES)) * _LANES
        return number, min(even, self.chunks.vocab, vocab)

    def over_vocab(self, body, state, head: jax.Array, dtype):
        """Folds body(part, first, fresh, state) over the blocks of the head, in order.

        `part` is a block cast to `dtype`, `first` its first column, `fresh` bool[C] where columns
        are new: the last block reaches back so that no column lies beyond the head.
        """
        vocab = head.shape[self.axis]
        number, size = self.blocks(vocab)
        if number == 1:
            return body(head.astype(dtype), 0, None, state)

        def step(block, state):
            first = jnp.minimum(block * size, vocab - size)
            part = lax.dynamic_slice_in_dim(head, first, size, self.axis).astype(dtype)
            fresh = None if vocab % size == 0 else first + jnp.arange(size) >= block * size
            return body(part, first, fresh, state)

        return lax.fori_loop(0, number, step, state)

    def logits(self, x_TxD: jax.Array, part: jax.Array) -> jax.Array:
        """x @ part, f32[T, C], whichever way round the head is stored."""
        return _product(x_TxD, part, 1, 1 - self.axis)

    def values(self, weights_TxC: jax.Array, part: jax.Array) -> jax.Array:
        """The part's columns added up with weights, f32[T, D]."""
        return _product(weights_TxC.astype(part.dtype), part, 1, self.axis)

    def outer(self, error_TxC: jax.Array, x_TxD: jax.Array) -> jax.Array:
        """The part's gradient, f32 in the part's shape."""
        error_TxC = error_TxC.astype(x_TxD.dtype)
        pair = (error_TxC, x_TxD) if self.axis == 0 else (x_TxD, error_TxC)
        return _product(*pair, 0, 0)

    def columns(self, head: jax.Array, targets: jax.Array) -> jax.Array:
        """The head's columns of i32[N], f[N, D]; NaN for a target outside the vocabulary."""
        taken = jnp.take(head, targets, axis=self.axis, mode="fill", fill_value=jnp.nan)
        return taken if self.axis == 0 else taken.T


def _product(left: jax.Array, right: jax.Array, left_axis: int, right_axis: int) -> jax.Array:
    dimensions = (((left_axis,), (right_axis,)), ((), ()))
    return lax.dot_general(left, right, dimensions, preferred_element_type=jnp.float32)


@dataclasses.dataclass(frozen=True)
class _Counted:
    """The counted tokens, in front of the rest and cut into blocks of `size`.

    Attributes:
      order: i32[a multiple of `size`], the tokens' numbers; 0 behind the last counted one.
      count: i32[], how many count.
    """

    order: jax.Array
    count: jax.Array
    size: int

    @classmethod
    def of(cls, counted_N: jax.Array, chunks: Chunks) -> "_Counted":
        size = chunks.token_block(counted_N.size)
        padded = -(-counted_N.size // size) * size
        order = jnp.flatnonzero(counted_N, size=padded, fill_value=0)
        return cls(order, counted_N.sum(dtype=jnp.int32), size)

    def over_blocks(self, body, state):
        """Folds body(first, numbers, state) over the blocks that hold a counted token.

        The number of rounds is known at run time only, which reverse differentiation of a loop
        would not allow: derivatives come from the custom rule alone.
        """

        def step(block, state):
            first = block * self.size
            return body(first, lax.dynamic_slice_in_dim(self.order, first, self.size), state)

        return lax.fori_loop(0, -(-self.count // self.size), step, state)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sweep(cut: _Cut, gradient: bool, x_NxD, head, targets_N, counted_N, probe):
    """One pass over the head: (nll, logsumexp, d nll / dx or None, residual or None) per token."""
    tokens = _Counted.of(counted_N, cut.chunks)
    rows = tokens.order.size
    # Running maximum, the target's logit, and sums over all columns but the target's: with it, the
    # gradient (p - 1) of a confident token would be what rounding leaves of a difference. NaN stays
    # where no column was the target's. The lowest finite number, since -inf - -inf would be NaN.
    state = {
        "top": jnp.full(rows, jnp.finfo(jnp.float32).min),
        "others": jnp.zeros(rows, jnp.float32),
        "gold": jnp.full(rows, jnp.nan, jnp.float32),
    }
    if gradient:
        state["values"] = jnp.zeros((rows, x_NxD.shape[1]), jnp.float32)
    if probe is not None:
        state["probed"] = jnp.zeros((rows, probe.width), jnp.float32)
    state = varying_like(state, (x_NxD, head, targets_N, counted_N))

    def over_vocab(part, first, fresh, state):
        columns = part.shape[cut.axis]
        probe_CxK = None if probe is None else probe.rows(first, columns).astype(part.dtype)

        def over_tokens(at, numbers, state):
            mine = {k: lax.dynamic_slice_in_dim(v, at, tokens.size) for k, v in state.items()}
            logits_TxC = cut.logits(x_NxD[numbers], part)
            target = targets_N[numbers] - first
            found = jnp.take_along_axis(
                logits_TxC, jnp.clip(target, 0, columns - 1)[:, None], axis=1
            )[:, 0]
            gold = jnp.where((target >= 0) & (target < columns), found, mine["gold"])
            if fresh is not None:
                logits_TxC = jnp.where(fresh[None, :], logits_TxC, -jnp.inf)
            top = jnp.maximum(mine["top"], logits_TxC.max(axis=1))
            fade = jnp.exp(mine["top"] - top)
            hit_TxC = target[:, None] == jnp.arange(columns)[None, :]
            weights_TxC = jnp.where(hit_TxC, 0.0, jnp.exp(logits_TxC - top[:, None]))
            new = {
                "top": top,
                "others": mine["others"] * fade + weights_TxC.sum(axis=1),
                "gold": gold,
            }
            if gradient:
                new["values"] = mine["values"] * fade[:, None] + cut.values(weights_TxC, part)
            if probe_CxK is not None:
                added = _product(weights_TxC.astype(part.dtype), probe_CxK, 1, 0)
                new["probed"] = mine["probed"] * fade[:, None] + added
            return {k: lax.dynamic_update_slice_in_dim(state[k], new[k], at, 0) for k in state}

        return tokens.over_blocks(over_tokens, state)

    state = cut.over_vocab(over_vocab, state, head, x_NxD.dtype)
    place_N = jnp.maximum(jnp.cumsum(counted_N) - 1, 0)  # the inverse of `order`

    total = state["others"] + jnp.exp(state["gold"] - state["top"])

    def restore(sorted_rows, target_rows=None):
        values = sorted_rows[place_N]
        if target_rows is None:
            return jnp.where(counted_N, values, 0.0)
        values = values - state["others"][place_N][:, None] * target_rows
        return jnp.where(counted_N[:, None], values / total[place_N][:, None], 0.0)

    logsumexp = state["top"] + jnp.log(total)
    gx_NxD = residual_NxK = None
    if gradient:
        columns_NxD = cut.columns(head, targets_N).astype(x_NxD.dtype).astype(jnp.float32)
        gx_NxD = restore(state["values"], columns_NxD)
    if probe is not None:
        residual_NxK = restore(state["probed"], probe.at(targets_N))
    return restore(logsumexp - state["gold"]), restore(logsumexp), gx_NxD, residual_NxK


@functools.partial(jax.jit, static_argnums=0)
def _head_sweep(cut: _Cut, x_NxD, head, targets_N, counted_N, logsumexp_N, cotangent_N):
    """The head's gradient, in its shape and dtype: the logits again, block by block."""
    tokens = _Counted.of(counted_N, cut.chunks)
    inputs = (x_NxD, head, targets_N, counted_N, cotangent_N)

    def over_vocab(part, first, fresh, gradient):
        del fresh  # columns that a block repeats come out the same again

        def over_tokens(at, numbers, total):
            # Rows behind the last counted token are zeroed on both sides of the product: 0 NaN
            # is NaN, and here rows do meet.
            real = at + jnp.arange(tokens.size) < tokens.count
            x_TxD = jnp.where(real[:, None], x_NxD[numbers], 0)
            normaliser = jnp.where(real, logsumexp_N[numbers], 0.0)
            cotangent = jnp.where(real, cotangent_N[numbers], 0.0)
            logits_TxC = cut.logits(x_TxD, part)
            hit_TxC = (targets_N[numbers] - first)[:, None] == jnp.arange(logits_TxC.shape[1])[
                None, :
            ]
            error_TxC = jnp.exp(logits_TxC - normaliser[:, None]) - hit_TxC
            return total + cut.outer(error_TxC * cotangent[:, None], x_TxD)

        total = varying_like(jnp.zeros(part.shape, jnp.float32), inputs)
        total = tokens.over_blocks(over_tokens, total)
        total = total.astype(head.dtype)
        return lax.dynamic_update_slice_in_dim(gradient, total, first, cut.axis)

    gradient = varying_like(jnp.zeros_like(head), inputs)
    return cut.over_vocab(over_vocab, gradient, head, x_NxD.dtype)


@functools.cache
def _joining(cut: _Cut, gradient: bool):
    """`_sweep` with a batching rule: one list of tokens serves any number of examples.

    A batched loop would instead run every example for as long as the longest of them, and copy
    all that it carries in each round.
    """
    sweep = functools.partial(_sweep, cut, gradient)
    joined = custom_vmap(sweep)

    @joined.def_vmap
    def _(size, batched, x, head, targets, counted, probe):
        arguments = (x, head, targets, counted, probe)
        axes = jax.tree.map(lambda flag: 0 if flag else None, tuple(batched))
        if any(jax.tree.leaves((batched[1], batched[4]))):
            out = jax.vmap(sequential_vmap(sweep), axes)(*arguments)
        else:
            x, targets, counted = jax.vmap(lambda *rows: rows, (axes[0], *axes[2:4]))(
                x, targets, counted
            )
            out = joined(
                x.reshape(-1, x.shape[-1]), head, targets.reshape(-1), counted.reshape(-1), probe
            )
            out = jax.tree.map(lambda leaf: leaf.reshape(size, -1, *leaf.shape[1:]), out)
        return out, jax.tree.map(lambda _: True, out)

    return joined


@functools.cache
def _losses(cut: _Cut):
    """(x f[N, D], head, targets i32[N], counted bool[N], probe) -> (nll f32[N], residual)."""
    head_sweep = sequential_vmap(functools.partial(_head_sweep, cut))

    @jax.custom_vjp
    def losses(x, head, targets, counted, probe):
        nll, _, _, residual = _joining(cut, False)(x, head, targets, counted, probe)
        return nll, residual

    def forward(x, head, targets, counted, probe):
        moves_x, moves_head = x.perturbed, head.perturbed
        x, head, targets, counted, probe = jax.tree.map(
            lambda leaf: leaf.value, (x, head, targets, counted, probe)
        )
        nll, logsumexp, gx, residual = _joining(cut, moves_x)(x, head, targets, counted, probe)
        for_x = (gx, x[:0]) if moves_x else None  # the empty slice remembers x's dtype
        for_head = (x, head, targets, logsumexp) if moves_head else None
        return (nll, residual), (counted, for_x, for_head)

    def backward(saved, cotangents):
        counted, for_x, for_head = saved
        cotangent = cotangents[0]
        dx = dhead = None
        if not isinstance(cotangent, SymbolicZero):
            counted = counted & (cotangent != 0)
            if for_x is not None:
                gx, like = for_x
                dx = jnp.where(counted[:, None], cotangent[:, None] * gx, 0.0).astype(like.dtype)
            if for_head is not None:
                x, head, targets, logsumexp = for_head
                dhead = head_sweep(x, head, targets, counted, logsumexp, cotangent)
        return dx, dhead, None, None, None

    losses.defvjp(forward, backward, symbolic_zeros=True)
    return losses
