"""Features of a frozen proxy that are kept over epochs: the same selections, and fewer tokens."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from partitionsel_jax import training
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.distributed import spmd
from partitionsel_jax.gradients import Features
from partitionsel_jax.planning import predictions
from partitionsel_jax.step.state import FeatureTable, Others
from partitionsel_jax.step.step import Step
from tests.distributed.test_layouts import uneven_rows
from tests.step.test_proxy import (  # noqa: F401
    planned,
    small_config,
    small_run,
    stop_after_two_updates,
    with_proxy,
)
from tests.tiny_runs import rows, without_seconds

UPDATES, ALL = 6, 64
POOL, ANCHORS, MICROBATCH = 16, 8, 2


@functools.cache
def corpus():
    """Rows of all pools and anchors, which have ids of their own."""
    whole = uneven_rows(ALL, 3)
    return whole._replace(id=np.arange(ALL, dtype=np.int32))


def seen_at(number, per_pool=1, per_anchors=1):
    """The pool and anchors of a step: epochs of three pools, and of two times anchors."""

    def batch(rows, size, number):
        epoch, place = divmod(number, len(rows) // size)
        order = np.random.default_rng(epoch).permutation(rows)
        return order[place * size : (place + 1) * size]

    places = (
        batch(np.arange(3 * POOL), POOL, number // per_pool),
        batch(np.arange(3 * POOL, ALL), ANCHORS, number // per_anchors),
    )
    return [jax.tree.map(lambda leaf, at=at: leaf[at], corpus()) for at in places]


@functools.cache
def run(cache_rows, devices=1, form="pmap", split=False, **changes):
    """The candidates of some steps, the tokens that they took, and the last state."""
    changes |= {"features.cache_rows": cache_rows, "features.microbatch": MICROBATCH}
    changes |= {"training.spmd": form, "training.split_weights": split}
    if split:
        changes["model.remat"] = "layer"
    _, config, proxy = with_proxy(False, **changes)
    settings = run_settings.parse(config.to_dict() | {"proxy": proxy})
    step, layout = Step.create(settings, devices), spmd.Layout.first(devices, form, split)
    small = Step.create(run_settings.parse(small_config().to_dict())).model

    def look(*inputs):
        candidates, cache, tokens = step.candidates(*inputs)
        return candidates, cache, jax.lax.psum(tokens.computed, spmd.AXIS)

    program = layout.map(look, (*step.KINDS[:4], "weights"))
    state, frozen = layout.place(step.initial(1))
    others = layout.place(Others(None, small.init(jax.random.key(7))))
    sharing = settings.selection.updates_per_pool, settings.features.anchors_every
    found, tokens = [], []
    for number in range(UPDATES):
        pool, anchors = (layout.rows(part) for part in seen_at(number, *sharing))
        candidates, cache, count = program(state, frozen, pool, anchors, others)
        state = dataclasses.replace(state, step=state.step + 1, kept=cache)
        found.append(jax.device_get(candidates))
        tokens.append(int(count))
    return found, tokens, jax.device_get(state)


@functools.cache
def selecting():
    """The selection from some candidates, as a program."""
    step, _, _ = with_proxy(False)

    def select(candidates):
        return step.select(candidates, jax.random.key(0), certified=False)[0].indices

    return jax.jit(select)


def same(found, expected):
    """The same candidates but for rounding, as programs differ, and the very same selections."""
    tolerance = functools.partial(np.testing.assert_allclose, atol=2e-6, rtol=1e-5)
    for one, two in zip(found, expected, strict=True):
        jax.tree.map(tolerance, one, two)
        assert selecting()(one).tolist() == selecting()(two).tolist()


def misses(size, devices=1):
    """For every step, how many rows each device computes: an oracle."""
    held, found = {}, []
    for number in range(UPDATES):
        parts = [np.split(part.id, devices) for part in seen_at(number)]
        ids = [np.concatenate(pair) for pair in zip(*parts, strict=True)]
        new = [[one for one in device if held.get(one % size) != one] for device in ids]
        found.append([len(device) for device in new])
        for one in (one for device in new for one in device):
            held[one % size] = one
    return found


def filled(count):
    """Rows with those that fill up the last microbatch."""
    return MICROBATCH * -(-count // MICROBATCH)


@pytest.mark.parametrize("size", [ALL, 24])
def test_selections_are_the_same_and_only_new_rows_are_computed(size):
    (expected, all_tokens, _), (found, tokens, state) = run(0), run(size)
    same(found, expected)
    length = corpus().tokens.shape[1]
    assert all_tokens == UPDATES * [(POOL + ANCHORS) * length]
    computed = [filled(number) for (number,) in misses(size)]
    assert tokens == [number * length for number in computed]
    if size == ALL:
        assert computed == [24, 24, 16, 0, 0, 0]
        assert sorted(state.kept.table.ids) == list(range(ALL))
    else:
        assert 0 < computed[-1] < 24


@pytest.mark.parametrize(
    ("devices", "form", "split"),
    [(4, "shard_map", False), (8, "pmap", False), (2, "shard_map", True)],
)
def test_selections_do_not_depend_on_the_layout(devices, form, split):
    (expected, _, _), (found, tokens, _) = run(24), run(24, devices, form, split)
    same(found, expected)
    # Devices that gather weights from each other compute equally many rows.
    counts = [[max(each)] * devices if split else each for each in misses(24, devices)]
    assert tokens == [sum(map(filled, each)) * corpus().tokens.shape[1] for each in counts]


def test_short_rows_stay_cheap():
    (expected, all_tokens, _), (found, tokens, _) = run(0), run(ALL, **{"data.buckets": (6,)})
    same(found, expected)
    assert 0 < tokens[2] < tokens[0] < all_tokens[0] and tokens[3:] == [0, 0, 0]


def test_what_steps_share_is_kept_too():
    """Pools that two updates share and anchors that three share: each is computed once."""
    sharing = {"selection.updates_per_pool": 2, "features.anchors_every": 3}
    (expected, _, _), (found, tokens, _) = run(0), run(ALL, **sharing)
    for number, candidates in enumerate(found):
        np.testing.assert_allclose(candidates.gram, expected[number // 2].gram, atol=2e-6)
    computed = [POOL + ANCHORS, 0, POOL, ANCHORS, POOL, 0]
    assert tokens == [count * corpus().tokens.shape[1] for count in computed]


def test_of_two_rows_that_want_one_place_the_last_has_it():
    def features(*numbers):
        column = jnp.array(numbers, jnp.float32)
        return Features(jnp.tile(column[:, None], 2), column, column)

    table = FeatureTable.empty(4, 2)
    ids, new = jnp.array([1, 5, 2, 9, 6]), jnp.array([True, True, True, False, True])
    table = jax.jit(FeatureTable.with_rows)(table, ids, features(1, 5, 2, 9, 6), new)
    assert table.ids.tolist() == [-1, 5, 6, -1]
    found, known = table.find(jnp.array([5, 1, 6, 0]))
    assert known.tolist() == [True, False, True, False]
    assert found.losses[0] == 5 and found.vectors[2].tolist() == [6, 6]


def test_a_run_that_keeps_features_continues_bit_for_bit(tiny, small_run, tmp_path):  # noqa: F811
    # An epoch of 80 training rows is two updates, one of 8 anchors a single one.
    tiny.selection.pool, tiny.features.cache_rows = 40, 512
    run = planned(tiny, small_run, proxy_trains=False)
    whole = training.train(run, tmp_path / "whole")
    stop_after_two_updates(run, tmp_path / "stopped")
    again = training.train(run, tmp_path / "stopped")
    assert again["fingerprint"] == whole["fingerprint"]
    assert without_seconds(tmp_path / "whole") == without_seconds(tmp_path / "stopped")
    flops = [row["flops"] for row in rows(tmp_path / "whole", "metrics.jsonl")[1:]]
    assert flops[0] > flops[1] > flops[2] == flops[3]


def test_memory_is_planned_for_the_table():
    _, config, proxy = with_proxy(False, **{"features.cache_rows": 100})
    settings = run_settings.parse(config.to_dict() | {"proxy": proxy})
    found = predictions.memory_of(settings)
    # An id, a loss and a norm beside each feature; the state before the update and after it.
    assert found["cache"] * 1e9 == 2 * 100 * 4 * (settings.features.dim + 3)
    without = dataclasses.replace(settings, features=settings.features.unshared)
    assert "cache" not in predictions.memory_of(without)


@pytest.mark.parametrize(
    ("trains", "changes", "message"),
    [
        (True, {}, "the model that selects, which trains"),
        (False, {"features.sketch_every": 2}, "changes their sketch"),
        (False, {"features.cache_rows": -1}, "must be at least 0"),
        (False, {"features.cache_rows": 10**9}, "GiB on every device"),
    ],
)
def test_features_that_would_change_are_not_kept(trains, changes, message):
    with pytest.raises(ValueError, match=message):
        with_proxy(trains, **({"features.cache_rows": 8} | changes))


def test_the_model_s_own_features_are_not_kept(tiny):
    tiny.features.cache_rows = 8
    with pytest.raises(ValueError, match=r"which is the model itself: name a selection\.proxy"):
        run_settings.parse(tiny.to_dict())
    tiny.selection.utility = "random"  # looks at no features
    run_settings.parse(tiny.to_dict())
