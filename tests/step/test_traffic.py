"""The bytes that an update exchanges: those of the compiled program's collectives."""

import dataclasses
import math
import re

import jax
import numpy as np
import pytest

from partitionsel_jax import planning
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.distributed import spmd
from partitionsel_jax.step import costs
from partitionsel_jax.step.step import Step
from tests.distributed.test_layouts import OPTIONS, settings_of
from tests.step.every_config import RUNS
from tests.step.test_step import LENGTH, random_rows

BYTES = {"pred": 1, "s32": 4, "u32": 4, "f32": 4}


def prepared(config, name, form="shard_map", split=False, devices=4):
    config = settings_of(config, OPTIONS[name])
    config.training.update({"spmd": form, "split_weights": split})
    step = Step.create(run_settings.parse(config.to_dict()), devices)
    layout = spmd.Layout.first(devices, form, split)
    state, frozen = jax.eval_shape(step.initial, 1)
    rows = (layout.rows(random_rows(count, count)) for count in (16, 8))
    return step, layout, (state, frozen, *rows, np.int32(0))


def counted(step, layout, arguments):
    local = map(layout.on_one_device, step.KINDS, arguments)
    return costs.exchanged(step, len(layout.devices), *local)


def compiled_bytes(text, devices):
    """Sizes of what is whole in the collectives of a compiled program."""
    total = 0
    for shapes, name in re.findall(r" = (.*?) (all-gather|all-reduce|reduce-scatter)\(", text):
        times = devices if name == "reduce-scatter" else 1
        for kind, sides in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            total += times * BYTES[kind] * math.prod(map(int, filter(None, sides.split(","))))
    return total


def test_the_count_is_the_compiled_program_s(tiny):
    step, layout, arguments = prepared(tiny, "full", "pmap")
    program = layout.map(step.__call__, step.KINDS[:5], returns_first=True)
    text = program.lower(*arguments).compile().as_text()
    assert "reduce-scatter" in text
    expected = compiled_bytes(text, len(layout.devices))
    assert counted(step, layout, arguments).exchanged == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["full", "adapters"])
def test_features_are_gathered_once_and_the_gradient_is_summed_once(tiny, name):
    step, layout, arguments = prepared(tiny, name)
    found = counted(step, layout, arguments)
    pool, anchors, picks, dim = 16, 8, 8, 32
    gradient = sum(leaf.size * 4 for leaf in jax.tree.leaves(arguments[0].parameters))
    # Beside features: ids, domains, whether corrupted, losses, norms; of anchors three numbers.
    assert found.gathered == pool * (dim + 5) * 4 + anchors * 12
    # The picks' tokens, which hold the response's mask.
    assert found.dealt == picks * LENGTH * 4
    assert gradient + dim * 4 < found.summed < gradient + dim * 4 + 32
    assert found.weights == 0


def test_features_of_every_anchor_cross_only_where_the_utility_compares_with_each(tiny):
    mean = counted(*prepared(tiny, "full"))
    tiny.selection.utility = "fair_transport"
    each = counted(*prepared(tiny, "full"))
    assert each.gathered - mean.gathered == 8 * 32 * 4


@pytest.mark.parametrize(("utility", "picks"), [("random", 8), ("full", 16)])
def test_baselines_move_their_picks_and_no_features(tiny, utility, picks):
    tiny.selection.update({"utility": utility, "size": picks})
    found = counted(*prepared(tiny, "full"))
    # Ids, domains, whether corrupted, and whether there is a response.
    assert (found.gathered, found.dealt) == (16 * 16, picks * LENGTH * 4)


@pytest.mark.parametrize(
    ("name", "devices", "pool"),
    [(name, devices, None) for name in RUNS for devices in (2, 8)]
    + [("qwen25_3b_metamath", 64, 16_384)],
)
def test_every_config_stays_within_the_bound(name, devices, pool):
    """N m 4 bytes of features, N T 4 of rows, and the gradient's sum; as it is printed at start."""
    chosen = planning.planned(RUNS[name].to_dict(), devices=devices, pool=pool)
    step = Step.create(chosen, devices)
    state, frozen, others = costs.shapes(step)
    pool, length = chosen.selection.pool, chosen.data.length
    rows = (costs.rows(n // devices, length) for n in (pool, chosen.selection.anchors))
    inputs = state, frozen, *rows, jax.ShapeDtypeStruct((), np.int32), others
    found = costs.exchanged(step, devices, *inputs)
    gradient = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.parameters))
    assert gradient < found.exchanged <= pool * (chosen.features.dim + length) * 4 + gradient
    assert found.weights == 0


@pytest.mark.parametrize("name", ["full", "adapters"])
def test_split_weights_are_gathered_in_every_pass(tiny, name):
    step, layout, arguments = prepared(tiny, name, split=True)
    # One microbatch of each pass, so that passes can be counted.
    step = dataclasses.replace(
        step, microbatch=0, features=dataclasses.replace(step.features, microbatch=16)
    )
    found = counted(step, layout, arguments)
    flat, _ = jax.tree_util.tree_flatten_with_path((arguments[0].parameters, arguments[1]))
    split = step.model.gathering.axes
    size = sum(
        leaf.size * 4
        for path, leaf in flat
        if tuple(key.key for key in path if hasattr(key, "key")) in dict(split)
    )
    # Of the features and of the update: forward, and again backward; the full update also sums.
    assert 3 * size < found.weights <= 6 * size
    whole = counted(*prepared(tiny, name, split=False))
    assert found.gathered == whole.gathered
    assert found.summed < whole.summed if name == "full" else found.summed >= whole.summed


def test_what_steps_share_counts_as_computed(tiny):
    step, layout, arguments = prepared(tiny, "full")
    expected = counted(step, layout, arguments)
    tiny.features.anchors_every = tiny.selection.updates_per_pool = 2
    sharing, _, arguments = prepared(tiny, "full")
    assert arguments[0].kept is not None
    assert counted(sharing, layout, arguments) == expected


def test_the_traffic_is_logged_where_there_are_devices(tiny, project_log):
    for devices in (1, 2):
        step, layout, arguments = prepared(tiny, "adapters", devices=devices)
        costs.log_traffic(step, layout, *arguments)
    (line,) = (record.getMessage() for record in project_log.records)
    assert line.startswith("2 devices exchange ") and "features" in line and "picked rows" in line
