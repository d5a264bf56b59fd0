"""Every utility against an independent oracle of its definition, in float64."""

import dataclasses

import numpy as np
import pytest
from scipy.optimize import linprog
from selection_problems import (
    ANCHORS,
    CHOICES,
    SIZE,
    Oracle,
    from_features,
    full_problem,
    name_of,
    solve,
    transport_value,
)

from partitionsel_jax import selection

# What an oracle of `transport_value`'s accuracy and a float32 scaling may differ by.
TOLERANCE = {"fair_transport": 1e-4}
GREEDY = [choice for choice in CHOICES if choice[2:] == ("greedy", "exact")]
SCORED = [choice for choice in GREEDY if choice[0] not in ("random", "full")]
RANDOMISED = [choice for choice in CHOICES if choice[2:] == ("residual_random", "exact")]


def problems(count):
    return [full_problem(np.random.default_rng(seed)) for seed in range(count)]


@pytest.mark.parametrize("choice", SCORED, ids=name_of)
def test_greedy_picks_and_utility_are_those_of_the_definition_for(choice):
    utility, coupling, _, _ = choice
    for problem in problems(3 if utility == "fair_transport" else 12):
        result = solve(problem, choice)
        oracle = Oracle(problem, utility, coupling)
        if utility == "fair_transport":
            assert oracle.regret(result.indices) <= TOLERANCE[utility]
        else:
            assert result.indices.tolist() == oracle.greedy(SIZE)
        rtol = 1e-3 if utility == "fair_transport" else 1e-4
        values = [oracle.value(result.indices[:t]) for t in range(SIZE + 1)]
        np.testing.assert_allclose(result.utility, values[-1], rtol=rtol, atol=1e-6)
        if utility != "gradient_matching":
            gains = np.diff(values)
            np.testing.assert_allclose(result.gains, gains, rtol=rtol, atol=rtol * abs(gains).max())


@pytest.mark.parametrize("choice", RANDOMISED, ids=name_of)
def test_residual_random_draws_from_the_best_base_by_the_definition_for(choice):
    utility, coupling, rule, _ = choice
    seen = set()
    for key, problem in enumerate(problems(2 if utility == "fair_transport" else 8)):
        result = solve(problem, choice, key=key)
        oracle = Oracle(problem, utility, coupling)
        assert oracle.regret(result.indices, rule) <= TOLERANCE.get(utility, 1e-5)
        np.testing.assert_allclose(
            result.utility, oracle.value(result.indices), rtol=1e-3, atol=1e-6
        )
        seen.add(oracle.regret(result.indices[:2]) <= 1e-5)
    # A rule that always took the best would pass all of the above.
    assert False in seen


@pytest.mark.parametrize("step_scale", [1e-4, 0.05, 20.0])
def test_taylor_follows_its_step_scale(step_scale):
    choice = ("taylor", "joint", "greedy", "exact")
    for problem in problems(6):
        result = solve(problem, choice, step_scale=step_scale)
        oracle = Oracle(problem, "taylor", "joint", step_scale=step_scale)
        assert result.indices.tolist() == oracle.greedy(SIZE)
        np.testing.assert_allclose(result.utility, oracle.value(result.indices), rtol=1e-4)


def test_taylor_becomes_alignment_as_its_step_vanishes():
    for problem in problems(6):
        taylor = solve(problem, ("taylor", "joint", "greedy", "exact"), step_scale=1e-6)
        alignment = solve(problem, ("alignment", "joint", "greedy", "exact"))
        assert taylor.indices.tolist() == alignment.indices.tolist()


def test_grad_norm_falls_back_on_the_gram_diagonal():
    choice = ("grad_norm", "joint", "greedy", "exact")
    for problem in problems(4):
        problem = dataclasses.replace(problem, norms=None)
        result = solve(problem, choice)
        assert result.indices.tolist() == Oracle(problem, "grad_norm", "joint").greedy(SIZE)


def test_reducible_loss_without_a_reference_is_the_loss():
    for problem in problems(4):
        problem = dataclasses.replace(problem, reference_losses=None)
        reducible = solve(problem, ("reducible_loss", "joint", "greedy", "exact"))
        plain = solve(problem, ("loss", "joint", "greedy", "exact"))
        assert reducible.indices.tolist() == plain.indices.tolist()


def test_uds_without_a_memory_ranks_by_nuclear_norm():
    for problem in problems(4):
        alone = dataclasses.replace(problem, novelty=None)
        result = solve(alone, ("uds", "joint", "greedy", "exact"))
        assert result.indices.tolist() == Oracle(alone, "uds", "joint").greedy(SIZE)
        both = solve(problem, ("uds", "joint", "greedy", "exact"))
        assert both.indices.tolist() != result.indices.tolist()


def test_gradient_matching_with_a_ridge_is_pursuit_on_the_ridged_gram():
    choice = ("gradient_matching", "joint", "greedy", "exact")
    for problem in problems(6):
        result = solve(problem, choice, ridge=0.7)
        oracle = Oracle(problem, "gradient_matching", "joint", ridge=0.7)
        assert result.indices.tolist() == oracle.greedy(SIZE)
        np.testing.assert_allclose(result.utility, oracle.value(result.indices), rtol=1e-4)


def test_the_transport_oracle_agrees_with_linear_programming_where_entropy_vanishes():
    """As epsilon goes to 0 the transport becomes a linear program, which another solver solves."""
    rng = np.random.default_rng(0)
    for picks in (1, 2, 5):
        similarity = rng.normal(size=(picks, ANCHORS))
        rows = np.kron(np.eye(picks), np.ones(ANCHORS))
        columns = np.kron(np.ones(picks), np.eye(ANCHORS))
        bounds = np.concatenate([np.full(picks, 1.0 / SIZE), np.full(ANCHORS, 1.0 / ANCHORS)])
        program = linprog(-similarity.ravel(), A_ub=np.vstack([rows, columns]), b_ub=bounds)
        np.testing.assert_allclose(transport_value(similarity, SIZE, 2e-3), -program.fun, atol=2e-2)


def transport(similarity):
    """A problem of one domain that has nothing but similarities to the anchors."""
    pool_size = len(similarity)
    problem = from_features(np.zeros((pool_size, 1)), [0.0], np.zeros(pool_size), [SIZE])
    return dataclasses.replace(problem, anchor_similarity=np.float32(similarity))


def test_fair_transport_is_monotone_and_its_gains_diminish():
    for problem in problems(4):
        oracle = Oracle(problem, "fair_transport", "agnostic")
        picks = solve(problem, ("fair_transport", "agnostic", "greedy", "exact")).indices
        values = [oracle.value(picks[:t]) for t in range(SIZE + 1)]
        gains = np.diff(values)
        assert np.all(gains >= -1e-7)
        assert np.all(np.diff(gains) <= 1e-4 * gains[0])


def test_fair_transport_spreads_over_anchors_where_coverage_does_not():
    """Many candidates serve anchor 0 a little better than single ones serve the others."""
    similarity = np.zeros((16, ANCHORS))
    similarity[:13, 0] = 1.0 + 0.1 * np.arange(13)[::-1]
    similarity[13:, 1:] = 0.9 * np.eye(3)
    problem = transport(similarity)
    fair = selection.select(problem, size=SIZE, utility="fair_transport").indices
    top = np.argsort(-similarity.sum(axis=1))[:SIZE]
    assert {13, 14, 15} <= set(fair.tolist())
    assert set(top.tolist()).isdisjoint({13, 14, 15})


def test_no_pick_of_fair_transport_serves_more_than_its_share():
    """One candidate that is best for every anchor gains a K-th of the demand, and no more."""
    similarity = np.full((16, ANCHORS), 0.5)
    similarity[3] = 1.0
    oracle = Oracle(transport(similarity), "fair_transport", "joint")
    for picks in ([3], [3, 0], [3, 0, 1, 2, 4]):
        ceiling = (1.0 + 0.5 * (len(picks) - 1)) / SIZE
        # The entropy is worth at most epsilon, at the plan that serves everybody alike.
        assert oracle.value(picks) <= ceiling + oracle.epsilon + 1e-9
    result = selection.select(transport(similarity), size=SIZE, utility="fair_transport")
    assert result.indices[0] == 3
    np.testing.assert_allclose(result.utility, oracle.value(result.indices), rtol=1e-3)
