"""How fast the pools of steps are read and tokenised."""

import dataclasses
import itertools
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from experiments.suites.data.rows import synthetic_rows, write
from experiments.suites.measuring import number, table
from partitionsel_jax.data import Pools, SubwordTokenizer, load, prefetch, prepare_files

_log = logging.getLogger("partitionsel_jax.benchmark")

ROWS = 50_000
VALIDATION, TEST = 64, 32
POOL, ANCHORS, LENGTH = 256, 64, 512
STEPS = 120
LEAST_SPEED = 5_000
TEMPLATES = ("alpaca", "chat")
WORKERS = (0, 1, 2)
# So many pieces of words that rows are about as long as MetaMathQA's are said to be: 260 tokens.
_VOCABULARY, _LEARNT_FROM = 6000, 2000
_END = "<|im_end|>"
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    + _END
    + "\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

NOTES = f"""\
* {POOL} candidates and {ANCHORS} anchors a step out of {ROWS} rows, read from array_record, laid
  out over {LENGTH} tokens by a byte-level BPE that was learnt from such rows; the time from the
  first request to the last row, starting threads or processes included, beside no other work."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """What reading pools took: rows of `tokens` tokens on average, so many of them per second."""

    template: str
    workers: int
    tokens: float
    rows_per_second: float


def tokenizer(rows: int = _LEARNT_FROM, vocabulary: int = _VOCABULARY) -> SubwordTokenizer:
    """A byte-level BPE of the rows' words, with a chat template."""
    learnt = tokenizers.Tokenizer(tokenizers.models.BPE())
    learnt.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    learnt.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        show_progress=False,
        special_tokens=["<|im_start|>", _END],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    texts: Iterator[str] = (
        text for row in synthetic_rows(rows) for text in (row["query"], row["response"])
    )
    learnt.train_from_iterator(texts, trainer)
    return SubwordTokenizer(learnt.to_str(), eos_token=_END, chat_template=_CHAT)


def measure(rows: int, steps: int, runs: int) -> list[Reading]:
    """Reads the pools of `steps` steps with every template and every number of workers."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        write(path, rows)
        builder = prepare_files(
            "metamathqa",
            path,
            validation=VALIDATION,
            test=TEST,
            seed=0,
            directory=folder,
        )
        chosen, readings = tokenizer(), []
        for template in TEMPLATES:
            corpus = load(builder, chosen, LENGTH, 0, template=template)
            pools = Pools(corpus, POOL, ANCHORS, seed=0)
            for workers in [*WORKERS] * runs:
                readings.append(_read(pools, steps, workers))
    return readings


def _read(pools: Pools, steps: int, workers: int) -> Reading:
    started = time.perf_counter()
    parts = itertools.chain.from_iterable(prefetch(pools, 0, steps, workers=workers))
    lengths = np.concatenate([part.lengths for part in parts])
    speed = len(lengths) / (time.perf_counter() - started)
    template = pools.corpus.train.template
    _log.info("%s, %d workers: %.0f rows / s", template, workers, speed)
    return Reading(template, workers, float(lengths.mean()), speed)


def describe(readings: Sequence[Reading]) -> tuple[dict[str, Any], str]:
    """Numbers and table; several readings of a kind become their median."""
    kinds: dict[tuple[str, int], list[Reading]] = {}
    for reading in readings:
        kinds.setdefault((reading.template, reading.workers), []).append(reading)
    lines, numbers = [], []
    for (template, workers), mine in kinds.items():
        speed = float(np.median([reading.rows_per_second for reading in mine]))
        numbers.append(dataclasses.asdict(mine[0]) | {"rows_per_second": speed, "runs": len(mine)})
        cells = (mine[0].tokens, speed, speed * mine[0].tokens)
        lines.append([template, str(workers), *map(number, cells), str(len(mine))])
    headings = ["template", "workers", "tokens / row", "rows / s", "tokens / s", "runs"]
    markdown = "\n\n".join(
        [
            f"Data: reading the pools of steps; at least {LEAST_SPEED} rows / s are wanted.",
            table(headings, lines),
            NOTES,
        ]
    )
    return {"least_rows_per_second": LEAST_SPEED, "kinds": numbers}, markdown
