"""Two evaluations of the same questions, compared pair by pair."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from partitionsel_jax.evaluation import statistics
from partitionsel_jax.evaluation.benchmarks import BINARY, Question, digest
from partitionsel_jax.evaluation.evaluating import Row, read_finished, read_settings

_LISTED = 5  # ids in an error


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The differences of one evaluation from another.

    Attributes:
      benchmark: what both answered.
      n: questions that both were asked.
      only_this, only_other: questions that one of them alone was asked, which are not compared.
      differences: metric -> the paired bootstrap of mean(this) - mean(other).
      discordant: metric of 0 and 1 -> McNemar's test.
    """

    benchmark: str
    n: int
    only_this: int
    only_other: int
    differences: Mapping[str, statistics.PairedBootstrap]
    discordant: Mapping[str, statistics.McNemar]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """An evaluation that is finished, or has not begun yet.

    Attributes:
      name: what errors call it.
      questions: id -> digest of what it asks.
      settings: as settings.json has them.
      rows: id -> what outputs.jsonl has of the question; none before the evaluation.
    """

    name: str
    questions: Mapping[str, str]
    settings: Mapping[str, Any]
    rows: Mapping[str, Row] = dataclasses.field(default_factory=dict)

    @property
    def benchmark(self) -> str:
        return self.settings["benchmark"]


def planned(questions: Sequence[Question], settings: Mapping[str, Any]) -> Evaluation:
    """Describes what is about to be asked."""
    digests = {question.id: digest([question]) for question in questions}
    return Evaluation("this evaluation", digests, settings)


def read(folder: epath.PathLike) -> Evaluation:
    """Reads and checks all of a finished evaluation.

    Raises:
      ValueError: it is not finished, or a file is damaged: named with its line.
    """
    folder = epath.Path(folder)
    rows, settings = read_finished(folder), read_settings(folder)
    digests = {name: row["question"] for name, row in rows.items()}
    return Evaluation(str(folder), digests, settings, rows)


def both_asked(ours: Evaluation, theirs: Evaluation) -> list[str]:
    """Gives the ids of the questions that both are asked, in the order of the first.

    Raises:
      ValueError: two benchmarks, no question that both are asked, or one id for two questions.
    """
    if ours.benchmark != theirs.benchmark:
        raise ValueError(
            f"{ours.name} answers {ours.benchmark}, {theirs.name} answers {theirs.benchmark}: "
            "compare two evaluations of one benchmark"
        )
    both = [name for name in ours.questions if name in theirs.questions]
    if not both:
        raise ValueError(
            f"{ours.name} and {theirs.name} share no question: evaluate both on the same files, or "
            "with the same tasks and seed"
        )
    changed = [name for name in both if ours.questions[name] != theirs.questions[name]]
    if changed:
        more = f" and {len(changed) - _LISTED} more" if len(changed) > _LISTED else ""
        raise ValueError(
            f"{', '.join(map(repr, changed[:_LISTED]))}{more} are not the same questions in "
            f"{ours.name} and {theirs.name}: evaluate both on the same files, or with the same "
            "settings of the tasks"
        )
    return both


def compare(folder: epath.PathLike, other: epath.PathLike) -> Comparison:
    """Pairs the outputs of two evaluations by their questions.

    What only one of them was asked is left out and counted: a run is not asked what it was trained
    on, and limits may differ.

    Args:
      folder, other: of `evaluate`, both finished. Models, templates and examples may differ.

    Raises:
      ValueError: what `read` and `both_asked` refuse, or outputs that were scored by other metrics.
    """
    runs = ours, theirs = read(folder), read(other)
    both = both_asked(ours, theirs)
    metrics, others = (list(run.rows[both[0]]["scores"]) for run in runs)
    if set(metrics) != set(others):
        raise ValueError(
            f"{ours.name} is scored by {', '.join(metrics)}, {theirs.name} by "
            f"{', '.join(others)}: evaluate both by the same version"
        )
    pairs = {
        metric: [np.array([run.rows[name]["scores"][metric] for name in both]) for run in runs]
        for metric in metrics
    }
    return Comparison(
        ours.benchmark,
        len(both),
        len(ours.rows) - len(both),
        len(theirs.rows) - len(both),
        {metric: statistics.paired_bootstrap(*pair) for metric, pair in pairs.items()},
        {metric: statistics.mcnemar(*pair) for metric, pair in pairs.items() if metric in BINARY},
    )
