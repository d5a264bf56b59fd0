"""Rows that the processes of one JAX job hold, and what they tell each other about them."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


@dataclasses.dataclass(frozen=True)
class Exchange:
    """Who holds which rows; they are numbered through, in order of the processes.

    Attributes:
      counts: rows of every process.
      process: this one.
    """

    counts: tuple[int, ...]
    process: int = 0

    @classmethod
    def of(cls, rows: int, *, spread: bool = False) -> "Exchange":
        """Meets the others where rows are spread over them; otherwise this process has them all."""
        if not spread or jax.process_count() == 1:
            return cls((rows,))
        counts = _gathered(np.array([rows], np.int64))
        return cls(tuple(int(count) for count in counts[:, 0]), jax.process_index())

    @property
    def total(self) -> int:
        """Rows of all processes."""
        return sum(self.counts)

    @property
    def first(self) -> int:
        """The number of this process's first row."""
        return sum(self.counts[: self.process])

    def of_all_rows(self, values: np.ndarray) -> np.ndarray:
        """One value for every row of this process -> for every row of all."""
        if len(self.counts) == 1:
            return values
        missing = max(self.counts) - len(values)
        parts = _gathered(np.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1)))
        return np.concatenate(
            [part[:count] for part, count in zip(parts, self.counts, strict=True)]
        )

    def side_by_side(self, values: np.ndarray) -> np.ndarray:
        """Arrays [Q, L] of equal shapes -> [Q, processes x L], in order of the processes."""
        if len(self.counts) == 1:
            return values
        return np.concatenate(list(_gathered(values)), axis=1)

    def rows_of(self, named: np.ndarray, known: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Features of rows that several processes hold.

        Args:
          named: i64[U], ascending, the same on all.
          known: i64[V], ascending, those that this process holds, and perhaps others.
          rows: f32[V, M].

        Returns:
          f32[U, M].
        """
        if len(self.counts) == 1:
            return rows[np.searchsorted(known, named)]
        holder = np.searchsorted(np.cumsum(self.counts), named, side="right")
        most = int(np.bincount(holder, minlength=len(self.counts)).max(initial=0))
        mine = rows[np.searchsorted(known, named[holder == self.process])]
        parts = _gathered(np.pad(mine, ((0, most - len(mine)), (0, 0))))
        found = [parts[process][: np.sum(holder == process)] for process in range(len(self.counts))]
        return np.concatenate(found)


def _gathered(values: np.ndarray) -> Any:
    """The arrays of all processes, stacked, bit for bit: JAX would make float64 float32."""
    plain = np.ascontiguousarray(values)
    if not plain.size:
        return np.zeros((jax.process_count(), *plain.shape), plain.dtype)
    stacked = multihost_utils.process_allgather(plain.reshape(-1).view(np.uint8))
    return np.asarray(stacked).reshape(-1).view(plain.dtype).reshape(-1, *plain.shape)
