"""Loading a sharded checkpoint: how much host memory it takes beside the weights, and how long."""

import contextlib
import dataclasses
import logging
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.suites.measuring import Results, at_most, check_no_sizes, number, table
from partitionsel_jax.models import DecoderConfig, Model
from partitionsel_jax.models.pretrained import PRESETS, Checkpoint, writing

_log = logging.getLogger("partitionsel_jax.benchmark")

STORED = "bfloat16"
TARGET = 1.2
SAMPLE_S = 0.002
# Of Qwen2.5-0.5B: its embedding alone fills a shard, which is the hardest case.
SHARD_BYTES = 150_000_000
STATUS = Path("/proc/self/status")

NOTES = """\
* A checkpoint of random weights in bfloat16, in shards, read as bfloat16 and as float32.
* Memory is the most that the process has while it reads, less what it had before, and on a CPU less
  the weights themselves, which are then host memory too: `its own`, and `in all` with the pages of
  the files, which the system takes back when it needs them."""


@dataclasses.dataclass(frozen=True)
class Loading:
    """What reading a checkpoint once took.

    Attributes:
      dtype: of the parameters.
      weights: their bytes.
      own: most bytes of host memory beside them.
      resident: the same with the pages of the files.
      seconds: wall-clock time.
    """

    dtype: str
    weights: int
    own: int
    resident: int
    seconds: float


def run(*, sizes: Sequence[str] | None, repeats: int, large: bool) -> Results:
    """Reads a checkpoint as either dtype, several times.

    Args:
      sizes: must be None; the checkpoint is the same always.
      repeats: readings of each dtype, at most 5 of which are made.
      large: a whole Qwen2.5-0.5B instead of two of its layers.

    Raises:
      ValueError: sizes are given.
      OSError: a system without /proc, which the memory is read from.
    """
    check_no_sizes("loading", sizes)
    whole = PRESETS["qwen2.5-0.5b"].config
    config = whole if large else dataclasses.replace(whole, layers=2)
    with tempfile.TemporaryDirectory() as folder:
        largest = write(Path(folder), config)
        _log.info("written: %d layers, largest shard %.0f MB", config.layers, largest / 1e6)
        loadings = [
            measure(Path(folder), dtype)
            for _ in range(min(repeats, 5))
            for dtype in ("bfloat16", "float32")
        ]
    return describe(config, largest, loadings)


def write(folder: Path, config: DecoderConfig) -> int:
    """Writes a checkpoint of random weights; returns the bytes of its largest shard."""
    stored = dataclasses.replace(config, param_dtype=STORED)
    parameters = Model(stored).init(jax.random.key(0))
    writing.checkpoint(folder, stored, parameters, STORED, SHARD_BYTES)
    return max(file.stat().st_size for file in folder.glob("*.safetensors"))


@dataclasses.dataclass
class Memory:
    """Bytes of this process: those that no file stands behind, and all that are in memory."""

    own: int
    resident: int

    @classmethod
    def now(cls) -> "Memory":
        fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return cls(*(1024 * int(fields[name].split()[0]) for name in ("RssAnon", "VmRSS")))


@contextlib.contextmanager
def watched() -> Iterator[Memory]:
    """Looks at the memory all the while; gives the most that there was."""
    peak, done = Memory.now(), threading.Event()

    def look() -> None:
        while not done.wait(SAMPLE_S):
            now = Memory.now()
            peak.own, peak.resident = max(peak.own, now.own), max(peak.resident, now.resident)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def measure(folder: Path, dtype: str) -> Loading:
    """Reads the checkpoint once."""
    checkpoint = Checkpoint.open(folder)
    before = Memory.now()
    with watched() as peak:
        started = time.perf_counter()
        parameters = jax.block_until_ready(checkpoint.parameters(dtype))
        seconds = time.perf_counter() - started
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(parameters))
    on_host = weights if jax.devices()[0].platform == "cpu" else 0
    own, resident = peak.own - before.own, peak.resident - before.resident
    return Loading(dtype, weights, max(own - on_host, 0), max(resident - on_host, 0), seconds)


def describe(config: DecoderConfig, largest: int, loadings: Sequence[Loading]) -> Results:
    """Table and numbers, of the most memory and the median time."""
    rows: list[list[str]] = []
    numbers: dict[str, Any] = {"largest_shard_bytes": largest, "target": TARGET, "loadings": {}}
    for dtype in dict.fromkeys(loading.dtype for loading in loadings):
        mine = [loading for loading in loadings if loading.dtype == dtype]
        own = max(loading.own for loading in mine)
        resident = max(loading.resident for loading in mine)
        seconds = float(np.median([loading.seconds for loading in mine]))
        numbers["loadings"][dtype] = {
            "weights_bytes": mine[0].weights,
            "own_bytes": own,
            "own_over_largest_shard": own / largest,
            "resident_bytes": resident,
            "resident_over_largest_shard": resident / largest,
            "seconds": seconds,
            "runs": len(mine),
        }
        cells = (mine[0].weights / 1e6, own / 1e6, own / largest, resident / largest)
        rows.append([dtype, *map(number, cells), at_most(TARGET), number(seconds), str(len(mine))])
    headings = ["read as", "weights, MB", "its own, MB", "over largest shard", "in all, over it"]
    markdown = "\n\n".join(
        [
            f"Loading: {config.layers} layers of width {config.width}, {config.vocab_size} tokens; "
            f"largest shard {largest / 1e6:.0f} MB.",
            table([*headings, "target", "seconds", "runs"], rows),
            NOTES,
        ]
    )
    return Results(numbers, markdown)
