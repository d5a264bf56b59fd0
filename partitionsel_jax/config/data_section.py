"""The section of a run's configuration that says what it learns from."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from partitionsel_jax import data, evaluation
from partitionsel_jax.config.checks import at_least, choice
from partitionsel_jax.gradients.buckets import check_widths

REASONING_GYM = "reasoning_gym"
_MOST_WORKERS = 512


@dataclasses.dataclass(frozen=True)
class NoiseSettings:
    """Which share of the training answers is corrupted, and how (see data/label_noise.py)."""

    kind: str = "none"
    share: float = 0.0

    def __post_init__(self):
        choice("data.noise.kind", self.kind, data.KINDS)
        if not 0 <= self.share < 1:
            raise ValueError(f"data.noise.share must lie in [0, 1), not {self.share}")


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Where examples come from, how they become rows, and how rows become pools.

    `source` is "reasoning_gym" (of `tasks`: task name -> arguments), "metamathqa",
    "mol_instructions" or "instructions" (the last with `columns`); the last three are read from
    `path`: a file, a directory or "owner/name" on the Hugging Face hub, "" for where the corpus was
    published. `domains` are the names of those that there are, in order; empty for all that are
    found, which `training.expand` notes as `found`. `train`, `validation` and `test` are rows per
    domain; a `train` of 0 takes all the rest of a file. `anchors_path` is a file in the same format
    whose rows are the anchors, instead of half of the validation rows; what they ask is neither
    trained on nor scored.

    `template` is how a question is put to the model (see data/templates.py), `length` the tokens of
    a row. Microbatches of short rows are computed at the narrowest of `buckets`, or at `length`.
    `mix` is the domains' shares in a pool: "natural", "uniform", or "weighted" by `weights`.
    `workers` processes read the pools ahead, 0 for threads. `scorer` is how answers to the test
    questions are judged (see evaluation/scoring.py), "" for what the source is judged by.
    """

    train: int
    validation: int
    test: int
    length: int
    source: str = REASONING_GYM
    tasks: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    path: str = ""
    columns: data.Columns = dataclasses.field(default_factory=data.Columns)
    domains: tuple[str, ...] = ()
    found: tuple[str, ...] = ()
    anchors_path: str = ""
    noise: NoiseSettings = NoiseSettings()
    template: str = "plain"
    buckets: tuple[int, ...] = ()
    mix: str = "natural"
    weights: tuple[float, ...] = ()
    workers: int = 0
    scorer: str = ""
    seed: int = 0
    directory: str = ""

    def __post_init__(self):
        choice("data.source", self.source, (REASONING_GYM, *data.FILE_KINDS))
        choice("data.template", self.template, data.TEMPLATES)
        choice("data.mix", self.mix, data.MIXES)
        at_least("data", self, 1, "test")
        at_least("data", self, 2, "validation", "length")
        at_least("data", self, 0, "train", "workers")
        if self.workers > _MOST_WORKERS:
            raise ValueError(
                f"data.workers are processes, at most {_MOST_WORKERS} of them, not {self.workers}"
            )
        if self.source == REASONING_GYM:
            self._check_generated()
        else:
            self._check_files()
        if self.buckets:
            try:
                check_widths((*self.buckets, self.length))
            except ValueError:
                raise ValueError(
                    f"data.buckets={self.buckets} must ascend from 1 and stay below "
                    f"data.length={self.length}"
                ) from None
        if not self.names:  # of files that are not read yet
            return
        try:
            data.domain_shares(self.mix, self.weights, len(self.names))
        except ValueError as error:
            raise ValueError(f"data.mix and data.weights: {error}") from None

    def _check_generated(self) -> None:
        if not self.tasks:
            raise ValueError("data.tasks is empty: name at least one reasoning-gym task")
        at_least("data", self, 1, "train")
        for name in ("path", "domains", "found", "scorer"):
            if getattr(self, name):
                raise ValueError(
                    f"data.{name}={getattr(self, name)!r} is for data from files, and "
                    f"data.source={REASONING_GYM!r} generates it: choose another source, or leave "
                    f"data.{name} empty"
                )

    def _check_files(self) -> None:
        if self.tasks:
            raise ValueError(
                f"data.tasks are reasoning-gym's, and data.source={self.source!r} reads files: "
                "leave data.tasks empty"
            )
        if self.source == "instructions" and not self.path:
            raise ValueError(
                "data.source='instructions' needs data.path: the file or directory that holds them"
            )
        if self.scorer:
            choice("data.scorer", self.scorer, evaluation.SCORERS)

    @property
    def names(self) -> tuple[str, ...]:
        """The domains, in order."""
        if self.source == REASONING_GYM:
            return tuple(self.tasks)
        return tuple(self.domains or self.found)

    @property
    def task_list(self) -> list[tuple[str, dict[str, Any]]]:
        """(name, arguments) of every reasoning-gym task, in order."""
        return [(name, dict(arguments)) for name, arguments in self.tasks.items()]
