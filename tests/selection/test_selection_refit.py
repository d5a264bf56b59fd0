import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls
from selection_problems import kkt_residual, unit

from partitionsel_jax.selection import refit

SIZE, DIM = 32, 64


@jax.jit
def solve(gram, target):
    zeros = jnp.zeros_like(target)
    support = refit.Support(gram, target, zeros, jnp.zeros_like(gram), jnp.zeros(SIZE, bool))
    return refit.refit(support, jnp.max(jnp.abs(target)))


def well_conditioned(rng):
    return rng.normal(size=(SIZE, DIM)), rng.normal(size=DIM)


def near_duplicates(rng):
    base = np.repeat(unit(rng.normal(size=(SIZE // 4, DIM))), 4, axis=0)
    spread = unit(rng.normal(size=(SIZE, DIM)))
    return unit(base + 0.01 * spread), rng.normal(size=DIM)


def exact_duplicates(rng):
    return np.repeat(rng.normal(size=(SIZE // 2, DIM)), 2, axis=0), rng.normal(size=DIM)


def rank_deficient(rng):
    return rng.normal(size=(SIZE, 8)), rng.normal(size=8)


def near_duplicates_rank_deficient(rng):
    base = np.repeat(unit(rng.normal(size=(SIZE // 4, 16))), 4, axis=0)
    return unit(base + 0.01 * unit(rng.normal(size=(SIZE, 16)))), rng.normal(size=16)


def zero_gradients(rng):
    features = rng.normal(size=(SIZE, DIM))
    features[::5] = 0.0
    return features, rng.normal(size=DIM)


def narrow_cluster(rng):
    anchor = rng.normal(size=DIM)
    return unit(anchor + 0.05 * rng.normal(size=(SIZE, DIM))), anchor


CASES = [
    well_conditioned,
    near_duplicates,
    exact_duplicates,
    rank_deficient,
    near_duplicates_rank_deficient,
    zero_gradients,
    narrow_cluster,
]


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_refit_meets_kkt_and_equals_scipy_nnls(case, scale):
    for seed in range(10):
        features, anchor = case(np.random.default_rng(seed))
        features, anchor = np.float32(features), np.float32(anchor * scale)
        gram, target = features @ features.T, features @ anchor
        support = solve(gram, target)
        assert kkt_residual(gram, target, support.weights) <= 1e-5
        exact, _ = nnls(features.T.astype(np.float64), anchor.astype(np.float64), maxiter=10_000)
        value = 0.5 * exact @ target.astype(np.float64)
        np.testing.assert_allclose(refit.utility(support), value, rtol=1e-4)


def test_refit_equals_scipy_nnls_in_the_weights_where_they_are_unique():
    for seed in range(20):
        features, anchor = well_conditioned(np.random.default_rng(seed))
        features, anchor = np.float32(features), np.float32(anchor)
        support = solve(features @ features.T, features @ anchor)
        exact, _ = nnls(features.T.astype(np.float64), anchor.astype(np.float64))
        np.testing.assert_allclose(support.weights, exact, atol=1e-4 * exact.max())


def test_refit_from_a_spoilt_inverse_renews_it():
    features, anchor = well_conditioned(np.random.default_rng(0))
    features, anchor = np.float32(features), np.float32(anchor)
    support = solve(features @ features.T, features @ anchor)
    noise = np.random.default_rng(1).normal(size=(SIZE, SIZE)).astype(np.float32)
    spoilt = refit.Support(
        support.gram, support.target, support.weights * 0.5, noise @ noise.T, support.passive
    )
    again = jax.jit(refit.refit)(spoilt, jnp.max(jnp.abs(support.target)))
    assert kkt_residual(support.gram, support.target, again.weights) <= 1e-5


def test_release_leaves_a_valid_warm_start():
    features, anchor = well_conditioned(np.random.default_rng(2))
    features, anchor = np.float32(features), np.float32(anchor)
    support = solve(features @ features.T, features @ anchor)
    slot = int(np.argmax(support.weights))
    released = jax.jit(refit.release)(support, slot)
    assert released.weights[slot] == 0.0 and not released.passive[slot]
    inside = np.flatnonzero(released.passive)
    block = np.asarray(support.gram)[np.ix_(inside, inside)]
    inverse = np.asarray(released.inverse)[np.ix_(inside, inside)]
    np.testing.assert_allclose(inverse @ block, np.eye(len(inside)), atol=1e-4)
