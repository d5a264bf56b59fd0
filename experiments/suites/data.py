"""Data: how fast a source of files is prepared, in how much memory, and how fast pools are read.

* Rows like those of MetaMathQA, of random words, as one JSON array; 64 validation and 32 test rows
  per domain; prepared by a process of its own, from opening the file to the finished corpus.
* Memory is the process's highest resident size (VmHWM), and what of it there was before it began:
  Python with TFDS and pyarrow. The difference per row is between the least rows and these.
* Pools are 256 candidates and 64 anchors a step out of 50,000 rows, read from array_record, laid
  out over 512 tokens by a byte-level BPE that was learnt from such rows; the time from the first
  request to the last row, starting threads or processes included, beside no other work.
"""

import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tokenizers

from experiments.suites.measuring import Options, Part, log, notes, table
from partitionsel_jax.data import Pools, SubwordTokenizer, load, prefetch, prepare_files
from partitionsel_jax.data.sources.schemas import METAMATHQA_DOMAINS

# Rows of the files that are prepared: of the one whose speed counts, and to see memory grow.
SPEED_ROWS, MEMORY_ROWS, LARGE_ROWS = 200_000, (50_000, 400_000), 3_600_000
READ_ROWS, STEPS = 50_000, 120
POOL, ANCHORS, LENGTH = 256, 64, 512
TEMPLATES, WORKERS = ("alpaca", "chat"), (0, 1, 2)
SPLITS: dict[str, Any] = {"validation": 64, "test": 32, "seed": 0}
# Rows per second that are wanted.
LEAST_PREPARED, LEAST_READ = 20_000, 5_000
# So many pieces of words that rows are about as long as MetaMathQA's are said to be: 260 tokens.
VOCABULARY, LEARNT_FROM = 6000, 2000
END = "<|im_end|>"
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    f"{END}\n{{% endfor %}}{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
)

PREPARED = "rows bytes seconds rows_per_second before_bytes peak_bytes growth_bytes_per_row runs"
READ = "template workers tokens rows_per_second tokens_per_second runs"
# Another process measures itself: what this one has had in memory would count otherwise.
PREPARE = """\
import json, pathlib, sys, time
from partitionsel_jax.data.sources.builders import prepare_files

def kilobytes(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name + ":")))

before, started = kilobytes("VmRSS"), time.perf_counter()
prepare_files("metamathqa", sys.argv[1], directory=sys.argv[2], **json.loads(sys.argv[3]))
print(time.perf_counter() - started, before, kilobytes("VmHWM"))
"""


def run(options: Options) -> Iterator[Part]:
    """Prepares files of several sizes, with `large` one of 5 GB too, and reads pools.

    Raises:
      OSError: a system without /proc, which the memory is read from, or a preparation that failed.
    """
    runs = min(options.repeats, 3)
    yield prepare_all([SPEED_ROWS] * runs + [*MEMORY_ROWS] + [LARGE_ROWS] * options.large)
    yield read_all(runs)


def prepare_all(planned: list[int]) -> Part:
    """Prepares files of so many rows, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        taken = pd.DataFrame([prepare(Path(folder), *each) for each in enumerate(planned)])
    found = taken.groupby("rows", as_index=False).agg(
        bytes=("bytes", "first"),
        seconds=("seconds", "median"),
        before_bytes=("before", "min"),
        peak_bytes=("peak", "max"),
        runs=("seconds", "count"),
    )
    more = found - found.iloc[0]
    found["rows_per_second"] = found["rows"] / found["seconds"]
    found["growth_bytes_per_row"] = more["peak_bytes"] / more["rows"]
    rows = json.loads(found.to_json(orient="records"))
    said = f"Data: preparing a source of files; at least {LEAST_PREPARED} rows / s are wanted."
    numbers = {"preparations": {str(row["rows"]): row for row in rows}}
    return Part(numbers, (said, table(PREPARED, rows)))


def prepare(folder: Path, turn: int, rows: int) -> dict[str, float]:
    """Prepares a file once: its bytes, the seconds, and the memory before and at its peak."""
    path = folder / f"{rows}.json"
    if not path.exists():
        write(path, rows)
    arguments = [str(path), str(folder / str(turn)), json.dumps(SPLITS)]
    command = [sys.executable, "-c", PREPARE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"preparing {rows} rows failed: {done.stderr.strip().splitlines()[-1:]}")
    seconds, before, peak = map(float, done.stdout.split())
    log.info("%d rows: %.1f s", rows, seconds)
    size = {"rows": rows, "bytes": path.stat().st_size}
    return size | {"seconds": seconds, "before": 1024 * before, "peak": 1024 * peak}


def read_all(runs: int) -> Part:
    """Reads the pools of `STEPS` steps with every template and every number of workers."""
    taken = []
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "rows.json", READ_ROWS)
        builder = prepare_files("metamathqa", f"{folder}/rows.json", directory=folder, **SPLITS)
        learnt = tokenizer()
        for template in TEMPLATES:
            corpus = load(builder, learnt, LENGTH, 0, template=template)
            pools = Pools(corpus, POOL, ANCHORS, seed=0)
            for workers in [*WORKERS] * runs:
                started = time.perf_counter()
                parts = itertools.chain.from_iterable(prefetch(pools, 0, STEPS, workers=workers))
                lengths = np.concatenate([part.lengths for part in parts])
                speed = len(lengths) / (time.perf_counter() - started)
                log.info("%s, %d workers: %.0f rows / s", template, workers, speed)
                taken.append((template, workers, float(lengths.mean()), speed))
    frame = pd.DataFrame(taken, columns=["template", "workers", "tokens", "speed"])
    speeds = frame.groupby(["template", "workers", "tokens"], sort=False)["speed"]
    found = speeds.agg(rows_per_second="median", runs="count").reset_index()
    found["tokens_per_second"] = found["tokens"] * found["rows_per_second"]
    kinds = json.loads(found.to_json(orient="records"))
    said = f"Data: reading the pools of steps; at least {LEAST_READ} rows / s are wanted."
    return Part({"readings": {"kinds": kinds}}, (said, table(READ, kinds), notes(__doc__)))


def tokenizer() -> SubwordTokenizer:
    """A byte-level BPE of the rows' words, with a chat template."""
    learnt = tokenizers.ByteLevelBPETokenizer()
    texts = (row[name] for row in synthetic_rows(LEARNT_FROM) for name in ("query", "response"))
    special = ["<|im_start|>", END]
    learnt.train_from_iterator(texts, VOCABULARY, show_progress=False, special_tokens=special)
    return SubwordTokenizer(learnt.to_str(), eos_token=END, chat_template=CHAT)


def write(path: Path, rows: int) -> None:
    """Writes rows as one JSON array, about 1.2 kB each."""
    with open(path, "w") as file:
        for place, row in enumerate(synthetic_rows(rows)):
            file.write(("[" if place == 0 else ",\n") + json.dumps(row, indent=4))
        file.write("]")


def synthetic_rows(rows: int) -> Iterator[dict[str, str]]:
    """Rows with the fields of MetaMathQA and about its lengths; 24 are made of each question."""
    source = random.Random(0)
    words = ["".join(source.choices("etaoinshrdlu", k=source.randint(2, 9))) for _ in range(4000)]
    sentences = [" ".join(source.choices(words, k=11)) + "." for _ in range(20_000)]
    original = ""
    for place in range(rows):
        if place % 24 == 0:
            original = " ".join(source.choices(sentences, k=4))
        answer = source.randint(0, 999)
        yield {
            "type": METAMATHQA_DOMAINS[place % len(METAMATHQA_DOMAINS)],
            "query": f"{original} {source.choice(sentences)} How many are {place}?",
            "original_question": original,
            "response": f"{' '.join(source.choices(sentences, k=9))}\n#### {answer}\n"
            f"The answer is: {answer}",
        }
