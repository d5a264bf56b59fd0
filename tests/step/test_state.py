"""The fingerprint sees every bit; the optimiser's schedule is what its docstring says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from partitionsel_jax.config.sections import OptimizerSettings
from partitionsel_jax.distributed import spmd
from partitionsel_jax.step import optimizer
from partitionsel_jax.step.state import TrainState, fingerprint


def test_any_changed_value_changes_the_fingerprint():
    tree = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.int32(3)}
    base = int(fingerprint(tree))
    assert int(fingerprint(jax.tree.map(np.copy, tree))) == base
    for index in range(12):
        other = jax.tree.map(np.copy, tree)
        other["a"].flat[index] = np.nextafter(other["a"].flat[index], np.float32(100))
        assert int(fingerprint(other)) != base
    assert int(fingerprint(tree | {"b": np.int32(4)})) != base
    swapped = tree | {"a": tree["a"][::-1]}
    assert int(fingerprint(swapped)) != base


def test_the_fingerprint_sees_the_sign_of_zero_and_low_precision():
    zeros = np.zeros(3, np.float32)
    assert int(fingerprint(zeros)) != int(fingerprint(-zeros))
    ones = jnp.ones(3, jnp.bfloat16)
    assert int(fingerprint(ones)) != int(fingerprint(ones.at[1].set(1.0078125)))


def test_the_fingerprint_does_not_depend_on_the_devices():
    tree = {"a": np.linspace(0, 1, 16, dtype=np.float32)}
    spread = spmd.Layout.first(4).place(tree)
    assert int(fingerprint(tree)) == int(fingerprint(spread))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_schedules_rise_then_fall_or_stay(schedule, expected):
    rate = optimizer.make_schedule(OptimizerSettings(1.0, schedule, warmup=0.2), 10)
    np.testing.assert_allclose([rate(step) for step in range(10)], expected, atol=1e-6)


def test_a_run_without_warm_up_starts_at_the_peak():
    rate = optimizer.make_schedule(OptimizerSettings(1.0, "linear", warmup=0.0), 4)
    np.testing.assert_allclose([rate(step) for step in range(4)], [1.0, 1.0, 2 / 3, 1 / 3])


def test_the_gradient_is_clipped_before_the_moments_see_it():
    chosen = optimizer.make_optimizer(OptimizerSettings(0.1), lambda _: 1.0)
    state = TrainState.create({"w": jnp.zeros(2)}, chosen)
    gradient = {"w": jnp.array([30.0, 40.0])}
    _, after = chosen.update(gradient, state.optimizer, state.parameters, norm=jnp.float32(50))
    moments = [leaf for leaf in jax.tree.leaves(after) if leaf.shape == (2,)]
    np.testing.assert_allclose(moments[0], [0.06, 0.08], rtol=1e-5)


def test_shard_and_replicate_keep_every_row():
    rows = {"x": np.arange(12).reshape(6, 2)}
    np.testing.assert_array_equal(spmd.shard(rows, 3)["x"].reshape(6, 2), rows["x"])
    with pytest.raises(ValueError, match="6 rows cannot be split over 4 devices"):
        spmd.shard(rows, 4)
