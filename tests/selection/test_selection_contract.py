"""The contract of `select`, over the whole registry and a table of edge cases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from selection_problems import hamilton, make_problem, padded

from partitionsel_jax import selection
from partitionsel_jax.selection import selector

POOL, DOMAINS, SIZE = 40, 3, 8

CHOICES = [
    (utility, coupling, rule)
    for utility, entry in selection.UTILITIES.items()
    for coupling in selection.COUPLINGS
    for rule in (selection.RULES if entry.refits else ["greedy"])
]


def replaced(problem, **changes):
    fields = {name: np.array(getattr(problem, name)) for name in ("alignment", "gram", "domains")}
    return selection.Problem(**(fields | {"budgets": problem.budgets} | changes))


def plain(problem):
    return problem


def zero_gradients(problem):
    keep = np.arange(POOL) % 2
    return replaced(
        problem, alignment=problem.alignment * keep, gram=problem.gram * np.outer(keep, keep)
    )


def all_zero(problem):
    return replaced(
        problem, alignment=np.zeros(POOL, np.float32), gram=np.zeros((POOL, POOL), np.float32)
    )


def duplicates(problem):
    twin = np.arange(POOL) // 4 * 4
    return replaced(
        problem, alignment=problem.alignment[twin], gram=problem.gram[np.ix_(twin, twin)]
    )


def ties(problem):
    return replaced(
        problem, alignment=np.ones(POOL, np.float32), gram=np.eye(POOL, dtype=np.float32)
    )


def no_gain(problem):
    return replaced(problem, alignment=-np.abs(problem.alignment))


def empty_domain(problem):
    domains = np.minimum(problem.domains, 1)
    return replaced(
        problem, domains=domains, budgets=hamilton(np.bincount(domains, minlength=DOMAINS), SIZE)
    )


def not_a_number(problem):
    return broken(problem, np.nan)


def infinity(problem):
    return broken(problem, np.inf)


def broken(problem, value):
    """Candidates 0 and 5 as a gradient with entries that are not finite leaves them."""
    changed = replaced(problem)
    changed.alignment[[0, 5]] = value
    for i in (0, 5):
        changed.gram[i], changed.gram[:, i] = value, value
    return changed


def padding(problem):
    changed = replaced(problem)
    changed.domains[-10:] = -1
    changed.alignment[-10:] = 100.0
    counts = np.bincount(changed.domains[:-10], minlength=DOMAINS)
    return replaced(changed, budgets=hamilton(counts, SIZE))


CASES = [
    plain,
    zero_gradients,
    all_zero,
    duplicates,
    ties,
    no_gain,
    empty_domain,
    not_a_number,
    infinity,
    padding,
]


def solve(problem, utility, coupling, rule):
    size = SIZE
    if selection.UTILITIES[utility].takes_all:
        size = POOL
        counts = np.bincount(np.maximum(problem.domains, 0), minlength=DOMAINS)
        problem = replaced(problem, budgets=counts.astype(np.int32))
    return selection.select(
        problem,
        size=size,
        utility=utility,
        coupling=coupling,
        rule=rule,
        key=jax.random.key(0),
    )


@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_contract_holds_for(case, choice):
    utility, coupling, _ = choice
    problem = case(make_problem(np.random.default_rng(0), POOL, DOMAINS, SIZE)[0])
    result = jax.tree.map(np.asarray, solve(problem, *choice))
    picks = result.indices[result.indices >= 0]
    sound = np.isfinite(problem.alignment) & (problem.domains >= 0)
    assert result.indices.dtype == np.int32 and result.weights.dtype == np.float32
    assert len(set(picks.tolist())) == len(picks)
    assert sound[picks].all()
    assert np.all(np.isfinite(result.weights)) and np.all(result.weights >= 0.0)
    assert np.all(result.weights[result.indices < 0] == 0.0)
    assert result.dropped == np.sum(~np.isfinite(problem.alignment))
    if not selection.UTILITIES[utility].takes_all:
        assert len(picks) == SIZE
        if coupling != "agnostic":
            mix = np.bincount(problem.domains[picks], minlength=DOMAINS)
            assert np.all(mix <= problem.budgets)
    else:
        assert len(picks) == sound.sum()
    if utility == "gradient_matching":
        assert np.isfinite(result.utility) and 0.0 <= result.certificate <= 1.0
    else:
        assert np.all(result.weights[result.indices >= 0] == 1.0)
        assert np.isnan(result.certificate)
        assert np.isnan(result.utility) == (utility != "alignment")


@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_broken_candidates_leave_the_others_untouched_by(choice):
    problem, _, _ = make_problem(np.random.default_rng(0), POOL, DOMAINS, SIZE)
    absent = replaced(problem)
    absent.domains[[0, 5]] = -1
    spoilt = solve(broken(problem, np.nan), *choice)
    clean = solve(absent, *choice)
    assert spoilt.indices.tolist() == clean.indices.tolist()
    np.testing.assert_array_equal(spoilt.weights, clean.weights)
    assert spoilt.dropped == 2 and clean.dropped == 0


def test_a_broken_gram_row_drops_its_own_candidate_only():
    problem, _, _ = make_problem(np.random.default_rng(0), POOL, DOMAINS, SIZE)
    changed = broken(problem, np.nan)
    changed.alignment[:] = problem.alignment
    result = selection.select(changed, size=SIZE)
    assert result.dropped == 2
    assert np.all(result.indices >= 0) and not {0, 5} & set(result.indices.tolist())


def test_one_broken_gram_entry_drops_both_of_its_candidates_only():
    problem, _, _ = make_problem(np.random.default_rng(0), POOL, DOMAINS, SIZE)
    first, second = selection.select(problem, size=SIZE).indices[:2].tolist()
    changed = replaced(problem)
    changed.gram[first, second] = changed.gram[second, first] = np.inf
    result = selection.select(changed, size=SIZE)
    assert result.dropped == 2
    assert not {first, second} & set(result.indices.tolist())


@pytest.mark.parametrize("coupling", list(selection.COUPLINGS))
@pytest.mark.parametrize("utility", ["gradient_matching", "alignment"])
def test_permuting_the_pool_permutes_the_picks(utility, coupling):
    problem, _, _ = make_problem(np.random.default_rng(1), POOL, DOMAINS, SIZE)
    order = np.random.default_rng(2).permutation(POOL)
    shuffled = selection.Problem(
        problem.alignment[order],
        problem.gram[np.ix_(order, order)],
        problem.domains[order],
        problem.budgets,
    )
    result = solve(problem, utility, coupling, "greedy")
    again = solve(shuffled, utility, coupling, "greedy")
    assert order[again.indices].tolist() == result.indices.tolist()
    np.testing.assert_allclose(again.weights, result.weights, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_scaling_alignment_or_features_changes_no_pick(factor):
    problem, _, _ = make_problem(np.random.default_rng(3), POOL, DOMAINS, SIZE)
    factor = np.float32(factor)
    result = selection.select(problem, size=SIZE)
    longer = selection.select(replaced(problem, alignment=problem.alignment * factor), size=SIZE)
    larger = selection.select(
        replaced(problem, alignment=problem.alignment * factor, gram=problem.gram * factor**2),
        size=SIZE,
    )
    assert longer.indices.tolist() == larger.indices.tolist() == result.indices.tolist()
    np.testing.assert_allclose(longer.weights, result.weights * factor, rtol=1e-4)
    np.testing.assert_allclose(larger.weights, result.weights / factor, rtol=1e-4)


def test_slots_stay_empty_only_when_no_feasible_candidate_is_left():
    problem, _, _ = make_problem(np.random.default_rng(4), POOL, DOMAINS, SIZE)
    scarce = replaced(problem, domains=np.where(np.arange(POOL) < 3, 0, -1).astype(np.int32))
    result = selection.select(scarce, size=SIZE, coupling="agnostic")
    assert sorted(result.indices.tolist()) == [-1] * 5 + [0, 1, 2]
    assert result.indices[3:].tolist() == [-1] * 5


def test_keys_decide_random_picks():
    problem, _, _ = make_problem(np.random.default_rng(5), POOL, DOMAINS, SIZE)
    for options in ({"utility": "random"}, {"rule": "residual_random"}):
        first, again, other = (
            selection.select(problem, size=SIZE, key=jax.random.key(seed), **options).indices
            for seed in (0, 0, 1)
        )
        assert first.tolist() == again.tolist() != other.tolist()


def test_a_key_that_nothing_draws_from_costs_no_compilation():
    problem, _, _ = make_problem(np.random.default_rng(6), POOL, DOMAINS, SIZE)
    selection.select(problem, size=SIZE)
    before = selector._select._cache_size()
    selection.select(problem, size=SIZE, key=jax.random.key(0))
    assert selector._select._cache_size() == before


def test_repeated_calls_compile_once():
    problem, _, _ = make_problem(np.random.default_rng(6), POOL, DOMAINS, SIZE)
    selection.select(problem, size=SIZE)
    before = selector._select._cache_size()
    for seed, ridge in ((7, 0), (8, 0.5), (9, jnp.float32(0.1))):
        other, _, _ = make_problem(np.random.default_rng(seed), POOL, DOMAINS, SIZE)
        selection.select(other, size=SIZE, ridge=ridge)
    assert selector._select._cache_size() == before


def random_problem(rng, largest, domain_count, size):
    """A pool of 1 to `largest` candidates: some zero, some twice, some domains empty, some ties."""
    pool_size = int(rng.integers(1, largest + 1))
    dim = int(rng.integers(1, 20))
    features = rng.normal(size=(pool_size, dim)).round(int(rng.integers(0, 3)))
    features[rng.random(pool_size) < 0.2] = 0.0
    features = features[rng.integers(0, pool_size, pool_size)] if rng.random() < 0.5 else features
    features, anchor = np.float32(features), np.float32(rng.normal(size=dim))
    domains = rng.integers(0, rng.integers(1, domain_count + 1), pool_size).astype(np.int32)
    counts = np.bincount(domains, minlength=domain_count)
    problem = selection.Problem(
        features @ anchor, features @ features.T, domains, hamilton(counts, size)
    )
    return padded(problem, largest, domain_count)


@pytest.mark.parametrize(
    "rule, largest, domain_count, size, batches",
    [
        ("residual_random", 12, 3, 4, 7),
        ("greedy", 300, 6, 24, 2),
        ("greedy", 1, 1, 1, 1),
    ],
)
def test_budgets_are_filled_and_never_exceeded_on_random_problems(
    rule, largest, domain_count, size, batches
):
    rng = np.random.default_rng(0)
    run = jax.jit(jax.vmap(functools.partial(selection.select, size=size, rule=rule)))
    for batch in range(batches):
        problems = [random_problem(rng, largest, domain_count, size) for _ in range(100)]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *problems)
        keys = jax.random.split(jax.random.key(batch), 100)
        result = jax.tree.map(np.asarray, run(stacked, key=keys))
        assert np.all(np.isfinite(result.weights)) and np.all(result.weights >= 0.0)
        for problem, indices in zip(problems, result.indices, strict=True):
            picks = indices[indices >= 0]
            mix = np.bincount(problem.domains[picks], minlength=domain_count)
            assert len(set(picks.tolist())) == len(picks)
            # The budgets add up to no more than the pool holds, so every one is met exactly.
            np.testing.assert_array_equal(mix, problem.budgets)
