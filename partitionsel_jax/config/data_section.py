"""The section of a run's configuration that says what it learns from."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from partitionsel_jax import data, evaluation
from partitionsel_jax.config.checks import choice
from partitionsel_jax.config.fields import check, field, needed
from partitionsel_jax.gradients.microbatches import check_widths

REASONING_GYM = "reasoning_gym"
TRAIN_ON = ("rows", "rows_and_anchors", "anchors")


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
class FilterSettings:
    """A filter that is applied once, before the run (see training/filtering.py)."""

    model: str = field(
        "",
        "What scores every training row once: folder of a finished run, or a pretrained model "
        '(path, preset or "owner/name"); "": nothing, and no row is left out.',
        later=True,
    )
    share: float = field(
        0.0,
        "Share of every domain's training rows that is left out, by their perplexity.",
        low=0,
        below=1,
        read_if=lambda chosen: bool(chosen.get("model")),
        later=True,
    )
    keep: str = field(
        "lowest",
        "The rows that stay: of lowest perplexity, or those between as many at both ends.",
        choices=("lowest", "middle"),
        read_if=lambda chosen: bool(chosen.get("model")),
        later=True,
    )

    def __post_init__(self):
        check(self, "data.filter")
        if bool(self.model) != bool(self.share):
            raise ValueError(
                f"data.filter.model={self.model!r} and data.filter.share={self.share} say nothing "
                "without one another: set a model and the share that it leaves out, or neither"
            )


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
    noise: NoiseSettings = field(
        NoiseSettings(),
        "Corrupted training answers.",
        read_if=lambda chosen: chosen.get("train_on") != "anchors",
        once="spoilt",
    )
    filter: FilterSettings = field(
        FilterSettings(), "Training rows that are left out before a run."
    )
    train_on: str = field(
        "rows",
        "What pools are drawn from: the training rows, these and all anchors, or anchors alone.",
        choices=TRAIN_ON,
        later=True,
    )
    target_domains: tuple[str, ...] = field(
        (),
        "Domains that a run is to get good at: anchors, validation and test rows are theirs alone; "
        "(): all.",
        later=True,
    )
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
        if self.train_on == "anchors" and self.filter.model:
            raise ValueError(
                "data.filter leaves out training rows, and data.train_on='anchors' trains on none "
                "of them: set data.filter.model='' and data.filter.share=0, or train on rows"
            )
        if not self.names:  # of files that are not read yet
            return
        for name in self.target_domains:
            choice("data.target_domains", name, self.names)
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
    def targets(self) -> tuple[str, ...]:
        """The domains that anchors, validation and test rows are of, in order."""
        return tuple(name for name in self.names if name in (self.target_domains or self.names))

    @property
    def task_list(self) -> list[tuple[str, dict[str, Any]]]:
        """(name, arguments) of every reasoning-gym task, in order."""
        return [(name, dict(arguments)) for name, arguments in self.tasks.items()]
