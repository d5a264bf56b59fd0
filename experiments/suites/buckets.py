"""Length buckets: the tokens of a step with and without them, and what stays as it is."""

import dataclasses
import functools
import logging
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from configs.pretrained import BUCKETS
from experiments.suites import passes
from experiments.suites.measuring import Results, check_no_sizes, number, ratio, table
from partitionsel_jax import models
from partitionsel_jax.config.sections import FeatureSettings, OptimizerSettings, SelectionSettings
from partitionsel_jax.data import Rows
from partitionsel_jax.distributed import spmd
from partitionsel_jax.gradients import Scope
from partitionsel_jax.gradients.microbatches import Buckets
from partitionsel_jax.step.features import TokenCounts
from partitionsel_jax.step.step import Step

_log = logging.getLogger("partitionsel_jax.benchmark")

LENGTH = 512
POOL, SIZE, ANCHORS, MICROBATCH = 256, 32, 4, 8
WIDTHS = {
    "2": (256,),
    "4": (128, 256, 384),
    "7, as in the configs": BUCKETS,
    "16": tuple(range(32, LENGTH, 32)),
}
# Prompts and responses times this: how the saving depends on what lengths are assumed.
SCALES = (0.8, 1.0, 1.25)
DEVICES = (1, 8)
STEPS = 40
TARGETS = {"tokens cut": 0.35, "difference of the losses": 1e-5}

# Where time and sameness are measured: the same rows, a model that makes steps of a few seconds.
_SMALL = models.DecoderConfig(
    vocab_size=4096, layers=4, width=192, mlp_width=512, heads=6, kv_heads=3, head_dim=32
)
_UPDATES = 6

NOTES = """\
* Lengths are assumed, not read from MetaMathQA: 240 rows of GSM to 155 of MATH; log-normal, GSM
  with medians of 60 tokens for the query and 130 for the response (sigma 0.35 and 0.45), MATH with
  70 and 180 (0.6 and 0.6), 38 tokens of frame; rows above 512 tokens are drawn again. `scale`
  multiplies query and response.
* Tokens are those of the features' pass over pool and anchors and of the update's over the picks,
  in microbatches of 8; every device puts its own rows in order, so that more of them save less.
* The steps that are timed are of a small random model; both start from the same state and make the
  same updates. Seconds are medians of the updates after the first."""


def lengths(count: int, scale: float, seed: int) -> np.ndarray:
    """i32[count], lengths of rows as MetaMathQA may have them, at most `LENGTH`."""
    random = np.random.default_rng(seed)
    drawn = np.empty(0)
    while len(drawn) < count:
        is_gsm = random.random(4 * count) < 240 / 395
        query = np.where(
            is_gsm,
            random.lognormal(np.log(60), 0.35, 4 * count),
            random.lognormal(np.log(70), 0.6, 4 * count),
        )
        response = np.where(
            is_gsm,
            random.lognormal(np.log(130), 0.45, 4 * count),
            random.lognormal(np.log(180), 0.6, 4 * count),
        )
        total = 38 + scale * (query + response)
        drawn = np.concatenate([drawn, total[total <= LENGTH]])
    return drawn[:count].astype(np.int32)


def tokens_cut(widths: tuple[int, ...], scale: float, devices: int) -> float:
    """Share of a step's tokens that are not computed, over `STEPS` steps."""

    def work(widths: tuple[int, ...], pool: jax.Array, picks: jax.Array) -> jax.Array:
        features = Buckets((*widths, LENGTH), pool, POOL // devices)
        update = Buckets((*widths, LENGTH), picks)
        return (
            TokenCounts.of(features, MICROBATCH).computed
            + TokenCounts.of(update, MICROBATCH).computed
        )

    computed, computed_whole = (jax.jit(functools.partial(work, chosen)) for chosen in (widths, ()))
    whole = total = 0
    anchors = max(ANCHORS, devices)
    for step in range(STEPS):
        pool = lengths(POOL + anchors + SIZE, scale, step)
        parts = np.split(pool, [POOL, POOL + anchors])
        for device in range(devices):
            mine = [part[device::devices] for part in parts]
            total += int(computed(np.concatenate(mine[:2]), mine[2]))
            whole += int(computed_whole(np.concatenate(mine[:2]), mine[2]))
    return 1 - total / whole


def run(*, sizes: Sequence[str] | None, repeats: int, large: bool) -> Results:
    """Counts tokens, and makes the same updates with and without buckets.

    Raises:
      ValueError: sizes, of which there are none to choose from.
    """
    del repeats, large
    check_no_sizes("buckets", sizes)
    cuts = {
        name: {
            f"scale {scale}, {devices} devices": tokens_cut(widths, scale, devices)
            for scale in SCALES
            for devices in DEVICES
        }
        for name, widths in WIDTHS.items()
    }
    means = {str(scale): float(lengths(20_000, scale, 0).mean()) for scale in SCALES}
    same = compare_updates()
    numbers = {"tokens_cut": cuts, "mean_length": means, "updates": same, "targets": TARGETS}
    return Results(numbers, _draw(numbers))


def compare_updates() -> dict[str, Any]:
    """Updates with and without buckets: what differs, and how long they take."""
    records: dict[str, list[Any]] = {}
    seconds: dict[str, list[float]] = {}
    compiling: dict[str, float] = {}
    for name, widths in (("whole", ()), ("buckets", BUCKETS)):
        _log.info("buckets: updates, %s", name)
        step = _step(widths)
        state, frozen = step.initial(0)
        state = dataclasses.replace(state, parameters=passes.disturb(state.parameters))
        program = spmd.Layout.first(1).map(step.__call__, step.KINDS[:5])
        inputs = [
            tuple(spmd.shard(_rows(count, 2 * t + i), 1) for i, count in enumerate((POOL, ANCHORS)))
            for t in range(_UPDATES)
        ]
        compiling[name] = program.compile(state, frozen, *inputs[0], np.int32(0))
        records[name], seconds[name] = [], []
        for pool, anchors in inputs:
            started = time.perf_counter()
            state, record = jax.block_until_ready(
                program(state, frozen, pool, anchors, np.int32(0))
            )
            seconds[name].append(time.perf_counter() - started)
            records[name].append(jax.device_get(record))
    tokens = {name: sum(int(row["tokens"]) for row in rows) for name, rows in records.items()}
    pairs = list(zip(records["whole"], records["buckets"], strict=True))
    return {
        "same_picks": sum(a["ids"].tolist() == b["ids"].tolist() for a, b in pairs),
        "updates": len(pairs),
        "largest_loss_difference": max(
            abs(float(a[loss]) / float(b[loss]) - 1)
            for a, b in pairs
            for loss in ("loss", "pool_loss")
        ),
        "tokens_cut": 1 - tokens["buckets"] / tokens["whole"],
        "seconds": {name: float(np.median(taken[1:])) for name, taken in seconds.items()},
        "compile_seconds": compiling,
    }


def _step(widths: tuple[int, ...]) -> Step:
    lora = models.LoRAConfig(rank=8, alpha=16.0, targets=("q", "k", "v", "o"))
    return Step(
        model=models.Model(_SMALL, lora),
        scope=Scope("lora", 2, _SMALL.layers),
        features=FeatureSettings("lora", 2, "two_sided", 1024, True, MICROBATCH),
        selection=SelectionSettings(POOL, SIZE, ANCHORS, "gradient_matching"),
        optimizer=OptimizerSettings(2e-3),
        updates=1000,
        domains=8,
        microbatch=MICROBATCH,
        widths=widths,
    )


def _rows(count: int, seed: int) -> Rows:
    """Random tokens in rows of these lengths, of which the last half is response."""
    rows = passes.random_rows(count, LENGTH, _SMALL.vocab_size, domains=8, seed=seed)
    ends = lengths(count, 1.0, seed)[:, None]
    place = np.arange(LENGTH)[None, :]
    return rows._replace(
        tokens=np.where(place < ends, rows.tokens, 0),
        response=(place >= ends // 2) & (place < ends),
    )


def _draw(numbers: dict[str, Any]) -> str:
    columns = list(next(iter(numbers["tokens_cut"].values())))
    cuts = table(
        ("widths", *columns),
        [
            (name, *(number(found[column], ".1%") for column in columns))
            for name, found in numbers["tokens_cut"].items()
        ],
    )
    same, means = numbers["updates"], numbers["mean_length"]
    seconds, compiling = same["seconds"], same["compile_seconds"]
    judged = table(
        ("", "measured", "target"),
        (
            ("tokens cut", number(same["tokens_cut"], ".1%"), f"≥ {TARGETS['tokens cut']:.0%}"),
            ("updates with the same picks", f"{same['same_picks']} of {same['updates']}", "all"),
            (
                "largest relative difference of a loss",
                number(same["largest_loss_difference"], ".1e"),
                f"≤ {TARGETS['difference of the losses']:g}",
            ),
            (
                "seconds of a step, with over without",
                number(ratio(seconds["buckets"], seconds["whole"]), ".2f"),
                "–",
            ),
            (
                "seconds to compile it",
                f"{compiling['buckets']:.1f} over {compiling['whole']:.1f}",
                "–",
            ),
        ),
    )
    said = ", ".join(f"{mean:.0f} at scale {scale}" for scale, mean in means.items())
    return "\n\n".join(
        [
            f"Buckets: share of a step's tokens that is not computed ({POOL} candidates, {ANCHORS} "
            f"anchors, {SIZE} picks, rows of {LENGTH}; mean length {said}).",
            cuts,
            f"Updates of a small model ({SIZE} of {POOL} rows, one device, scale 1.0):",
            judged,
            NOTES,
        ]
    )
