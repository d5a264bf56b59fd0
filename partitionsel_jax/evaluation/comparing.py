"""Two evaluations of the same questions, compared pair by pair."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from partitionsel_jax.evaluation import statistics
from partitionsel_jax.evaluation.benchmarks import BINARY, Benchmark, Question, digest
from partitionsel_jax.evaluation.outputs import (
    OUTPUTS,
    SETTINGS,
    SUMMARY,
    read_count,
    read_outputs,
    read_settings,
)

# Ids that an error lists.
_LISTED = 5


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How one evaluation differs from another.

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

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Asked:
    """What an evaluation asks, which may not have begun yet.

    Attributes:
      name: what errors call it.
      benchmark: its name.
      questions: id -> digest.
    """

    name: str
    benchmark: str
    questions: Mapping[str, str]

    @classmethod
    def of(cls, questions: Sequence[Question], benchmark: Benchmark) -> "Asked":
        """What is about to be asked."""
        digests = {question.id: digest([question]) for question in questions}
        return cls("this evaluation", benchmark.name, digests)


@dataclasses.dataclass(frozen=True)
class Finished:
    """A finished evaluation, read from its folder.

    Attributes:
      asked: its questions.
      settings: as settings.json has them.
      rows: id -> what outputs.jsonl has of the question.
    """

    asked: Asked
    settings: Mapping[str, Any]
    rows: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, folder: epath.PathLike) -> "Finished":
        """Reads and checks all of an evaluation.

        Raises:
          ValueError: it is not finished, or a file is damaged: named with its line.
        """
        folder = epath.Path(folder)
        for file in (SETTINGS, OUTPUTS, SUMMARY):
            if not (folder / file).exists():
                raise ValueError(
                    f"{folder} is not the folder of a finished evaluation, as it lacks {file}: "
                    "name the one that experiments.evaluate wrote, and let it finish"
                )
        settings, rows = read_settings(folder), read_outputs(folder / OUTPUTS)
        if (count := read_count(folder)) != len(rows):
            raise ValueError(
                f"{folder / OUTPUTS} holds {len(rows)} outputs, and {SUMMARY} is of {count}: some "
                "were lost; evaluate again by the same command, which answers those anew"
            )
        digests = {name: row["question"] for name, row in rows.items()}
        return cls(Asked(str(folder), settings["benchmark"], digests), settings, rows)


def both_asked(ours: Asked, theirs: Asked) -> list[str]:
    """The ids of the questions that both are asked, in the order of the first.

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
        raise ValueError(
            f"{_listed(changed)} are not the same questions in {ours.name} and {theirs.name}: "
            "evaluate both on the same files, or with the same settings of the tasks"
        )
    return both


def compare(folder: epath.PathLike, other: epath.PathLike) -> Comparison:
    """Pairs the outputs of two evaluations by their questions.

    What only one of them was asked is left out and counted: a run is not asked what it was trained
    on, and limits may differ.

    Args:
      folder, other: of `evaluate`, both finished. Models, templates and examples may differ.

    Raises:
      ValueError: what `Finished.read` and `both_asked` refuse, or outputs that were scored by
        other metrics.
    """
    ours, theirs = Finished.read(folder), Finished.read(other)
    both = both_asked(ours.asked, theirs.asked)
    metrics, others = (list(run.rows[both[0]]["scores"]) for run in (ours, theirs))
    if set(metrics) != set(others):
        raise ValueError(
            f"{ours.asked.name} is scored by {', '.join(metrics)}, {theirs.asked.name} by "
            f"{', '.join(others)}: evaluate both by the same version"
        )
    pairs = {
        metric: tuple(
            np.array([run.rows[name]["scores"][metric] for name in both]) for run in (ours, theirs)
        )
        for metric in metrics
    }
    return Comparison(
        ours.asked.benchmark,
        len(both),
        len(ours.rows) - len(both),
        len(theirs.rows) - len(both),
        {metric: statistics.paired_bootstrap(*pair) for metric, pair in pairs.items()},
        {metric: statistics.mcnemar(*pair) for metric, pair in pairs.items() if metric in BINARY},
    )


def _listed(names: Collection[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(map(repr, list(names)[:_LISTED])) + more
