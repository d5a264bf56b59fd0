"""The comparison with exact gradients on live runs: with what, when, and what it leaves alone."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from partitionsel_jax import data, training
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.distributed import spmd
from partitionsel_jax.step import programs
from partitionsel_jax.step.state import NO_OTHERS
from partitionsel_jax.step.step import Step
from partitionsel_jax.training import corpora, loop
from tests.tiny_runs import tiny_config

LENGTH, POOL, ANCHORS, COMPARED = 10, 16, 4, 12
PER_POOL, ANCHORS_EVERY = 3, 2
EVERY = 3
NOTHING = 1e-5  # what float32 leaves of an error that is 0
EXACT = {"path": "reference", "family": "identity", "dim": 0}
SKETCH = {"family": "two_sided", "dim": 16, "sketch_every": 1}


@functools.cache
def step_of(updates_per_pool=1, **features):
    """A step of the tiny model, with so many of its candidates compared."""
    config = tiny_config()
    config.selection.update({"pool": POOL, "size": 4, "anchors": ANCHORS})
    config.selection.updates_per_pool = updates_per_pool
    config.features.update({"fidelity_every": 1, "fidelity_rows": COMPARED, **features})
    return Step.create(run_settings.parse(config.to_dict()))


@functools.cache
def rows(count, seed):
    """Random rows, one of them without a response token if there are many."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(1, LENGTH - 1, count)
    starts[5:6] = LENGTH
    return data.Rows(
        tokens=rng.integers(3, 259, (count, LENGTH)).astype(np.int32),
        response=np.arange(LENGTH)[None, :] >= starts[:, None],
        domain=np.arange(count, dtype=np.int32) % 2,
        id=np.arange(count, dtype=np.int32),
        corrupted=np.zeros(count, bool),
    )


def seen_at(step, number):
    pool = rows(POOL, 1 + number // step.selection.updates_per_pool)
    return pool, rows(ANCHORS, 51 + number // step.features.anchors_every)


def measured(step, state, frozen, devices=1):
    """Gram error, alignment error and pick overlap at a state."""
    compare = programs.fidelity_check(step, spmd.Layout.first(devices))
    parts = [spmd.shard(part, devices) for part in seen_at(step, int(state.step))]
    found = compare(state, frozen, *parts, jnp.int32(0), NO_OTHERS)
    names = ("gram_error", "alignment_error", "pick_overlap")
    return [float(found[f"fidelity_{name}"]) for name in names]


def at(number, state):
    return dataclasses.replace(state, step=jnp.int32(number))


def test_exact_features_show_no_error_and_pick_the_same():
    step = step_of(**EXACT)
    gram, alignment, overlap = measured(step, *step.initial(1))
    assert gram < NOTHING and alignment < NOTHING and overlap == 1


def mean_errors(dim):
    """Over four sketches, and as many pools."""
    step = step_of(**SKETCH | {"dim": dim})
    state, frozen = step.initial(1)
    return np.mean([measured(step, at(number, state), frozen) for number in range(4)], axis=0)


def test_a_sketch_shows_errors_that_more_dimensions_make_smaller():
    small, large = mean_errors(SKETCH["dim"]), mean_errors(512)
    assert np.all(large[:2] > 0.01) and np.all(small[:2] > 2 * large[:2])
    assert 0 <= small[2] < large[2] <= 1


def test_numbers_do_not_depend_on_the_device_count():
    step = step_of(**SKETCH)
    state, frozen = step.initial(1)
    one, two = (measured(step, state, frozen, devices) for devices in (1, 2))
    np.testing.assert_allclose(two, one, rtol=1e-4)


def test_kept_features_are_compared_with_exact_ones_at_the_current_parameters():
    step = step_of(PER_POOL, anchors_every=ANCHORS_EVERY, **EXACT)
    keep = spmd.Layout.first(1).map(lambda *inputs: step.featurize(*inputs)[1], step.KINDS[:4])
    state, frozen = step.initial(1)
    for number in range(4):
        fresh_pool, fresh_anchors = number % PER_POOL == 0, number % ANCHORS_EVERY == 0
        gram, alignment, _ = measured(step, state, frozen)
        for error, fresh in ((gram, fresh_pool), (alignment, fresh_pool and fresh_anchors)):
            assert error < NOTHING if fresh else error > 1e-3, number
        kept = keep(state, frozen, *(spmd.shard(part, 1) for part in seen_at(step, number)))
        moved = jax.tree.map(lambda leaf: 1.02 * leaf, state.parameters)
        state = dataclasses.replace(at(number + 1, state), parameters=moved, kept=kept)


def with_moments(state, rank_one):
    """The state after some updates, with second moments that differ widely between coordinates."""
    rng = np.random.default_rng(0)
    moments = {}
    for path, leaf in traverse_util.flatten_dict(state.parameters).items():
        shapes = [leaf.shape]
        if rank_one and leaf.ndim == 3:
            shapes = [(*leaf.shape[:2], 1), (leaf.shape[0], 1, leaf.shape[2])]
        exponent = sum(rng.normal(size=shape) for shape in shapes)
        moments[path] = jnp.asarray(
            1e-4 * np.exp(np.broadcast_to(exponent, leaf.shape)), jnp.float32
        )
    nested = traverse_util.unflatten_dict(moments)
    optimizer = optax.tree_utils.tree_set(state.optimizer, nu=nested)
    return dataclasses.replace(at(5, state), optimizer=optimizer)


def test_preconditioned_features_are_compared_in_the_geometry_of_adam():
    step = step_of(preconditioner="adam", **EXACT)
    state, frozen = step.initial(1)
    gram, alignment, overlap = measured(step, with_moments(state, rank_one=False), frozen)
    assert gram < NOTHING and alignment < NOTHING and overlap == 1


def test_a_factored_preconditioner_shows_what_it_loses_of_adams_geometry():
    """Nothing but its damping for moments of rank one."""
    step = step_of(preconditioner="adam_factored", **EXACT | {"path": "factored"})
    state, frozen = step.initial(1)
    lossless, lossy = (
        measured(step, with_moments(state, rank_one), frozen) for rank_one in (True, False)
    )
    assert np.all(np.isfinite([lossless, lossy]))
    assert max(lossless[:2]) < 5e-3 < 0.02 < min(lossy[:2])


def table(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(every, folder, corpus_directory):
    """Summary, metrics without the clock, and selections of a run compared every so many steps."""
    config = tiny_config()
    config.data.directory = corpus_directory
    config.features.update({"fidelity_every": every, "fidelity_rows": 8})
    config.features.anchors_every = ANCHORS_EVERY
    config.training.update({"updates": 7, "evaluate_every": 7, "checkpoint_every": 7})
    (planned,) = training.expand(config.to_dict())
    summary = training.train(planned, folder)
    metrics = [
        {key: value for key, value in row.items() if key != "seconds"}
        for row in table(folder / "metrics.jsonl")
    ]
    return summary, metrics, table(folder / "selections.jsonl")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, corpus_directory):
    """Two runs that differ in `fidelity_every` alone."""
    with pytest.MonkeyPatch.context() as patch:
        # It compiles programs of its own, and no more than times them.
        patch.setattr(programs, "stage_shares", lambda *inputs: {})
        return {
            every: run(every, tmp_path_factory.mktemp("run"), corpus_directory)
            for every in (0, EVERY)
        }


def compared(row):
    return {key: value for key, value in row.items() if key.startswith("fidelity_")}


def test_the_comparison_changes_no_bit_of_a_run(runs):
    (plain, plain_metrics, plain_picks), (summary, metrics, picks) = runs[0], runs[EVERY]
    assert summary["fingerprint"] == plain["fingerprint"]
    assert picks == plain_picks
    without = [{k: v for k, v in row.items() if k not in compared(row)} for row in metrics]
    assert without == plain_metrics


def test_metrics_have_the_comparison_every_so_many_updates_and_only_then(runs):
    for every, steps in ((0, []), (EVERY, [3, 6])):
        found = {row["step"]: compared(row) for row in runs[every][1] if compared(row)}
        assert list(found) == steps
        assert all(len(row) == 3 and np.isfinite([*row.values()]).all() for row in found.values())


REFUSED = [
    (
        {"features.fidelity_rows": 6, "training.devices": 4},
        r"features\.fidelity_rows=6 is not divisible by the 4 devices: use 8$",
    ),
    (
        {"model.width": 4096, "model.mlp_width": 8192},
        r"features\.fidelity_every=3 would hold 16 gradients of 10\d,\d+,\d+ coordinates, 6\.\d "
        r"GiB \(at most 4\): lower features\.fidelity_rows, .*set features\.fidelity_every=0$",
    ),
]


@pytest.fixture
def comparing(tiny):
    tiny.features.update({"fidelity_every": 3, "fidelity_rows": 8})
    return tiny


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_a_comparison_that_cannot_be_made_is_refused_before_any_data_is_read(
    comparing, changes, message, tmp_path, monkeypatch
):
    def read(settings):
        raise AssertionError("data were read")

    monkeypatch.setattr(corpora, "load", read)
    plan = comparing.to_dict() | {"methods": {"sound": {}, "other": changes}}
    with pytest.raises(ValueError, match=message):
        training.train_all(plan, tmp_path)
    sound, other = training.expand(plan)
    loop.check(sound, tmp_path)
    with pytest.raises(ValueError, match=message):
        loop.check(other, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("without", [{"features.fidelity_every": 0}, {"selection.utility": "loss"}])
@pytest.mark.parametrize("changes", [changes for changes, _ in REFUSED])
def test_where_nothing_is_compared_nothing_is_refused(comparing, changes, without, tmp_path):
    plan = comparing.to_dict() | {"methods": {"other": changes | without}}
    (planned,) = training.expand(plan)
    loop.check(planned, tmp_path)
