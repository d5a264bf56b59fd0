"""The reference model of `reducible_loss`: the last parameters of a finished run."""

import dataclasses
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from partitionsel_jax.models import parameters as trees
from partitionsel_jax.training import settings as run_settings
from partitionsel_jax.training.records import read_json
from partitionsel_jax.training.settings import Settings
from partitionsel_jax.training.state import fingerprint
from partitionsel_jax.training.step import Step


def load(settings: Settings) -> Any:
    """All parameters at the end of the run in `settings.selection.reference`, a nested dict.

    Nothing is written to that folder.

    Raises:
      ValueError: it holds no finished run, a run of another model, or a checkpoint that cannot be
        read or is not the one that the run ended with.
    """
    folder = epath.Path(settings.selection.reference).expanduser()
    name = f"selection.reference={str(folder)!r}"
    for file in ("config.json", "summary.json"):
        if not (folder / file).exists():
            raise ValueError(
                f"{name} is not the folder of a finished run, as it lacks {file}: name the folder "
                "that holds its config.json, or let it finish"
            )
    summary = read_json(folder / "summary.json")
    try:
        theirs = run_settings.parse(read_json(folder / "config.json")["config"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{name} has a config.json of another version ({error})") from None
    _check_model(name, theirs, settings)
    state, frozen = Step.create(theirs).initial(theirs.seed)
    path = folder / "checkpoints" / str(summary["updates"]) / "state"
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            restored = checkpointer.restore(
                path, jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
            )
    except Exception as error:  # whatever a missing or broken file makes a reader raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(
            f"{name}: its last checkpoint {path} cannot be read ({reason}); restore it from a "
            "copy, or train the reference again"
        ) from None
    if int(fingerprint(restored)) != summary["fingerprint"]:
        raise ValueError(
            f"{name}: its last checkpoint does not match the fingerprint in summary.json; restore "
            "it from a copy, or train the reference again"
        )
    return trees.join(frozen, restored.parameters)


def _check_model(name: str, theirs: Settings, ours: Settings) -> None:
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
