"""Two evaluations of the same questions, compared pair by pair."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from etils import epath

from partitionsel_jax.evaluation import statistics
from partitionsel_jax.evaluation.benchmarks import BINARY
from partitionsel_jax.evaluation.outputs import OUTPUTS, SETTINGS, read_outputs
from partitionsel_jax.json_files import read_json

# Ids that an error lists.
_LISTED = 5


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How one evaluation differs from another.

    Attributes:
      benchmark: what both answered.
      n: questions.
      differences: metric -> the paired bootstrap of mean(this) - mean(other).
      discordant: metric of 0 and 1 -> McNemar's test.
    """

    benchmark: str
    n: int
    differences: Mapping[str, statistics.PairedBootstrap]
    discordant: Mapping[str, statistics.McNemar]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return dataclasses.asdict(self)


def compare(folder: epath.PathLike, other: epath.PathLike) -> Comparison:
    """Pairs the outputs of two evaluations by their questions.

    Args:
      folder, other: of `evaluate`, both finished. Models, templates and examples may differ.

    Raises:
      ValueError: a folder without an evaluation, two benchmarks, questions that only one of them
        has, or a question whose reference is not the same in both.
    """
    folders = epath.Path(folder), epath.Path(other)
    names = [_benchmark(path) for path in folders]
    if names[0] != names[1]:
        raise ValueError(
            f"{folders[0]} answers {names[0]}, {folders[1]} answers {names[1]}: compare two "
            "evaluations of one benchmark"
        )
    ours, theirs = (read_outputs(path / OUTPUTS) for path in folders)
    for here, there, path in ((ours, theirs, folders[1]), (theirs, ours, folders[0])):
        if missing := [name for name in here if name not in there]:
            raise ValueError(
                f"{path} lacks the questions {_listed(missing)} of the other: let both finish, "
                "with the same files and the same limit"
            )
    if not ours:
        raise ValueError(f"{folders[0]} and {folders[1]} hold no output yet: let both finish")
    if changed := [name for name in ours if ours[name]["reference"] != theirs[name]["reference"]]:
        raise ValueError(
            f"the references of {_listed(changed)} differ between {folders[0]} and {folders[1]}: "
            "they were read from different files; evaluate both from the same"
        )
    pairs = {
        metric: tuple(
            np.array([rows[name]["scores"][metric] for name in ours]) for rows in (ours, theirs)
        )
        for metric in next(iter(ours.values()))["scores"]
    }
    return Comparison(
        names[0],
        len(ours),
        {metric: statistics.paired_bootstrap(*pair) for metric, pair in pairs.items()},
        {metric: statistics.mcnemar(*pair) for metric, pair in pairs.items() if metric in BINARY},
    )


def _benchmark(folder: epath.Path) -> str:
    for file in (SETTINGS, OUTPUTS):
        if not (folder / file).exists():
            raise ValueError(
                f"{folder} is not the folder of an evaluation, as it lacks {file}: name the one "
                "that experiments.evaluate wrote"
            )
    return read_json(folder / SETTINGS)["benchmark"]


def _listed(names: Collection[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(map(repr, list(names)[:_LISTED])) + more
