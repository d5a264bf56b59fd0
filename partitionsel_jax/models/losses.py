"""The loss that candidates, anchors, updates and validation all share.

`response_loss` is its definition, on given logits. `head_losses` gives its terms from the
activations before the head, without logits of the whole batch: blocks of (tokens x vocabulary) are
made, reduced and dropped, and only response tokens reach the head.

Letters: B batch, T tokens, D width, V vocabulary, N = B T tokens in one list, R tokens and C
columns of a block of logits, K width of a probe.
"""

import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap, sequential_vmap
from jax.custom_derivatives import SymbolicZero

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
    targets, counted = tokens[:, 1:], response[:, 1:]
    predictions = logits[:, :-1]
    gold = jnp.take_along_axis(predictions, targets[..., None], axis=-1)[..., 0]
    nll = jax.nn.logsumexp(predictions, axis=-1) - gold
    return jnp.where(counted, nll, 0.0).sum(axis=-1) / jnp.maximum(counted.sum(axis=-1), 1)


class Chunks(NamedTuple):
    """The largest block of logits that is ever held: `tokens` x `vocab` entries.

    The last block of tokens is computed in full however few it holds: small ones waste less, and
    large ones suit an accelerator.

    Attributes:
      vocab: columns of the head used at once, >= 1.
      tokens: counted tokens that meet them at once; 0 for an eighth of all tokens, counted or not,
        though at least 128 and at most 2,048.
    """

    vocab: int = 8192
    tokens: int = 0

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
    # Before the custom rule, so that a replicated head's gradient is summed over the devices.
    x, head, targets, counted = _varying(x_BxTxD, head, targets_BxT, counted_BxT)
    nll_N, residual_NxK = _losses(
        _Cut(vocab_axis, chunks or Chunks()),
        x.reshape(-1, width),
        head,
        targets.reshape(-1),
        counted.reshape(-1),
        probe,
    )
    nll_BxT = nll_N.reshape(batch, tokens)
    if probe is None:
        return nll_BxT
    return nll_BxT, residual_NxK.reshape(batch, tokens, probe.width)


def _varying(*arrays: jax.Array) -> list[jax.Array]:
    """Arrays that all vary over the mesh axes that any of them varies over.

    Only matters inside `jax.shard_map`: there, differentiating with respect to a value that is
    replicated sums over the devices, and the carry of a loop that ends up varying must vary from
    the start.
    """
    kinds: list[Any] = [jax.typeof(array) for array in arrays]
    # Without a default: to find no axes where there are some would give wrong gradients.
    axes = [kind.vma if hasattr(kind, "vma") else kind.mat.varying for kind in kinds]
    missing = [tuple(frozenset[str]().union(*axes) - own) for own in axes]
    return [
        lax.pcast(array, more, to="varying") if more else array
        for array, more in zip(arrays, missing, strict=True)
    ]


class _Cut(NamedTuple):
    """How the head is read: the axis that is the vocabulary, and how large its blocks are."""

    axis: int
    chunks: Chunks

    def blocks(self, head: jax.Array, counted_N: jax.Array) -> tuple[int, int, Any, int, Any]:
        """The blocks of the vocabulary and of the counted tokens.

        Returns:
          The number of vocabulary blocks and their columns (even ones, so that the last repeats
          few), the counted tokens' numbers in front of zeros, the tokens of a block, and how many
          blocks hold a counted one: a number that is known at run time only, which reverse
          differentiation would not allow; derivatives come from the custom rule alone.
        """
        vocab = head.shape[self.axis]
        number = -(-vocab // self.chunks.vocab)
        columns = min(-(-vocab // (number * _LANES)) * _LANES, self.chunks.vocab, vocab)
        rows = self.chunks.token_block(counted_N.size)
        padded = -(-counted_N.size // rows) * rows
        order = jnp.flatnonzero(counted_N, size=padded, fill_value=0)
        return number, columns, order, rows, -(-counted_N.sum(dtype=jnp.int32) // rows)


def _product(left: jax.Array, right: jax.Array, left_axis: int, right_axis: int) -> jax.Array:
    dimensions = (((left_axis,), (right_axis,)), ((), ()))
    return lax.dot_general(left, right, dimensions, preferred_element_type=jnp.float32)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sweep(cut: _Cut, gradient: bool, x_NxD, head, targets_N, counted_N, probe):
    """One pass over the head: (nll, logsumexp, d nll / dx or None, residual or None) per token."""
    number, columns, order, rows, turns = cut.blocks(head, counted_N)
    vocab = head.shape[cut.axis]
    # Running maximum, the target's logit, and sums over all columns but the target's: with it, the
    # gradient (p - 1) of a confident token would be what rounding leaves of a difference. NaN stays
    # where no column was the target's. The lowest finite number, since -inf - -inf would be NaN.
    fill = functools.partial(jnp.full_like, x_NxD, dtype=jnp.float32)
    state = {
        "top": fill(jnp.finfo(jnp.float32).min, shape=order.size),
        "others": fill(0, shape=order.size),
        "gold": fill(jnp.nan, shape=order.size),
    }
    # Of the target's column, what the sums leave out.
    own = {}
    if gradient:
        state["values"] = fill(0, shape=(order.size, x_NxD.shape[1]))
        # NaN for a target outside the vocabulary.
        own_NxD = jnp.take(head, targets_N, axis=cut.axis, mode="fill", fill_value=jnp.nan)
        own_NxD = own_NxD if cut.axis == 0 else own_NxD.T
        own["values"] = own_NxD.astype(x_NxD.dtype).astype(jnp.float32)
    if probe is not None:
        state["probed"] = fill(0, shape=(order.size, probe.width))
        own["probed"] = probe.at(targets_N)

    def over_vocab(block, state):
        # The last block reaches back, so that no column lies beyond the head.
        first = jnp.minimum(block * columns, vocab - columns)
        part = lax.dynamic_slice_in_dim(head, first, columns, cut.axis).astype(x_NxD.dtype)
        fresh_C = first + jnp.arange(columns) >= block * columns
        probe_CxK = None if probe is None else probe.rows(first, columns).astype(part.dtype)

        def over_tokens(turn, state):
            at = turn * rows
            numbers_R = lax.dynamic_slice_in_dim(order, at, rows)
            mine = {k: lax.dynamic_slice_in_dim(v, at, rows) for k, v in state.items()}
            logits_RxC = _product(x_NxD[numbers_R], part, 1, 1 - cut.axis)
            target_R = targets_N[numbers_R] - first
            inside_R = jnp.clip(target_R, 0, columns - 1)
            found_R = jnp.take_along_axis(logits_RxC, inside_R[:, None], axis=1)[:, 0]
            if vocab % columns:
                logits_RxC = jnp.where(fresh_C[None, :], logits_RxC, -jnp.inf)
            top_R = jnp.maximum(mine["top"], logits_RxC.max(axis=1))
            fade_R = jnp.exp(mine["top"] - top_R)
            hit_RxC = target_R[:, None] == jnp.arange(columns)[None, :]
            weights_RxC = jnp.where(hit_RxC, 0.0, jnp.exp(logits_RxC - top_R[:, None]))
            new = {
                "top": top_R,
                "others": mine["others"] * fade_R + weights_RxC.sum(axis=1),
                "gold": jnp.where(inside_R == target_R, found_R, mine["gold"]),
            }
            low_RxC = weights_RxC.astype(part.dtype)
            if gradient:
                added = _product(low_RxC, part, 1, cut.axis)
                new["values"] = mine["values"] * fade_R[:, None] + added
            if probe_CxK is not None:
                added = _product(low_RxC, probe_CxK, 1, 0)
                new["probed"] = mine["probed"] * fade_R[:, None] + added
            return {k: lax.dynamic_update_slice_in_dim(state[k], new[k], at, 0) for k in state}

        return lax.fori_loop(0, turns, over_tokens, state)

    state = over_vocab(0, state) if number == 1 else lax.fori_loop(0, number, over_vocab, state)
    total = state["others"] + jnp.exp(state["gold"] - state["top"])
    state |= {"total": total, "logsumexp": state["top"] + jnp.log(total)}
    # Back into the tokens' own order.
    place_N = jnp.maximum(jnp.cumsum(counted_N) - 1, 0)
    found = {name: leaf[place_N] for name, leaf in state.items()}
    nll_N = jnp.where(counted_N, found["logsumexp"] - found["gold"], 0.0)
    logsumexp_N = jnp.where(counted_N, found["logsumexp"], 0.0)
    for name, target_rows in own.items():
        sums = found[name] - found["others"][:, None] * target_rows
        own[name] = jnp.where(counted_N[:, None], sums / found["total"][:, None], 0.0)
    return nll_N, logsumexp_N, own.get("values"), own.get("probed")


@functools.partial(jax.jit, static_argnums=0)
def _head_gradient(cut: _Cut, x_NxD, head, targets_N, counted_N, logsumexp_N, cotangent_N):
    """The head's gradient, in its shape and dtype: the logits again, block by block."""
    number, columns, order, rows, turns = cut.blocks(head, counted_N)
    vocab = head.shape[cut.axis]

    def over_vocab(block, gradient):
        # Columns that the last block repeats come out the same again.
        first = jnp.minimum(block * columns, vocab - columns)
        part = lax.dynamic_slice_in_dim(head, first, columns, cut.axis).astype(x_NxD.dtype)

        def over_tokens(turn, total):
            at = turn * rows
            numbers_R = lax.dynamic_slice_in_dim(order, at, rows)
            # Rows behind the last counted token are zeroed on both sides of the product: 0 NaN
            # is NaN, and here rows do meet.
            real_R = at + jnp.arange(rows) < counted_N.sum()
            x_RxD = jnp.where(real_R[:, None], x_NxD[numbers_R], 0)
            normaliser_R = jnp.where(real_R, logsumexp_N[numbers_R], 0.0)
            cotangent_R = jnp.where(real_R, cotangent_N[numbers_R], 0.0)
            logits_RxC = _product(x_RxD, part, 1, 1 - cut.axis)
            hit_RxC = (targets_N[numbers_R] - first)[:, None] == jnp.arange(columns)[None, :]
            error_RxC = jnp.exp(logits_RxC - normaliser_R[:, None]) - hit_RxC
            error_RxC = (error_RxC * cotangent_R[:, None]).astype(x_RxD.dtype)
            left, right = (error_RxC, x_RxD) if cut.axis == 0 else (x_RxD, error_RxC)
            return total + _product(left, right, 0, 0)

        total = jnp.zeros_like(x_NxD, jnp.float32, part.shape)
        total = lax.fori_loop(0, turns, over_tokens, total).astype(head.dtype)
        return lax.dynamic_update_slice_in_dim(gradient, total, first, cut.axis)

    start = jnp.zeros_like(head)
    return over_vocab(0, start) if number == 1 else lax.fori_loop(0, number, over_vocab, start)


def _joined(cut: _Cut, gradient: bool):
    """`_sweep` with a batching rule: one list of tokens serves any number of examples.

    A batched loop would instead run every example for as long as the longest of them, and copy
    all that it carries in each round.
    """
    sweep = functools.partial(_sweep, cut, gradient)
    joined = custom_vmap(sweep)

    @joined.def_vmap
    def _(size, batched, x, head, targets, counted, probe):
        axes = jax.tree.map(lambda flag: 0 if flag else None, tuple(batched))
        if any(jax.tree.leaves((batched[1], batched[4]))):
            out = jax.vmap(sequential_vmap(sweep), axes)(x, head, targets, counted, probe)
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _losses(cut: _Cut, x, head, targets, counted, probe):
    """(nll f32[N], residual) of x f[N, D], the head, targets i32[N] and counted bool[N]."""
    nll, _, _, residual = _joined(cut, False)(x, head, targets, counted, probe)
    return nll, residual


def _losses_forward(cut: _Cut, *arguments):
    moves_x, moves_head = (argument.perturbed for argument in arguments[:2])
    x, head, targets, counted, probe = jax.tree.map(lambda leaf: leaf.value, arguments)
    nll, logsumexp, gx, residual = _joined(cut, moves_x)(x, head, targets, counted, probe)
    for_x = (gx, x[:0]) if moves_x else None  # the empty slice remembers x's dtype
    for_head = (x, head, targets, logsumexp) if moves_head else None
    return (nll, residual), (counted, for_x, for_head)


def _losses_backward(cut: _Cut, saved, cotangents):
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
            gradient = sequential_vmap(functools.partial(_head_gradient, cut))
            dhead = gradient(x, head, targets, counted, logsumexp, cotangent)
    return dx, dhead, None, None, None


_losses.defvjp(_losses_forward, _losses_backward, symbolic_zeros=True)
