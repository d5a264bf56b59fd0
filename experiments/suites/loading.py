"""Loading a sharded checkpoint: how much host memory it takes beside the weights, and how long.

* A checkpoint of random weights in bfloat16, in shards, read as bfloat16 and as float32.
* Memory is the most that the process has while it reads, less what it had before, and on a CPU less
  the weights themselves, which are then host memory too: its `own` bytes, and all that are
  `resident`, with the pages of the files, which the system takes back when it needs them.
"""

import contextlib
import dataclasses
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pandas as pd

from experiments.suites import workloads
from experiments.suites.measuring import Options, Part, notes, table
from partitionsel_jax.models import DecoderConfig, Model
from partitionsel_jax.models.pretrained import PRESETS, Checkpoint, writing

MODEL, STORED = PRESETS["qwen2.5-0.5b"].config, "bfloat16"
# The embedding alone fills a shard, which is the hardest case.
SHARD_BYTES = 150_000_000
TARGET = 1.2
SAMPLE_S = 0.002

COLUMNS = (
    "read_as weights_bytes own_bytes own_over_largest_shard resident_over_largest_shard "
    "seconds runs"
)


def run(options: Options) -> Iterator[Part]:
    """Reads a checkpoint as either dtype, at most 5 times; with `large` of all layers, not two.

    Raises:
      OSError: a system without /proc, which the memory is read from.
    """
    config = MODEL if options.large else dataclasses.replace(MODEL, layers=2)
    turns = [STORED, "float32"] * min(options.repeats, 5)
    with tempfile.TemporaryDirectory() as folder:
        shard = write(Path(folder), config)
        runs = pd.DataFrame([measure(Path(folder), dtype) for dtype in turns])
    found = runs.groupby("dtype", sort=False).agg(
        weights_bytes=("weights", "max"),
        own_bytes=("own", "max"),
        resident_bytes=("resident", "max"),
        seconds=("seconds", "median"),
        runs=("seconds", "count"),
    )
    for name in ("own", "resident"):
        found[f"{name}_over_largest_shard"] = found[f"{name}_bytes"] / shard
    loadings = json.loads(found.to_json(orient="index"))
    said = (
        f"Loading: {config.layers} layers of width {config.width}, {config.vocab_size} tokens; "
        f"largest shard {shard / 1e6:.0f} MB. At most {TARGET} of it are wanted."
    )
    drawn = table(COLUMNS, ({"read_as": dtype} | found for dtype, found in loadings.items()))
    numbers = {"largest_shard_bytes": shard, "loadings": loadings}
    yield Part(numbers, (said, drawn, notes(__doc__)))


def write(folder: Path, config: DecoderConfig) -> int:
    """Writes a checkpoint of random weights; returns the bytes of its largest shard."""
    stored = dataclasses.replace(config, param_dtype=STORED)
    parameters = Model(stored).init(jax.random.key(0))
    writing.checkpoint(folder, stored, parameters, STORED, SHARD_BYTES)
    return max(file.stat().st_size for file in folder.glob("*.safetensors"))


def measure(folder: Path, dtype: str) -> dict[str, Any]:
    """Reads the checkpoint once: bytes of its weights, bytes beside them, and seconds."""
    checkpoint, before = Checkpoint.open(folder), memory()
    with sampled() as peak:
        started = time.perf_counter()
        parameters = jax.block_until_ready(checkpoint.parameters(dtype))
        seconds = time.perf_counter() - started
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(parameters))
    on_host = weights if workloads.on_cpu() else 0
    beside = {name: max(peak[name] - before[name] - on_host, 0) for name in peak}
    return {"dtype": dtype, "weights": weights, "seconds": seconds} | beside


def memory() -> dict[str, int]:
    """Bytes of this process: those that no file stands behind, and all that are in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    names = {"own": "RssAnon", "resident": "VmRSS"}
    return {name: 1024 * int(fields[field].split()[0]) for name, field in names.items()}


@contextlib.contextmanager
def sampled() -> Iterator[dict[str, int]]:
    """Samples the memory all the while; gives the most that there was."""
    peak, done = memory(), threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_S):
            peak.update({name: max(peak[name], value) for name, value in memory().items()})

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
