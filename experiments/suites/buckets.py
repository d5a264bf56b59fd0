"""Length buckets: the tokens of a step with and without them, and what stays as it is.

* Lengths are assumed, not read from MetaMathQA: 240 rows of GSM to 155 of MATH; log-normal, GSM
  with medians of 60 tokens for the query and 130 for the response (sigma 0.35 and 0.45), MATH with
  70 and 180 (0.6 and 0.6), 38 tokens of frame; rows above 512 tokens are drawn again. `scale`
  multiplies query and response.
* Tokens are those of the features' pass over pool and anchors and of the update's over the picks,
  in microbatches of 8; every device puts its own rows in order, so that more of them save less.
* The steps that are timed are of a small random model; both start from the same state and make the
  same updates. Seconds are medians of the updates after the first.
"""

import functools
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs.pretrained import BUCKETS
from experiments.suites import workloads
from experiments.suites.measuring import Options, Part, log, notes, table, verdicts
from partitionsel_jax.config.settings import Settings
from partitionsel_jax.data import Rows
from partitionsel_jax.distributed import spmd
from partitionsel_jax.gradients.microbatches import Buckets
from partitionsel_jax.step.step import Step

LENGTH = 512
POOL, SIZE, ANCHORS, MICROBATCH = 256, 32, 4, 8
WIDTHS = {
    "2": (256,),
    "4": (128, 256, 384),
    "7, as in the configs": BUCKETS,
    "16": tuple(range(32, LENGTH, 32)),
}
# Prompts and responses times this: how the saving depends on what lengths are assumed.
SCALES, DEVICES, STEPS = (0.8, 1.0, 1.25), (1, 8), 40
UPDATES = 6
JUDGED = """\
tokens cut | {tokens_cut:.1%} | ≥ 35%
updates with the same picks | {same_picks} of {updates} | all
largest relative difference of a loss | {largest_loss_difference:.1e} | ≤ 1e-05
seconds of a step, with over without | {seconds_ratio:.2f} | –
seconds to compile it | {compile_seconds[buckets]:.1f} over {compile_seconds[whole]:.1f} | –"""


def lengths(count: int, scale: float, seed: int) -> np.ndarray:
    """i32[count], lengths of rows as MetaMathQA may have them, at most `LENGTH`."""
    random = np.random.default_rng(seed)
    drawn = np.empty(0)
    while len(drawn) < count:
        is_gsm = random.random(4 * count) < 240 / 395
        query, response = (
            np.where(
                is_gsm,
                random.lognormal(np.log(gsm), sigma, 4 * count),
                random.lognormal(np.log(math), 0.6, 4 * count),
            )
            for gsm, sigma, math in ((60, 0.35, 70), (130, 0.45, 180))
        )
        total = 38 + scale * (query + response)
        drawn = np.concatenate([drawn, total[total <= LENGTH]])
    return drawn[:count].astype(np.int32)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _computed(widths: tuple[int, ...], lengths: jax.Array, split: int = 0) -> jax.Array:
    """Tokens of a pass over rows of these lengths."""
    choices = Buckets((*widths, LENGTH), lengths, split).choices(MICROBATCH)
    return MICROBATCH * jnp.asarray((*widths, LENGTH))[choices].sum()


def tokens_cut(widths: tuple[int, ...], scale: float, devices: int) -> float:
    """Share of a step's tokens that are not computed, over `STEPS` steps."""
    anchors = max(ANCHORS, devices)
    total = {widths: 0, (): 0}
    for step in range(STEPS):
        drawn = lengths(POOL + anchors + SIZE, scale, step)
        parts = np.split(drawn, [POOL, POOL + anchors])
        for device in range(devices):
            pool, held_out, picks = (part[device::devices] for part in parts)
            for allowed in total:
                features = _computed(allowed, np.concatenate([pool, held_out]), POOL // devices)
                total[allowed] += int(features) + int(_computed(allowed, picks))
    return 1 - total[widths] / total[()]


def run(options: Options) -> Iterator[Part]:
    """Counts tokens, and makes the same updates with and without buckets."""
    del options
    cases = {f"scale_{s},_{devices}_devices": (s, devices) for s in SCALES for devices in DEVICES}
    cuts = {
        name: {case: tokens_cut(widths, *of) for case, of in cases.items()}
        for name, widths in WIDTHS.items()
    }
    means = {str(scale): float(lengths(20_000, scale, 0).mean()) for scale in SCALES}
    said = ", ".join(f"{mean:.0f} at scale {scale}" for scale, mean in means.items())
    said = (
        f"Buckets: share of a step's tokens that is not computed ({POOL} candidates, {ANCHORS} "
        f"anchors, {SIZE} picks, rows of {LENGTH}; mean length {said})."
    )
    columns = " ".join(f"{case}:.1%" for case in cases)
    drawn = table(f"widths {columns}", ({"widths": name} | cut for name, cut in cuts.items()))
    yield Part({"tokens_cut": cuts, "mean_length": means}, (said, drawn))

    found = compare_updates(settings_of(()), settings_of(BUCKETS))
    said = f"Updates of a small model ({SIZE} of {POOL} rows, one device, scale 1.0):"
    yield Part({"updates": found}, (said, verdicts(JUDGED, found), notes(__doc__)))


def settings_of(widths: tuple[int, ...]) -> Settings:
    """A model that makes steps of a few seconds."""
    model = {"vocab_size": 4096, "width": 192, "mlp_width": 512, "heads": 6, "kv_heads": 3}
    return workloads.settings_of(
        8,
        data={"length": LENGTH, "buckets": widths},
        model=model | {"head_dim": 32},
        lora={"rank": 8},
        features={"parameters": "lora", "microbatch": MICROBATCH},
        selection={"pool": POOL, "size": SIZE, "anchors": ANCHORS, "anchor_balance": False},
        training={"microbatch": MICROBATCH, "updates": 1000},
    )


def compare_updates(*each: Settings) -> dict[str, Any]:
    """Updates without and with buckets: what differs, and how long they take."""
    records: dict[str, list[Any]] = {}
    seconds: dict[str, float] = {}
    compiling: dict[str, float] = {}
    for name, settings in zip(("whole", "buckets"), each, strict=True):
        log.info("updates, %s", name)
        step = Step.create(settings)
        (state, frozen), program = workloads.start(step), workloads.program(step)
        inputs = [_rows(settings, update) for update in range(UPDATES)]
        compiling[name] = program.compile(state, frozen, *inputs[0], np.int32(0))
        records[name], taken = [], []
        for rows in inputs:
            started = time.perf_counter()
            state, record = jax.block_until_ready(program(state, frozen, *rows, np.int32(0)))
            taken.append(time.perf_counter() - started)
            records[name].append(jax.device_get(record))
        seconds[name] = float(np.median(taken[1:]))
    whole, cut = (sum(int(row["tokens"]) for row in rows) for rows in records.values())
    pairs = list(zip(*records.values(), strict=True))
    differences = [abs(a[x] / b[x] - 1) for a, b in pairs for x in ("loss", "pool_loss")]
    return {
        "same_picks": sum(a["ids"].tolist() == b["ids"].tolist() for a, b in pairs),
        "updates": len(pairs),
        "largest_loss_difference": float(max(differences)),
        "tokens_cut": 1 - cut / whole,
        "seconds": seconds,
        "seconds_ratio": seconds["buckets"] / seconds["whole"],
        "compile_seconds": compiling,
    }


def _rows(settings: Settings, update: int) -> list[Rows]:
    """Pool and anchors of random tokens in rows of such lengths, the last half of each response."""
    made = []
    for place, count in enumerate((settings.selection.pool, settings.selection.anchors)):
        seed = 2 * update + place
        rows, at_T = workloads.random_rows(settings, count, seed), np.arange(LENGTH)
        ends_B = lengths(count, 1.0, seed)[:, None]
        tokens = np.where(at_T < ends_B, rows.tokens, 0)
        response = (at_T >= ends_B // 2) & (at_T < ends_B)
        made.append(spmd.shard(rows._replace(tokens=tokens, response=response), 1))
    return made
