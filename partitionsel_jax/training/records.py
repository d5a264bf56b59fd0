"""What a run writes down: JSON lines that survive a kill, TensorBoard events, a progress line."""

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
from partitionsel_jax.file_errors import reading

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

    Where they cannot be written, they have a gap: a warning says so, and the next flush begins a
    new file.
    """

    def __init__(self, directory: epath.PathLike, start: int):
        self._directory, self._start = os.fspath(directory), start
        self._events: Any = None
        self._gap = False
        self._guarded(self._open)

    def _open(self) -> None:
        from tensorboardX import event_file_writer, record_writer
        from tensorboardX.proto import event_pb2

        record_writer.directory_check(self._directory)
        self._events = event_file_writer.EventsWriter(os.path.join(self._directory, "events"))
        started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._events.write_event(event_pb2.Event(step=self._start, session_log=started))

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        from tensorboardX import summary
        from tensorboardX.proto import event_pb2

        def write() -> None:
            for name, value in values.items():
                if isinstance(value, (int, float)) and math.isfinite(value):
                    made, now = summary.scalar(name, value), time.time()
                    self._events.write_event(
                        event_pb2.Event(wall_time=now, step=step, summary=made)
                    )

        # Nothing of a step is hidden when a new file begins after it.
        self._start = step + 1
        if self._events is not None:
            self._guarded(write)

    def flush(self) -> None:
        if self._events is None:
            self._guarded(self._open)
        else:
            self._guarded(self._events.flush)

    def close(self) -> None:
        if self._events is not None:
            self._guarded(self._events.close)

    def _guarded(self, write: Callable[[], Any]) -> None:
        try:
            write()
            self._gap = False
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
