"""What a sketch promises: linearity, unbiased inner products, the stated variance, any size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from partitionsel_jax import gradients
from partitionsel_jax.gradients import blocks, sketches, two_sided

FAMILIES = sorted(gradients.FAMILIES)
BLOCKWISE = sorted(set(FAMILIES) - {"identity", "two_sided"})
RANDOM = sorted(set(FAMILIES) - {"identity"})
SEEDS = 200


def inner_products(family, dim, pairs_Px2xD):
    """<sketch(x), sketch(y)> of every pair over many seeds, f64[SEEDS, P], one compilation."""
    pairs, _, size = pairs_Px2xD.shape

    def one(seed):
        vectors = gradients.make_sketch(family, dim, seed)(pairs_Px2xD.reshape(2 * pairs, size))
        vectors = vectors.reshape(pairs, 2, dim)
        return jnp.sum(vectors[:, 0] * vectors[:, 1], axis=-1)

    # 25 at a time: dense matrices of all the seeds at once would fill gigabytes.
    every = jax.jit(lambda seeds: jax.lax.map(one, seeds, batch_size=25))
    return np.asarray(every(jnp.arange(SEEDS)), np.float64)


def stated_variance(family, dim, x, y):
    squares = np.dot(x, x) * np.dot(y, y)
    if family == "identity":
        return 0.0
    if family == "two_sided":
        return squares * (2 * sum(two_sided.grid(dim)) + 4) / dim
    return (squares + np.dot(x, y) ** 2) / dim


def one_block():
    """Dense vectors, one spike, and a pair of spikes half a block apart: f32[3, 2, 256]."""
    rng = np.random.default_rng(0)
    pairs = np.zeros((3, 2, 256), np.float32)
    pairs[0] = rng.normal(size=(2, 256))
    pairs[0, 1] += pairs[0, 0]
    pairs[1, :, 3] = 2
    pairs[2, 0, 1] = pairs[2, 1, 129] = 1
    return pairs


def two_blocks():
    """The same coordinates of two different blocks, f32[1, 2, 2 BLOCK].

    The case that a blocked transform gets wrong unless its blocks are decorrelated.
    """
    pairs = np.zeros((1, 2, 2 * sketches.BLOCK), np.float32)
    pairs[0, 0, 0] = pairs[0, 0, 5] = 1
    pairs[0, 1, sketches.BLOCK] = pairs[0, 1, sketches.BLOCK + 5] = 1
    return pairs


def a_ragged_block():
    """Dense vectors of four coordinates more than a block holds, f32[1, 2, BLOCK + 4]."""
    pairs = np.random.default_rng(1).normal(size=(1, 2, sketches.BLOCK + 4)).astype(np.float32)
    pairs[:, :, -4:] *= 30
    return pairs


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("make_pairs", "dim"),
    [(one_block, 7), (one_block, 300), (two_blocks, 7), (a_ragged_block, 13)],
)
def test_inner_products_are_unbiased_and_within_the_stated_variance(family, make_pairs, dim):
    pairs = make_pairs()
    dim = pairs.shape[-1] if family == "identity" else dim
    for values, (x, y) in zip(inner_products(family, dim, pairs).T, pairs, strict=True):
        exact = float(np.dot(x.astype(np.float64), y))
        bound = stated_variance(family, dim, x, y)
        assert abs(values.mean() - exact) <= 4 * np.sqrt(bound / SEEDS) + 2e-6 * abs(exact) + 1e-5
        squares = (values - exact) ** 2
        assert squares.mean() <= bound + 4 * squares.std() / np.sqrt(SEEDS) + 1e-8


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("size", "dim"), [(1, 5), (33, 64), (5000, 1)])
def test_sketches_are_linear_whatever_the_sizes(family, size, dim):
    dim = size if family == "identity" else dim
    x = jax.random.normal(jax.random.key(size), (3, size))
    combined = jnp.stack([2 * x[0] - x[1], x[0], x[1]])
    sketch = gradients.make_sketch(family, dim, seed=5)
    vectors = sketch(combined)
    assert vectors.shape == (3, dim) and vectors.dtype == jnp.float32
    np.testing.assert_allclose(vectors[0], 2 * vectors[1] - vectors[2], atol=1e-4 * np.sqrt(size))
    assert np.abs(vectors).max() > 0


@pytest.mark.parametrize("family", RANDOM)
def test_the_same_seed_is_the_same_map_and_leaves_are_sketched_apart(family):
    x = jnp.ones((3, 33))
    sketch = gradients.make_sketch(family, 64, seed=3)
    np.testing.assert_array_equal(sketch(x), gradients.make_sketch(family, 64, seed=3)(x))
    assert not np.allclose(sketch(x), gradients.make_sketch(family, 64, seed=4)(x))
    two_leaves = sketch({"a": x, "b": -x})
    # Were both leaves mapped alike, equal leaves of opposite sign would cancel.
    assert np.abs(two_leaves).max() > 0.1


@pytest.mark.parametrize("family", RANDOM)
def test_a_traced_seed_gives_the_map_of_the_same_number(family):
    x = jnp.arange(99.0).reshape(3, 33)
    traced = jax.jit(jax.vmap(lambda seed: gradients.make_sketch(family, 64, seed)(x)))
    vectors = traced(jnp.arange(3))
    for seed in range(3):
        plain = gradients.make_sketch(family, 64, seed)(x)
        np.testing.assert_allclose(vectors[seed], plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_empty_leaves_and_empty_batches_are_served(family):
    sketch = gradients.make_sketch(family, 33 if family == "identity" else 64)
    assert sketch(jnp.zeros((0, 33))).shape == (0, sketch.dim)
    x = jnp.ones((3, 33))
    with_empty = sketch({"a": x, "b": jnp.zeros((3, 4, 0))})
    np.testing.assert_allclose(with_empty, sketch(x), rtol=1e-5, atol=1e-5)
    if family != "identity":
        np.testing.assert_array_equal(sketch(jnp.zeros((3, 0))), np.zeros((3, 64)))


@pytest.mark.parametrize("family", BLOCKWISE)
def test_layers_make_no_difference_to_families_that_sketch_one_long_vector(family):
    tree = {"a": jnp.arange(30.0).reshape(2, 3, 5), "b": jnp.ones((2, 4))}
    sketch = gradients.make_sketch(family, 6)
    plain = jax.make_jaxpr(lambda tree: sketch(tree))(tree)
    stacked = jax.make_jaxpr(lambda tree: sketch(tree, {"a": True, "b": False}))(tree)
    assert str(plain) == str(stacked)


def array_sizes(jaxpr):
    """Entries of every array in a jaxpr and in the ones nested in it."""
    sizes = []
    for equation in jaxpr.eqns:
        sizes += [out.aval.size for out in equation.outvars]
        nested = jax.tree.leaves(
            equation.params, is_leaf=lambda leaf: hasattr(leaf, "jaxpr") or hasattr(leaf, "eqns")
        )
        for value in nested:
            if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
                sizes += array_sizes(getattr(value, "jaxpr", value))
    return sizes


@pytest.mark.parametrize("family", RANDOM)
def test_no_array_outgrows_the_stated_bound(family):
    rows, dim = 10 * sketches.BLOCK, 90
    tree = {
        "vector": jnp.zeros((2, rows)),
        "tall": jnp.zeros((2, rows, 3)),
        "wide": jnp.zeros((2, 2, rows)),
        "layers": jnp.zeros((2, 5, rows)),
    }
    stacked = {"vector": False, "tall": False, "wide": False, "layers": True}
    gradients_size = sum(leaf.size for leaf in tree.values()) + 2 * sketches.BLOCK
    if family == "two_sided":  # leaf by leaf
        gradients_size = max(leaf.size for leaf in tree.values())
    bound = max(sketches.BLOCK * -(-dim // 32) * 32, gradients_size)
    sketch = gradients.make_sketch(family, dim)
    sizes = array_sizes(jax.make_jaxpr(lambda tree: sketch(tree, stacked))(tree).jaxpr)
    assert len(sizes) > 20
    assert max(sizes) <= bound < rows * dim


def test_identity_keeps_every_coordinate():
    tree = {"a": jnp.arange(12.0).reshape(2, 3, 2), "b": jnp.full((2,), 7.0)}
    vectors = gradients.make_sketch("identity", 7)(tree)
    np.testing.assert_array_equal(vectors, [[0, 1, 2, 3, 4, 5, 7], [6, 7, 8, 9, 10, 11, 7]])
    with pytest.raises(ValueError, match="must equal their number, 7; got dim=8"):
        gradients.make_sketch("identity", 8)(tree)


def test_rademacher_and_srht_keep_the_values_of_earlier_runs():
    # Printed by the sketches of this very input; they change only if the maps do.
    ramp, wave = np.arange(1.0, 11.0)[None, :], np.arange(5000)[None, :] % 7 - 3.0
    golden = {
        "rademacher": [[-7.5055532, -10.969655, -7.5055532], [-13.279056, 96.417496, -111.4286]],
        "srht": [[20.207258, 5.196152, 8.660254], [-102.190994, 20.207258, -129.90381]],
    }
    for family, expected in golden.items():
        sketch = gradients.make_sketch(family, 3, seed=7)
        vectors = np.concatenate([sketch(ramp), sketch(wave)])
        np.testing.assert_allclose(vectors, expected, rtol=1e-5)


def block_matrix(block, key, size, dim):
    """The map of one block as a matrix f64[size, dim], without the factor sqrt(dim)."""
    matrix = jax.jit(block, static_argnums=2)(key, jnp.eye(size), dim)
    return np.asarray(matrix, np.float64) / np.sqrt(dim)


@pytest.mark.parametrize(("dim", "nonzeros"), [(1, 1), (8, 8), (13, 1), (20, 5), (1000, 8)])
@pytest.mark.parametrize("size", [1, 64])
def test_sparse_signs_one_entry_of_every_chunk(dim, nonzeros, size):
    assert blocks.nonzeros(dim) == nonzeros
    matrix_CxM = block_matrix(blocks.sparse, jax.random.key(dim), size, dim)
    chunks_CxSxW = matrix_CxM.reshape(size, nonzeros, dim // nonzeros)
    np.testing.assert_array_equal((chunks_CxSxW != 0).sum(-1), 1)
    np.testing.assert_allclose(np.abs(chunks_CxSxW).sum(-1), 1 / np.sqrt(nonzeros), rtol=1e-6)


def test_sparse_buckets_are_shared_no_more_often_than_independent_draws():
    draws, width = 4000, 5

    # Of dim 35, s = 7: its first chunk is one CountSketch of 5 buckets.
    def first_chunk(key):
        return jnp.argmax(jnp.abs(blocks.sparse(key, jnp.eye(16), 35)[:, :width]), axis=1)

    placed = np.asarray(jax.jit(jax.vmap(first_chunk))(jax.random.split(jax.random.key(0), draws)))
    noise = 4 * np.sqrt(0.2 * 0.8 / draws)
    for coordinate in range(16):
        counts = np.bincount(placed[:, coordinate], minlength=width) / draws
        assert np.abs(counts - 1 / width).max() <= 1.3 * noise
    meet = (placed[:, :, None] == placed[:, None, :]).mean(0)
    assert meet[~np.eye(16, dtype=bool)].max() <= 1 / width + 1.3 * noise


@pytest.mark.parametrize("size", [1, 64])
def test_fft_equals_its_definition_at_frequencies_between_bins(size):
    key, dim = jax.random.key(4), 20
    matrix_CxM = block_matrix(blocks.fft, key, size, dim)
    before, rows, phases = jax.random.split(key, 3)
    period = max(size, 2)
    frequencies = 2 * np.asarray(jax.random.randint(rows, (dim,), 0, period // 2)) + 0.5
    turns = frequencies[None, :] * np.arange(size)[:, None] / period
    phase = np.asarray(jax.random.uniform(phases, (dim,), maxval=2 * jnp.pi))
    expected = np.sqrt(2 / dim) * np.cos(phase[None, :] - 2 * np.pi * turns)
    expected *= np.asarray(blocks.signs(before, (size,)))[:, None]
    np.testing.assert_allclose(matrix_CxM, expected, rtol=1e-4, atol=1e-5)


def test_fft_does_not_pair_up_coordinates_half_a_block_apart():
    # At whole frequencies the mean would be 1.5, beyond the stated bound of 1.
    dim = 40_000
    matrix_CxM = block_matrix(blocks.fft, jax.random.key(0), 64, dim) * np.sqrt(dim)
    np.testing.assert_allclose(np.mean(matrix_CxM[3] ** 2 * matrix_CxM[35] ** 2), 0.5, atol=0.02)
    np.testing.assert_allclose(np.mean(matrix_CxM[3] ** 2 * matrix_CxM[20] ** 2), 1.0, atol=0.02)


def test_walsh_hadamard_equals_its_definition():
    for size in (1, 8, 128):
        matrix = np.array([[1.0]])
        while matrix.shape[0] < size:
            matrix = np.block([[matrix, matrix], [matrix, -matrix]])
        x = np.random.default_rng(size).normal(size=(2, size)).astype(np.float32)
        np.testing.assert_allclose(
            jax.jit(blocks.walsh_hadamard)(x), x @ matrix, rtol=1e-4, atol=1e-4
        )


def test_signs_are_balanced_and_not_periodic():
    signs = np.asarray(blocks.signs(jax.random.key(0), (64, 100)))
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert abs(signs.mean()) < 4 / np.sqrt(signs.size)
    assert abs((signs[:, :32] * signs[:, 32:64]).mean()) < 4 / np.sqrt(64 * 32)


@pytest.mark.parametrize(
    ("family", "dim", "message"),
    [("gauss", 4, "unknown sketch family 'gauss'"), *((f, 0, "dim >= 1") for f in FAMILIES)],
)
def test_bad_arguments_are_refused_by_name(family, dim, message):
    with pytest.raises(ValueError, match=message):
        gradients.make_sketch(family, dim)


@pytest.mark.parametrize(
    "leaves", [{"a": jnp.ones((2, 3)), "b": jnp.ones((3, 3))}, {"a": jnp.ones(())}, {}]
)
def test_leaves_without_a_common_batch_axis_are_refused(leaves):
    with pytest.raises(ValueError, match="leading axis"):
        gradients.make_sketch("srht", 4)(leaves)


@pytest.mark.parametrize("family", ["srht", "two_sided"])
@pytest.mark.parametrize(
    ("stacked", "message"),
    [
        ({"a": True}, "structure of the gradients"),
        (True, "structure of the gradients"),
        ({"a": True, "b": 1}, "must be True or False; got 1"),
        ({"a": False, "b": True}, r"expected shape \[B, layers, ...\], got \(2,\)"),
    ],
)
def test_stacked_that_does_not_fit_the_gradients_is_refused(family, stacked, message):
    tree = {"a": jnp.ones((2, 3, 4)), "b": jnp.ones(2)}
    with pytest.raises(ValueError, match=message):
        gradients.make_sketch(family, 4)(tree, stacked)


def test_the_families_of_the_factored_path_are_families():
    assert sketches.FACTORED == ("identity", "two_sided")
    assert set(sketches.FACTORED) <= set(gradients.FAMILIES)
