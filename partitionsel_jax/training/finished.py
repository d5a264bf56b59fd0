"""The parameters that a finished run ended with."""

import dataclasses
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from partitionsel_jax import paths
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.config.settings import Settings
from partitionsel_jax.models import parameters as trees
from partitionsel_jax.step.state import TrainState, fingerprint
from partitionsel_jax.step.step import Step
from partitionsel_jax.training import pretrained, workdir


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run's end.

    Attributes:
      settings: its configuration.
      state: its last state.
      frozen: the parameters that it did not train.
    """

    settings: Settings
    state: TrainState
    frozen: Any

    @property
    def parameters(self) -> dict[str, Any]:
        """All parameters, a nested dict."""
        return trees.join(self.frozen, self.state.parameters)


def settings_of(folder: epath.PathLike, name: str) -> Settings:
    """The configuration of a finished run; nothing else is read.

    Args:
      folder: of the run.
      name: what errors call it.

    Raises:
      ValueError: it holds no finished run, or one of another version.
    """
    folder = paths.absolute(folder)
    for file in ("config.json", "summary.json"):
        if not (folder / file).exists():
            inner = sorted(str(path.parent) for path in folder.glob("*/*/summary.json"))
            hint = f" ({', '.join(inner[:4])} ...)" if inner else ""
            raise ValueError(
                f"{name} is not the folder of a finished run, as it lacks {file}: name the folder "
                f"that holds its config.json{hint}, or let it finish"
            )
    config = workdir.read_config(folder)["config"]
    try:
        return run_settings.parse(config)
    except ValueError as error:
        raise ValueError(f"{name} has a config.json of another version ({error})") from None


def load(folder: epath.PathLike, name: str) -> FinishedRun:
    """Reads a finished run's last checkpoint; nothing is written to its folder.

    Args:
      folder: of the run.
      name: what errors call it.

    Raises:
      ValueError: as `settings_of`, or a checkpoint that cannot be read or is not the one that the
        run ended with.
    """
    folder = paths.absolute(folder)
    settings = settings_of(folder, name)
    summary = workdir.read_summary(folder)
    state, frozen = Step.create(settings).initial(settings.seed, pretrained.weights(settings))
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
            "copy, or train it again"
        ) from None
    if int(fingerprint(restored)) != summary["fingerprint"]:
        raise ValueError(
            f"{name}: its last checkpoint does not match the fingerprint in summary.json; restore "
            "it from a copy, or train it again"
        )
    if not pretrained.origin(settings, frozen).items() <= summary["origin"].items():
        raise ValueError(
            f"{name}: checkpoint={settings.checkpoint!r} does not hold the weights and the "
            "tokenizer that the run started from; restore it from a copy"
        )
    return FinishedRun(settings, restored, frozen)
