"""The published solver against a literal NumPy version of it, and against the exact one."""

import numpy as np
import pytest
from selection_problems import CHOICES, SIZE, Oracle, from_features, full_problem, name_of, solve

PUBLISHED = [choice for choice in CHOICES if choice[3] == "published"]
STEPS, POWER_ITERATIONS, MARGIN = 128, 30, 1.05


def step_size(gram):
    vector = 1.0 + 0.1 * np.cos(np.arange(len(gram)))
    for _ in range(POWER_ITERATIONS):
        vector = gram @ vector
        vector /= np.abs(vector).max()
    return 1.0 / (MARGIN * (vector @ gram @ vector) / (vector @ vector))


def accelerated(gram, alignment, picks, step):
    """Weights after 128 steps of FISTA from zero, over all N with a mask; Beck & Teboulle 2009."""
    mask = np.isin(np.arange(len(alignment)), picks)
    weights, ahead, momentum = np.zeros(len(alignment)), np.zeros(len(alignment)), 1.0
    for _ in range(STEPS):
        moved = np.maximum(ahead + step * (alignment - gram @ ahead), 0.0) * mask
        grown = (1.0 + np.sqrt(1.0 + 4.0 * momentum**2)) / 2.0
        ahead = moved + (momentum - 1.0) / grown * (moved - weights)
        weights, momentum = moved, grown
    return weights


def problems(count):
    """Some of full rank, some whose Gram matrix is singular."""
    for seed in range(count):
        features = np.random.default_rng(seed).normal(size=(16, 8 if seed % 2 else 24))
        yield full_problem(np.random.default_rng(seed), features)


@pytest.mark.parametrize("ridge", [0.0, 0.5])
@pytest.mark.parametrize("choice", PUBLISHED, ids=name_of)
def test_weights_and_picks_are_those_of_128_cold_accelerated_steps_by(choice, ridge):
    for key, problem in enumerate(problems(6)):
        result = solve(problem, choice, key=key, ridge=ridge)
        oracle = Oracle(problem, *choice[:2], ridge=ridge)
        gram = oracle.gram + ridge * np.eye(len(oracle.gram))
        step = step_size(gram)
        # The rule follows the weights of every round, not the exact ones.
        oracle.weights = lambda picks, o=oracle, g=gram, h=step: accelerated(
            g, o.alignment, picks, h
        )[picks]
        assert oracle.regret(result.indices, choice[2]) <= 1e-4
        weights = oracle.weights(result.indices)
        np.testing.assert_allclose(result.weights, weights, atol=1e-3 * weights.max())
        block = gram[np.ix_(result.indices, result.indices)]
        utility = weights @ oracle.alignment[result.indices] - 0.5 * weights @ block @ weights
        np.testing.assert_allclose(result.utility, utility, rtol=1e-3)


@pytest.mark.parametrize("choice", PUBLISHED, ids=name_of)
def test_utility_is_at_most_that_of_an_exact_refit_of_the_same_picks_by(choice):
    for key, problem in enumerate(problems(6)):
        result = solve(problem, choice, key=key)
        exact = Oracle(problem, *choice[:2]).value(result.indices)
        assert 0.9 * exact <= result.utility <= exact * (1.0 + 1e-5)


@pytest.mark.parametrize("coupling", ["joint", "independent", "agnostic"])
def test_greedy_picks_are_the_exact_solvers_where_gradients_are_nearly_orthogonal(coupling):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        problem = full_problem(rng)
        features = np.hstack([np.eye(16), 0.05 * rng.normal(size=(16, 8))])
        easy = from_features(features, rng.normal(size=24), problem.domains, problem.budgets)
        problem.alignment[:], problem.gram[:] = easy.alignment, easy.gram
        published, exact = (
            solve(problem, ("gradient_matching", coupling, "greedy", solver))
            for solver in ("published", "exact")
        )
        assert published.indices.tolist() == exact.indices.tolist()
        np.testing.assert_allclose(published.utility, exact.utility, rtol=1e-4)
        np.testing.assert_allclose(published.weights, exact.weights, atol=1e-3)
        assert len(published.weights) == SIZE
