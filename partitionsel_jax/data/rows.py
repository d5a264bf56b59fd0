"""Rows: the arrays that examples become, and the only form that reaches the device."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from partitionsel_jax.data.templates import Prompt, Template, named_template
from partitionsel_jax.data.tokenizers import Tokenizer
from partitionsel_jax.data.tokenizers.chat import TOOLS, TemplateRefused

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
      corrupted: bool[B], True where the response was corrupted on purpose.
    """

    tokens: Array
    response: Array
    domain: Array
    id: Array
    corrupted: Array

    @property
    def lengths(self) -> Array:
        """The tokens of each row up to its last response token, i32[B]; 0 without one."""
        width = self.response.shape[1]
        behind = self.response[:, ::-1].argmax(axis=1)
        return ((width - behind) * self.response.any(axis=1)).astype(np.int32)


class Encoded(NamedTuple):
    """The ids of one example, unpadded, and how many of the prompt's were cut off."""

    prompt: list[int]
    response: list[int]  # the closing token included
    cut: int


def encode_prompt(
    prompt: Prompt, tokenizer: Tokenizer, length: int, template: str = "plain"
) -> list[int]:
    """Encodes a prompt in at most `length` tokens, the beginning token included.

    Generation starts from these ids, training from the same ids with the response behind them.

    Args:
      prompt: a question, which may be empty, or the turns of a conversation.
      tokenizer: gives the ids.
      length: room for the prompt. A longer one loses its beginning: without a frame the tokens next
        to the beginning token, else the first characters of the question, and before those the
        first turns of a conversation (but for a system message).
      template: one of `TEMPLATES`.

    Raises:
      ValueError: an unknown template, a prompt without any token, or one that does not fit.
    """
    chosen = named_template(template)
    return _fitted(prompt, chosen(prompt, tokenizer), tokenizer, length, chosen)


def encode_batch(
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    tokenizer: Tokenizer,
    length: int,
    template: str = "plain",
) -> list[Encoded | ValueError | None]:
    """Encodes many examples; None for one of which no `length` tokens hold the whole response.

    What the template itself has already written of a response is not written twice.

    Args:
      prompts: see `encode_prompt`.
      responses: texts to learn; of an empty one, only the closing token is learnt.
      tokenizer: gives the ids.
      length: T, the tokens of a row.
      template: one of `TEMPLATES`.

    Returns:
      For a prompt that the template refuses or that has no token, the error that says so.

    Raises:
      ValueError: an unknown template, or one that is refused whatever the prompt.
    """
    chosen = named_template(template)
    closing = chosen.closing(tokenizer)
    answers = tokenizer.encode_batch(chosen.continuations(responses, tokenizer))

    def encoded(
        prompt: Prompt, ids: list[int] | ValueError, answer: list[int]
    ) -> Encoded | ValueError | None:
        if isinstance(ids, ValueError):
            return ids
        try:
            fitted = _fitted(prompt, ids, tokenizer, length - len(answer) - 1, chosen)
        except _NoRoom:
            return None
        except TemplateRefused:
            raise
        except ValueError as error:
            return error
        return Encoded(fitted, [*answer, closing], max(0, len(ids) - len(fitted)))

    written = _written(prompts, chosen, tokenizer)
    return [encoded(*example) for example in zip(prompts, written, answers, strict=True)]


def _written(
    prompts: Sequence[Prompt], template: Template, tokenizer: Tokenizer
) -> Sequence[list[int] | ValueError]:
    """Returns the ids of prompts, uncut, or why the template refuses one."""
    try:
        return template.batch(prompts, tokenizer)
    except TemplateRefused:
        raise
    except ValueError as error:
        if len(prompts) == 1:
            return [error]
    return [_written([prompt], template, tokenizer)[0] for prompt in prompts]


def laid_out(
    examples: Sequence[Encoded], tokenizer: Tokenizer, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fills rows with examples that fit: tokens i32[B, T] and response masks bool[B, T]."""
    tokens = np.full((len(examples), length), tokenizer.pad_id, np.int32)
    is_response = np.zeros((len(examples), length), bool)
    for row, example in enumerate(examples):
        start, stop = len(example.prompt), len(example.prompt) + len(example.response)
        tokens[row, :stop] = example.prompt + example.response
        is_response[row, start:stop] = True
    return tokens, is_response


class _NoRoom(ValueError):
    """The part of a prompt that must stay does not fit."""

    def __init__(self, least: int, room: int):
        super().__init__(
            f"expected room for at least {least} tokens of the prompt, got {room}; use longer "
            "rows, or leave the example out"
        )


def _fitted(
    prompt: Prompt, ids: list[int], tokenizer: Tokenizer, room: int, template: Template
) -> list[int]:
    """Cuts a prompt, all of whose ids are `ids`, to at most `room` tokens."""
    if not ids:
        raise ValueError(
            "expected a prompt of at least one token, got none; this tokenizer has no beginning "
            "token, so that the question must hold text"
        )
    if len(ids) <= room:
        return ids
    if template.framed:
        return _cut_inside(prompt, tokenizer, room, template)
    if room < 1:
        raise _NoRoom(1, room)
    begun = tokenizer.bos_id is not None
    return ids[:begun] + ids[begun + len(ids) - room :]


def _cut_inside(prompt: Prompt, tokenizer: Tokenizer, room: int, template: Template) -> list[int]:
    """Cuts as little as need be of the beginning of what is asked; the frame stays."""
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    frame = [*itertools.takewhile(lambda turn: turn["role"] in ("system", TOOLS), turns)]
    for start, turn in enumerate(turns):
        if start and turn["role"] == "user":
            ids = template([*frame, *turns[start:]], tokenizer)
            if len(ids) <= room:
                return ids
    last = turns[-1]["content"] or ""

    def without(count: int) -> list[int]:
        return template([*frame, {**turns[-1], "content": last[count:]}], tokenizer)

    # One character stays, so that there is a question at all.
    fits, too_long = max(0, len(last) - 1), 0
    least = without(fits)
    if len(least) > room:
        raise _NoRoom(len(least), room)
    while fits - too_long > 1:
        middle = (fits + too_long) // 2
        if len(without(middle)) <= room:
            fits = middle
        else:
            too_long = middle
    return without(fits)
