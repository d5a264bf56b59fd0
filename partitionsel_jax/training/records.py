"""Records of a run: JSON lines that survive a kill, TensorBoard events, a progress line."""

import contextlib
import io
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath

from partitionsel_jax import json_files
from partitionsel_jax.evaluation import DomainLosses, guard
from partitionsel_jax.file_errors import reading
from partitionsel_jax.step import costs
from partitionsel_jax.step.state import NORMS, norms_of

_LOG = logging.getLogger(__name__)

# What a selections.jsonl row holds of a step's record; the rest goes to metrics.jsonl.
SELECTION_FIELDS = ("ids", "domains", "corrupted", "weights", "update_weights", "gains")
_NOT_METRICS = (*SELECTION_FIELDS, "indices")
# Bytes of rows after which they are written, if no flush was asked for before.
_BLOCK = 8192


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes a value as strict JSON has it (see `plain`), in one move."""
    json_files.write_json(path, plain(value))


def plain(value: Any) -> Any:
    """Converts to strict JSON: arrays to lists, numpy scalars to Python's, NaN to null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return plain(np.asarray(value).tolist())


class JsonLines:
    """An append-only file of JSON objects, each with a `step`, that a restart continues.

    Opening it keeps the rows up to a step and drops what a killed process wrote after its last
    checkpoint, so that no step is ever recorded twice.

    Args:
      path: the file; made when missing.
      upto: the last step to keep; -1 keeps nothing.
      first: the step of the first row.

    Raises:
      ValueError: a step up to `upto` has no row, so that the file cannot be the run's own.
    """

    def __init__(self, path: epath.PathLike, upto: int, first: int):
        path = epath.Path(path)
        kept = [row for row in self.read(path) if row["step"] <= upto] if path.exists() else []
        if [row["step"] for row in kept] != list(range(first, upto + 1)):
            raise ValueError(
                f"{path} does not hold exactly one row for each of the steps {first}..{upto} that "
                "the checkpoint continues from: it was edited or belongs to another run"
            )
        kept_text = "".join(map(self._line, kept))
        json_files.write_text(path, kept_text)
        # Unbuffered, so that what a failed write leaves behind is known; not so on a bucket.
        is_bucket = "://" in os.fspath(path)
        self._file: Any = path.open("ab") if is_bucket else io.FileIO(path, "ab")
        # Bytes of whole rows on disk, and the rows that are still to follow.
        self._size, self._waiting = len(kept_text.encode()), b""

    @staticmethod
    def read(path: epath.Path) -> list[dict[str, Any]]:
        """Reads the rows of a file; a line that is cut off or damaged is left out."""
        rows = []
        with reading(path):
            lines = path.read_bytes().splitlines()
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(line)
                if isinstance(row, dict) and type(row.get("step")) is int:
                    rows.append(row)
        return rows

    @staticmethod
    def _line(row: Mapping[str, Any]) -> str:
        return json.dumps(plain(row), allow_nan=False) + "\n"

    def append(self, row: Mapping[str, Any]) -> None:
        self._waiting += self._line(row).encode()
        if len(self._waiting) > _BLOCK:
            with contextlib.suppress(OSError):  # a full disk is for `flush` to complain about
                self._write()

    def flush(self) -> None:
        """Puts what was appended on the disk itself.

        Raises:
          OSError: it could not be written; it is kept, and the next flush tries again.
        """
        self._write()
        self._file.flush()
        # A bucket has no file descriptor: there, the flush is all there is.
        with contextlib.suppress(AttributeError, io.UnsupportedOperation):
            os.fsync(self._file.fileno())

    def _write(self) -> None:
        """Writes the waiting rows, all or none of them."""
        waiting = memoryview(self._waiting)
        try:
            while waiting:
                waiting = waiting[self._file.write(waiting) :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
            raise
        self._size, self._waiting = self._size + len(self._waiting), b""

    def close(self) -> None:
        """Flushes and ends; raises OSError as `flush`, but the file is closed all the same."""
        with contextlib.closing(self._file):
            self.flush()


class TensorBoard:
    """Scalar curves for TensorBoard; a restart hides what came after its checkpoint.

    Where they cannot be written, they have a gap: a warning says so, and a new file is begun. The
    library's own `SummaryWriter` would wait for ever for a thread that a full disk has ended.
    """

    def __init__(self, directory: epath.PathLike):
        self._directory = os.fspath(directory)
        self._events: Any = None
        self._gap = False

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes those values that are finite numbers."""
        self._guarded(lambda: self._write(step, values))

    def _write(self, step: int, values: Mapping[str, Any]) -> None:
        from tensorboardX import event_file_writer, record_writer, summary
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        if self._events is None:
            record_writer.directory_check(self._directory)
            file = os.path.join(self._directory, "events")
            self._events = event_file_writer.EventsWriter(file)
            started = SessionLog(status=SessionLog.START)
            self._events.write_event(Event(step=step, session_log=started))
        for name, value in values.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                made = summary.scalar(name, value)
                self._events.write_event(Event(wall_time=time.time(), step=step, summary=made))

    def flush(self) -> None:
        """Puts the curves on the disk."""
        if self._events is not None:
            self._guarded(self._events.flush)
            self._gap = self._events is None

    def close(self) -> None:
        """Flushes and ends."""
        if self._events is not None:
            self._guarded(self._events.close)

    def _guarded(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except OSError as error:
            if not self._gap:
                _LOG.warning("TensorBoard's curves have a gap: %s", error)
            self._events, self._gap = None, True


class Progress:
    """A line every few seconds: where the run is, how fast, and when it will end.

    Args:
      label: the run's name.
      total: updates in all.
      pool: examples looked at per update.
      every: seconds between two lines.

    Attributes:
      overhead: share of the step's time that goes into features and selection; None hides it.
      validation: the validation loss that is shown; None hides it.
    """

    def __init__(self, label: str, total: int, pool: int, every: float = 5):
        self._label, self._total, self._pool, self._every = label, total, pool, every
        self.overhead: float | None = None
        self.validation: float | None = None
        self._shown = 0.0
        self._seconds: list[float] = []

    def update(self, step: int, loss: float, seconds: float) -> None:
        """Shows an update, if it is the last one or time for a line."""
        self._seconds = [*self._seconds[-19:], seconds]
        now = time.monotonic()
        if step != self._total and now - self._shown < self._every:
            return
        self._shown = now
        pace = float(np.mean(self._seconds))
        remaining = int(pace * (self._total - step))
        parts = [f"{self._label}  {step}/{self._total}", f"loss {loss:.3f}"]
        if self.validation is not None:
            parts.append(f"validation {self.validation:.3f}")
        parts.append(f"{self._pool / pace:.0f} examples/s")
        if self.overhead is not None:
            parts.append(f"selection {100 * self.overhead:.0f} % of the step")
        parts.append(f"ETA {remaining // 60}:{remaining % 60:02d}")
        _LOG.info("%s", "  ".join(parts))


class NonFiniteUpdate(RuntimeError):
    """An update whose loss or gradient was not finite, or that had no usable candidate.

    The state before it is kept.
    """


def is_sound(record: Mapping[str, Any]) -> bool:
    """True if an update was finite and had a candidate; takes a record or its plain form."""
    norms = norms_of(record)
    finite = all(norm is not None and math.isfinite(norm) for norm in norms)
    return finite and bool(sum(record["selected"]))


def describe_failure(record: Mapping[str, Any]) -> str:
    """Says what was not sound about an update, and what to do."""
    norms = list(map(float, norms_of(record)))
    whose = " (then the proxy's)" * (len(norms) > len(NORMS))
    return (
        f"loss, gradient norm, update norm {norms}{whose}, {record['dropped']} candidates left out "
        f"{_shortened(_present(record['dropped_ids']))}, "
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
    """Writes nothing: the recorder of a process that is not the first."""

    def start(self, losses: DomainLosses) -> None:
        """Writes the row of step 0, before the first update."""

    def step(
        self, step: int, record: dict[str, Any], seconds: float, losses: DomainLosses | None
    ) -> None:
        """Writes the rows of one update; of one that is not sound, the picks alone."""

    def verdict(self) -> guard.Verdict | None:
        """The guard's, of the rows so far; None without a guard."""
        return None

    def flush(self) -> bool:
        """Puts the rows on the disk; False, and a warning, where that fails: they are kept."""
        return True

    def close(self) -> None:
        """Flushes and ends; raises OSError where rows cannot be written."""


class Recorder(NoRecorder):
    """The files that a run appends to, opened where its checkpoint left off.

    Args:
      folder: the run's.
      upto: the last step whose rows are kept; -1 for a new run.
      progress: the line on the screen.
      twins: what a guard's twins cost, and what an update on random rows would; None without.
    """

    def __init__(
        self,
        folder: epath.Path,
        upto: int,
        progress: Progress,
        twins: costs.TwinCosts | None = None,
    ):
        self._twins = twins
        self._metrics = JsonLines(folder / "metrics.jsonl", upto=upto, first=0)
        self._selections = JsonLines(folder / "selections.jsonl", upto=upto, first=1)
        self._board = TensorBoard(folder / "tensorboard")
        self._progress = progress
        # Examples that a warning has named.
        self._dropped: set[int] = set()
        self._rows = [] if twins is None else JsonLines.read(folder / "metrics.jsonl")

    def start(self, losses: DomainLosses) -> None:
        self._metrics.append({"step": 0, **self._validation(0, losses)})

    def _validation(self, step: int, losses: DomainLosses | None) -> dict[str, Any]:
        if losses is None:
            return {}
        self._board.scalars(step, {"validation/loss": losses.mean})
        self._progress.validation = losses.mean
        return {"validation_loss": losses.mean, "validation_loss_per_domain": losses.per_domain}

    def step(
        self, step: int, record: dict[str, Any], seconds: float, losses: DomainLosses | None
    ) -> None:
        record = plain(record)
        dropped = _present(record["dropped_ids"])
        if new := [number for number in dropped if number not in self._dropped]:
            self._dropped.update(new)
            _LOG.warning(
                f"update {step} leaves out {len(new)} candidates, whose features or losses are not "
                f"finite: examples {_shortened(new)}"
            )
        self._selections.append({"step": step} | {key: record[key] for key in SELECTION_FIELDS})
        if not is_sound(record):
            self.flush()
            return
        row = {name: value for name, value in record.items() if name not in _NOT_METRICS}
        # With those of the run that has chosen the rows, where another one has.
        taken = {"step": seconds + row.pop("chooser_seconds", 0.0)}
        if "chooser_flops" in row:
            taken["chooser"] = taken["step"] - seconds
        row = {"step": step, **row, "dropped_ids": dropped, "seconds": taken}
        self._board.scalars(step, {f"train/{key}": value for key, value in row.items()})
        if self._twins is not None:
            self._rows.append(row)
        self._metrics.append(row | self._validation(step, losses))
        self._progress.update(step, row["loss"], seconds)

    def verdict(self) -> guard.Verdict | None:
        if self._twins is None:
            return None
        # What was spent before the first update is part of its row, and of no update's cost.
        flops = [r["flops"] - r.get("chooser_flops", 0.0) for r in self._rows if "flops" in r]
        seen = [row for row in self._rows if guard.RANDOM in row]
        selected, random = (
            [math.nan if row[name] is None else row[name] for row in seen] for name in guard.LOSSES
        )
        cost = self._twins.relative(float(np.mean(flops))) if flops else 1.0
        return guard.judge([row["step"] for row in seen], selected, random, cost)

    def flush(self) -> bool:
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
