import jax
import jax.numpy as jnp
import numpy as np
import pytest
from selection_problems import make_problem

from partitionsel_jax.selection import diagnostics


def picked():
    problem, features, anchor = make_problem(np.random.default_rng(0), dim=8)
    indices = jnp.array([3, 17, 5, 30, -1, -1])
    weights = jnp.array([1.0, 2.0, 0.5, 0.0, 0.0, 0.0])
    return problem, features, anchor, indices, weights


def test_effective_sample_size_counts_equal_weights_and_ignores_scale():
    size = jax.jit(diagnostics.effective_sample_size)
    np.testing.assert_allclose(size(jnp.array([2.0, 2.0, 2.0, 0.0])), 3.0)
    np.testing.assert_allclose(size(jnp.array([1e-30, 3e-30, 0.0, 0.0])), 1.6, rtol=1e-6)
    assert size(jnp.zeros(4)) == 0.0


def test_conflicting_pairs_are_those_of_a_double_loop():
    problem, features, _, indices, _ = picked()
    picks = [i for i in indices.tolist() if i >= 0]
    pairs = [(i, j) for n, i in enumerate(picks) for j in picks[n + 1 :]]
    expected = sum(features[i] @ features[j] < 0 for i, j in pairs)
    count, share = jax.jit(diagnostics.conflicting_pairs)(problem.gram, indices)
    assert 0 < expected < len(pairs)
    assert count == expected
    np.testing.assert_allclose(share, expected / len(pairs), rtol=1e-6)


def test_redundancy_is_the_mean_pairwise_cosine_whatever_the_norms():
    problem, features, _, indices, _ = picked()
    picks = [i for i in indices.tolist() if i >= 0]
    cosine = features[picks] @ features[picks].T
    expected = cosine[np.triu_indices(len(picks), 1)].mean()
    norms = np.linspace(0.1, 3.0, len(features), dtype=np.float32)
    redundancy = jax.jit(diagnostics.redundancy)
    np.testing.assert_allclose(redundancy(problem.gram, indices), expected, rtol=1e-4)
    scaled = problem.gram * np.outer(norms, norms)
    np.testing.assert_allclose(redundancy(scaled, indices), expected, rtol=1e-4)


def test_matching_cosine_is_that_of_the_weighted_sum():
    problem, features, anchor, indices, weights = picked()
    total = np.asarray(weights[:4]) @ features[indices[:4]]
    expected = total @ anchor / np.linalg.norm(total) / np.linalg.norm(anchor)
    cosine = jax.jit(diagnostics.matching_cosine)(
        problem.gram, problem.alignment, indices, weights, jnp.linalg.norm(anchor)
    )
    np.testing.assert_allclose(cosine, expected, rtol=1e-4)


def test_domain_mix_counts_picks_and_no_padding():
    domains = jnp.array([0, 1, 1, 2, 0])
    assert diagnostics.domain_mix(domains, jnp.array([1, 2, 4, -1]), 4).tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize("indices", [[-1, -1], [2, -1]])
def test_fewer_than_two_picks_have_no_pairs(indices):
    problem, *_ = picked()
    count, share = diagnostics.conflicting_pairs(problem.gram, jnp.array(indices))
    assert count == 0 and share == 0.0
    assert diagnostics.redundancy(problem.gram, jnp.array(indices)) == 0.0


def test_matching_cosine_of_nothing_is_zero():
    problem, *_ = picked()
    indices = jnp.array([-1, -1])
    cosine = diagnostics.matching_cosine(
        problem.gram, problem.alignment, indices, jnp.zeros(2), jnp.float32(1.0)
    )
    assert cosine == 0.0
