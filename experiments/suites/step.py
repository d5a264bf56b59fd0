"""The whole training step with selection, beside training on the whole pool."""

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.suites import passes
from experiments.suites.measuring import Results, at_most, check_no_sizes, number, ratio, table
from experiments.suites.operations import RowCost
from experiments.suites.passes import StepShape
from partitionsel_jax import models
from partitionsel_jax.config.sections import FeatureSettings, OptimizerSettings, SelectionSettings
from partitionsel_jax.data import Rows
from partitionsel_jax.distributed import spmd
from partitionsel_jax.gradients import Features, Scope, unit
from partitionsel_jax.step import anchors as held_out
from partitionsel_jax.step.candidates import RowInfo, compare
from partitionsel_jax.step.state import TrainState
from partitionsel_jax.step.step import Step

_log = logging.getLogger("partitionsel_jax.benchmark")

SELECTING, WHOLE = "PartitionSel", "whole pool"
TARGETS = {
    "ratio over limit": 1.12,
    "selection's share": 0.01,
    "compile time, deep over shallow": 1.3,
}
# Features that selection is timed on: independent, or mostly sums of a few directions.
GRADIENTS, COMMON = ("independent", "alike"), 16
# Enough for the learning rate to have left its warm-up behind.
UPDATES = 1000

NOTES = """\
* `ratio` is the mean time of steps with selection, over as many steps as share their anchors, over
  that of one step on the whole pool: the same program without features, that picks every row. Both
  include the update.
* The limit is the same ratio of this program's operations, by arithmetic: features of the pool and
  of the anchors (spread over the steps that share them) by a forward pass and a backward pass
  through the last layers, without sketches; and the update's forward and backward passes.
* Selection is the Gram matrix, the alignment, the budgets, the picks and the certificate: the
  slower of two, on features that are independent and on features that have much in common.
* Each compilation started with every cache of the compiler cleared; the faster of two counts."""


def make_steps(shape: StepShape, layers: int | None = None) -> dict[str, Step]:
    """The two steps; `layers` instead of the shape's depth."""
    decoder = dataclasses.replace(shape.decoder, layers=layers or shape.decoder.layers)
    selections = {
        name: SelectionSettings(shape.pool, size, shape.anchors, utility)
        for name, size, utility in (
            (SELECTING, shape.size, "gradient_matching"),
            (WHOLE, shape.pool, "full"),
        )
    }
    features = FeatureSettings(
        "lora",
        shape.last_layers,
        "two_sided",
        shape.dim,
        True,
        shape.microbatch,
        anchors_every=shape.anchors_every,
    )
    return {
        name: Step(
            model=models.Model(decoder, shape.lora),
            scope=Scope("lora", shape.last_layers, decoder.layers),
            features=features,
            selection=selection,
            optimizer=OptimizerSettings(2e-4),
            updates=UPDATES,
            domains=shape.domains,
            microbatch=shape.microbatch,
        )
        for name, selection in selections.items()
    }


def limit_of(shape: StepShape) -> float:
    """The ratio that operations alone would give."""
    cost = RowCost(shape.decoder, shape.lora, shape.tokens, passes.counted(shape.tokens))
    whole = Scope("lora", 0, shape.decoder.layers)
    last = Scope("lora", shape.last_layers, shape.decoder.layers)
    features = (shape.pool + shape.anchors / shape.anchors_every) * (
        cost.forward + cost.backward(last)
    )
    update = cost.ordinary(whole)
    return (features + shape.size * update) / (shape.pool * update)


def run(*, sizes: Sequence[str] | None, repeats: int, large: bool) -> Results:
    """Measures the steps at the shape of SmolLM2-135M, with rows that suit the backend.

    Raises:
      ValueError: sizes, of which there are none to choose from.
    """
    del large
    check_no_sizes("step", sizes)
    numbers, markdown = measure(passes.step_shape(), repeats=repeats)
    return Results(numbers, markdown)


def measure(shape: StepShape, *, repeats: int) -> tuple[dict[str, Any], str]:
    """Measures the steps.

    Args:
      shape: where.
      repeats: rounds of `anchors_every` steps with selection and one without, >= 1; fewer where
        they are slow.

    Returns:
      Numbers and their table.
    """
    steps = make_steps(shape)
    _log.info("step: compiling %s", ", ".join(steps))
    runs = {name: _runner(shape, step) for name, step in steps.items()}
    chooses = {kind: _selection(shape, steps[SELECTING], kind) for kind in GRADIENTS}
    _log.info("step: measuring")
    counts = {SELECTING: shape.anchors_every, WHOLE: 1}
    timings = passes.time_by_turns(
        {name: _repeated(runs[name], count) for name, count in counts.items()}, repeats
    )
    each = {name: timings[name].times(1 / count) for name, count in counts.items()}
    selections = passes.time_by_turns(
        {kind: choose.run for kind, choose in chooses.items()}, repeats
    )
    selecting = max(selections.values(), key=lambda timing: timing.median)
    compiling = _compile_seconds(shape)
    measured = ratio(each[SELECTING].median, each[WHOLE].median)
    least = limit_of(shape)
    numbers = {
        "shape": dataclasses.asdict(shape),
        "milliseconds": {name: dataclasses.asdict(timing) for name, timing in each.items()}
        | {"selection": dataclasses.asdict(selecting)},
        "selection_milliseconds": {kind: timing.median for kind, timing in selections.items()},
        "ratio": measured,
        "limit": least,
        "ratio_over_limit": ratio(measured, least),
        "selection_share": ratio(selecting.median, each[SELECTING].median),
        "compile_seconds": compiling,
        "compile_ratio": ratio(*(compiling[str(layers)] for layers in _depths(shape))),
        "targets": TARGETS,
    }
    return numbers, _draw(shape, numbers)


def _start(step: Step) -> tuple[TrainState, Any]:
    state, frozen = step.initial(0)
    return dataclasses.replace(state, parameters=passes.disturb(state.parameters)), frozen


def _rows(shape: StepShape) -> tuple[Rows, Rows]:
    """Pool and anchors, for one device."""
    pool, anchors = (
        passes.random_rows(
            count, shape.tokens, shape.decoder.vocab_size, domains=shape.domains, seed=seed
        )
        for seed, count in enumerate((shape.pool, shape.anchors))
    )
    return spmd.shard(pool, 1), spmd.shard(anchors, 1)


def _program(step: Step) -> spmd.Program:
    return spmd.Layout.first(1).map(step.__call__, step.KINDS[:5])


def _runner(shape: StepShape, step: Step) -> Callable[[int], None]:
    """(steps) -> so many steps in a row, from the first one on."""
    state, frozen = jax.jit(_start, static_argnums=0)(step)
    inputs = (frozen, *_rows(shape), np.int32(0))
    program = _program(step)
    program.compile(state, *inputs)

    def run(count: int) -> None:
        current = state
        for _ in range(count):
            current, record = program(current, *inputs)
        loss, moved = jax.block_until_ready((record["loss"], current.step))
        if not (math.isfinite(loss) and int(moved) == count):
            raise RuntimeError(f"{int(moved)} of {count} steps were made, the last loss is {loss}")

    return run


def _repeated(run: Callable[[int], None], count: int) -> Callable[[], None]:
    return lambda: run(count)


def _selection(shape: StepShape, step: Step, kind: str) -> passes.Pass:
    """Selection alone, on features that are made up; hard problems take several times as long."""
    random = np.random.default_rng(0)
    few = random.normal(size=(COMMON, shape.dim))

    def features(count: int) -> Features:
        vectors = random.normal(size=(count, shape.dim))
        if kind == "alike":
            vectors = 0.1 * vectors + random.normal(size=(count, COMMON)) @ few
        found = unit(jnp.asarray(vectors, jnp.float32))
        return Features(found, jnp.ones(count), jnp.ones(count))

    rows = passes.random_rows(shape.pool, 2, shape.decoder.vocab_size, domains=shape.domains)
    domains_A = jnp.arange(shape.anchors, dtype=jnp.int32) % shape.domains

    def choose(labels: RowInfo, pool: Features, anchors: Features, key: jax.Array) -> Any:
        mean = step.selection.anchor_mean
        found = held_out.from_features(anchors, domains_A, mean=mean, domains=step.domains)
        return step.select(compare(labels, pool, found, step.selection), key)

    labels = jax.tree.map(jnp.asarray, RowInfo.of(rows))
    inputs = (labels, features(shape.pool), features(shape.anchors), jax.random.key(0))
    return passes.compile_pass(choose, *inputs)


def _depths(shape: StepShape) -> tuple[int, int]:
    return shape.decoder.layers, shape.shallow


def _compile_seconds(shape: StepShape) -> dict[str, float]:
    """Seconds to trace and compile the step with selection, by its layers."""
    seconds: dict[str, float] = {}
    # Twice by turns, and the faster one counts, so that a busy spell is not taken for a difference.
    for layers in 2 * _depths(shape):
        step = make_steps(shape, layers)[SELECTING]
        inputs = jax.eval_shape(lambda step=step: _start(step))
        jax.clear_caches()
        _log.info("step: compiling %d layers", layers)
        taken = _program(step).compile(*inputs, *_rows(shape), np.int32(0))
        seconds[str(layers)] = min(taken, seconds.get(str(layers), taken))
    return seconds


def _draw(shape: StepShape, numbers: dict[str, Any]) -> str:
    lines = []
    for name, time in numbers["milliseconds"].items():
        spread = f"{number(time['lower'])} … {number(time['upper'])}"
        lines.append((name, number(time["median"]), spread, str(time["runs"])))
    timed = table(("one step, ms", "median", "quartiles", "rounds"), lines)
    over, share, deep = TARGETS.values()
    depths = " over ".join(f"{layers}" for layers in _depths(shape))
    compiled = numbers["compile_seconds"]
    spent = " s over ".join(number(compiled[str(layers)], ".1f") for layers in _depths(shape))
    judged = table(
        ("", "measured", "target"),
        (
            ("ratio to a step on the whole pool", number(numbers["ratio"], ".3f"), "–"),
            ("its limit by operations", number(numbers["limit"], ".3f"), "–"),
            ("ratio over limit", number(numbers["ratio_over_limit"], ".3f"), at_most(over)),
            ("selection's share", number(numbers["selection_share"], ".2%"), f"≤ {share:.0%}"),
            (
                f"compile time, {depths} layers ({spent} s)",
                number(numbers["compile_ratio"], ".2f"),
                at_most(deep),
            ),
        ),
    )
    said = (
        f"Step: {shape.decoder.layers} layers, LoRA rank {shape.lora.rank}; {shape.size} of "
        f"{shape.pool} rows of {shape.tokens} tokens, by features of the last "
        f"{shape.last_layers} layers; {shape.anchors} anchors, new every {shape.anchors_every} "
        f"steps; microbatches of {shape.microbatch}."
    )
    return f"{said}\n\n{timed}\n\n{judged}\n\n{NOTES}"
