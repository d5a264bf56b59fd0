"""Rows: the arrays that examples become, and the only form that reaches the device."""

from typing import Any, NamedTuple

import numpy as np

from partitionsel_jax.data.tokenizers import Tokenizer

# NumPy's on the host, and `jax.Array` inside a step: this package does not import jax.
Array = Any


class Rows(NamedTuple):
    """A batch of examples as arrays; a NamedTuple is a pytree, so jit and pmap take it as it is.

    Attributes:
      tokens: i32[B, T], beginning + prompt + response + end, right-padded.
      response: bool[B, T], True where the token belongs to the response or is the closing end
        token. The loss predicts exactly these tokens, each from the ones before it.
      domain: i32[B], in 0 .. P-1.
      id: i32[B], unique over all splits of a corpus.
      spoilt: bool[B], True where the response was spoilt on purpose.
    """

    tokens: Array
    response: Array
    domain: Array
    id: Array
    spoilt: Array


class EncodedExample(NamedTuple):
    """One example as `Rows` holds it, and how many prompt tokens had to go.

    Attributes:
      tokens: i32[T].
      response: bool[T].
      cut: prompt tokens that were cut from the left.
    """

    tokens: np.ndarray
    response: np.ndarray
    cut: int


def encode_prompt(prompt: str, tokenizer: Tokenizer, length: int) -> list[int]:
    """The beginning token and as many of the prompt's last tokens as `length` holds.

    Generation starts from these ids, training from the same ids with the response behind them.
    """
    if length < 1:
        raise ValueError(f"expected length >= 1, got {length}; the beginning token needs a place")
    ids = tokenizer.encode(prompt)
    return [tokenizer.bos_id, *ids[max(0, len(ids) - (length - 1)) :]]


def encode_example(prompt: str, response: str, tokenizer: Tokenizer, length: int) -> EncodedExample:
    """Lays one example out over `length` tokens; a long prompt loses its beginning.

    Args:
      prompt: text before the response; may be empty.
      response: text to learn; may be empty, and then only the end token is learnt.
      tokenizer: gives the ids.
      length: T, the tokens of a row.

    Raises:
      ValueError: the whole response does not fit beside the beginning and end tokens.
    """
    answer = [*tokenizer.encode(response), tokenizer.eos_id]
    if len(answer) >= length:
        raise ValueError(
            f"expected a response of at most {length - 2} tokens in a row of {length}, got "
            f"{len(answer) - 1}; use longer rows, or leave the example out"
        )
    context = encode_prompt(prompt, tokenizer, length - len(answer))
    ids = context + answer
    tokens = np.full(length, tokenizer.pad_id, np.int32)
    tokens[: len(ids)] = ids
    is_response = np.zeros(length, bool)
    is_response[len(context) : len(ids)] = True
    return EncodedExample(tokens, is_response, len(tokenizer.encode(prompt)) + 1 - len(context))
