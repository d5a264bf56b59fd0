import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from selection_problems import best_value, make_problem, unit

from partitionsel_jax import selection
from partitionsel_jax.selection import diagnostics

INDICES = [3, 17, 5, 30, -1, -1]
WEIGHTS = [1.0, 2.0, 0.5, 0.25, 0.0, 0.0]
# Submodularity: pools of one size, and sets of one size by padding, share a compilation.
POOL, SET = 12, 8


def picked():
    problem, features, anchor = make_problem(np.random.default_rng(0), dim=8)
    return problem, features, anchor, jnp.array(INDICES), jnp.array(WEIGHTS)


def pick_pairs(indices):
    return list(itertools.combinations([i for i in indices if i >= 0], 2))


@jax.jit
def quick_diagnostics(problem, anchor_norm, indices, weights):
    """name -> value, of one selection, but for the ratio that takes seconds to compile."""
    gram, alignment, domains = problem.gram, problem.alignment, problem.domains
    return {
        "effective_sample_size": diagnostics.effective_sample_size(weights),
        "conflicting_pairs": diagnostics.conflicting_pairs(gram, indices)[0],
        "conflicting_share": diagnostics.conflicting_pairs(gram, indices)[1],
        "conflicting_weight": diagnostics.conflicting_weight(gram, indices, weights),
        "redundancy": diagnostics.redundancy(gram, indices),
        "matching_cosine": diagnostics.matching_cosine(
            gram, alignment, indices, weights, anchor_norm
        ),
        "domain_mix": diagnostics.domain_mix(domains, indices, 3),
        "top_k_overlap": diagnostics.top_k_overlap(alignment, domains, problem.budgets, indices),
    }


@jax.jit
def every_diagnostic(problem, anchor_norm, indices, weights):
    values = quick_diagnostics(problem, anchor_norm, indices, weights)
    values["submodularity_ratio"] = diagnostics.submodularity_ratio(
        problem.gram, problem.alignment, indices, size=2, ridge=0.1
    )
    return values


def assert_agree(got, expected, but=()):
    assert got.keys() == expected.keys()
    for name in got.keys() - set(but):
        np.testing.assert_allclose(got[name], expected[name], 1e-4, 1e-6, err_msg=name)


def test_effective_sample_size_counts_equal_weights_and_ignores_scale():
    size = jax.jit(diagnostics.effective_sample_size)
    np.testing.assert_allclose(size(jnp.array([2.0, 2.0, 2.0, 0.0])), 3.0)
    np.testing.assert_allclose(size(jnp.array([1e-30, 3e-30, 0.0, 0.0])), 1.6, rtol=1e-6)
    np.testing.assert_allclose(size(jnp.array([1e30, 3e30, 0.0, 0.0])), 1.6, rtol=1e-6)
    assert size(jnp.array([0.0, 7.0, 0.0, 0.0])) == 1.0
    assert size(jnp.zeros(4)) == 0.0


def test_conflicting_pairs_are_those_of_a_double_loop():
    problem, features, _, indices, _ = picked()
    pairs = pick_pairs(INDICES)
    expected = sum(features[i] @ features[j] < 0 for i, j in pairs)
    count, share = jax.jit(diagnostics.conflicting_pairs)(problem.gram, indices)
    assert 0 < expected < len(pairs)
    assert count == expected
    np.testing.assert_allclose(share, expected / len(pairs), rtol=1e-6)


def test_conflicting_weight_is_that_of_a_double_loop_whatever_the_scales():
    problem, features, _, indices, weights = picked()
    w = dict(zip(INDICES, WEIGHTS, strict=True))
    pairs = pick_pairs(INDICES)
    against = sum(w[i] * w[j] for i, j in pairs if features[i] @ features[j] < 0)
    expected = against / sum(w[i] * w[j] for i, j in pairs)
    share = jax.jit(diagnostics.conflicting_weight)
    for scale in (1.0, 1e-30, 1e30):
        np.testing.assert_allclose(share(problem.gram, indices, scale * weights), expected, 1e-6)
    for scale in (1e-20, 1e20):
        np.testing.assert_allclose(share(scale * problem.gram, indices, weights), expected, 1e-6)


def test_conflicting_weight_of_equal_weights_is_the_share_of_pairs():
    problem, _, _, indices, _ = picked()
    _, share = jax.jit(diagnostics.conflicting_pairs)(problem.gram, indices)
    conflicting_weight = jax.jit(diagnostics.conflicting_weight)
    weighted = conflicting_weight(problem.gram, indices, jnp.full(6, 0.3))
    np.testing.assert_allclose(weighted, share, rtol=1e-6)
    weights = np.float32([0.1, 0.2, 0.3, 0.7, 0.9])
    opposed = np.full((5, 5), -1.0, np.float32)
    assert conflicting_weight(opposed, np.arange(5), weights) == 1.0
    assert conflicting_weight(-opposed, np.arange(5), weights) == 0.0


def test_conflicts_of_no_weight_weigh_nothing():
    opposed = np.float32([[1.0, -1.0], [-1.0, 1.0]])
    conflicting_weight = jax.jit(diagnostics.conflicting_weight)
    for weights in ([0.0, 0.0], [3.0, 0.0]):
        assert conflicting_weight(opposed, np.arange(2), np.float32(weights)) == 0.0


def test_redundancy_is_the_mean_pairwise_cosine_whatever_the_norms():
    problem, features, _, indices, _ = picked()
    picks = [i for i in INDICES if i >= 0]
    cosine = features[picks] @ features[picks].T
    expected = cosine[np.triu_indices(len(picks), 1)].mean()
    norms = np.geomspace(1e-9, 1e9, len(features), dtype=np.float32)
    redundancy = jax.jit(diagnostics.redundancy)
    np.testing.assert_allclose(redundancy(problem.gram, indices), expected, rtol=1e-4)
    scaled = problem.gram * np.outer(norms, norms)
    np.testing.assert_allclose(redundancy(scaled, indices), expected, rtol=1e-4)


def test_redundancy_of_copies_is_one_and_of_zero_gradients_zero():
    redundancy = jax.jit(diagnostics.redundancy)
    for norm in np.linspace(0.1, 2.0, 20, dtype=np.float32):
        assert 1.0 - 1e-6 <= redundancy(np.full((5, 5), norm**2), np.arange(5)) <= 1.0
    assert redundancy(np.diag(np.float32([4.0, 0.0, 0.0, 0.0, 0.0])), np.arange(5)) == 0.0


def test_matching_cosine_is_that_of_the_weighted_sum_whatever_the_scales():
    problem, features, anchor, indices, weights = picked()
    total = np.asarray(weights[:4]) @ features[INDICES[:4]]
    expected = total @ anchor / np.linalg.norm(total) / np.linalg.norm(anchor)
    norm = jnp.linalg.norm(anchor)
    cosine = jax.jit(diagnostics.matching_cosine)
    for of_weights, of_features, of_anchor in itertools.product((1e-6, 1.0, 1e6), repeat=3):
        got = cosine(
            of_features**2 * problem.gram,
            of_features * of_anchor * problem.alignment,
            indices,
            of_weights * weights,
            of_anchor * norm,
        )
        np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_matching_cosine_is_zero_where_either_vector_is():
    problem, _, _, indices, weights = picked()
    cosine = jax.jit(diagnostics.matching_cosine)
    gram, alignment = problem.gram, problem.alignment
    assert cosine(gram, alignment, indices, jnp.zeros(6), 1.0) == 0.0
    assert cosine(gram, alignment, jnp.full(6, -1), jnp.zeros(6), 1.0) == 0.0
    assert cosine(0.0 * gram, 0.0 * alignment, indices, weights, 1.0) == 0.0
    assert cosine(gram, 0.0 * alignment, indices, weights, 0.0) == 0.0


def test_domain_mix_counts_picks_and_no_padding():
    domains = jnp.array([0, 1, 1, 2, 0])
    domain_mix = jax.jit(diagnostics.domain_mix, static_argnums=2)
    assert domain_mix(domains, jnp.array([1, 2, 4, -1]), 4).tolist() == [1, 2, 0, 0]
    assert domain_mix(domains, jnp.full(4, -1), 4).tolist() == [0, 0, 0, 0]


def test_top_k_overlap_is_the_share_that_each_domains_top_would_have_taken():
    overlap = jax.jit(diagnostics.top_k_overlap)
    shares = set()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        problem, *_ = make_problem(rng)
        order = np.argsort(-problem.alignment, kind="stable")
        top = set()
        for domain, budget in enumerate(problem.budgets):
            top |= set(order[problem.domains[order] == domain][:budget].tolist())
        indices = rng.choice(np.sort(order[:20]), 8, replace=False)
        indices[rng.integers(0, 8)] = -1
        expected = len(top & set(indices.tolist())) / 7
        got = overlap(problem.alignment, problem.domains, problem.budgets, indices)
        np.testing.assert_allclose(got, expected, rtol=1e-6)
        shares.add(expected)
    assert len(shares) > 3


@pytest.mark.parametrize("coupling", ["joint", "agnostic"])
def test_top_k_overlap_of_top_k_itself_is_one(coupling):
    problem, *_ = picked()
    domains, budgets = problem.domains.copy(), problem.budgets
    alignment = np.round(problem.alignment, 1)
    domains[[2, 11]] = -1
    alignment[[2, 4, 11]] = [np.inf, np.nan, 9.0]
    assert len(set(alignment.tolist())) < len(alignment) - 10, "ties"
    pool = selection.Problem(alignment, problem.gram, domains, budgets)
    result = selection.select(pool, size=8, utility="alignment", coupling=coupling)
    if coupling == "agnostic":
        domains, budgets = np.where(domains < 0, -1, 0), np.array([8])
    overlap = jax.jit(diagnostics.top_k_overlap)
    assert overlap(alignment, domains, budgets, result.indices) == 1.0
    # Whoever is not in it brings the share down by one pick.
    other = next(n for n in range(40) if n not in result.indices.tolist())
    changed = np.asarray(result.indices).copy()
    changed[3] = other
    assert overlap(alignment, domains, budgets, changed) == 7 / 8


def test_top_k_overlap_takes_no_broken_candidate():
    alignment = jnp.array([0.1, jnp.nan, jnp.inf, 0.2])
    zeros, budget = jnp.zeros(4, jnp.int32), jnp.array([2])
    overlap = jax.jit(diagnostics.top_k_overlap)
    assert overlap(alignment, zeros, budget, jnp.array([0, 3])) == 1.0
    assert overlap(alignment, zeros, budget, jnp.array([1, 2])) == 0.0


def test_top_k_overlap_of_no_picks_is_zero():
    problem, *_ = picked()
    overlap = jax.jit(diagnostics.top_k_overlap)
    none = np.full(8, -1)
    assert overlap(problem.alignment, problem.domains, problem.budgets, none) == 0.0


@jax.jit
def ratio(gram, alignment, indices, ridge=0.0):
    return diagnostics.submodularity_ratio(gram, alignment, indices, ridge=ridge)


@jax.jit
def ratio_up_to_2(gram, alignment, indices):
    return diagnostics.submodularity_ratio(gram, alignment, indices, size=2)


def small_set(seed, dim=10, count=SET, spread=None):
    """float32 features of a pool, an anchor near their mean, and `count` indices, padded."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(POOL, dim))
    if spread is not None:
        features[POOL // 2 :] = features[: POOL // 2] + spread * rng.normal(size=(POOL // 2, dim))
    features = np.float32(unit(features) * rng.uniform(0.5, 2.0, (POOL, 1)))
    anchor = np.float32(rng.normal(size=dim) + 2.0 * features.mean(axis=0))
    indices = np.full(SET, -1)
    indices[rng.choice(SET, count, replace=False)] = rng.choice(POOL, count, replace=False)
    return features, anchor, indices


def moments(features, anchor):
    return features @ features.T, features @ anchor


def ratio_by_definition(features, anchor, indices, size):
    """The definition, subset by subset, on SciPy's non-negative least squares in float64."""
    features, anchor = np.float64(features), np.float64(anchor)
    picks = [int(i) for i in indices if i >= 0]
    subsets = [
        frozenset(s) for n in range(len(picks) + 1) for s in itertools.combinations(picks, n)
    ]
    value = {s: best_value(features, anchor, sorted(s)) if s else 0.0 for s in subsets}
    smallest = 1.0
    for base, added in itertools.product(subsets, subsets):
        joint_gain = value[base | added] - value[base]
        if base & added or len(added) > size or joint_gain <= 1e-7 * value[frozenset(picks)]:
            continue
        single_gains = sum(value[base | {j}] - value[base] for j in added)
        smallest = min(smallest, single_gains / joint_gain)
    return smallest


@pytest.mark.parametrize(
    ("count", "dim", "spread"),
    [(8, 10, None), (8, 5, None), (5, 10, None), (6, 16, 0.03), (8, 10, 0.0)],
)
def test_submodularity_ratio_is_that_of_its_definition(count, dim, spread):
    below = 0
    for seed in range(4):
        features, anchor, indices = small_set(seed, dim, count, spread)
        expected = ratio_by_definition(features, anchor, indices, SET)
        got = ratio(*moments(features, anchor), indices)
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=1e-5)
        below += expected < 0.95
    assert below >= 2


def test_submodularity_ratio_of_limited_size_is_that_of_its_definition():
    differ = 0
    for seed in range(4):
        features, anchor, indices = small_set(seed, count=6)
        expected = ratio_by_definition(features, anchor, indices, 2)
        got = ratio_up_to_2(*moments(features, anchor), indices)
        np.testing.assert_allclose(got, expected, rtol=2e-4)
        differ += got > ratio(*moments(features, anchor), indices) + 1e-3
    assert differ >= 1


def test_submodularity_ratio_of_two_opposed_gradients_is_the_eigenvalue_bound():
    # Each alone gains 1/2; together 1 / (1 + c): the ratio is 1 + c, the smallest eigenvalue.
    for cosine in (-0.9, -0.5, -0.1):
        gram = np.eye(POOL, dtype=np.float32)
        gram[3, 7] = gram[7, 3] = cosine
        indices = np.array([-1, 7, -1, -1, 3, -1, -1, -1])
        got = ratio(gram, np.ones(POOL, np.float32), indices)
        np.testing.assert_allclose(got, 1.0 + cosine, rtol=1e-5)


def test_submodularity_ratio_is_never_below_the_smallest_eigenvalue_nor_above_one():
    near = 0
    for seed, ridge in itertools.product(range(25), (0.0, 0.3)):
        features, anchor, indices = small_set(seed)
        gram, alignment = moments(features, anchor)
        block = np.float64(features @ features.T)[np.ix_(indices, indices)] + ridge * np.eye(SET)
        norms = np.sqrt(np.diagonal(block))
        smallest = np.linalg.eigvalsh(block / np.outer(norms, norms))[0]
        got = float(ratio(gram, alignment, indices, ridge))
        assert smallest - 1e-5 <= got <= 1.0
        near += got < 10.0 * smallest
    assert near >= 5


def test_ridge_of_the_submodularity_ratio_is_added_to_the_diagonal():
    gram, alignment = moments(*small_set(2)[:2])
    indices = small_set(2)[2]
    expected = ratio(gram + np.float32(0.5) * np.eye(POOL, dtype=np.float32), alignment, indices)
    assert abs(expected - ratio(gram, alignment, indices)) > 0.01
    np.testing.assert_allclose(ratio(gram, alignment, indices, 0.5), expected, rtol=1e-5)


def test_submodularity_ratio_of_orthogonal_gradients_is_one():
    rng = np.random.default_rng(0)
    gram = np.diag(rng.uniform(0.1, 10.0, POOL)).astype(np.float32)
    alignment = np.float32(rng.normal(size=POOL))
    np.testing.assert_allclose(ratio(gram, alignment, np.arange(SET)), 1.0, rtol=1e-5)


def test_submodularity_ratio_ignores_the_scale_of_gradients_and_of_the_anchor():
    features, anchor, indices = small_set(2)
    expected = ratio(*moments(features, anchor), indices)
    assert expected < 0.9
    norms = np.geomspace(1e-6, 1e6, POOL, dtype=np.float32)[:, None]
    for scaled, scale in ((features, 1e-12), (features, 1e12), (norms * features, 1.0)):
        got = ratio(*moments(scaled, np.float32(scale * anchor)), indices)
        np.testing.assert_allclose(got, expected, rtol=1e-3)


def test_submodularity_ratio_where_nothing_gains_is_one():
    features, anchor, indices = small_set(0)
    gram, alignment = moments(features, anchor)
    single = np.array([4, *[-1] * (SET - 1)])
    assert ratio(gram, alignment, np.full(SET, -1)) == 1.0
    assert ratio(gram, alignment, single) == 1.0
    assert ratio(gram, -np.abs(alignment), indices) == 1.0
    assert ratio(gram, 0.0 * alignment, indices) == 1.0
    assert ratio(0.0 * gram, 0.0 * alignment, indices) == 1.0
    assert diagnostics.submodularity_ratio(gram, alignment, np.arange(0)) == 1.0


def test_zero_gradients_leave_the_submodularity_ratio_alone():
    features, anchor, indices = small_set(2, count=6)
    expected = ratio(*moments(features, anchor), indices)
    unpicked = np.setdiff1d(np.arange(POOL), indices)[:2]
    features[unpicked] = 0.0
    indices[indices < 0] = unpicked
    assert expected < 0.95
    np.testing.assert_allclose(ratio(*moments(features, anchor), indices), expected, rtol=1e-5)


def test_submodularity_ratio_of_a_broken_pick_is_nan():
    features, anchor, indices = small_set(0)
    features[indices[3]] = np.nan
    assert np.isnan(ratio(*moments(features, anchor), indices))


@pytest.mark.parametrize("indices", [[], [-1, -1], [2, -1]], ids=["empty", "padding", "one pick"])
def test_fewer_than_two_picks_have_no_pairs(indices):
    problem, *_ = picked()
    indices, weights = np.array(indices, np.int32), np.ones(len(indices), np.float32)
    count, share = jax.jit(diagnostics.conflicting_pairs)(problem.gram, indices)
    assert count == 0 and share == 0.0
    assert jax.jit(diagnostics.redundancy)(problem.gram, indices) == 0.0
    assert jax.jit(diagnostics.conflicting_weight)(problem.gram, indices, weights) == 0.0


def test_every_diagnostic_reads_neither_padding_nor_the_unpicked():
    problem, _, anchor, indices, weights = picked()
    gram, alignment = problem.gram.copy(), problem.alignment.copy()
    # The last candidate is among them, whom an index of -1 would read.
    unpicked = np.setdiff1d(np.arange(40), INDICES)
    gram[unpicked], gram[:, unpicked], alignment[unpicked] = np.nan, np.nan, np.nan
    corrupted = selection.Problem(alignment, gram, problem.domains, problem.budgets)
    norm = np.linalg.norm(anchor)
    expected = every_diagnostic(problem, norm, indices, weights)
    got = every_diagnostic(corrupted, norm, indices, weights)
    assert_agree(got, expected, but=["top_k_overlap"])


def test_every_diagnostic_is_the_same_under_vmap_and_shard_map():
    problem, _, anchor, _, _ = picked()
    rng = np.random.default_rng(1)
    indices = np.stack([rng.permutation(40)[:6] for _ in range(8)])
    indices[::2, 4:] = -1
    weights = np.float32(np.where(indices >= 0, rng.uniform(0.1, 2.0, indices.shape), 0.0))
    norm = np.linalg.norm(anchor)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    whole, rows = PartitionSpec(), PartitionSpec("data")
    mapped = jax.shard_map(
        jax.vmap(every_diagnostic, in_axes=(None, None, 0, 0)),
        mesh=mesh,
        in_specs=(whole, whole, rows, rows),
        out_specs=rows,
    )
    got = jax.jit(mapped)(problem, norm, indices, weights)
    assert len(np.unique(got["submodularity_ratio"])) == 8
    for row in range(8):
        expected = every_diagnostic(problem, norm, indices[row], weights[row])
        assert_agree({name: values[row] for name, values in got.items()}, expected)


def test_diagnostics_are_the_same_from_features():
    problem, features, anchor, indices, weights = picked()
    gram, positions = jax.jit(diagnostics.block_of_picks)(np.float32(features), indices)
    expected = np.where(np.outer(*[indices >= 0] * 2), problem.gram[np.ix_(indices, indices)], 0.0)
    np.testing.assert_allclose(gram, expected, atol=1e-6)
    assert positions.tolist() == [0, 1, 2, 3, -1, -1]
    block = selection.Problem(
        alignment=problem.alignment[indices],
        gram=gram,
        domains=problem.domains[indices],
        budgets=problem.budgets,
    )
    norm = np.linalg.norm(anchor)
    got = quick_diagnostics(block, norm, positions, weights)
    expected = quick_diagnostics(problem, norm, indices, weights)
    # Overlap compares with candidates that the block does not hold.
    assert_agree(got, expected, but=["top_k_overlap"])


GRAM, ALIGNMENT, DOMAINS = np.eye(9), np.ones(9), np.zeros(9, int)


def test_relative_error_is_that_of_the_frobenius_norm_whatever_the_scale():
    rng = np.random.default_rng(0)
    exact, off = rng.normal(size=(2, 6, 6))
    for scale in (1.0, 1e-30, 1e30):
        found = diagnostics.relative_error(scale * (exact + 0.1 * off), scale * exact)
        truth = 0.1 * np.linalg.norm(off) / np.linalg.norm(exact)
        np.testing.assert_allclose(found, truth, rtol=1e-5)
    assert diagnostics.relative_error(exact, exact) == 0.0
    assert diagnostics.relative_error(np.zeros(3), np.zeros(3)) == 0.0
    assert diagnostics.relative_error(np.ones(3), np.zeros(3)) == np.inf


def test_relative_error_leaves_out_what_has_no_truth_and_hides_no_broken_estimate():
    exact = np.array([1.0, np.nan, 2.0])
    assert diagnostics.relative_error(np.array([1.0, 7.0, 2.0]), exact) == 0.0
    assert diagnostics.relative_error(np.array([1.0, np.nan, 2.0]), exact) == 0.0
    assert diagnostics.relative_error(np.array([1.0, 7.0, np.nan]), exact) == np.inf
    assert np.isnan(diagnostics.relative_error(np.ones(1), np.full(1, np.nan)))
    with pytest.raises(ValueError, match=r"one shape, got \(3,\) and \(2,\)"):
        diagnostics.relative_error(np.ones(3), np.ones(2))


@pytest.mark.parametrize(
    ("indices", "reference", "share"),
    [
        ([3, 1, 2], [1, 2, 3], 1.0),
        ([3, 1], [1, 9], 0.5),
        ([-1, 4], [-1, 5], 0.0),
        ([-1], [-1], 1.0),
    ],
)
def test_pick_overlap_is_the_share_of_the_reference_that_is_picked(indices, reference, share):
    found = jax.jit(diagnostics.pick_overlap)(jnp.array(indices), jnp.array(reference))
    assert found == share


BAD_CALLS = {
    "gram of no square": (
        lambda: diagnostics.redundancy(np.ones((9, 4)), np.arange(2)),
        r"gram must have shape \[N, N\], got \(9, 4\)",
    ),
    "pool indices into a block": (
        lambda: diagnostics.conflicting_pairs(np.eye(3), np.array([1, 7, -1])),
        r"indices must lie in \[-1, 3\) .* from -1 to 7; pass the positions",
    ),
    "indices below -1": (
        lambda: diagnostics.block_of_picks(np.eye(9), np.array([-2])),
        r"indices must lie in \[-1, 9\)",
    ),
    "a mask for indices": (
        lambda: diagnostics.domain_mix(DOMAINS, np.ones(9, bool), 1),
        r"indices must be i32\[K\], got bool",
    ),
    "weights of the pool": (
        lambda: diagnostics.conflicting_weight(GRAM, np.arange(4), np.ones(9)),
        r"weights must have one entry per index, got shapes \(9,\) and \(4,\)",
    ),
    "a weight to broadcast": (
        lambda: diagnostics.matching_cosine(GRAM, ALIGNMENT, np.arange(4), np.ones(1), 1.0),
        r"weights must have one entry per index",
    ),
    "alignment of the pool with a block": (
        lambda: diagnostics.submodularity_ratio(np.eye(4), ALIGNMENT, np.arange(4)),
        r"alignment must have shape \(4,\).* pass alignment\[indices\]",
    ),
    "alignment of other length than domains": (
        lambda: diagnostics.top_k_overlap(ALIGNMENT[:5], DOMAINS, np.array([2]), np.arange(2)),
        r"alignment must have shape \(9,\)",
    ),
    "a set too large": (
        lambda: diagnostics.submodularity_ratio(GRAM, ALIGNMENT, np.arange(9)),
        r"indices must be at most 8.* got 9",
    ),
    "size 0": (
        lambda: diagnostics.submodularity_ratio(GRAM, ALIGNMENT, np.arange(4), size=0),
        r"size must be a Python integer >= 1",
    ),
    "a negative ridge": (
        lambda: diagnostics.submodularity_ratio(GRAM, ALIGNMENT, np.arange(4), ridge=-1.0),
        r"ridge must be >= 0, as in select, got -1.0",
    ),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_what_does_not_fit_together_is_refused(case):
    call, message = BAD_CALLS[case]
    with pytest.raises(ValueError, match=message):
        call()
