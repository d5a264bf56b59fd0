"""The corpus of a run: prepared when it is not yet, and opened as the settings say."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from partitionsel_jax import data, evaluation
from partitionsel_jax.training import pretrained
from partitionsel_jax.training import settings as run_settings
from partitionsel_jax.training.data_section import REASONING_GYM, DataSettings
from partitionsel_jax.training.settings import Settings

# What answers to the questions of each kind of file are judged by.
_SCORERS = {"metamathqa": "mathematics", "mol_instructions": "molecules", "instructions": "text"}


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with paths that mean the same anywhere, and the domains of its files.

    Which domains there are is only known once the files are prepared.

    Raises:
      ValueError: data settings that do not fit, or files that `data.prepare_files` refuses.
    """
    section = dict(config["data"])
    for field in ("path", "anchors_path"):
        path = os.path.expanduser(section.get(field) or "")
        if path and os.path.exists(path):
            section[field] = os.path.abspath(path)
    settings = run_settings.build(DataSettings, section, "data")
    if not settings.names:
        section["domains"] = list(prepare(settings).info.metadata["domains"])
    return {**config, "data": section}


def check(settings: Settings) -> None:
    """Makes sure that answers can be judged.

    Raises:
      ValueError: a package is missing that they are judged with.
    """
    if settings.data.source != REASONING_GYM:
        evaluation.check_scorer(_scorer_name(settings.data))


def prepare(settings: DataSettings) -> Any:
    """The TFDS builder of the corpus, written when it is not there yet."""
    directory = settings.directory or epath.Path("~/.cache/partitionsel_jax").expanduser()
    sizes = {split: getattr(settings, split) for split in ("train", "validation", "test")}
    if settings.source == REASONING_GYM:
        return data.prepare(settings.task_list, **sizes, seed=settings.seed, directory=directory)
    return data.prepare_files(
        settings.source,
        settings.path,
        **sizes,
        seed=settings.seed,
        directory=directory,
        columns=data.Columns(**dataclasses.asdict(settings.columns)),
        domains=settings.domains,
    )


def load(settings: Settings) -> data.Corpus:
    """The corpus of a run, prepared when it is not yet, spoilt as asked."""
    chosen = settings.data
    anchors = None
    if chosen.anchors_path:
        anchors = data.read_anchors(
            "instructions" if chosen.source == REASONING_GYM else chosen.source,
            chosen.anchors_path,
            columns=data.Columns(**dataclasses.asdict(chosen.columns)),
            domains=chosen.names,
        )
    return data.load(
        prepare(chosen),
        pretrained.tokenizer(settings),
        chosen.length,
        chosen.seed,
        template=chosen.template,
        spoilt_kind=chosen.spoilt.kind,
        spoilt_share=chosen.spoilt.share,
        anchors=anchors,
    )


def scorers(settings: Settings) -> dict[str, evaluation.Scorer]:
    """What judges the answers of each domain, in order."""
    chosen = settings.data
    if chosen.source == REASONING_GYM:
        return {task[0]: evaluation.task_scorer(task) for task in chosen.task_list}
    return dict.fromkeys(chosen.names, evaluation.SCORERS[_scorer_name(chosen)])


def _scorer_name(settings: DataSettings) -> str:
    return settings.scorer or _SCORERS[settings.source]
