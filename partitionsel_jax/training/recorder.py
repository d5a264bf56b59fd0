"""The rows of a run: one per update in metrics.jsonl and selections.jsonl, and TensorBoard."""

import contextlib
import logging
import math
from collections.abc import Mapping
from typing import Any

from etils import epath

from partitionsel_jax import evaluation
from partitionsel_jax.step.halting import NORMS
from partitionsel_jax.training import records

_LOG = logging.getLogger(__name__)

# What a selections.jsonl row holds of a step's record; the rest goes to metrics.jsonl.
SELECTION_FIELDS = ("ids", "domains", "corrupted", "weights", "update_weights", "gains")


class NonFiniteUpdate(RuntimeError):
    """An update whose loss or gradient was not finite, or that had no usable candidate.

    The state before it is kept.
    """


def is_sound(record: Mapping[str, Any]) -> bool:
    """Whether an update was finite and had a candidate to pick; of a record or its plain form."""
    norms = [record[name] for name in NORMS]
    finite = all(norm is not None and math.isfinite(norm) for norm in norms)
    return finite and bool(sum(record["selected"]))


def describe_failure(record: Mapping[str, Any]) -> str:
    """What was not sound about an update."""
    norms = [float(record[name]) for name in NORMS]
    without = _present(record["dropped_ids"])
    return (
        f"loss, gradient norm, update norm {norms}, "
        f"{record['dropped']} candidates left out {_shortened(without)}, "
        f"{record.get('anchors_dropped', 0)} anchors left out, "
        f"picked examples {list(map(int, record['ids']))}; the state before it is kept; lower "
        "optimizer.learning_rate, or look at those rows"
    )


def _present(ids: Any) -> list[int]:
    """The ids in an array that is padded with -1."""
    return [number for number in map(int, ids) if number >= 0]


def _shortened(ids: list[int], most: int = 20) -> str:
    shown = ", ".join(map(str, ids[:most]))
    return f"[{shown}, ... {len(ids)} in all]" if len(ids) > most else f"[{shown}]"


class NoRecorder:
    """In a recorder's place on the processes that do not write."""

    def start(self, losses: evaluation.DomainLosses) -> None:
        """Nothing."""

    def step(
        self,
        step: int,
        record: dict[str, Any],
        seconds: float,
        losses: evaluation.DomainLosses | None,
    ) -> None:
        """Nothing."""

    def flush(self) -> bool:
        """Nothing that could fail."""
        return True

    def close(self) -> None:
        """Nothing."""


def _metrics_row(record: dict[str, Any], step: int, seconds: float) -> dict[str, Any]:
    skipped = (*SELECTION_FIELDS, "indices")
    row = {key: value for key, value in record.items() if key not in skipped}
    row["dropped_ids"] = _present(record["dropped_ids"])
    return {"step": step, **row, "seconds": {"step": seconds}}


class Recorder:
    """The files that a run appends to, opened where its checkpoint left off.

    Args:
      folder: the run's.
      upto: the last step whose rows are kept; -1 for a new run.
      progress: the line on the screen.
    """

    def __init__(self, folder: epath.Path, upto: int, progress: records.Progress):
        self._metrics = records.JsonLines(folder / "metrics.jsonl", upto=upto, first=0)
        self._selections = records.JsonLines(folder / "selections.jsonl", upto=upto, first=1)
        self._board = records.TensorBoard(folder / "tensorboard", upto + 1)
        self._progress = progress
        self._without: set[int] = set()

    def _validation(self, step: int, losses: evaluation.DomainLosses | None) -> dict[str, Any]:
        if losses is None:
            return {}
        self._board.scalars(step, {"validation/loss": losses.mean})
        self._progress.validated(losses.mean)
        return {
            "validation_loss": losses.mean,
            "validation_loss_per_domain": losses.per_domain,
        }

    def start(self, losses: evaluation.DomainLosses) -> None:
        self._metrics.append({"step": 0, **self._validation(0, losses)})

    def step(
        self,
        step: int,
        record: dict[str, Any],
        seconds: float,
        losses: evaluation.DomainLosses | None,
    ) -> None:
        """Writes the rows of one update; of one that is not sound, the picks alone."""
        record = records.plain(record)
        self._warn_of_dropped(step, _present(record["dropped_ids"]))
        self._selections.append({"step": step} | {key: record[key] for key in SELECTION_FIELDS})
        if not is_sound(record):
            self.flush()
            return
        row = _metrics_row(record, step, seconds)
        self._board.scalars(step, {f"train/{key}": value for key, value in row.items()})
        self._metrics.append(row | self._validation(step, losses))
        self._progress.update(step, row["loss"], seconds)

    def _warn_of_dropped(self, step: int, ids: list[int]) -> None:
        """Once per example."""
        if new := [number for number in ids if number not in self._without]:
            self._without.update(new)
            _LOG.warning(
                "update %d leaves out %d candidates, whose features or losses are not finite: "
                "examples %s",
                step,
                len(new),
                _shortened(new),
            )

    def flush(self) -> bool:
        """Puts the rows on the disk; False, and a warning, where that fails: they are kept."""
        try:
            self._metrics.flush()
            self._selections.flush()
        except OSError as error:
            _LOG.warning("rows cannot be written (%s); training goes on, they are kept", error)
            return False
        self._board.flush()
        return True

    def close(self) -> None:
        with contextlib.ExitStack() as stack:
            for file in (self._board, self._selections, self._metrics):
                stack.callback(file.close)
