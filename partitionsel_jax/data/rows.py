"""Rows: the arrays that examples become, and the only form that reaches the device."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from partitionsel_jax.data.templates import Template, named_template
from partitionsel_jax.data.tokenizers import Tokenizer

# NumPy's on the host, and `jax.Array` inside a step: this package does not import jax.
Array = Any


class Rows(NamedTuple):
    """A batch of examples as arrays; a NamedTuple is a pytree, so jit and pmap take it as it is.

    Attributes:
      tokens: i32[B, T], prompt + response + closing token, right-padded; the prompt begins with
        the beginning token where the tokenizer has one.
      response: bool[B, T], True where the token belongs to the response or closes it. The loss
        predicts exactly these tokens, each from the ones before it.
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
      cut: prompt tokens that were left out.
    """

    tokens: np.ndarray
    response: np.ndarray
    cut: int


def least_room(prompt: Sequence[int], template: Template) -> int:
    """Tokens of a prompt that a row must hold: all of it, or one where it may be cut.

    Raises:
      ValueError: a prompt without any token, behind which nothing could be predicted.
    """
    if not prompt:
        raise ValueError(
            "expected a prompt of at least one token, got none; this tokenizer has no beginning "
            "token, so that the question must hold text"
        )
    return 1 if template.cuttable else len(prompt)


def encode_prompt(
    question: str, tokenizer: Tokenizer, length: int, template: str = "plain"
) -> list[int]:
    """A prompt's ids in at most `length` tokens, the beginning token included.

    Generation starts from these ids, training from the same ids with the response behind them.

    Args:
      question: what the template makes a prompt of; may be empty.
      tokenizer: gives the ids.
      length: room for the prompt. In a longer one the tokens next to the beginning token are left
        out, where the template allows that.
      template: one of `TEMPLATES`.

    Raises:
      ValueError: an unknown template, a prompt without any token, or one that does not fit.
    """
    chosen = named_template(template)
    return _cut(chosen(question, tokenizer), tokenizer, length, chosen)


def encode_example(
    question: str, response: str, tokenizer: Tokenizer, length: int, template: str = "plain"
) -> EncodedExample:
    """Lays one example out over `length` tokens; a long prompt is cut as by `encode_prompt`.

    Args:
      question: what the template makes a prompt of; may be empty.
      response: text to learn; may be empty, and then only the closing token is learnt.
      tokenizer: gives the ids.
      length: T, the tokens of a row.
      template: one of `TEMPLATES`.

    Raises:
      ValueError: the whole response and its closing token do not fit beside the prompt, or what
        `encode_prompt` raises.
    """
    chosen = named_template(template)
    answer = [*tokenizer.encode(response), chosen.closing(tokenizer)]
    if len(answer) >= length:
        raise ValueError(
            f"expected a response of at most {length - 2} tokens in a row of {length}, got "
            f"{len(answer) - 1}; use longer rows, or leave the example out"
        )
    prompt = chosen(question, tokenizer)
    context = _cut(prompt, tokenizer, length - len(answer), chosen)
    ids = context + answer
    tokens = np.full(length, tokenizer.pad_id, np.int32)
    tokens[: len(ids)] = ids
    is_response = np.zeros(length, bool)
    is_response[len(context) : len(ids)] = True
    return EncodedExample(tokens, is_response, len(prompt) - len(context))


def _cut(prompt: list[int], tokenizer: Tokenizer, room: int, template: Template) -> list[int]:
    """The prompt in at most `room` tokens."""
    if (least := least_room(prompt, template)) > room:
        raise ValueError(
            f"expected room for at least {least} tokens of the prompt, got {room}; use longer "
            "rows, or leave the example out"
        )
    begun = tokenizer.bos_id is not None
    excess = max(0, len(prompt) - room)
    return prompt[:begun] + prompt[begun + excess :]
