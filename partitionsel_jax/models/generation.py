"""Greedy decoding of a batch of prompts of different lengths."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def greedy(
    apply: Callable[[jax.Array], jax.Array],
    tokens: jax.Array,
    lengths: jax.Array,
    stop: int,
) -> jax.Array:
    """Continues every prompt with its most likely token until `stop` or the end of the buffer.

    Every new token costs a forward pass over the whole buffer: right for short sequences and small
    models, where a key/value cache would not pay for itself.

    Args:
      apply: tokens i32[B, T] -> logits f32[B, T, V].
      tokens: i32[B, T], prompts followed by padding.
      lengths: i32[B], tokens of each prompt, 1 .. T.
      stop: the token that ends a continuation (it is written too).

    Returns:
      i32[B, T]: the prompts with their continuations; what follows a `stop` is left as it came.
    """
    size = tokens.shape[1]

    def unfinished(carry):
        _, position, done = carry
        return jnp.any(~done & (position < size))

    def extend(carry):
        tokens, position, done = carry
        logits = apply(tokens)
        last = jnp.take_along_axis(logits, (position - 1)[:, None, None], axis=1)[:, 0]
        following = jnp.argmax(last, axis=-1).astype(tokens.dtype)
        writable = ~done & (position < size)
        here = (jnp.arange(size)[None, :] == position[:, None]) & writable[:, None]
        tokens = jnp.where(here, following[:, None], tokens)
        done = done | (following == stop)
        return tokens, jnp.where(writable, position + 1, position), done

    start = (tokens, lengths, jnp.zeros(lengths.shape, bool))
    return jax.lax.while_loop(unfinished, extend, start)[0]
