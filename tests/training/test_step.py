"""The compiled step against its parts done by hand, and its edge cases."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from partitionsel_jax import data, models, selection
from partitionsel_jax.training import settings as run_settings
from partitionsel_jax.training import spmd
from partitionsel_jax.training.state import TrainState
from partitionsel_jax.training.step import Step, anchor_direction, domain_budgets, update_weights

LENGTH = 10


@pytest.fixture
def step(tiny):
    return Step.create(run_settings.parse(tiny.to_dict()))


def random_rows(count, seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, LENGTH - 1, count)
    return data.Rows(
        tokens=rng.integers(3, 259, (count, LENGTH)).astype(np.int32),
        response=np.arange(LENGTH)[None, :] >= lengths[:, None],
        domain=np.arange(count, dtype=np.int32) % 2,
        id=np.arange(count, dtype=np.int32) + 100 * seed,
        spoilt=rng.random(count) < 0.3,
    )


def start(step):
    return TrainState.create(step.model.init(jax.random.key(1)), step.transformation)


def mapped(step, devices):
    return spmd.data_parallel(
        step.__call__, (False, False, True, True, False), jax.devices()[:devices]
    )


def test_the_update_is_the_weighted_gradient_of_the_picks(step):
    step = dataclasses.replace(
        step, selection=dataclasses.replace(step.selection, weights="learned")
    )
    state, pool, anchors = start(step), random_rows(16, 1), random_rows(8, 2)
    after, record = mapped(step, 2)(
        state, {}, spmd.shard(pool, 2), spmd.shard(anchors, 2), jnp.int32(0)
    )

    picks = record["ids"] - 100
    weights = np.asarray(record["weights"])
    weights = weights / weights.mean()

    def loss(parameters):
        logits = step.model.apply(parameters, jnp.asarray(pool.tokens[picks]))
        losses = models.response_loss(logits, pool.tokens[picks], pool.response[picks])
        return jnp.mean(weights * losses)

    gradient = jax.jit(jax.grad(loss))(state.parameters)
    changes, _ = step.transformation.update(gradient, state.optimizer, state.parameters)
    expected = optax.apply_updates(state.parameters, changes)
    # One Adam step is the sign of the gradient almost everywhere: compare the gradient's norm too.
    np.testing.assert_allclose(record["gradient_norm"], optax.tree.norm(gradient), rtol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        after.parameters,
        expected,
    )
    assert int(after.step) == 1
    assert int(record["spoilt_picks"]) == pool.spoilt[picks].sum()
    assert record["picks"].tolist() == np.bincount(pool.domain[picks], minlength=2).tolist()


def test_the_picks_are_those_of_select_on_exact_gradients(step):
    """An end-to-end oracle: gradients by a loop, their Gram matrix, and `selection.select`."""
    exact = dataclasses.replace(
        step, features=dataclasses.replace(step.features, family="srht", dim=8192)
    )
    state, pool, anchors = start(step), random_rows(16, 3), random_rows(8, 4)
    _, record = mapped(exact, 1)(
        state, {}, spmd.shard(pool, 1), spmd.shard(anchors, 1), jnp.int32(0)
    )

    def loss(layers, tokens, response):
        parameters = state.parameters | {"layers": layers}
        logits = step.model.apply(parameters, tokens[None])
        return models.response_loss(logits, tokens[None], response[None])[0]

    one = jax.jit(jax.grad(loss))
    vectors = []
    for rows in (pool, anchors):
        for tokens, response in zip(rows.tokens, rows.response, strict=True):
            layers = one(state.parameters["layers"], tokens, response)
            last = np.concatenate([np.ravel(leaf[-1:]) for leaf in jax.tree.leaves(layers)])
            vectors.append(last / np.linalg.norm(last))
    pool_vectors, anchor = np.stack(vectors[:16]), np.mean(vectors[16:], axis=0)
    result = selection.select(
        selection.Problem(
            alignment=jnp.asarray(pool_vectors @ anchor),
            gram=jnp.asarray(pool_vectors @ pool_vectors.T),
            domains=jnp.asarray(pool.domain),
            budgets=jnp.array([4, 4]),
        ),
        size=8,
    )
    # A sketch of 8192 dimensions moves inner products by about 1 %: near-ties may change places.
    shared = set(np.asarray(result.indices).tolist()) & set((record["ids"] - 300).tolist())
    assert len(shared) >= 7
    np.testing.assert_allclose(record["utility"], result.utility, rtol=0.2)


def test_a_second_call_does_not_compile_again(step):
    program = mapped(step, 1)
    rows = spmd.shard(random_rows(16, 1), 1), spmd.shard(random_rows(8, 2), 1)
    assert program.compile(start(step), {}, *rows, jnp.int32(0)) > 0
    assert program.compile(start(step), {}, *rows, jnp.int32(0)) == 0
    state, first = program(start(step), {}, *rows, jnp.int32(0))
    _, second = program(state, {}, *rows, jnp.int32(0))
    assert int(second["dropped"]) == 0 and first["loss"] != second["loss"]


def test_a_non_finite_update_leaves_the_state_as_it_was(step):
    state = start(step)
    broken = dataclasses.replace(
        state, parameters=state.parameters | {"norm": {"scale": jnp.full(16, jnp.inf)}}
    )
    rows = spmd.shard(random_rows(16, 1), 1), spmd.shard(random_rows(8, 2), 1)
    after, record = mapped(step, 1)(broken, {}, *rows, jnp.int32(0))
    assert not np.isfinite(record["gradient_norm"])
    jax.tree.map(np.testing.assert_array_equal, after, broken)
    # Every candidate's gradient is broken: all are left out and counted, none is picked.
    assert int(record["dropped"]) == 16
    assert record["ids"].tolist() == [-1] * 8


def test_adapters_train_and_the_base_stays(tiny):
    tiny.lora.update({"rank": 2, "targets": ("q", "up")})
    tiny.features.parameters = "lora"
    step = Step.create(run_settings.parse(tiny.to_dict()))
    trained, frozen = models.parameters.split(step.model.init(jax.random.key(1)), models.is_adapter)
    state = TrainState.create(trained, step.transformation)
    rows = spmd.shard(random_rows(16, 1), 2), spmd.shard(random_rows(8, 2), 2)
    after, record = mapped(step, 2)(state, frozen, *rows, jnp.int32(0))
    assert np.isfinite(record["utility"]) and record["utility"] > 0
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), after.parameters, trained)
    # A fresh adapter has B = 0, so that A has no gradient yet.
    assert moved["layers"]["mlp"]["up"] == {"lora_a": False, "lora_b": True}


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [("uniform", [1, 1, 1, 0]), ("learned", [0, 0.6, 2.4, 0]), ("clipped", [0, 0.6, 2.0, 0])],
)
def test_update_weights_have_mean_one_over_the_picks(scheme, expected):
    picked = jnp.array([True, True, True, False])
    weights = update_weights(picked, jnp.array([0.0, 0.1, 0.4, 0.0]), scheme, 2.0)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


@pytest.mark.parametrize("scheme", ["uniform", "learned", "clipped"])
def test_picks_that_learnt_nothing_weigh_the_same_and_no_picks_nothing(scheme):
    picked = jnp.array([True, True, False])
    np.testing.assert_array_equal(update_weights(picked, jnp.zeros(3), scheme, 2.0), [1, 1, 0])
    nothing = jnp.zeros(3, bool)
    np.testing.assert_array_equal(update_weights(nothing, jnp.zeros(3), scheme, 2.0), [0, 0, 0])


def test_anchor_means_leave_broken_anchors_out():
    vectors = jnp.array([[1.0, 0.0], [3.0, 0.0], [0.0, 6.0], [jnp.nan, 0.0]])
    domains = jnp.array([0, 0, 1, 1])
    np.testing.assert_allclose(anchor_direction(vectors, domains, 2, "plain"), [4 / 3, 2])
    np.testing.assert_allclose(anchor_direction(vectors, domains, 2, "balanced"), [1, 3])
    # Domain 2 has no anchor: the others share its weight.
    np.testing.assert_allclose(anchor_direction(vectors, domains, 3, "balanced"), [1, 3])
    broken = jnp.full((2, 2), jnp.inf)
    assert np.isnan(anchor_direction(broken, domains[:2], 2, "plain")).all()


@pytest.mark.parametrize(
    ("budgets", "expected"),
    [("proportional", [2, 6]), ("uniform", [4, 4]), ("fixed", [1, 7]), ("temperature", [4, 4])],
)
def test_budgets_follow_the_configured_scheme(step, budgets, expected):
    chosen = dataclasses.replace(
        step.selection, budgets=budgets, shares=(0.125, 0.875), temperature=0.0
    )
    assert domain_budgets(jnp.array([4, 12]), chosen).tolist() == expected
