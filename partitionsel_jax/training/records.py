"""What a run writes down: JSON lines that survive a kill, TensorBoard events, a progress line."""

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from partitionsel_jax import json_files

_LOG = logging.getLogger(__name__)


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
        json_files.write_text(path, "".join(self._line(row) for row in kept))
        self._file = path.open("a")

    @staticmethod
    def read(path: epath.Path) -> list[dict[str, Any]]:
        """The rows of a file; a line that is cut off or damaged is left out."""
        rows = []
        for line in path.read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and "step" in row:
                rows.append(row)
        return rows

    @staticmethod
    def _line(row: Mapping[str, Any]) -> str:
        return json.dumps(plain(row), allow_nan=False) + "\n"

    def append(self, row: Mapping[str, Any]) -> None:
        self._file.write(self._line(row))

    def flush(self) -> None:
        """Puts what was appended on the disk itself."""
        self._file.flush()
        # A bucket has no file descriptor: there, the flush is all there is.
        with contextlib.suppress(OSError, AttributeError):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self.flush()
        self._file.close()


class TensorBoard:
    """Scalar curves for TensorBoard; a restart hides what came after its checkpoint."""

    def __init__(self, directory: epath.PathLike, start: int):
        import tensorboardX

        self._writer = tensorboardX.SummaryWriter(os.fspath(directory), purge_step=start)

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


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
