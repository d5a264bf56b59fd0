"""What a sketch promises: linearity, unbiased inner products, the stated variance, any size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from partitionsel_jax import gradients
from partitionsel_jax.gradients import sketches

FAMILIES = sorted(gradients.FAMILIES)
SEEDS = 200


def inner_products(family, dim, x, y):
    """<sketch(x), sketch(y)> over many seeds, one compilation."""

    def one(seed):
        vectors = gradients.make_sketch(family, dim, seed)(jnp.stack([x, y]))
        return jnp.dot(vectors[0], vectors[1])

    return np.asarray(jax.jit(jax.vmap(one))(jnp.arange(SEEDS)), np.float64)


def pairs():
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(2, 300)).astype(np.float32)
    dense[1] += dense[0]
    # Coordinate 0 of two different blocks: the case that a blocked transform gets wrong unless
    # its blocks are decorrelated.
    spikes = np.zeros((2, 2 * sketches.BLOCK), np.float32)
    spikes[0, 0] = spikes[0, 5] = spikes[1, sketches.BLOCK] = spikes[1, sketches.BLOCK + 5] = 1
    same_spike = np.zeros((2, 70), np.float32)
    same_spike[:, 3] = 2.0
    return {"dense": dense, "spikes in two blocks": spikes, "one spike": same_spike}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", pairs())
@pytest.mark.parametrize("dim", [7, 300])
def test_inner_products_are_unbiased_and_within_the_stated_variance(family, name, dim):
    x, y = pairs()[name]
    values = inner_products(family, dim, x, y)
    exact = float(np.dot(x.astype(np.float64), y))
    bound = (np.dot(x, x) * np.dot(y, y) + exact**2) / dim
    error = np.sqrt(bound / SEEDS)
    assert abs(values.mean() - exact) <= 4 * error + 1e-5
    # The variance estimate of 200 draws is itself noisy: 4 standard errors of a kurtosis up to 10.
    assert values.var() <= bound * (1 + 4 * np.sqrt(10 / SEEDS)) + 1e-8


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("size", "dim"), [(1, 1), (1, 5), (33, 64), (5000, 5)])
def test_sketches_are_linear_whatever_the_sizes(family, size, dim):
    x = jax.random.normal(jax.random.key(size), (3, size))
    combined = jnp.stack([2 * x[0] - x[1], x[0], x[1]])
    sketch = gradients.make_sketch(family, dim, seed=5)
    vectors = sketch({"a": combined})
    assert vectors.shape == (3, dim) and vectors.dtype == jnp.float32
    np.testing.assert_allclose(vectors[0], 2 * vectors[1] - vectors[2], atol=1e-4 * np.sqrt(size))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_is_the_same_map_and_leaves_are_sketched_apart(family):
    x = jnp.ones((2, 40))
    sketch = gradients.make_sketch(family, 16, seed=3)
    np.testing.assert_array_equal(sketch(x), gradients.make_sketch(family, 16, seed=3)(x))
    assert not np.allclose(sketch(x), gradients.make_sketch(family, 16, seed=4)(x))
    two_leaves = sketch({"a": x, "b": -x})
    # Were both leaves mapped alike, equal leaves of opposite sign would cancel.
    assert np.abs(two_leaves).max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_empty_leaves_and_empty_batches_are_served(family):
    sketch = gradients.make_sketch(family, 4)
    assert sketch(jnp.zeros((0, 10))).shape == (0, 4)
    np.testing.assert_array_equal(sketch(jnp.zeros((3, 0))), np.zeros((3, 4)))


def test_walsh_hadamard_equals_its_definition():
    for size in (1, 2, 8, 64, 128):
        matrix = np.array([[1.0]])
        while matrix.shape[0] < size:
            matrix = np.block([[matrix, matrix], [matrix, -matrix]])
        x = np.random.default_rng(size).normal(size=(2, size)).astype(np.float32)
        np.testing.assert_allclose(sketches.walsh_hadamard(x), x @ matrix, rtol=1e-4, atol=1e-4)


def test_signs_are_balanced_and_not_periodic():
    signs = np.asarray(sketches._signs(jax.random.key(0), (64, 100)))
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert abs(signs.mean()) < 4 / np.sqrt(signs.size)
    assert np.abs(signs[:, :32] * signs[:, 32:64]).mean() == 1
    assert abs((signs[:, :32] * signs[:, 32:64]).mean()) < 4 / np.sqrt(64 * 32)


@pytest.mark.parametrize(
    ("family", "dim", "message"),
    [("gauss", 4, "unknown sketch family 'gauss'"), ("srht", 0, "dim >= 1")],
)
def test_bad_arguments_are_refused_by_name(family, dim, message):
    with pytest.raises(ValueError, match=message):
        gradients.make_sketch(family, dim)


def test_leaves_that_disagree_about_the_batch_are_refused():
    with pytest.raises(ValueError, match="leading axis"):
        gradients.make_sketch("srht", 4)({"a": jnp.ones((2, 3)), "b": jnp.ones((3, 3))})
