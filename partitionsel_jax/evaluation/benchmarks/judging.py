"""How an output is judged: the answer that is read out of it, and its scores."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from partitionsel_jax.data.templates import final_answer
from partitionsel_jax.evaluation.benchmarks import procedural
from partitionsel_jax.evaluation.benchmarks.questions import Question

# Scores that are 0 or 1, for which McNemar's test is made.
BINARY = frozenset({"accuracy", "exact", "valid"})

MOLECULAR = ("exact", "bleu", "levenshtein", "valid", "maccs", "rdk", "morgan")


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What an output is worth.

    Attributes:
      answer: what was taken as the answer; "" where there is none.
      scores: metric -> value.
    """

    answer: str
    scores: Mapping[str, float]


Judge = Callable[[str, Question], Judgement]


def mathematical(benchmark: str) -> Judge:
    """The judge of a benchmark that `is_correct` knows."""

    def judge(output: str, question: Question) -> Judgement:
        from partitionsel_jax.evaluation.answers import final_answer_of, is_correct

        right = is_correct(output, question.reference, benchmark=benchmark)
        return Judgement(final_answer_of(output, benchmark), {"accuracy": float(right)})

    return judge


def molecular(output: str, question: Question) -> Judgement:
    """Judges molecules by `molecules.measure`: what cannot be decoded is wrong by every metric."""
    from partitionsel_jax.evaluation import molecules

    found = molecules.measure(output, question.reference)
    return Judgement(found.smiles, {name: float(getattr(found, name)) for name in MOLECULAR})


def corpus_bleu(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """BLEU of all molecules together, which is not the mean of theirs.

    Args:
      rows: saved outputs, each with its answer (canonical SMILES, or "") and its reference.
    """
    from partitionsel_jax.evaluation import molecules

    answers, references = zip(*((row["answer"], row["reference"]) for row in rows), strict=True)
    return {"corpus_bleu": molecules.corpus_bleu(answers, references)}


def by_its_task(output: str, question: Question) -> Judgement:
    """Judges by the scorer of a reasoning-gym task: right is the full score of 1."""
    right = procedural.score_of(output, question) == 1.0
    return Judgement(final_answer(output), {"accuracy": float(right)})
