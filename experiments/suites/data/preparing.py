"""How fast a source of files is prepared, and how much memory that takes as it grows."""

import dataclasses
import logging
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.suites.data.rows import write
from experiments.suites.measuring import number, table

_log = logging.getLogger("partitionsel_jax.benchmark")

SPEED_ROWS = 200_000
MEMORY_ROWS = (50_000, 400_000)
LARGE_ROWS = 3_600_000
LEAST_SPEED = 20_000

NOTES = """\
* Rows like those of MetaMathQA, of random words, as one JSON array; 64 validation and 32 test rows
  per domain; prepared by a process of its own, from opening the file to the finished corpus.
* Memory is the process's highest resident size (VmHWM), and what of it there was before it began:
  Python with TFDS and pyarrow. The difference per row is between the least rows and these."""

# Another process measures itself: what this one has had in memory would count otherwise.
_PREPARE = """\
import pathlib, sys, time
from partitionsel_jax.data.sources.builders import prepare_files

def kilobytes(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name + ":")))

before, started = kilobytes("VmRSS"), time.perf_counter()
prepare_files("metamathqa", sys.argv[1], validation=64, test=32, seed=0, directory=sys.argv[2])
print(time.perf_counter() - started, before, kilobytes("VmHWM"))
"""


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What preparing a file once took.

    Attributes:
      rows, size: of the file, and its bytes.
      seconds: wall-clock time.
      before, peak: bytes in memory before it, and the most there were.
    """

    rows: int
    size: int
    seconds: float
    before: int
    peak: int


def measure(runs: int, large: bool) -> list[Preparation]:
    """Prepares the file whose speed matters so many times, and others once."""
    planned = [SPEED_ROWS] * runs + [*MEMORY_ROWS] + [LARGE_ROWS] * large
    preparations = []
    with tempfile.TemporaryDirectory() as folder:
        for turn, rows in enumerate(planned):
            path = Path(folder) / f"{rows}.json"
            if not path.exists():
                write(path, rows)
            preparations.append(prepare(path, rows, Path(folder) / str(turn)))
            _log.info("%d rows: %.1f s", rows, preparations[-1].seconds)
    return preparations


def prepare(path: Path, rows: int, directory: Path) -> Preparation:
    """Prepares a file once."""
    command = [sys.executable, "-c", _PREPARE, str(path), str(directory)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"preparing {rows} rows failed: {done.stderr.strip().splitlines()[-1:]}")
    seconds, before, peak = map(float, done.stdout.split())
    size = path.stat().st_size
    return Preparation(rows, size, seconds, int(1024 * before), int(1024 * peak))


def describe(preparations: Sequence[Preparation]) -> tuple[dict[str, Any], str]:
    """Numbers and table: the median time and the highest memory of every number of rows."""
    lines: list[list[str]] = []
    numbers: dict[str, Any] = {"least_rows_per_second": LEAST_SPEED, "preparations": {}}
    least = min(preparations, key=lambda preparation: preparation.rows)
    for rows in sorted({preparation.rows for preparation in preparations}):
        mine = [preparation for preparation in preparations if preparation.rows == rows]
        seconds = float(np.median([preparation.seconds for preparation in mine]))
        before = min(preparation.before for preparation in mine)
        peak = max(preparation.peak for preparation in mine)
        growth = (peak - least.peak) / (rows - least.rows) if rows > least.rows else None
        numbers["preparations"][str(rows)] = {
            "bytes": mine[0].size,
            "seconds": seconds,
            "rows_per_second": rows / seconds,
            "before_bytes": before,
            "peak_bytes": peak,
            "growth_bytes_per_row": growth,
            "runs": len(mine),
        }
        cells = (mine[0].size / 1e6, seconds, rows / seconds, before / 1e6, peak / 1e6, growth)
        lines.append([str(rows), *map(number, cells), str(len(mine))])
    headings = ["rows", "MB", "seconds", "rows / s", "memory before, MB", "peak, MB"]
    markdown = "\n\n".join(
        [
            f"Data: preparing a source of files; at least {LEAST_SPEED} rows / s are wanted.",
            table([*headings, "more bytes / row", "runs"], lines),
            NOTES,
        ]
    )
    return numbers, markdown
