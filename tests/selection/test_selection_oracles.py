import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from selection_problems import (
    SIZE,
    best_value,
    brute_force,
    from_features,
    full_problem,
    hamilton,
    kkt_residual,
    make_problem,
    padded,
    pursuit,
    unit,
)

from partitionsel_jax import selection

# Feature dimensions: that of a sketch, where pool gradients are nearly orthogonal; and a small one,
# where they are strongly coherent and single greedy runs may lose a quarter of the optimum.
SKETCH, SMALL = 256, 16


@functools.cache
def small_instances(dim):
    """300 problems of 6 to 12 candidates, as one batch, and their optima by brute force."""
    rng = np.random.default_rng(0)
    problems, optima = [], []
    while len(optima) < 300:
        pool_size, domain_count = int(rng.integers(6, 13)), int(rng.integers(1, 4))
        problem, features, anchor = make_problem(rng, pool_size, domain_count, size=4, dim=dim)
        optimum = brute_force(features, anchor, problem.domains, problem.budgets)
        if optimum > 0.0:
            problems.append(padded(problem, 12, 3))
            optima.append(optimum)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *problems), np.array(optima)


@functools.cache
def solver(swaps):
    def solve(problem):
        result = selection.select(problem, size=4, swaps=swaps)
        return result, selection.certify(problem, result)

    return jax.jit(jax.vmap(solve))


@functools.cache
def solved(dim, swaps):
    """Ratios to the optimum, and both kinds of certificates, [2, instances]."""
    batch, optima = small_instances(dim)
    result, sharp = solver(swaps)(batch)
    ratio = np.asarray(result.utility, np.float64) / optima
    return ratio, np.stack([result.certificate, sharp])


def test_greedy_is_close_to_brute_force():
    ratio, _ = solved(SKETCH, 0)
    assert ratio[:100].min() >= 0.93  # one of the other 200 is below
    assert ratio.min() >= 0.9
    assert ratio.mean() >= 0.975
    assert ratio.max() <= 1.0 + 1e-5


def test_greedy_is_close_to_brute_force_on_average_when_gradients_are_coherent():
    ratio, _ = solved(SMALL, 0)
    assert ratio.mean() >= 0.975
    assert ratio.max() <= 1.0 + 1e-5


@pytest.mark.parametrize("dim", [SKETCH, SMALL])
def test_swaps_come_closer_to_brute_force_and_never_lose(dim):
    plain, _ = solved(dim, 0)
    swapped, _ = solved(dim, 2)
    assert np.all(swapped >= plain - 1e-6)
    assert swapped.mean() > plain.mean()
    assert swapped.mean() >= 0.995


def test_swaps_never_lose_where_most_candidates_point_away_from_the_anchor():
    """There, weights meet their bounds and predicted gains are wrong."""
    rng = np.random.default_rng(1)
    problems = []
    for _ in range(100):
        features, domains = unit(rng.normal(size=(12, 6))), rng.integers(0, 2, 12)
        budgets = hamilton(np.bincount(domains, minlength=3), 4)
        problems.append(from_features(features, rng.normal(size=6), domains, budgets))
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *problems)
    plain, swapped = solver(0)(batch)[0].utility, solver(2)(batch)[0].utility
    assert np.all(swapped >= plain - 1e-6)
    assert np.mean(swapped) > np.mean(plain)


@pytest.mark.parametrize("dim", [SKETCH, SMALL])
@pytest.mark.parametrize("swaps", [0, 2])
def test_certificate_never_exceeds_the_true_ratio(dim, swaps):
    ratio, certificates = solved(dim, swaps)
    assert np.all(certificates <= ratio + 1e-6)
    assert np.all((certificates >= 0.0) & (certificates <= 1.0))
    assert np.mean(certificates[0]) <= np.mean(certificates[1]) + 1e-3


def test_certificate_never_exceeds_the_true_ratio_where_norms_differ_or_gradients_oppose():
    """There, the best weights may be many times larger than those of a poor selection."""
    rng = np.random.default_rng(5)
    problems, optima = [], []
    for number in range(300):
        features = unit(rng.normal(size=(12, 4)))
        anchor = rng.normal(size=4)
        if number % 3 == 0:
            features = features * 10.0 ** rng.uniform(-2, 2, (12, 1))
        elif number % 3 == 1:
            # Candidates i and i + 6 nearly cancel; what is left of them is the anchor.
            features[6:] = -features[:6]
            features = unit(features + 0.03 * anchor * rng.random((12, 1)))
        domains = rng.integers(0, 3, 12)
        budgets = hamilton(np.bincount(domains, minlength=3), 4)
        problems.append(from_features(features, anchor, domains, budgets))
        optima.append(brute_force(features, anchor, domains, budgets))
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *problems)
    for swaps in (0, 2):
        result, sharp = solver(swaps)(batch)
        ratio = np.asarray(result.utility, np.float64) / optima
        # Float32 knows each alignment to about 1e-5 of its gradient's norm.
        assert np.all(result.certificate <= ratio * (1.0 + 3e-4))
        assert np.all(sharp <= ratio * (1.0 + 3e-4))
        assert ratio.min() < 0.9


@functools.cache
def submodularity_bound(dim):
    """gamma of every instance: the least ratio of eigenvalues of 2k x 2k principal submatrices."""
    batch, _ = small_instances(dim)
    gammas = []
    for gram, domains in zip(np.float64(batch.gram), batch.domains, strict=True):
        inside = np.flatnonzero(domains >= 0)
        # By interlacing, smaller submatrices have no more extreme eigenvalues.
        subsets = np.array(list(itertools.combinations(inside, min(8, len(inside)))))
        values = np.linalg.eigvalsh(gram[subsets[:, :, None], subsets[:, None, :]])
        gammas.append(values.min() / values.max())
    return np.array(gammas)


@pytest.mark.parametrize("dim", [SKETCH, SMALL])
def test_residual_random_meets_the_bound_of_algorithm_2_in_expectation(dim):
    """E f(S) >= (1 + 1/gamma)^-2 f(S*), over 64 keys."""
    batch, optima = small_instances(dim)
    keys = jax.random.split(jax.random.key(0), 64)
    draw = functools.partial(selection.select, size=4, rule="residual_random")
    draw_all = jax.jit(jax.vmap(jax.vmap(lambda p, k: draw(p, key=k), (None, 0)), (0, None)))
    utility = np.asarray(draw_all(batch, keys).utility, np.float64)
    gamma = submodularity_bound(dim)
    assert np.all((gamma > 0.0) & (gamma <= 1.0))
    assert np.all(utility.mean(axis=1) >= (1.0 + 1.0 / gamma) ** -2 * optima)
    assert utility.max() > utility.min()
    assert np.all(utility <= optima[:, None] * (1.0 + 1e-5))


def near_duplicates(rng):
    """Four copies of four gradients, with cosines of about 0.9999 between copies."""
    base = np.repeat(unit(rng.normal(size=(4, 32))), 4, axis=0)
    return unit(base + 0.01 * unit(rng.normal(size=(16, 32))))


def rank_three(rng):
    return rng.normal(size=(16, 3))


def exact_duplicates(rng):
    return np.repeat(rng.normal(size=(4, 8)), 4, axis=0)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("features_of", [near_duplicates, rank_three, exact_duplicates])
def test_selections_meet_kkt_on_their_support(features_of, scale):
    """To 1e-5 of the largest alignment, by a check in float64 of what float32 posed."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        features, anchor = features_of(rng), scale * rng.normal(size=())
        problem = full_problem(rng, features)
        problem.alignment[:] = np.float32(problem.alignment * np.float32(anchor))
        for swaps in (0, 2):
            result = selection.select(problem, size=SIZE, swaps=swaps)
            picks = np.asarray(result.indices)
            gram = np.float64(problem.gram[np.ix_(picks, picks)])
            residual = np.float64(problem.alignment[picks]) - gram @ np.float64(result.weights)
            largest = np.abs(problem.alignment).max()
            assert residual.max() <= 1e-5 * largest
            assert np.abs(residual[result.weights > 0.0]).max(initial=0.0) <= 1e-5 * largest


def test_certificate_is_sharp_against_scipy_over_the_whole_pool():
    estimates = []
    for seed in range(5):
        problem, features, anchor = make_problem(np.random.default_rng(seed))
        result = selection.select(problem, size=8)
        ratio = result.utility / best_value(features, anchor, range(len(features)))
        assert ratio - 1e-3 <= selection.certify(problem, result) <= ratio + 1e-6
        assert result.certificate <= ratio + 1e-6
        estimates.append(float(result.certificate))
    # Of pools where gradients hardly agree: it may find nothing, and mostly finds something.
    assert min(estimates) >= 0.0 and np.median(estimates) > 0.2, estimates


@pytest.mark.parametrize("coupling", ["joint", "independent", "agnostic"])
def test_certificates_know_the_coupling_the_ridge_and_candidates_that_are_left_out(coupling):
    problem, features, anchor = make_problem(np.random.default_rng(2))
    broken = np.array(problem.gram)
    broken[3], broken[:, 3] = np.nan, np.nan
    problem = dataclasses.replace(problem, gram=broken)
    options = {"coupling": coupling, "ridge": 0.1}
    result = selection.select(problem, size=8, **options)
    left = np.delete(np.arange(len(features)), 3)
    if coupling == "independent":
        domains = np.asarray(problem.domains)
        groups = [left[domains[left] == domain] for domain in np.unique(domains[left])]
    else:
        groups = [left]
    best = sum(best_value(features, anchor, group, ridge=0.1) for group in groups)
    ratio = float(result.utility) / best
    assert ratio - 2e-3 <= selection.certify(problem, result, **options) <= ratio + 1e-5
    assert 0.0 < result.certificate <= ratio + 1e-5


def test_no_certificate_where_none_is_asked_for():
    problem, _, _ = make_problem(np.random.default_rng(0))
    result = selection.select(problem, size=8)
    without = selection.select(problem, size=8, certificate=False)
    assert np.isnan(without.certificate)
    assert np.array_equal(without.indices, result.indices)
    assert np.array_equal(without.weights, result.weights)


@pytest.mark.parametrize("utility", selection.UTILITIES)
def test_nothing_that_is_missing_stops_a_search_for_nans(utility):
    problem, _, _ = make_problem(np.random.default_rng(0))
    count = len(problem.alignment)
    problem = dataclasses.replace(
        problem,
        losses=jnp.ones(count),
        nuclear_norms=jnp.ones(count),
        anchor_similarity=jnp.ones((count, 2)),
    )
    with jax.debug_nans(True):
        for certificate in (True, False):
            size = count if utility == "full" else 8
            if utility == "full":
                counts = np.bincount(problem.domains).astype(np.int32)
                problem = dataclasses.replace(problem, budgets=counts)
            result = selection.select(
                problem, size=size, utility=utility, key=jax.random.key(0), certificate=certificate
            )
            assert (result.indices >= 0).all()


def test_certificate_of_a_pool_without_any_gain_is_one():
    problem, _, _ = make_problem(np.random.default_rng(0))
    hopeless = selection.Problem(
        -np.abs(problem.alignment), problem.gram, problem.domains, problem.budgets
    )
    result = selection.select(hopeless, size=8)
    assert result.utility == 0.0 and result.certificate == 1.0
    assert np.all(result.weights == 0.0) and np.all(result.indices >= 0)


def test_greedy_picks_are_those_of_matching_pursuit_with_scipy():
    for seed in range(10):
        problem, features, anchor = make_problem(np.random.default_rng(seed))
        result = selection.select(problem, size=8)
        expected = pursuit(features, anchor, problem.domains, problem.budgets, 8)
        assert result.indices.tolist() == expected
        np.testing.assert_allclose(
            result.utility, best_value(features, anchor, expected), rtol=1e-4
        )


def test_independent_coupling_is_one_pursuit_per_domain():
    problem, features, anchor = make_problem(np.random.default_rng(3))
    result = selection.select(problem, size=8, coupling="independent")
    total = 0.0
    for domain, budget in enumerate(problem.budgets):
        members = np.flatnonzero(problem.domains == domain)
        here = pursuit(features[members], anchor, np.zeros(len(members), int), [budget], budget)
        mine = [i for i in result.indices.tolist() if problem.domains[i] == domain]
        assert mine == members[here].tolist()
        total += best_value(features[members], anchor, here)
    np.testing.assert_allclose(result.utility, total, rtol=1e-4)


def test_agnostic_coupling_is_one_pursuit_with_one_budget():
    problem, features, anchor = make_problem(np.random.default_rng(4))
    result = selection.select(problem, size=8, coupling="agnostic")
    everywhere = np.zeros(len(features), int)
    assert result.indices.tolist() == pursuit(features, anchor, everywhere, [8], 8)


@jax.jit
def draw_many(problem):
    keys = jax.random.split(jax.random.key(0), 1500)
    return jax.vmap(lambda key: selection.select(problem, size=3, rule="residual_random", key=key))(
        keys
    )


def test_residual_random_draws_uniformly_from_the_best_base():
    """With orthogonal gradients the base of round one is each domain's best by alignment."""
    alignment = jnp.array([5.0, 4.0, 3.0, 9.0, 8.0, 7.0])
    problem = selection.Problem(
        alignment, jnp.eye(6), jnp.array([0, 0, 0, 1, 1, 1]), jnp.array([2, 1])
    )
    picks = np.asarray(draw_many(problem).indices)
    assert {tuple(sorted(row)) for row in picks.tolist()} == {(0, 1, 3)}
    shares = np.bincount(picks[:, 0], minlength=6) / len(picks)
    np.testing.assert_allclose(shares, [1 / 3, 1 / 3, 0, 1 / 3, 0, 0], atol=0.05)


def test_residual_random_takes_tied_candidates_equally_often():
    problem = selection.Problem(
        jnp.zeros(6), jnp.zeros((6, 6)), jnp.array([0, 0, 0, 1, 1, 1]), jnp.array([2, 1])
    )
    picks = np.asarray(draw_many(problem).indices)
    assert all(len(set(row)) == 3 for row in picks.tolist())
    np.testing.assert_array_equal(np.sum(picks < 3, axis=1), 2)


def test_swaps_repair_a_pick_that_greedy_regrets():
    """Greedy takes the diagonal first; without it the two axes match the anchor exactly."""
    features = np.array([[1.0, 1.0, 0.6], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    problem = from_features(unit(features), np.array([1.0, 0.9, 0.0]), [0, 0, 0], [2])
    batch = jax.tree.map(lambda leaf: np.stack([leaf] * 100), padded(problem, 12, 3))
    greedy, swapped = solver(0)(batch)[0], solver(2)(batch)[0]
    assert sorted(greedy.indices[0].tolist())[:3] == [-1, -1, 0]
    assert sorted(swapped.indices[0].tolist()) == [-1, -1, 1, 2]
    np.testing.assert_allclose(swapped.utility[0], 0.5 * (1.0 + 0.81), rtol=1e-5)


def test_weights_meet_kkt_with_a_ridge():
    problem, _, _ = make_problem(np.random.default_rng(6))
    result = selection.select(problem, size=8, ridge=0.3)
    picks = np.asarray(result.indices)
    block = problem.gram[np.ix_(picks, picks)] + 0.3 * np.eye(8)
    assert kkt_residual(block, problem.alignment[picks], result.weights) <= 1e-5


def test_alignment_takes_the_best_of_every_domain_in_falling_order():
    problem, _, _ = make_problem(np.random.default_rng(7))
    result = selection.select(problem, size=8, utility="alignment")
    expected = []
    for domain, budget in enumerate(problem.budgets):
        members = np.flatnonzero(problem.domains == domain)
        expected += members[np.argsort(-problem.alignment[members])][:budget].tolist()
    expected.sort(key=lambda i: -problem.alignment[i])
    assert result.indices.tolist() == expected
    np.testing.assert_allclose(result.utility, problem.alignment[expected].sum(), rtol=1e-5)


def test_random_picks_every_candidate_equally_often():
    problem = selection.Problem(
        jnp.arange(6.0), jnp.eye(6), jnp.array([0, 0, 0, 0, 1, 1]), jnp.array([2, 1])
    )
    keys = jax.random.split(jax.random.key(0), 1500)
    run = jax.vmap(lambda key: selection.select(problem, size=3, utility="random", key=key))
    picks = np.asarray(jax.jit(run)(keys).indices)
    share = np.bincount(picks.ravel(), minlength=6) / len(picks)
    np.testing.assert_allclose(share, 0.5, atol=0.05)


def test_full_takes_the_whole_pool_in_order():
    problem, _, _ = make_problem(np.random.default_rng(8), pool_size=40, size=40)
    result = selection.select(problem, size=40, utility="full")
    assert result.indices.tolist() == list(range(40))
    assert np.all(result.weights == 1.0)
