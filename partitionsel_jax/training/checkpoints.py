"""Whole-state checkpoints with orbax: asynchronous, verified on the way back, never overwritten."""

import ast
import contextlib
import dataclasses
import json
import logging
import math
import types
from collections.abc import Mapping
from typing import Any, cast

import jax
import orbax.checkpoint as ocp
from etils import epath

from partitionsel_jax.distributed import processes
from partitionsel_jax.json_files import INTEGER, check_fields
from partitionsel_jax.machine_errors import lack
from partitionsel_jax.step.state import TrainState, fingerprint

_LOG = logging.getLogger(__name__)

# Seconds for all processes to write a state; where one of them fails, the others wait so long.
SAVING_S = 300
_REMEDY = "mend the disk, then give the same command again"
_POLICIES = ocp.checkpoint_managers


class NotSaved(OSError):
    """The state that a run ends with could not be saved."""


class Checkpoints:
    """The checkpoints of one run, a few newest and best ones kept.

    * A save is visible only when it is complete: a process killed inside one leaves the previous
      checkpoint as the newest.
    * Every checkpoint carries the state's fingerprint. One that does not load, or loads with other
      bits, on any of several processes, is named in a warning, and all use the one before. It is
      then moved to `damaged/` beside the checkpoints; nothing is deleted.
    * A save that fails, on a full disk say, is named in a warning, and the run goes on: nothing
      older is removed for it, and the next save is made as if it had not been. `finish` raises if
      it was the last one.

    Args:
      directory: where they live; made when missing.
      keep: how many newest ones stay.
      keep_best: how many of the lowest validation loss stay beside them.
    """

    def __init__(self, directory: epath.PathLike, keep: int, keep_best: int = 0):
        self._directory = epath.Path(directory)
        policies: list[Any] = [_POLICIES.LatestN(n=keep)]
        if keep_best:
            policies.append(_POLICIES.BestN(get_metric_fn=_loss_of, reverse=True, n=keep_best))
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=_POLICIES.AnyPreservationPolicy(policies),
            best_fn=_loss_of if keep_best else None,
            best_mode="min",
            cleanup_tmp_directories=True,
            async_options=ocp.options.AsyncOptions(timeout_secs=SAVING_S),
        )
        self._manager = self._open()
        # Of the last save: its step while it runs, and what went wrong with it.
        self._saving: int | None = None
        self._failure: str | None = None
        self._remedy = _REMEDY

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(self._directory, options=self._options)

    def save(self, state: TrainState, extra: dict[str, Any], loss: float | None = None) -> None:
        """Starts saving, once the save before has ended.

        Args:
          state: what is saved.
          extra: JSON that comes back with the state.
          loss: its validation loss, where that is known.
        """
        self._settle()
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        about = {"fingerprint": int(fingerprint(state)), "extra": extra}
        self._saving, self._failure = step, None
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about)
                ),
                metrics={"validation_loss": loss} if self._options.best_fn else None,
            )
        except Exception as error:  # whatever a full or broken disk makes a writer raise
            self._failed(error)

    def finish(self) -> None:
        """Waits for the last save.

        Raises:
          NotSaved: it failed; where it did on this process, the others need not be waited for.
        """
        if self._saving is not None:
            self._wait()
        if self._failure is None:
            self._settle()
        if self._failure is not None:
            saved = [step for step in self._manager.all_steps() if step != self._saving]
            raise NotSaved(
                f"the last state could not be saved under {self._directory} ({self._failure}): "
                f"{self._remedy}; the run goes on from update {max(saved, default=0)}"
            )

    def _settle(self) -> None:
        """Waits for the save that was started, and says so if it failed on any process."""
        if self._saving is None:
            return
        self._wait()
        step, self._saving = self._saving, None
        self._failure = _of_any(self._failure)
        if self._failure is None:
            return
        _LOG.warning(
            f"the state after update {step} could not be saved under {self._directory} "
            f"({self._failure}); training goes on, and the next checkpoint is another try"
        )
        with contextlib.suppress(Exception):
            self._manager.close()
        self._manager = self._open()

    def _wait(self) -> None:
        """Waits until this process has written its part."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # as in `save`, from the thread that writes
            if self._failure is None:
                self._failed(error)
        if self._failure is None and not (self._directory / str(self._saving)).exists():
            self._failure = "it is not there"

    def _failed(self, error: Exception) -> None:
        """Notes why a save has failed, and what to do about it."""
        found = lack(error)
        self._failure = found.what if found else processes.first_line(error)
        self._remedy = found.remedy if found else _REMEDY

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest sound checkpoint, or None when there is none.

        Args:
          like: a state of the same shapes; its placement on devices is taken over.

        Raises:
          ValueError: there are checkpoints, and none of them loads; they stay where they are.
        """
        damaged: list[int] = []
        for step in self._steps():
            loaded, problem = self._load(step, like)
            if problem is None:
                if damaged:
                    self._set_aside(damaged)
                return loaded.state, loaded.about["extra"]
            place = self._directory / str(step)
            _LOG.warning("checkpoint %s is damaged (%s); trying the one before", place, problem)
            damaged.append(step)
        if damaged:
            raise ValueError(
                f"none of the checkpoints {sorted(damaged)} under {self._directory} can be read: "
                "restore one from a copy, or start again in a new --workdir"
            )
        return None

    def _steps(self) -> list[int]:
        """The checkpoints that process 0 finds, newest first."""
        found = sorted(self._manager.all_steps(), reverse=True)
        count = processes.agreed(len(found))
        padded = (found + [0] * count)[:count]
        return [processes.agreed(step) for step in padded]

    def _load(self, step: int, like: TrainState) -> tuple[Any, str | None]:
        """The contents of a checkpoint, and what is wrong with them on any process."""
        loaded, problem = None, None
        try:
            loaded = self._read(step, like)
            about = f"what is noted of update {step}"
            check_fields(loaded.about, {"fingerprint": INTEGER, "extra": dict}, about)
        except (MemoryError, PermissionError, ConnectionError, TimeoutError):
            raise  # says nothing about the files
        except Exception as error:  # whatever a broken file makes a reader raise
            problem = processes.first_line(error)
        # Only where all have read it: the fingerprint is computed together.
        problem = _of_any(problem)
        if problem is None and loaded is not None:
            same = int(fingerprint(loaded.state)) == loaded.about["fingerprint"]
            other = "its contents do not match the fingerprint taken when it was saved"
            problem = _of_any(None if same else other)
        return loaded, problem

    def _read(self, step: int, like: TrainState) -> Any:
        """Each process on its own, so that none waits for one that cannot read."""
        place, this = self._directory / str(step), jax.process_index()
        alone = ocp.options.MultiprocessingOptions(primary_host=this, active_processes={this})
        with ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(
                composite_options=ocp.CompositeOptions(multiprocessing_options=alone)
            ),
            multiprocessing_options=alone,
        ) as reader:
            shapes = ocp.args.StandardRestore(saved_part(like, place / "state"))
            loaded = reader.restore(
                place, args=ocp.args.Composite(state=shapes, about=ocp.args.JsonRestore())
            )
        return types.SimpleNamespace(state=completed(like, loaded.state), about=loaded.about)

    def _set_aside(self, steps: list[int]) -> None:
        self._manager.close()
        if processes.is_first():
            folder = self._directory.parent / "damaged"
            folder.mkdir(parents=True, exist_ok=True)
            for step in steps:
                target, number = folder / str(step), 1
                while target.exists():
                    target, number = folder / f"{step}-{number}", number + 1
                (self._directory / str(step)).rename(target)
        processes.wait()
        self._manager = self._open()

    def close(self) -> None:
        """Waits for the save that was started, and ends; `finish` is what says how it went."""
        with contextlib.suppress(Exception):
            self._manager.wait_until_finished()
        with contextlib.suppress(Exception):
            self._manager.close()


def saved_part(like: Any, path: epath.Path) -> Any:
    """Shapes of a state as nested dicts, to restore from `path`.

    A field that came after the checkpoint is left out where it is None in `like`.
    """
    names = json.loads((path / "_METADATA").read_text())["tree_metadata"]
    saved = set(map(ast.literal_eval, names))

    def part(tree: Any, prefix: tuple[str, ...]) -> Any:
        if not dataclasses.is_dataclass(tree):
            return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
        values = {each.name: getattr(tree, each.name) for each in dataclasses.fields(tree)}
        return {
            name: part(value, (*prefix, name))
            for name, value in values.items()
            if value is not None or (*prefix, name) in saved
        }

    return part(like, ())


def completed(like: Any, found: Any) -> Any:
    """A state of the classes of `like`, from what was restored of it as nested dicts."""
    if not dataclasses.is_dataclass(like):
        return found
    values = {each.name: getattr(like, each.name) for each in dataclasses.fields(like)}
    fields = {
        name: completed(value, found[name]) for name, value in values.items() if name in found
    }
    return dataclasses.replace(cast(Any, like), **fields)


def _loss_of(metrics: Mapping[str, Any]) -> float:
    """Returns the loss that checkpoints are compared by; one without it is the worst."""
    loss = metrics["validation_loss"]
    return math.inf if loss is None else loss


def _of_any(problem: str | None) -> str | None:
    """Says what is wrong on this process or another; the same, None or not, on all."""
    if any(processes.of_all(problem is not None)):
        return problem or "another process failed"
    return None
