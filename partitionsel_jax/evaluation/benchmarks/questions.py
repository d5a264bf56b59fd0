"""A benchmark's question, and how published values become text."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from partitionsel_jax.data.streams import derive


@dataclasses.dataclass(frozen=True)
class Question:
    """One question of a benchmark.

    Attributes:
      id: unique in its benchmark; the same whenever the same files are read.
      prompt: the question as it is put to a model, before any template.
      reference: the published answer, as its judge takes it.
      group: the part of the benchmark that is also reported by itself: a subject, a module, a
        task, a kind of question; "" where there are none.
      worked: the published solution that few-shot examples show; "" for the reference.
      entry: JSON of what else the judge needs; "" for nothing.
      about: what tells it apart from others that are put in the same words; "" for the prompt.
    """

    id: str
    prompt: str
    reference: str
    group: str = ""
    worked: str = ""
    entry: str = ""
    about: str = ""


def spelt(value: Any) -> str:
    """A published value as text: numbers as JSON has them, lists by commas; "" for null.

    Raises:
      TypeError: a mapping, which has no one spelling.
      ValueError: a number that is not finite.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list | tuple):
        return ", ".join(spelt(item) for item in value)
    if isinstance(value, bool | int | float):
        if not math.isfinite(value):
            raise ValueError(f"expected a finite number, got {value}")
        return json.dumps(value)
    raise TypeError(f"a {type(value).__name__} is neither text, number nor list")


def limited(questions: Sequence[Question], limit: int, seed: int) -> list[Question]:
    """At most `limit` questions, drawn over all groups alike; a larger limit only adds to them.

    Which ones are drawn goes by their ids: where a few are missing, most of the others stay.

    Args:
      limit: how many; 0 for all.
      seed: decides which.
    """
    if not limit or limit >= len(questions):
        return list(questions)
    ranks = [derive(seed, f"question {question.id}") for question in questions]
    first = sorted(range(len(questions)), key=ranks.__getitem__)[:limit]
    return [questions[place] for place in sorted(first)]


def digest(questions: Iterable[Question]) -> str:
    """A text that differs where any field of any question, or their order, does."""
    content = hashlib.sha256()
    for question in questions:
        content.update(json.dumps(dataclasses.astuple(question)).encode())
    return content.hexdigest()[:16]
