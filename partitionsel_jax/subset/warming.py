"""A short run on a random few of the rows, after which adapters' gradients mean something.

LESS (Xia et al. 2024, arXiv 2402.04333, section 4.1) takes its features from LoRA's parameters, and
warms these up first: adapters begin at a zero product, where half of their gradients are zero. The
recipe here: rank 16, alpha 96, all attention and feed-forward projections but attention's value to
output (as the paper's code, arXiv 2606.07954), batches of 32, one pass, AdamW to 2e-4 and down
linearly.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from partitionsel_jax import models
from partitionsel_jax.config import fields
from partitionsel_jax.config.settings import PlanSettings, Settings
from partitionsel_jax.data.sources.files import changed
from partitionsel_jax.data.sources.rows import BadRow, SkippedRow
from partitionsel_jax.data.streams import generator
from partitionsel_jax.subset import writing
from partitionsel_jax.subset.loading import Loaded
from partitionsel_jax.subset.table import Files, Table
from partitionsel_jax.training import loop, starts
from partitionsel_jax.training.plan import expand

BATCH = 32
_LORA = {"rank": 16, "alpha": 96.0, "targets": ("q", "k", "v", "gate", "up", "down")}
_OPTIMIZER = {"learning_rate": 2e-4, "schedule": "linear", "warmup": 0.03, "clip": 1.0}
_NUMERICS = ("dtype", "param_dtype", "remat", "attention", "chunk_vocab", "chunk_tokens")


def warm_up(
    loaded: Loaded,
    files: Files,
    table: Table,
    rows: np.ndarray,
    share: float,
    length: int,
    template: str,
    seed: int,
    folder: Path,
) -> Loaded:
    """Puts adapters on a model and trains them on a random few rows; continued where it stopped.

    Args:
      loaded: the model, without adapters.
      files, table: where the rows lie.
      rows: i64[N], which of the table's may be trained on.
      share: of them that are, in (0, 1].
      length, template: see `encode_batch`.
      seed: of the rows, the adapters and the batches.
      folder: where the run is kept.

    Returns:
      The model with its adapters.

    Raises:
      ValueError: fewer rows than one batch and the few beside it.
    """
    count = round(share * len(rows)) // BATCH * BATCH or BATCH
    # Rows that a run is validated and tested on; the fewest that there can be.
    devices = max(d for d in range(1, jax.local_device_count() + 1) if BATCH % d == 0)
    whole = count + 2 * devices + 1
    if len(rows) < whole:
        raise ValueError(
            f"a warm-up needs {whole} rows, got {len(rows)}: give --warmup=0 to do without it"
        )
    drawn = generator(seed, "rows of the warm-up").permutation(rows)[:whole]
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / "rows.jsonl"
    if not written.exists():
        writing.write_jsonl(written, _conversations(files, table, drawn))
    config = _config(loaded, str(written), length, template, seed, folder)
    config["data"] |= {"validation": 2 * devices, "test": 1}
    config["selection"] |= {"anchors": devices, "anchor_balance": False}
    updates = count // BATCH
    config["training"] |= {"updates": updates, "evaluate_every": updates, "devices": devices}
    (run,) = expand(config)
    loop.train(run, folder / "run")
    finished = starts.load_finished(folder / "run", "the warm-up")
    chosen = finished.settings
    model = models.Model(chosen.model, chosen.lora)
    return Loaded(model, finished.parameters, loaded.tokenizer)


def _conversations(files: Files, table: Table, rows: np.ndarray) -> Iterator[dict[str, Any]]:
    """The rows as conversations, whatever their files have."""
    places = {(int(table.files[row]), int(table.numbers[row])) for row in rows}
    for place, _, fields_of in writing.rows_at(files.files, places):
        try:
            row = files.schema.parse(fields_of, files.files[place].stem)
        except (BadRow, SkippedRow):  # it was good a moment ago
            raise changed() from None
        before = (
            json.loads(row.messages)
            if row.messages
            else [{"role": "user", "content": row.question}]
        )
        yield {"messages": [*before, {"role": "assistant", "content": row.response}]}


def _config(
    loaded: Loaded,
    path: str,
    length: int,
    template: str,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    config = fields.defaults(PlanSettings) | fields.defaults(Settings)
    numerics = {name: config["model"][name] for name in _NUMERICS}
    shape = loaded.model.config
    its = {"dtype": shape.dtype, "param_dtype": shape.param_dtype}
    config["checkpoint"] = loaded.checkpoint
    config["model"] = {**numerics, **its, "remat": "layer"}
    config["seed"] = seed
    columns = {"prompt": "", "input": "", "response": "", "domain": "", "messages": "messages"}
    config["data"] |= {"source": "instructions", "path": path, "columns": columns}
    config["data"] |= {"train": 0, "length": length, "template": template, "seed": seed}
    config["data"] |= {"directory": str(folder / "corpus")}
    config["lora"] |= _LORA
    config["optimizer"] |= _OPTIMIZER
    config["features"] |= {"parameters": "lora", "last_layers": 1}
    config["selection"] |= {"utility": "random", "pool": BATCH, "size": BATCH}
    config["training"] |= {"checkpoint_every": 10}
    config["evaluation"] |= {"test": False}
    return config
