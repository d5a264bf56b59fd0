"""The section of a run's configuration that says what it learns from."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from partitionsel_jax import data, evaluation
from partitionsel_jax.config.checks import choice
from partitionsel_jax.config.fields import check, field, needed
from partitionsel_jax.gradients.microbatches import check_widths

REASONING_GYM = "reasoning_gym"


@dataclasses.dataclass(frozen=True)
class NoiseSettings:
    """Which training answers are corrupted, and how (see data/label_noise.py)."""

    kind: str = field("none", "How answers are corrupted.", choices=data.KINDS)
    share: float = field(
        0.0,
        "Share of the training answers that are.",
        low=0,
        below=1,
        read_if=lambda chosen: chosen.get("kind") != "none",
    )

    def __post_init__(self):
        check(self, "data.noise")


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Where examples come from, how they become rows, and how rows become pools."""

    train: int = needed(2000, "Training rows per domain; 0: all the rest of a file.", low=0)
    validation: int = needed(64, "Validation rows per domain.", low=2)
    test: int = needed(32, "Test rows per domain.", low=1)
    length: int = needed(96, "Tokens of a row.", low=2)
    source: str = field(
        REASONING_GYM,
        "Where examples come from; instructions are a user's own files.",
        choices=(REASONING_GYM, *data.FILE_KINDS),
    )
    tasks: Mapping[str, Mapping[str, Any]] = field({}, "reasoning-gym task -> its arguments.")
    path: str = field(
        "",
        'File, directory or "owner/name" on the Hugging Face hub; "": where the corpus was '
        "published.",
    )
    columns: data.Columns = field(data.Columns(), "Names of the columns of a user's own files.")
    domains: tuple[str, ...] = field((), "Names, in order, of files; (): all that are found.")
    found: tuple[str, ...] = field((), "Domains that the files turned out to have.", noted=True)
    anchors_path: str = field(
        "",
        "File of the same format whose rows are the anchors, and neither trained on nor scored; "
        '"": half of the validation rows.',
    )
    noise: NoiseSettings = field(NoiseSettings(), "Corrupted training answers.", once="spoilt")
    template: str = field("plain", "How a question is put to the model.", choices=data.TEMPLATES)
    buckets: tuple[int, ...] = field((), "Widths below length that short rows are computed at.")
    mix: str = field("natural", "Shares of the domains in a pool.", choices=data.MIXES)
    weights: tuple[float, ...] = field((), "Shares of the weighted mix.")
    workers: int = field(
        0, "Processes that read pools ahead; 0: threads.", low=0, high=512, incidental=True
    )
    scorer: str = field("", 'What judges answers; "": the source\'s own.')
    seed: int = field(0, "Seed of the corpus and its label noise.")
    directory: str = field("", 'Prepared corpora; "": the user\'s cache folder.', incidental=True)

    def __post_init__(self):
        check(self, "data")
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
        if not self.train:
            raise ValueError("data.train must be at least 1, not 0")
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
