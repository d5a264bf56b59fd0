"""Data: how fast a source of files is prepared, in how much memory, and how fast pools are read."""

from collections.abc import Sequence

from experiments.suites.data import preparing, reading
from experiments.suites.measuring import Results, check_no_sizes

_MOST_RUNS = 3


def run(*, sizes: Sequence[str] | None, repeats: int, large: bool) -> Results:
    """Prepares files of several sizes, and reads pools.

    Args:
      sizes: must be None; the files are the same always.
      repeats: runs of what is timed, at most 3 of which are made.
      large: a file of 5 GB, too.

    Raises:
      ValueError: sizes are given.
      OSError: a system without /proc, which the memory is read from, or a preparation that failed.
    """
    check_no_sizes("data", sizes)
    runs = min(repeats, _MOST_RUNS)
    readings, read = reading.describe(reading.measure(reading.ROWS, reading.STEPS, runs))
    preparations, prepared = preparing.describe(preparing.measure(runs, large))
    return Results(preparations | {"readings": readings}, f"{prepared}\n\n{read}")
