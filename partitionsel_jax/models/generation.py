"""Continuing a batch of prompts of different lengths, with a key/value cache.

Prompts stand at the left of their rows, so that a row's positions are those of training; a row's
own length says where it goes on. One pass reads all prompts, then every round adds a token to every
row that is not finished.

Letters: B rows, T tokens of the buffer, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from partitionsel_jax.models.decoder import Cache, Model

_SMALLEST_BUCKET = 32
_MOST = 1 << 30  # tokens of a row where the model sets no limit


class Sampling(NamedTuple):
    """How tokens are drawn; all of it may be traced, so that no value compiles anew.

    Attributes:
      temperature: f32[], what logits are divided by, > 0.
      top_p: f32[], in (0, 1]: only the most likely tokens that together reach this probability may
        be drawn (nucleus sampling, arXiv 1904.09751); the most likely one always may.
      key: a `jax.random.key`. What a row draws depends on it, on the row's number and on the
        position, and on no other row.
    """

    temperature: jax.Array | float
    top_p: jax.Array | float
    key: jax.Array


class Continuation(NamedTuple):
    """A batch of prompts with their continuations.

    Attributes:
      tokens: i32[B, T], each row's tokens; those from `ends` on are padding, of any value.
      ends: i32[B], the tokens of each row, a stop token included.
    """

    tokens: jax.Array
    ends: jax.Array


def _nucleus(logits_BxV: jax.Array, top_p: jax.Array | float) -> jax.Array:
    """The logits with -inf outside each row's smallest set that reaches `top_p`; 1 keeps all."""
    sorted_BxV = jnp.flip(jnp.sort(logits_BxV, axis=-1), axis=-1)
    probabilities = jax.nn.softmax(sorted_BxV, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    first = jnp.arange(before.shape[-1])[None, :] == 0
    least = jnp.where((before < top_p) | first, sorted_BxV, jnp.inf).min(axis=-1, keepdims=True)
    # A sum of many small probabilities may round to 1 before the last of them.
    return jnp.where((logits_BxV >= least) | (top_p >= 1), logits_BxV, -jnp.inf)


def _draw(logits_BxV: jax.Array, positions_B: jax.Array, sampling: Sampling) -> jax.Array:
    """i32[B], a token of every row, by keys that belong to row and position."""
    # From 0 downwards, so that no temperature makes the largest of them infinite.
    centred_BxV = logits_BxV - logits_BxV.max(axis=-1, keepdims=True)
    temperature = jnp.maximum(sampling.temperature, jnp.finfo(jnp.float32).tiny)
    allowed_BxV = _nucleus(centred_BxV / temperature, sampling.top_p)

    def draw(number: jax.Array, position: jax.Array, logits_V: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(sampling.key, number), position)
        return jax.random.categorical(key, logits_V)

    return jax.vmap(draw)(jnp.arange(len(positions_B)), positions_B, allowed_BxV)


def continuation(
    model: Model,
    parameters: dict[str, Any],
    tokens_BxT: jax.Array,
    lengths_B: jax.Array,
    limits_B: jax.Array,
    stops_S: jax.Array,
    *,
    prompt: int | None = None,
    sampling: Sampling | None = None,
) -> Continuation:
    """Continues every prompt until a stop token or its limit; jittable, and independent by row.

    Args:
      model, parameters: the decoder.
      tokens_BxT: i32[B, T], prompts followed by padding.
      lengths_B: i32[B], tokens of each prompt, 1 .. T.
      limits_B: i32[B], tokens that a row may have in all, at most T.
      stops_S: i32[S], the tokens that end a continuation (and are written).
      prompt: static, columns that hold every prompt; T if None.
      sampling: how tokens are drawn; None takes the most likely one (ties to the lowest).
    """
    rows, size = tokens_BxT.shape
    cache = Cache.empty(model.config, rows, size)
    prompts = tokens_BxT[:, :prompt]
    logits_BxV, cache = model.read(parameters, prompts, jnp.zeros_like(lengths_B), lengths_B, cache)

    def unfinished(carry):
        going = jnp.any(~carry[-1])
        # Devices that gather weights from each other go on for as long as any of them.
        return going if model.gathering is None else model.gathering.anywhere(going)

    def extend(carry):
        tokens, ends_B, logits_BxV, cache, done_B = carry
        if sampling is None:
            following_B = jnp.argmax(logits_BxV, axis=-1)
        else:
            following_B = _draw(logits_BxV, ends_B, sampling)
        following_B = following_B.astype(tokens.dtype)
        here = (jnp.arange(size)[None, :] == ends_B[:, None]) & ~done_B[:, None]
        tokens = jnp.where(here, following_B[:, None], tokens)
        # A finished row reads on behind its end: those slots of the cache are masked.
        logits_BxV, cache = model.read(
            parameters, following_B[:, None], ends_B, jnp.ones_like(ends_B), cache
        )
        ends_B = jnp.where(done_B, ends_B, ends_B + 1)
        stopped_B = jnp.any(following_B[:, None] == stops_S[None, :], axis=1)
        return tokens, ends_B, logits_BxV, cache, done_B | stopped_B | (ends_B >= limits_B)

    start = (tokens_BxT, lengths_B, logits_BxV, cache, lengths_B >= limits_B)
    tokens, ends, *_ = jax.lax.while_loop(unfinished, extend, start)
    return Continuation(tokens, ends)


_compiled = jax.jit(continuation, static_argnames=("model", "prompt"))


def bucket(count: int, smallest: int = _SMALLEST_BUCKET) -> int:
    """The next power of two, so that few shapes are ever compiled."""
    return max(smallest, 1 << (count - 1).bit_length())


def generate(
    model: Model,
    parameters: dict[str, Any],
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    stops: Sequence[int] = (),
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[list[int]]:
    """Continues prompts of any lengths; compiled once for each bucket of sizes.

    Rows and lengths are filled up to powers of two. No row depends on those beside it, so a batch
    gives what its prompts give one by one.

    Args:
      model, parameters: the decoder.
      prompts: token ids, at least one each.
      new_tokens: most tokens of a continuation; it also ends where the model's context does.
      stops: tokens that end a continuation.
      temperature: 0 for the most likely token, otherwise what logits are divided by.
      top_p, seed: for drawing; see `Sampling`.

    Returns:
      The continuations, a stop token included where it came to one.

    Raises:
      ValueError: an empty prompt, an id outside the vocabulary, a prompt that leaves no room in
        the model's context, new_tokens below 1, a negative temperature, or a top_p outside (0, 1].
    """
    if not 0 <= temperature < float("inf"):
        raise ValueError(
            f"temperature must be finite and at least 0, not {temperature}; 0 is greedy"
        )
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], not {top_p}; 1 keeps every token")
    if new_tokens < 1:
        raise ValueError(f"expected new_tokens >= 1, got {new_tokens}; ask for at least one")
    context = model.config.context
    if len(stops):
        check_ids(stops, 1 << 31, "stops")
    for number, prompt in enumerate(prompts):
        check_ids(prompt, model.config.vocab_size, f"prompt {number}")
        if context and len(prompt) >= context:
            raise ValueError(
                f"prompt {number} has {len(prompt)} tokens, and the model's context of {context} "
                "must hold them and the answer: shorten it"
            )
    if not len(prompts):
        return []
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    most = min(context or _MOST, _MOST)
    width = min(bucket(int(lengths.max())), most)
    rows = bucket(len(prompts), 1)
    tokens = np.zeros((rows, min(width + bucket(new_tokens), most)), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    # Rows that only fill up the bucket are finished at once.
    filled, limits = np.ones((2, rows), np.int32)
    filled[: len(prompts)] = lengths
    limits[: len(prompts)] = np.minimum(lengths + min(new_tokens, most), most)
    out = _compiled(
        model,
        parameters,
        tokens,
        filled,
        limits,
        np.asarray(list(stops), np.int32),
        prompt=width,
        sampling=Sampling(temperature, top_p, jax.random.key(seed)) if temperature else None,
    )
    written, ends = np.asarray(out.tokens), np.asarray(out.ends)
    return [
        written[row, length : ends[row]].tolist() for row, length in enumerate(lengths.tolist())
    ]


def check_ids(ids: Any, vocab_size: int, what: str) -> None:
    """Raises ValueError unless there is an id, and each is a row of the embedding."""
    array = np.asarray(ids)
    if not array.size:
        raise ValueError(f"{what} is empty: expected at least one token id")
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{what}: expected integer token ids, got {array.dtype}")
    if array.min() < 0 or array.max() >= vocab_size:
        raise ValueError(
            f"{what}: expected token ids in 0 .. {vocab_size - 1}, got {array.min()} .. "
            f"{array.max()}; was another tokenizer used?"
        )
