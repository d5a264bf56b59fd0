"""Whole-state checkpoints with orbax: asynchronous, verified on the way back, never overwritten."""

import logging
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from partitionsel_jax.training import processes
from partitionsel_jax.training.state import TrainState, fingerprint

_LOG = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run, a few newest ones kept.

    * A save is visible only when it is complete: a process killed inside one leaves the previous
      checkpoint as the newest.
    * Every checkpoint carries the state's fingerprint. One that does not load, or loads with other
      bits, is named in a warning, and the one before is used. It is then moved to `damaged/`
      beside the checkpoints; nothing is deleted.

    Args:
      directory: where they live; made when missing.
      keep: how many newest ones stay.
    """

    def __init__(self, directory: epath.PathLike, keep: int):
        self._directory = epath.Path(directory)
        self._options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(self._directory, options=self._options)

    def save(self, state: TrainState, extra: dict[str, Any]) -> None:
        """Starts saving; `extra` is JSON that comes back with the state."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        about = {"fingerprint": int(fingerprint(state)), "extra": extra}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about)
            ),
        )

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest sound checkpoint, or None when there is none.

        Args:
          like: a state of the same shapes; its placement on devices is taken over.

        Raises:
          ValueError: there are checkpoints, and none of them loads; they stay where they are.
        """
        damaged: list[int] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                loaded = self._load(step, like)
            except (MemoryError, PermissionError, ConnectionError, TimeoutError):
                raise  # says nothing about the files
            except Exception as error:  # whatever a broken file makes a reader raise
                reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
                _LOG.warning(
                    "checkpoint %s is damaged (%s); trying the one before",
                    self._directory / str(step),
                    reason,
                )
                damaged.append(step)
                continue
            if damaged:
                self._set_aside(damaged)
            return loaded
        if damaged:
            raise ValueError(
                f"none of the checkpoints {sorted(damaged)} under {self._directory} can be read: "
                "restore one from a copy, or start again in a new --workdir"
            )
        return None

    def _load(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        loaded = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract), about=ocp.args.JsonRestore()
            ),
        )
        if int(fingerprint(loaded.state)) != loaded.about["fingerprint"]:
            raise ValueError("its contents do not match the fingerprint taken when it was saved")
        return loaded.state, loaded.about["extra"]

    def _set_aside(self, steps: list[int]) -> None:
        self._manager.close()
        if processes.is_first():
            self._move(steps)
        processes.wait()
        self._manager = self._open()

    def _move(self, steps: list[int]) -> None:
        folder = self._directory.parent / "damaged"
        folder.mkdir(parents=True, exist_ok=True)
        for step in steps:
            target, number = folder / str(step), 1
            while target.exists():
                target, number = folder / f"{step}-{number}", number + 1
            (self._directory / str(step)).rename(target)

    def close(self) -> None:
        """Waits for the saves that were started, and ends."""
        self._manager.wait_until_finished()
        self._manager.close()
