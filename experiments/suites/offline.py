"""Offline selection: seconds, passes and memory of picks from features that lie on disk.

* Features are normal numbers around a direction that rows and anchors share, of unit variance, in
  eight domains of about as many rows; picks are one in a hundred, in blocks of half the dimension
  where they are above that.
* A run is a process of its own (or two of one JAX job, on this machine), from its start to the
  written directory; memory is the highest resident size of the larger process. The features' file
  was read just before: the system may still hold it.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.suites.measuring import Options, Part, log, table

DIM, DOMAINS, ANCHORS = 512, 8, 64
ROWS, LARGE_ROWS = 100_000, 1_000_000
_FILES = {"features": "F", "anchors": "A", "domains": "D"}
# Rows that are written at a time.
_BLOCK = 10_000
SHOWN = "rows picks utility processes seconds passes peak_bytes picks_with_weight"


class Way(NamedTuple):
    """A utility, and how many processes share the rows."""

    utility: str
    processes: int


WAYS = (
    Way("gradient_matching", 1),
    Way("gradient_matching", 2),
    Way("taylor", 1),
    Way("alignment", 1),
    Way("facility_location", 1),
)


def run(options: Options) -> Iterator[Part]:
    """Picks a hundredth of the rows; with `large` of a million, too.

    Raises:
      OSError: a selection that failed.
    """
    for rows in (ROWS, LARGE_ROWS) if options.large else (ROWS,):
        with tempfile.TemporaryDirectory() as folder:
            _write(Path(folder), rows)
            found = [_measure(Path(folder), rows, way) for way in WAYS]
        said = f"Offline selection: {rows // 100:,} of {rows:,} rows of {DIM} features."
        yield Part({f"rows_{rows}": found}, (said, table(SHOWN, found)))


def _write(folder: Path, rows: int) -> None:
    log.info("writing %d rows", rows)
    random = np.random.default_rng(0)
    shared = random.normal(size=DIM).astype(np.float32) / np.sqrt(DIM)
    shape = (rows, DIM)
    matrix = np.lib.format.open_memmap(folder / "F.npy", "w+", np.float32, shape)
    for start in range(0, rows, _BLOCK):
        block = random.standard_normal((min(_BLOCK, rows - start), DIM), np.float32)
        matrix[start : start + len(block)] = block + shared
    del matrix
    anchors = random.standard_normal((ANCHORS, DIM), np.float32) + shared
    np.save(folder / "A.npy", anchors)
    np.save(folder / "D.npy", random.integers(0, DOMAINS, rows))


def _measure(folder: Path, rows: int, way: Way) -> dict[str, Any]:
    picks, output = rows // 100, folder / f"{way.utility}-{way.processes}"
    command = [
        *(sys.executable, "-m", "experiments.select"),
        *(f"--{name}={folder / file}.npy" for name, file in _FILES.items()),
        *(f"--size={picks}", f"--utility={way.utility}", f"--output={output}"),
        *([f"--block={DIM // 2}"] if picks > DIM // 2 else []),
    ]
    began = time.perf_counter()
    started = [
        subprocess.Popen(command, env=os.environ | told, stdout=subprocess.DEVNULL)
        for told in _told(way.processes)
    ]
    ended = [os.wait4(process.pid, 0) for process in started]
    seconds = time.perf_counter() - began
    if any(status for _, status, _ in ended):
        raise OSError(f"selecting {picks} of {rows} rows by {way} failed")
    summary = json.loads((output / "summary.json").read_text())
    log.info("%s: %.1f s", way, seconds)
    return {
        "rows": rows,
        "picks": picks,
        **way._asdict(),
        "seconds": seconds,
        "passes": summary["passes"],
        "peak_bytes": 1024 * max(usage.ru_maxrss for _, _, usage in ended),
        "picks_with_weight": summary["picks_with_weight"],
    }


def _told(count: int) -> list[dict[str, str]]:
    """The variables by which so many processes find each other."""
    if count == 1:
        return [{}]
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    return [
        {
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": str(count),
            "JAX_PROCESS_ID": str(number),
        }
        for number in range(count)
    ]
