"""Rows like those of MetaMathQA, of random words."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from partitionsel_jax.data.sources.schemas import METAMATHQA_DOMAINS

# Rows of MetaMathQA that are made of the same question.
VARIANTS = 24
_QUESTION, _RESPONSE = 4, 9


def write(path: Path, rows: int) -> None:
    """Writes them as one JSON array, about 1.2 kB each."""
    with open(path, "w") as file:
        for place, row in enumerate(synthetic_rows(rows)):
            file.write(("[" if place == 0 else ",\n") + json.dumps(row, indent=4))
        file.write("]")


def synthetic_rows(rows: int) -> Iterator[dict[str, str]]:
    """Rows with the fields of MetaMathQA and about its lengths."""
    source = random.Random(0)
    words = ["".join(source.choices("etaoinshrdlu", k=source.randint(2, 9))) for _ in range(4000)]
    sentences = [" ".join(source.choices(words, k=11)) + "." for _ in range(20_000)]
    original = ""
    for place in range(rows):
        if place % VARIANTS == 0:
            original = " ".join(source.choices(sentences, k=_QUESTION))
        answer = source.randint(0, 999)
        yield {
            "type": METAMATHQA_DOMAINS[place % len(METAMATHQA_DOMAINS)],
            "query": f"{original} {source.choice(sentences)} How many are {place}?",
            "original_question": original,
            "response": f"{' '.join(source.choices(sentences, k=_RESPONSE))}\n#### {answer}\n"
            f"The answer is: {answer}",
        }
