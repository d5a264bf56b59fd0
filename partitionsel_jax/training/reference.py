"""The reference model of `reducible_loss`: what a finished run ended with."""

import dataclasses
from typing import Any

from partitionsel_jax.config.settings import Settings
from partitionsel_jax.training import finished


def load(settings: Settings) -> Any:
    """All parameters at the end of the run in `settings.selection.reference`, a nested dict.

    Nothing is written to that folder.

    Raises:
      ValueError: it holds no finished run, a run of another model, or a checkpoint that cannot be
        read or is not the one that the run ended with.
    """
    folder = settings.selection.reference
    name = f"selection.reference={folder!r}"
    _check_model(name, finished.settings_of(folder, name), settings)
    return finished.load(folder, name).parameters


def _check_model(name: str, theirs: Settings, ours: Settings) -> None:
    if theirs.checkpoint != ours.checkpoint:
        raise ValueError(
            f"{name} started from checkpoint={theirs.checkpoint!r}, this run from "
            f"{ours.checkpoint!r}: name one of the same"
        )
    differing = [
        f"{section}.{field.name}: {getattr(there, field.name)!r} there, "
        f"{getattr(here, field.name)!r} here"
        for section, there, here in (
            ("model", theirs.model, ours.model),
            ("lora", theirs.lora, ours.lora),
        )
        for field in dataclasses.fields(there)
        if getattr(there, field.name) != getattr(here, field.name)
    ]
    if differing:
        raise ValueError(
            f"{name} is a run of another model ({'; '.join(differing)}): name one of the same"
        )
