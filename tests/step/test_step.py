"""The compiled step against its parts done by hand, and its edge cases."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from partitionsel_jax import data, gradients, models, selection
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.distributed import spmd
from partitionsel_jax.step import anchors as held_out
from partitionsel_jax.step.candidates import RowInfo, compare, domain_budgets, update_weights
from partitionsel_jax.step.state import Others, TrainState
from partitionsel_jax.step.step import Step

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
        corrupted=rng.random(count) < 0.3,
    )


def start(step):
    return TrainState.create(step.model.init(jax.random.key(1)), step.transformation)


def mapped(step, devices):
    return spmd.Layout.first(devices).map(step.__call__, step.KINDS[:5])


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
    norm = optax.tree.norm(gradient)
    changes, _ = step.transformation.update(gradient, state.optimizer, state.parameters, norm=norm)
    expected = optax.apply_updates(state.parameters, changes)
    # One Adam step is the sign of the gradient almost everywhere: compare the gradient's norm too.
    np.testing.assert_allclose(record["gradient_norm"], optax.tree.norm(gradient), rtol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        after.parameters,
        expected,
    )
    assert int(after.step) == 1
    assert int(record["corrupted_selected"]) == pool.corrupted[picks].sum()
    assert record["selected"].tolist() == np.bincount(pool.domain[picks], minlength=2).tolist()


@pytest.mark.parametrize("path", ["factored", "reference"])
def test_the_picks_are_those_of_select_on_exact_gradients(step, path):
    """An end-to-end oracle: gradients by a loop, their Gram matrix, and `selection.select`."""
    whole = dataclasses.replace(step.features, path=path, family="identity", dim=0)
    exact = dataclasses.replace(step, features=whole)
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
    assert (record["ids"] - 300).tolist() == result.indices.tolist()
    np.testing.assert_allclose(record["utility"], result.utility, rtol=1e-4)


def test_a_second_call_does_not_compile_again(step):
    program = mapped(step, 1)
    rows = spmd.shard(random_rows(16, 1), 1), spmd.shard(random_rows(8, 2), 1)
    assert program.compile(start(step), {}, *rows, jnp.int32(0)) > 0
    assert program.compile(start(step), {}, *rows, jnp.int32(0)) == 0
    state, first = program(start(step), {}, *rows, jnp.int32(0))
    _, second = program(state, {}, *rows, jnp.int32(0))
    assert int(second["dropped"]) == 0 and first["loss"] != second["loss"]


def test_steps_that_differ_in_their_learning_rate_are_one_program(step):
    faster = dataclasses.replace(
        step, optimizer=dataclasses.replace(step.optimizer, learning_rate=0.01)
    )
    slower = dataclasses.replace(
        step, optimizer=dataclasses.replace(step.optimizer, learning_rate=0.001)
    )
    assert faster == slower and hash(faster) == hash(slower)
    rows = spmd.shard(random_rows(16, 1), 1), spmd.shard(random_rows(8, 2), 1)
    program = mapped(faster, 1)
    before = start(faster).parameters
    moved, rates = [], []
    for one in (faster, slower):
        after, record = program(start(one), {}, *rows, jnp.int32(0))
        moved.append(optax.tree.norm(optax.tree.sub(after.parameters, before)))
        rates.append(float(record["learning_rate"]) / float(one.schedule(0)))
    assert program.compile(start(slower), {}, *rows, jnp.int32(0)) == 0
    np.testing.assert_allclose(rates, [0.01, 0.001], rtol=1e-6)
    np.testing.assert_allclose(moved[0] / moved[1], 10, rtol=1e-3)


def test_the_program_does_not_grow_with_the_depth(tiny):
    """Else the time to compile it would."""
    rows = spmd.shard(random_rows(16, 1), 1), spmd.shard(random_rows(8, 2), 1)
    lines = []
    for layers in (3, 7):
        tiny.model.layers = layers
        step = Step.create(run_settings.parse(tiny.to_dict()))
        state = jax.eval_shape(lambda step=step: start(step))
        lowered = mapped(step, 1).lower(state, {}, *rows, jnp.int32(0))
        lines.append(len(lowered.as_text().splitlines()))
    assert lines[0] == lines[1]


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

    def direction(vectors, domains, count, mean):
        nothing = jnp.zeros(len(vectors))
        features = gradients.Features(vectors, nothing, nothing)
        return held_out.from_features(features, domains, mean=mean, domains=count).direction

    np.testing.assert_allclose(direction(vectors, domains, 2, "plain"), [4 / 3, 2])
    np.testing.assert_allclose(direction(vectors, domains, 2, "balanced"), [1, 3])
    # Domain 2 has no anchor: the others share its weight.
    np.testing.assert_allclose(direction(vectors, domains, 3, "balanced"), [1, 3])
    broken = jnp.full((2, 2), jnp.inf)
    assert np.isnan(direction(broken, domains[:2], 2, "plain")).all()


@pytest.mark.parametrize(
    ("budgets", "expected"),
    [("proportional", [2, 6]), ("uniform", [4, 4]), ("fixed", [1, 7]), ("temperature", [4, 4])],
)
def test_budgets_follow_the_configured_scheme(step, budgets, expected):
    chosen = dataclasses.replace(
        step.selection, budgets=budgets, shares=(0.125, 0.875), temperature=0.0
    )
    assert domain_budgets(jnp.array([4, 12]), chosen).tolist() == expected


def random_features(count, seed):
    rng = np.random.default_rng(seed)
    # More dimensions than picks: else the last of them match nothing but rounding errors.
    vectors = rng.normal(size=(count, 12)) + 0.5
    return gradients.Features(
        vectors=jnp.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), jnp.float32),
        losses=jnp.asarray(rng.gamma(2.0, 1.0, count), jnp.float32),
        norms=jnp.asarray(rng.gamma(2.0, 1.0, count), jnp.float32),
    )


def with_selection(step, **changes):
    return dataclasses.replace(step, selection=dataclasses.replace(step.selection, **changes))


def chosen_from(step, pool, anchors, reference_losses=None):
    """What the step picks from features, and the problem that it should have posed."""
    rows = jax.tree.map(jnp.asarray, random_rows(16, 1))
    domains = jnp.arange(8, dtype=jnp.int32) % 2
    found = held_out.from_features(anchors, domains, mean="plain", domains=2)
    made = compare(RowInfo.of(rows), pool, found, step.selection)
    if "reference_losses" in step.selection.reads:
        made = dataclasses.replace(made, reference_losses=reference_losses)
    if step.selection.remembers:
        made = dataclasses.replace(made, nuclear_norms=pool.norms, novelty=pool.losses)
    result, record = jax.jit(step.select)(made, jax.random.key(3))
    finite = jnp.isfinite(anchors.vectors).all(axis=1)
    direction = jnp.mean(anchors.vectors, axis=0, where=finite[:, None])
    problem = selection.Problem(
        alignment=pool.vectors @ direction,
        gram=pool.vectors @ pool.vectors.T,
        domains=rows.domain,
        budgets=record["budgets"],
        losses=pool.losses,
        anchor_similarity=pool.vectors @ anchors.vectors.T,
        norms=pool.norms,
        reference_losses=reference_losses,
        nuclear_norms=pool.norms,
        novelty=pool.losses,
    )
    return result, record, problem


@pytest.mark.parametrize("utility", sorted(selection.UTILITIES))
def test_every_utility_picks_in_the_step_what_it_picks_alone(step, utility):
    size = 16 if utility == "full" else 8
    step = with_selection(step, utility=utility, size=size, step_scale=0.3, reference="somewhere")
    pool, anchors = random_features(16, 1), random_features(8, 2)
    reference_losses = random_features(16, 3).losses
    result, record, problem = chosen_from(step, pool, anchors, reference_losses)
    if utility == "loss":
        problem = dataclasses.replace(problem, reference_losses=None)
    expected = selection.select(
        problem, size=size, utility=utility, step_scale=0.3, key=jax.random.key(3)
    )
    assert result.indices.tolist() == expected.indices.tolist()
    np.testing.assert_allclose(result.weights, expected.weights, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(result.utility, expected.utility, rtol=1e-4)
    assert record["selected"].tolist() == record["budgets"].tolist() == [size // 2, size // 2]
    ranks = ("alignment", "grad_norm", "loss", "reducible_loss", "uds")
    if utility in ("gradient_matching", *ranks):
        np.testing.assert_allclose(record["gains"].sum(), result.utility, rtol=1e-3)


@pytest.mark.parametrize("utility", ["random", "gradient_matching"])
def test_an_oracle_selects_as_if_the_pool_had_no_corrupted_row(step, utility):
    step = with_selection(step, utility=utility, oracle=True, size=4)
    pool, anchors = random_features(16, 1), random_features(8, 2)
    result, record, problem = chosen_from(step, pool, anchors)
    corrupted = random_rows(16, 1).corrupted
    assert 0 < corrupted.sum() < 8
    domains = jnp.where(corrupted, -1, problem.domains)
    expected = selection.select(
        dataclasses.replace(problem, domains=domains),
        size=4,
        utility=utility,
        key=jax.random.key(3),
    )
    assert result.indices.tolist() == expected.indices.tolist()
    assert (result.indices >= 0).all() and not corrupted[result.indices].any()
    # The pool that is logged is the whole one, and what is left out is no failure.
    assert record["pool"].tolist() == [8, 8] and record["dropped_ids"].tolist() == [-1] * 16


@pytest.mark.parametrize(
    ("utility", "broken"),
    [("loss", "losses"), ("grad_norm", "norms"), ("fair_transport", "vectors")],
)
def test_candidates_that_cannot_be_picked_earn_their_domain_no_budget(step, utility, broken):
    step = with_selection(step, utility=utility)
    pool, anchors = random_features(16, 1), random_features(8, 2)
    values = np.array(getattr(pool, broken))
    values[[0, 2, 4, 6, 8, 10]] = np.nan  # six of the eight of domain 0
    pool = dataclasses.replace(pool, **{broken: jnp.asarray(values)})
    # An anchor without a finite feature says nothing of any candidate.
    anchors = dataclasses.replace(anchors, vectors=anchors.vectors.at[5].set(jnp.nan))
    result, record, _ = chosen_from(step, pool, anchors)
    assert int(record["dropped"]) == 6
    assert record["budgets"].tolist() == record["selected"].tolist() == [2, 6]
    assert not set(result.indices.tolist()) & {0, 2, 4, 6, 8, 10, -1}


def test_the_published_solver_runs_in_the_step(step):
    pool, anchors = random_features(16, 1), random_features(8, 2)
    exact, _, _ = chosen_from(step, pool, anchors)
    published, record, _ = chosen_from(with_selection(step, solver="published"), pool, anchors)
    assert published.weights.tolist() != exact.weights.tolist()
    assert record["selected"].tolist() == [4, 4]


def test_anchor_losses_are_means_per_domain_of_the_sound_anchors(step):
    losses = jnp.array([1.0, 5.0, 3.0, jnp.nan, jnp.inf, 7.0])
    domains = jnp.array([0, 1, 0, 1, 2, 1])
    np.testing.assert_array_equal(
        held_out.mean_losses(losses, domains, 4), [2.0, 6.0, np.nan, np.nan]
    )
    # An anchor whose feature is broken is no sound one, whatever its loss.
    anchors = random_features(8, 2)
    anchors = dataclasses.replace(anchors, vectors=anchors.vectors.at[1].set(jnp.inf))
    chosen = dataclasses.replace(step.selection, budgets="curriculum")
    labels, pool = RowInfo.of(random_rows(16, 1)), random_features(16, 1)
    found = held_out.from_features(anchors, jnp.arange(8) % 2, mean="plain", domains=2)
    made = compare(labels, pool, found, chosen)
    expected = [anchors.losses[0::2].mean(), anchors.losses[3::2].mean()]
    np.testing.assert_allclose(made.anchor_losses, expected, rtol=1e-6)


def test_curriculum_budgets_without_their_state_are_refused(step):
    chosen = dataclasses.replace(step.selection, budgets="curriculum")
    with pytest.raises(ValueError, match=r"make the training state with Step\.initial"):
        domain_budgets(jnp.array([8, 8]), chosen)


def test_losses_are_those_of_the_features_without_a_gradient(step):
    """`loss` and `reducible_loss` take a forward pass; so do the anchors, for a curriculum."""
    step = with_selection(
        step, utility="reducible_loss", reference="somewhere", budgets="curriculum"
    )
    (state, frozen), other = step.initial(1), step.model.init(jax.random.key(9))
    pool, anchors = random_rows(16, 1), random_rows(8, 2)
    program = spmd.Layout.first(2).map(
        lambda *inputs: step.forward(*inputs)[0], ("weights", "weights", "rows", "rows", "weights")
    )
    rows = spmd.shard(pool, 2), spmd.shard(anchors, 2)
    made = program(state, frozen, *rows, Others(reference=other))

    @jax.jit
    def losses(parameters, rows):
        logits = step.model.apply(parameters, rows.tokens)
        return models.response_loss(logits, rows.tokens, rows.response)

    np.testing.assert_allclose(made.losses, losses(state.parameters, pool), rtol=1e-4)
    np.testing.assert_allclose(made.reference_losses, losses(other, pool), rtol=1e-4)
    held_out = losses(state.parameters, anchors)
    expected = [held_out[0::2].mean(), held_out[1::2].mean()]
    np.testing.assert_allclose(made.anchor_losses, expected, rtol=1e-4)
