"""The whole training step with selection, beside training on the whole pool.

* `ratio` is the mean time of steps with selection, over as many steps as share their anchors, over
  that of one step on the whole pool: the same program without features, that picks every row. Both
  include the update.
* The limit is the same ratio of this program's operations, counted in its trace: features of the
  pool and of the anchors (spread over the steps that share them) by a forward pass and a backward
  pass through the last layers, without sketches; and the update's forward and backward passes.
* Selection is the Gram matrix, the alignment, the budgets, the picks and the certificate: the
  slower of two, on features that are independent and on features that have much in common.
* Each compilation started with every cache of the compiler cleared; the faster of two counts.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments.suites import measuring, workloads
from experiments.suites.measuring import Options, Part, notes, table
from partitionsel_jax.config.settings import Settings
from partitionsel_jax.gradients import unit
from partitionsel_jax.step import costs
from partitionsel_jax.step.step import Step

SELECTING, WHOLE = "PartitionSel", "whole pool"
# Layers of the model that compile time is compared with.
SHALLOW = 4
JUDGED = """\
ratio to a step on the whole pool | {ratio:.3f} | –
its limit by operations | {limit:.3f} | –
ratio over limit | {ratio_over_limit:.3f} | ≤ 1.12
selection's share | {selection_share:.2%} | ≤ 1%
compile time, {depths[0]} over {depths[1]} layers ({spent[0]:.1f} s over {spent[1]:.1f} s) | \
{compile_ratio:.2f} | ≤ 1.3"""


def default() -> Settings:
    """The step with selection at SmolLM2-135M's shape, in rows that suit the backend."""
    tokens, microbatch = (64, 4) if workloads.on_cpu() else (512, 16)
    features = {"parameters": "lora", "last_layers": 3, "dim": 1024, "anchors_every": 4}
    return workloads.settings_of(
        8,
        data={"length": tokens},
        model=workloads.smollm2(),
        lora=workloads.LORA,
        features=features | {"microbatch": microbatch},
        selection={"pool": 256, "size": 32, "anchors": 16},
        # Updates enough for the learning rate to have left its warm-up behind.
        training={"microbatch": microbatch, "updates": 1000},
    )


def on_whole_pool(settings: Settings) -> Settings:
    """The step that trains on every row of its pool instead."""
    chosen = settings.selection
    whole = dataclasses.replace(chosen, size=chosen.pool, utility="full")
    return dataclasses.replace(settings, selection=whole)


def limit_of(settings: Settings) -> float:
    """The ratio that operations alone would give."""
    chosen, features = settings.selection, settings.features
    rows = workloads.random_rows(settings, chosen.pool)
    exact = dataclasses.replace(features, family="identity", dim=0)
    counted = costs.count_flops(dataclasses.replace(settings, features=exact), 1, rows)
    whole = costs.count_flops(on_whole_pool(settings), 1, rows)
    # Exact features multiply out the gradients of the weights besides: two operations a coordinate.
    weights = 2 * settings.data.length * Step.create(settings).coordinates
    of_row = counted.features / (chosen.pool + chosen.anchors) - weights
    fresh = chosen.pool + chosen.anchors / features.anchors_every
    return (fresh * of_row + counted.update) / whole.update


def run(options: Options) -> Iterator[Part]:
    """Measures the steps at `default`."""
    yield measure(default(), options.repeats)


def measure(settings: Settings, repeats: int) -> Part:
    """Measures rounds of `anchors_every` steps with selection, and of one step without."""
    chosen, shared = settings.selection, settings.features.anchors_every
    selecting, whole = _runner(settings), _runner(on_whole_pool(settings))
    calls = {SELECTING: lambda: selecting(shared), WHOLE: lambda: whole(1)}
    timings = measuring.slow_by_turns(calls, repeats)
    timings[SELECTING] = measuring.scaled(timings[SELECTING], 1 / shared)
    kinds = {kind: _selection(settings, kind) for kind in ("independent", "alike")}
    selections = measuring.slow_by_turns(kinds, repeats)
    timings["selection"] = max(selections.values(), key=lambda timing: timing["median"])
    compiling = _compile_seconds(settings, (settings.model.layers, SHALLOW))
    depths, spent = list(compiling), list(compiling.values())
    medians = {name: timing["median"] for name, timing in timings.items()}
    measured, limit = medians[SELECTING] / medians[WHOLE], limit_of(settings)
    numbers = {
        "shape": workloads.shape_of(settings),
        "milliseconds": timings,
        "selection_milliseconds": {kind: timing["median"] for kind, timing in selections.items()},
        "ratio": measured,
        "limit": limit,
        "ratio_over_limit": measured / limit,
        "selection_share": medians["selection"] / medians[SELECTING],
        "compile_seconds": {str(layers): seconds for layers, seconds in compiling.items()},
        "compile_ratio": spent[0] / spent[1],
    }
    said = (
        f"Step: {workloads.said(settings)}; {chosen.size} of {chosen.pool} rows; {chosen.anchors} "
        f"anchors, new every {shared} steps; microbatches of {settings.training.microbatch}."
    )
    rows = ({"one_step": name, "milliseconds": timing} for name, timing in timings.items())
    judged = measuring.verdicts(JUDGED, numbers | {"depths": depths, "spent": spent})
    return Part(numbers, (said, table("one_step milliseconds", rows), judged, notes(__doc__)))


def _runner(settings: Settings) -> Callable[[int], None]:
    """(steps) -> so many steps in a row, from the first one on."""
    measuring.log.info("compiling a step that picks %d rows", settings.selection.size)
    step = Step.create(settings)
    state, frozen = jax.jit(workloads.start, static_argnums=0)(step)
    inputs = (frozen, *workloads.pool_and_anchors(settings), np.int32(0))
    program = workloads.program(step)
    program.compile(state, *inputs)

    def run(count: int) -> None:
        current = state
        for _ in range(count):
            current, record = program(current, *inputs)
        loss, moved = jax.block_until_ready((record["loss"], current.step))
        if not (math.isfinite(loss) and int(moved) == count):
            raise RuntimeError(f"{int(moved)} of {count} steps were made, the last loss is {loss}")

    return run


def _selection(settings: Settings, kind: str) -> Callable[[], object]:
    """Selection alone, on features that are made up; hard problems take several times as long."""
    chosen, dim = settings.selection, settings.features.dim
    random = np.random.default_rng(0)
    few = random.normal(size=(16, dim))

    def features(count: int) -> jax.Array:
        vectors = random.normal(size=(count, dim))
        if kind == "alike":  # mostly sums of a few directions
            vectors = 0.1 * vectors + random.normal(size=(count, len(few))) @ few
        return unit(jnp.asarray(vectors, jnp.float32))

    domains_N = jnp.arange(chosen.pool) % len(settings.data.names)
    inputs = features(chosen.pool), features(chosen.anchors), domains_N
    select = workloads.selecting(settings)
    return measuring.compile_program(f"selection, {kind}", select, *inputs).run


def _compile_seconds(settings: Settings, depths: tuple[int, ...]) -> dict[int, float]:
    """Seconds to trace and compile the step with selection, by its layers."""
    seconds: dict[int, float] = {}
    rows = workloads.pool_and_anchors(settings)
    # Twice by turns, and the faster one counts, so that a busy spell is not taken for a difference.
    for layers in 2 * depths:
        model = dataclasses.replace(settings.model, layers=layers)
        step = Step.create(dataclasses.replace(settings, model=model))
        inputs = jax.eval_shape(lambda step=step: workloads.start(step))
        jax.clear_caches()
        measuring.log.info("compiling %d layers", layers)
        taken = workloads.program(step).compile(*inputs, *rows, np.int32(0))
        seconds[layers] = min(taken, seconds.get(layers, taken))
    return seconds
