"""The contract of `select`, over the whole registry and a table of edge cases."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from selection_problems import (
    ANCHORS,
    CHOICES,
    DOMAINS,
    POOL,
    SIZE,
    Oracle,
    check_contract,
    full_problem,
    hamilton,
    name_of,
    padded,
    solve,
)

from partitionsel_jax import selection
from partitionsel_jax.selection import selector

FIELDS = ("alignment", "gram", "domains", "losses", "anchor_similarity", "norms")
FIELDS += ("reference_losses", "nuclear_norms", "novelty")


def replaced(problem, **changes):
    """The problem on copies of its arrays, of which some are other ones."""
    fields = {name: np.array(getattr(problem, name)) for name in FIELDS} | changes
    return dataclasses.replace(problem, **fields)


def plain(problem):
    return problem


def zero_gradients(problem):
    keep = np.arange(POOL) % 2
    # The zeros of what points away from the anchor are negative ones.
    return replaced(
        problem,
        alignment=problem.alignment * keep,
        gram=problem.gram * np.outer(keep, keep),
        anchor_similarity=problem.anchor_similarity * keep[:, None],
        norms=problem.norms * keep,
    )


def all_zero(problem):
    return replaced(problem, **{name: np.zeros_like(getattr(problem, name)) for name in GRADIENTS})


def duplicates(problem):
    twin = np.arange(POOL) // 4 * 4
    fields = {name: getattr(problem, name)[twin] for name in FIELDS if name != "domains"}
    return replaced(problem, **(fields | {"gram": problem.gram[np.ix_(twin, twin)]}))


def ties(problem):
    ones = np.ones(POOL, np.float32)
    return replaced(
        problem,
        alignment=ones,
        gram=np.eye(POOL, dtype=np.float32),
        losses=ones,
        reference_losses=0.5 * ones,
        norms=ones,
        nuclear_norms=ones,
        novelty=ones,
        anchor_similarity=np.ones((POOL, ANCHORS), np.float32),
    )


def no_gain(problem):
    return replaced(
        problem,
        alignment=-np.abs(problem.alignment),
        anchor_similarity=-np.abs(problem.anchor_similarity),
    )


def empty_domain(problem):
    domains = np.minimum(problem.domains, 1)
    budgets = hamilton(np.bincount(domains, minlength=DOMAINS), SIZE)
    return dataclasses.replace(replaced(problem, domains=domains), budgets=budgets)


def not_a_number(problem):
    return broken(problem, np.nan)


def infinity(problem):
    return broken(problem, np.inf)


def broken(problem, value, fields=FIELDS):
    """Candidates 0 and 5 as a gradient or a loss that is not finite leaves them."""
    changed = replaced(problem)
    for name in set(fields) - {"domains"}:
        getattr(changed, name)[[0, 5]] = value
        if name == "gram":
            changed.gram[:, [0, 5]] = value
    return changed


def broken_loss(problem):
    return broken(problem, np.nan, ["losses"])


def broken_reference(problem):
    return broken(problem, -np.inf, ["reference_losses"])


def broken_norm(problem):
    return broken(problem, np.nan, ["norms"])


def broken_novelty(problem):
    return broken(problem, np.nan, ["novelty"])


def broken_similarity(problem):
    changed = replaced(problem)
    changed.anchor_similarity[5, 1] = np.nan
    return changed


def broken_anchor(problem):
    """One anchor's gradient is not finite, nor is one candidate's."""
    changed = broken(problem, np.nan)
    changed.anchor_similarity[:, 1] = np.nan
    return changed


def broken_anchors(problem):
    return replaced(problem, anchor_similarity=np.full_like(problem.anchor_similarity, np.nan))


def broken_pool(problem):
    return replaced(problem, alignment=np.full_like(problem.alignment, np.nan))


def padding(problem):
    """Rows that hold tempting values, and some that hold broken ones."""
    changed = replaced(problem)
    changed.domains[-6:] = -1
    for name in set(FIELDS) - {"domains", "reference_losses"}:
        getattr(changed, name)[-6:-3] = 100.0
        getattr(changed, name)[-3:] = np.nan
    changed.gram[:, -6:] = changed.gram[-6:].T
    counts = np.bincount(changed.domains[:-6], minlength=DOMAINS)
    return dataclasses.replace(changed, budgets=hamilton(counts, SIZE))


def scarce(problem):
    """A domain of one candidate with a budget of five."""
    changed = replaced(problem, domains=np.minimum(problem.domains + 1, 2))
    changed.domains[3] = 0
    return dataclasses.replace(changed, budgets=np.array([SIZE, 0, 0], np.int32))


GRADIENTS = tuple(name for name in FIELDS if name != "domains")
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
    broken_loss,
    broken_reference,
    broken_norm,
    broken_novelty,
    broken_similarity,
    broken_anchor,
    broken_anchors,
    broken_pool,
    padding,
    scarce,
]


def generic(seed=0):
    return full_problem(np.random.default_rng(seed))


# Transport is slow to check, and gradient matching's oracle follows exact weights only.
SCORED = [
    choice
    for choice in CHOICES
    if choice[0] not in ("random", "full", "fair_transport") and choice[3] == "exact"
]


@pytest.mark.parametrize("choice", CHOICES, ids=name_of)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_contract_holds_for(case, choice):
    problem = case(generic())
    picks = check_contract(problem, choice, solve(problem, choice))
    if choice in SCORED:
        oracle = Oracle(problem, *choice[:2])
        assert oracle.regret(picks, choice[2]) <= 1e-5


@pytest.mark.parametrize("choice", [c for c in SCORED if c[2] == "greedy"], ids=name_of)
@pytest.mark.parametrize("case", [ties, all_zero], ids=lambda case: case.__name__)
def test_ties_go_to_the_lowest_index_for(case, choice):
    problem = case(generic())
    expected = Oracle(problem, *choice[:2]).greedy(SIZE)
    assert solve(problem, choice).indices.tolist() == expected


def test_zeros_of_either_sign_tie():
    """In a pool of zeros the base of round one is the lowest index, whatever the sign."""
    signs = np.where(np.arange(POOL) % 3 == 0, -0.0, 0.0).astype(np.float32)
    problem = replaced(all_zero(generic()), alignment=signs, losses=signs, norms=signs)
    problem = replaced(problem, nuclear_norms=signs, novelty=signs)
    problem = replaced(problem, reference_losses=np.zeros(POOL, np.float32))
    problem = replaced(problem, domains=np.arange(POOL, dtype=np.int32) % 2)
    problem = dataclasses.replace(problem, budgets=np.array([SIZE, 0, 0], np.int32))
    for choice in SCORED:
        if choice[1] == "joint":
            picks = solve(problem, choice).indices
            assert sorted(picks.tolist()) == [0, 2, 4, 6, 8] or choice[2] != "greedy", choice
    # Each round's base is what the budget leaves of the lowest indices.
    choice = ("gradient_matching", "joint", "residual_random", "exact")
    for key in range(20):
        picks = solve(problem, choice, key=key).indices
        assert sorted(picks.tolist()) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("choice", CHOICES, ids=name_of)
@pytest.mark.parametrize("fields", [FIELDS, *((name,) for name in FIELDS if name != "domains")])
def test_broken_candidates_leave_the_others_untouched_by(fields, choice):
    problem = generic()
    absent = replaced(problem)
    absent.domains[[0, 5]] = -1
    corrupted = solve(broken(problem, np.nan, fields), choice)
    clean = solve(absent, choice)
    assert corrupted.indices.tolist() == clean.indices.tolist()
    np.testing.assert_array_equal(corrupted.weights, clean.weights)
    np.testing.assert_array_equal(corrupted.utility, clean.utility)
    assert corrupted.dropped == 2 and clean.dropped == 0


@pytest.mark.parametrize("utility", ["anchor_coverage", "fair_transport"])
def test_a_broken_anchor_is_as_if_it_were_not_there(utility):
    for seed in range(3):
        problem = generic(seed)
        corrupted = replaced(problem)
        corrupted.anchor_similarity[:, 1] = np.nan
        fewer = replaced(problem, anchor_similarity=np.delete(problem.anchor_similarity, 1, axis=1))
        choice = (utility, "joint", "greedy", "exact")
        result, expected = solve(corrupted, choice), solve(fewer, choice)
        assert result.indices.tolist() == expected.indices.tolist()
        np.testing.assert_allclose(result.utility, expected.utility, rtol=1e-4)
        assert result.dropped == 0


def test_a_broken_gram_row_drops_its_own_candidate_only():
    problem = generic()
    changed = broken(problem, np.nan, ["gram"])
    result = selection.select(changed, size=SIZE)
    assert result.dropped == 2
    assert np.all(result.indices >= 0) and not {0, 5} & set(result.indices.tolist())


def test_one_broken_gram_entry_drops_both_of_its_candidates_only():
    problem = generic()
    first, second = selection.select(problem, size=SIZE).indices[:2].tolist()
    changed = replaced(problem)
    changed.gram[first, second] = changed.gram[second, first] = np.inf
    result = selection.select(changed, size=SIZE)
    assert result.dropped == 2
    assert not {first, second} & set(result.indices.tolist())


@pytest.mark.parametrize("choice", [c for c in CHOICES if c[0] != "random"], ids=name_of)
def test_permuting_the_pool_permutes_the_picks_of(choice):
    problem = generic(1)
    order = np.random.default_rng(2).permutation(POOL)
    shuffled = replaced(problem, **{name: getattr(problem, name)[order] for name in FIELDS})
    shuffled = replaced(shuffled, gram=problem.gram[np.ix_(order, order)])
    result, again = solve(problem, choice), solve(shuffled, choice)
    if choice[0] == "full":
        assert sorted(order[again.indices]) == result.indices.tolist()
    else:
        # Once the anchors are covered, the other candidates tie, and ties go by the index.
        useful = ANCHORS - 1 if choice[0] == "anchor_coverage" else SIZE
        assert order[again.indices[:useful]].tolist() == result.indices[:useful].tolist()
        np.testing.assert_allclose(again.utility, result.utility, rtol=1e-4)
    scale = result.weights.max()
    np.testing.assert_allclose(again.weights, result.weights, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("choice", CHOICES, ids=name_of)
@pytest.mark.parametrize("factor", [2.0**-10, 2.0**10])
def test_scaling_features_changes_no_pick_of(factor, choice):
    problem, factor = generic(3), np.float32(factor)
    pool_only = replaced(
        problem,
        alignment=problem.alignment * factor,
        gram=problem.gram * factor**2,
        anchor_similarity=problem.anchor_similarity * factor,
        norms=problem.norms * factor,
    )
    anchors_too = replaced(
        pool_only,
        alignment=pool_only.alignment * factor,
        anchor_similarity=pool_only.anchor_similarity * factor,
    )
    result = solve(problem, choice)
    assert solve(anchors_too, choice).indices.tolist() == result.indices.tolist()
    # `taylor` takes a step along the pool's gradients: one as much shorter as they are longer.
    step = {"step_scale": 1.0 / factor} if choice[0] == "taylor" else {}
    scaled = solve(pool_only, choice, **step)
    assert scaled.indices.tolist() == result.indices.tolist()
    if selection.UTILITIES[choice[0]].refits:
        np.testing.assert_allclose(scaled.weights, result.weights / factor, rtol=1e-4)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_scaling_alignment_or_features_changes_no_pick_of_gradient_matching(factor):
    problem, factor = generic(3), np.float32(factor)
    longer = replaced(problem, alignment=problem.alignment * factor)
    larger = replaced(longer, gram=problem.gram * factor**2)
    result, longer, larger = (
        selection.select(each, size=SIZE) for each in (problem, longer, larger)
    )
    assert longer.indices.tolist() == larger.indices.tolist() == result.indices.tolist()
    np.testing.assert_allclose(longer.weights, result.weights * factor, rtol=1e-4)
    np.testing.assert_allclose(larger.weights, result.weights / factor, rtol=1e-4)


# What reads the Gram matrix, and one each of what does not.
WITH_FEATURES = [
    ("gradient_matching", "joint", "greedy", "exact"),
    ("gradient_matching", "independent", "residual_random", "exact"),
    ("gradient_matching", "independent", "greedy", "published"),
    ("taylor", "joint", "residual_random", "exact"),
    ("taylor", "independent", "greedy", "exact"),
    ("grad_norm", "independent", "greedy", "exact"),
    *(
        (utility, "agnostic", "greedy", "exact")
        for utility in ("anchor_coverage", "fair_transport", "alignment")
    ),
    *((utility, "agnostic", "greedy", "exact") for utility in ("loss", "uds", "random", "full")),
]


@pytest.mark.parametrize("choice", WITH_FEATURES, ids=name_of)
def test_features_in_place_of_the_gram_matrix_give_the_same_picks_by(choice):
    for seed in range(4):
        features = np.random.default_rng(seed).normal(size=(POOL, 8))
        features = features if seed % 2 else features.round(1)
        problem = full_problem(np.random.default_rng(seed), features)
        problem = dataclasses.replace(problem, norms=None) if choice[0] == "grad_norm" else problem
        factored = dataclasses.replace(problem, gram=None, features=np.float32(features))
        if seed == 3:
            problem.gram[2], problem.gram[:, 2] = np.inf, np.inf
            factored.features[2, 1] = np.inf
        result, again = solve(problem, choice), solve(factored, choice)
        assert again.indices.tolist() == result.indices.tolist()
        assert again.dropped == result.dropped == (seed == 3)
        np.testing.assert_allclose(again.weights, result.weights, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(again.utility, result.utility, rtol=1e-4)


def test_swaps_give_the_same_picks_with_features():
    for coupling in ("joint", "independent"):
        features = np.random.default_rng(8).normal(size=(POOL, 4))
        problem = full_problem(np.random.default_rng(8), features)
        factored = dataclasses.replace(problem, gram=None, features=np.float32(features))
        result, again, plain = (
            selection.select(each, size=SIZE, swaps=swaps, coupling=coupling)
            for each, swaps in ((problem, 2), (factored, 2), (problem, 0))
        )
        assert again.indices.tolist() == result.indices.tolist()
        assert result.utility >= plain.utility


def test_slots_stay_empty_only_when_no_feasible_candidate_is_left():
    problem = replaced(generic(4), domains=np.where(np.arange(POOL) < 3, 0, -1))
    for utility in selection.UTILITIES:
        if utility != "full":
            result = solve(problem, (utility, "agnostic", "greedy", "exact"))
            assert sorted(result.indices[:3].tolist()) == [0, 1, 2]
            assert result.indices[3:].tolist() == [-1] * (SIZE - 3)


def test_keys_decide_random_picks():
    for choice in CHOICES:
        if choice[0] == "random" or choice[2] == "residual_random":
            first, again = (solve(generic(5), choice, key=0).indices.tolist() for _ in range(2))
            others = [solve(generic(5), choice, key=key).indices.tolist() for key in (1, 2, 3)]
            assert first == again and any(first != other for other in others)


def test_a_key_that_nothing_draws_from_costs_no_compilation():
    problem = generic(6)
    selection.select(problem, size=SIZE)
    before = selector._select._cache_size()
    selection.select(problem, size=SIZE, key=jax.random.key(0))
    assert selector._select._cache_size() == before


def test_repeated_calls_compile_once():
    selection.select(generic(6), size=SIZE)
    before = selector._select._cache_size()
    for seed, ridge in ((7, 0), (8, 0.5), (9, jnp.float32(0.1))):
        selection.select(generic(seed), size=SIZE, ridge=ridge)
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
