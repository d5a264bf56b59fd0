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
from partitionsel_jax.evaluation import DomainLosses
from partitionsel_jax.file_errors import reading
from partitionsel_jax.step.halting import NORMS

_LOG = logging.getLogger(__name__)

# Bytes of rows after which they are written, if no flush was asked for before.
_BLOCK = 8192


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes a value as strict JSON has it (see `plain`), in one move."""
    json_files.write_json(path, plain(value))


def plain(value: Any) -> Any:
    """A value as strict JSON has it: arrays as lists, numpy scalars as Python's, NaN as null."""
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

    Raises:
      ValueError: a step up to `upto` has no row, so that the file cannot be the run's own.
    """

    def __init__(self, path: epath.PathLike, upto: int, first: int):
        path = epath.Path(path)
        kept = [row for row in self.read(path) if row["step"] <= upto] if path.exists() else []
        expected = list(range(first, upto + 1))
        if [row["step"] for row in kept] != expected:
            raise ValueError(
                f"{path} does not hold exactly one row for each of the steps {first}..{upto} that "
                "the checkpoint continues from: it was edited or belongs to another run"
            )
        kept_text = "".join(self._line(row) for row in kept)
        json_files.write_text(path, kept_text)
        # Unbuffered, so that what a failed write leaves behind is known; not so on a bucket.
        is_bucket = "://" in os.fspath(path)
        self._file: Any = path.open("ab") if is_bucket else io.FileIO(path, "ab")
        # Bytes of whole rows on disk, and the rows that are still to follow.
        self._size, self._waiting = len(kept_text.encode()), b""

    @staticmethod
    def read(path: epath.Path) -> list[dict[str, Any]]:
        """The rows of a file; a line that is cut off or damaged is left out."""
        rows = []
        with reading(path):
            lines = path.read_bytes().splitlines()
        for line in lines:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and type(row.get("step")) is int:
                rows.append(row)
        return rows

    @staticmethod
    def _line(row: Mapping[str, Any]) -> str:
        return json.dumps(plain(row), allow_nan=False) + "\n"

    def append(self, row: Mapping[str, Any]) -> None:
        self._waiting += self._line(row).encode()
        if len(self._waiting) > _BLOCK:
            # A full disk is for `flush` to complain about.
            with contextlib.suppress(OSError):
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
        """Flushes and ends.

        Raises:
          OSError: as `flush`; the file is closed all the same.
        """
        try:
            self.flush()
        finally:
            self._file.close()


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
        """Writes what is a finite number of some values."""
        self._guarded(self._write, step, values)

    def _write(self, step: int, values: Mapping[str, Any]) -> None:
        from tensorboardX import event_file_writer, record_writer, summary
        from tensorboardX.proto import event_pb2

        if self._events is None:
            record_writer.directory_check(self._directory)
            file = os.path.join(self._directory, "events")
            self._events = event_file_writer.EventsWriter(file)
            started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._events.write_event(event_pb2.Event(step=step, session_log=started))
        for name, value in values.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                made, now = summary.scalar(name, value), time.time()
                self._events.write_event(event_pb2.Event(wall_time=now, step=step, summary=made))

    def flush(self) -> None:
        """Puts the curves on the disk."""
        if self._events is not None:
            self._guarded(self._events.flush)
            self._gap = self._gap and self._events is None

    def close(self) -> None:
        """Flushes and ends."""
        if self._events is not None:
            self._guarded(self._events.close)

    def _guarded(self, write: Callable[..., Any], *arguments: Any) -> None:
        try:
            write(*arguments)
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
    """

    def __init__(self, label: str, total: int, pool: int, every: float = 5):
        self._label, self._total, self._pool, self._every = label, total, pool, every
        self.overhead: float | None = None
        self._shown = 0.0
        self._seconds: list[float] = []
        self._validation: float | None = None

    def validated(self, loss: float) -> None:
        """Shows this validation loss from now on."""
        self._validation = loss

    def update(self, step: int, loss: float, seconds: float) -> None:
        self._seconds = [*self._seconds[-19:], seconds]
        now = time.monotonic()
        if step != self._total and now - self._shown < self._every:
            return
        self._shown = now
        pace = float(np.mean(self._seconds))
        remaining = pace * (self._total - step)
        parts = [f"{self._label}  {step}/{self._total}", f"loss {loss:.3f}"]
        if self._validation is not None:
            parts.append(f"validation {self._validation:.3f}")
        parts.append(f"{self._pool / pace:.0f} examples/s")
        if self.overhead is not None:
            parts.append(f"selection {100 * self.overhead:.0f} % of the step")
        parts.append(f"ETA {int(remaining) // 60}:{int(remaining) % 60:02d}")
        _LOG.info("%s", "  ".join(parts))


# What a selections.jsonl row holds of a step's record; the rest goes to metrics.jsonl.
SELECTION_FIELDS = ("ids", "domains", "corrupted", "weights", "update_weights", "gains")
_NOT_METRICS = (*SELECTION_FIELDS, "indices")


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
    """Writes nothing: the recorder of a process that is not the first."""

    def start(self, losses: DomainLosses) -> None:
        """Does nothing."""

    def step(
        self, step: int, record: dict[str, Any], seconds: float, losses: DomainLosses | None
    ) -> None:
        """Does nothing."""

    def flush(self) -> bool:
        """Returns True: nothing could fail."""
        return True

    def close(self) -> None:
        """Does nothing."""


class Recorder(NoRecorder):
    """The files that a run appends to, opened where its checkpoint left off.

    Args:
      folder: the run's.
      upto: the last step whose rows are kept; -1 for a new run.
      progress: the line on the screen.
    """

    def __init__(self, folder: epath.Path, upto: int, progress: Progress):
        self._metrics = JsonLines(folder / "metrics.jsonl", upto=upto, first=0)
        self._selections = JsonLines(folder / "selections.jsonl", upto=upto, first=1)
        self._board = TensorBoard(folder / "tensorboard")
        self._progress = progress
        self._without: set[int] = set()

    def _validation(self, step: int, losses: DomainLosses | None) -> dict[str, Any]:
        if losses is None:
            return {}
        self._board.scalars(step, {"validation/loss": losses.mean})
        self._progress.validated(losses.mean)
        return {
            "validation_loss": losses.mean,
            "validation_loss_per_domain": losses.per_domain,
        }

    def start(self, losses: DomainLosses) -> None:
        self._metrics.append({"step": 0, **self._validation(0, losses)})

    def step(
        self, step: int, record: dict[str, Any], seconds: float, losses: DomainLosses | None
    ) -> None:
        """Writes the rows of one update; of one that is not sound, the picks alone."""
        record = plain(record)
        self._warn_of_dropped(step, dropped := _present(record["dropped_ids"]))
        self._selections.append({"step": step} | {key: record[key] for key in SELECTION_FIELDS})
        if not is_sound(record):
            self.flush()
            return
        row = {name: value for name, value in record.items() if name not in _NOT_METRICS}
        row = {"step": step, **row, "dropped_ids": dropped, "seconds": {"step": seconds}}
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
