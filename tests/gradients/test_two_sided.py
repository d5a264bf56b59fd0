"""What the two-sided sketch promises: its matrices, its rule for every leaf, its variance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from partitionsel_jax import gradients
from partitionsel_jax.gradients import two_sided
from partitionsel_jax.gradients.two_sided import BLOCK, Side

SEEDS = 200


@functools.partial(jax.jit, static_argnums=(1, 2))
def rows_of(key, count, width):
    return Side(key, count, width).rows(0, count)


def every_row(signs):
    """The matrix, f32[size, width]."""
    if signs.key is None:
        return np.eye(signs.size)
    # Row i depends on (key, i) alone: compiled once for all the small sizes.
    matrix = np.asarray(rows_of(signs.key, max(100, signs.size), signs.width))[: signs.size]
    return matrix if signs.scale is None else matrix * np.asarray(signs.scale)[:, None]


def test_the_grid_is_the_smallest_near_square_that_holds_m_products():
    for dim in range(1, 200):
        k_in, k_out = two_sided.grid(dim)
        assert (k_in - 1) ** 2 < dim <= k_in**2
        assert k_in * (k_out - 1) < dim <= k_in * k_out


@pytest.mark.parametrize("width", [1, 45])
def test_rows_are_the_same_wherever_they_are_looked_up(width):
    signs = Side(jax.random.key(3), 50, width)
    matrix = np.asarray(signs.rows(0, 50))
    assert matrix.shape == (50, width) and set(np.unique(matrix)) == {-1.0, 1.0}
    rows = jnp.array([[7, 0, 49], [7, 7, 3]])
    np.testing.assert_array_equal(signs.at(rows), matrix[np.asarray(rows)])
    traced = jax.jit(lambda signs, start: signs.rows(start, 9))(signs, 20)
    np.testing.assert_array_equal(traced, matrix[20:29])
    # Row i depends on (key, i) alone, not on how many rows there are.
    np.testing.assert_array_equal(Side(signs.key, 9, width).rows(0, 9), matrix[:9])


def test_a_scale_multiplies_the_rows():
    signs = Side(jax.random.key(0), 6, 5)
    scaled = Side(signs.key, 6, 5, scale=jnp.arange(1.0, 7.0))
    matrix = every_row(signs) * np.arange(1.0, 7.0)[:, None]
    np.testing.assert_array_equal(scaled.rows(1, 4), matrix[1:5])
    np.testing.assert_array_equal(scaled.at(jnp.array([[5], [1]])), matrix[[[5], [1]]])
    x = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    np.testing.assert_allclose(scaled.apply(x), x @ matrix, rtol=1e-5, atol=1e-5)


def test_rows_are_independent_of_each_other_and_of_those_of_other_keys():
    first, second = (every_row(Side(jax.random.key(seed), 400, 40)) for seed in (0, 1))
    for gram in (first @ first.T / 40, first @ second.T / 40, first.T @ first / 400):
        # Off the diagonal, products of signs: mean 0, variance one over their number.
        off = gram - np.diag(np.diag(gram))
        count = 400 if gram.shape[0] == 40 else 40
        pairs = gram.shape[0] ** 2 / 2
        np.testing.assert_allclose(np.mean(off**2), 1 / count, rtol=0.05 + 6 / np.sqrt(pairs))


def test_the_two_sides_of_a_square_matrix_are_independent():
    assert two_sided.columns((100, 100), 100) == (10, 10)
    left, right = map(every_row, two_sided.sides(jax.random.key(0), (100, 100), 100))
    assert left.shape == right.shape == (100, 10)
    assert abs(np.mean(left * right)) <= 4 / np.sqrt(left.size)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [0, BLOCK, 2 * BLOCK + 3])
def test_apply_is_the_product_with_the_matrix(size, dtype):
    signs = Side(jax.random.key(size), size, 5)
    x = jax.random.normal(jax.random.key(1), (2, 3, size)).astype(dtype)
    expected = np.asarray(x, np.float64) @ every_row(signs).astype(np.float64)
    # Signs are exact in bfloat16 and sums are float32: only the input is rounded.
    tolerance = 1e-6 * max(size, 1) ** 0.5 * 3
    product = jax.jit(lambda x: signs.apply(x))(x)
    assert product.dtype == jnp.float32 and product.shape == (2, 3, 5)
    np.testing.assert_allclose(product, expected, rtol=1e-5, atol=tolerance)
    other_axis = jax.jit(lambda x: signs.apply(x, axis=1))(jnp.moveaxis(x, 2, 1))
    np.testing.assert_allclose(other_axis, expected, rtol=1e-5, atol=tolerance)


def test_apply_refuses_another_size():
    with pytest.raises(ValueError, match=r"x must have 4 entries along axis -1.*\(2, 3\)"):
        Side(jax.random.key(0), 4, 2).apply(jnp.ones((2, 3)))


def numpy_sketch(sketch, leaves, stacked, dim):
    """The definition: S_in^T G S_out for every matrix, dense signs for vectors, summed up."""
    total = 0
    for number, (leaf, layered) in enumerate(zip(leaves, stacked, strict=True)):
        leaf = np.asarray(leaf, np.float64)
        for layer in range(leaf.shape[1] if layered else 1):
            key = jax.random.fold_in(sketch.leaf_key(number), layer)
            part = leaf[:, layer] if layered else leaf
            batch = part.shape[0]
            if part.ndim <= 2:
                part = part.reshape(batch, -1)
                total += part @ every_row(Side(key, part.shape[1], dim))
                continue
            part = part.reshape(batch, -1, part.shape[-1])
            matrices = [every_row(side) for side in two_sided.sides(key, part.shape[1:], dim)]
            products = np.einsum("bio,ik,ol->bkl", part, *matrices).reshape(batch, -1)[:, :dim]
            signs = [width for width in two_sided.columns(part.shape[1:], dim) if width]
            # Over the root of the number of products that estimate the same thing.
            products *= np.sqrt(dim / (dim if len(signs) == 2 else signs[0]))
            total += np.pad(products, ((0, 0), (0, dim - products.shape[1])))
    return total / np.sqrt(dim)


def test_a_short_side_is_kept_whole_where_that_costs_less_variance():
    # Rank 16 of an adapter in 1,024 products: one side exact, 64 columns on the other.
    assert two_sided.columns((576, 16), 1024) == (64, None)
    assert two_sided.columns((16, 1536), 1024) == (None, 64)
    assert two_sided.columns((576, 1536), 1024) == (32, 32)
    for dim in (1, 2, 7, 100, 1000):
        for short in range(1, 80):
            k_in, k_out = two_sided.grid(dim)
            both = (2 * k_in + 2 * k_out + 4) / dim
            wide = dim // short
            whole = two_sided.columns((short, 80), dim) == (None, wide)
            assert whole == (wide > 0 and 2 / wide <= both)
            assert whole or two_sided.columns((short, 80), dim) == (k_in, k_out)


def test_a_side_kept_whole_answers_as_the_identity_does():
    scale = jnp.arange(1.0, 5.0)
    for side, matrix in ((Side(None, 4, 4), np.eye(4)), (Side(None, 4, 4, scale), np.diag(scale))):
        np.testing.assert_array_equal(side.rows(1, 2), matrix[1:3])
        np.testing.assert_array_equal(side.at(jnp.array([[3], [0]])), matrix[[[3], [0]]])
        x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
        expected = np.moveaxis(x, 1, -1) @ matrix
        np.testing.assert_allclose(side.apply(x, axis=1), expected, rtol=1e-6)
        assert side.width == 4


def mixed_tree():
    shapes = {
        "a scalar": (2,),
        "a vector": (2, 9),
        "layers of matrices": (2, 3, 5, 7),
        "layers of scalars": (2, 4),
        "layers of tensors": (2, 2, 3, 4, 6),
        "layers of vectors": (2, 3, 9),
        "matrix": (2, 70, 3),
        "tensor": (2, 5, 2, 3),
        "wide matrix": (2, 3, 70),
    }
    rng = np.random.default_rng(0)
    tree = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return tree, {name: name.startswith("layers") for name in tree}


@pytest.mark.parametrize("dim", [1, 7, 36])
def test_the_sketch_of_a_tree_is_the_sum_of_its_definition(dim):
    tree, stacked = mixed_tree()
    sketch = gradients.make_sketch("two_sided", dim, seed=8)
    expected = numpy_sketch(sketch, tree.values(), stacked.values(), dim)
    np.testing.assert_allclose(sketch(tree, stacked), expected, rtol=1e-4, atol=1e-4)


def test_sides_longer_than_a_block_follow_the_definition_too():
    rng = np.random.default_rng(0)
    tall = rng.normal(size=(2, BLOCK + 5, 2)).astype(np.float32)
    vector = rng.normal(size=(2, BLOCK + 5)).astype(np.float32)
    sketch = gradients.make_sketch("two_sided", 10, seed=1)
    leaves = [tall, tall.swapaxes(1, 2), vector]
    expected = numpy_sketch(sketch, leaves, [False] * 3, 10)
    np.testing.assert_allclose(sketch(leaves), expected, rtol=1e-4, atol=1e-3)


def test_bfloat16_gradients_are_sketched_without_further_loss():
    x = jax.random.normal(jax.random.key(0), (2, 3, 40, 30)).astype(jnp.bfloat16)
    sketch = gradients.make_sketch("two_sided", 50)
    vectors = sketch(x, True)
    assert vectors.dtype == jnp.float32
    np.testing.assert_allclose(vectors, sketch(x.astype(jnp.float32), True), rtol=1e-4, atol=1e-4)


def test_layers_and_leaves_have_signs_of_their_own():
    sketch = gradients.make_sketch("two_sided", 16)
    x = jnp.ones((1, 6, 5))
    opposite, half = jnp.stack([x, -x], axis=1), jnp.stack([x, 0 * x], axis=1)
    # Were layers or leaves mapped alike, these would cancel.
    assert np.abs(sketch(opposite, True)).max() > 0.1
    assert np.abs(sketch([x, -x])).max() > 0.1
    # Layer 0 has the signs of the same leaf unstacked.
    np.testing.assert_allclose(sketch(half, True), sketch([x, 0 * x]), rtol=1e-6, atol=1e-6)


def test_the_program_does_not_grow_with_the_number_of_layers():
    def lines(layers):
        tree = jnp.zeros((2, layers, 6, 5))
        sketch = gradients.make_sketch("two_sided", 16)
        return len(str(jax.make_jaxpr(lambda tree: sketch(tree, True))(tree)).splitlines())

    assert lines(30) == lines(2)


@pytest.mark.parametrize(
    ("shape", "stacked"),
    [((2, 0), False), ((2, 0, 5), False), ((2, 5, 0), False), ((2, 0, 4, 4), True)],
)
def test_leaves_without_coordinates_add_nothing(shape, stacked):
    sketch = gradients.make_sketch("two_sided", 4)
    np.testing.assert_array_equal(sketch(jnp.zeros(shape), stacked), np.zeros((2, 4)))


def test_an_empty_batch_is_served():
    tree, stacked = mixed_tree()
    empty = jax.tree.map(lambda leaf: leaf[:0], tree)
    assert gradients.make_sketch("two_sided", 4)(empty, stacked).shape == (0, 4)


def gradient_pairs():
    """Leaves [P, 2, ...] of P pairs of gradients, and whether they are stacked."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    u, v, w = normal(3, 30)
    one_matrix = [
        [np.outer(u, v), np.outer(u, v)],  # rank one, the same
        [np.outer(u, v), np.outer(w, u)],
        [np.outer(u, v), np.outer(u, w)],  # one side shared
        [np.outer(u, u), np.outer(u, u)],
        normal(2, 30, 30),
    ]
    layers = normal(2, 2, 4, 12, 10)
    layers[:, 1] += layers[:, 0]
    layers[1, :, 1:] *= 0.01  # the worst stack: all of it in one layer
    # Coordinates beyond the first block of rows, on either side.
    long = np.zeros((1, 2, BLOCK + 9, 4), np.float32)
    long[:, :, [0, BLOCK, BLOCK + 8]] = normal(3, 4)[None, None]
    several = [normal(1, 2, 12, 10), normal(1, 2, 9), normal(1, 2, 3, 20)]
    # Two leaves that are kept whole on one side, with everything in the same place.
    spikes = np.zeros((1, 2, 90, 5), np.float32)
    spikes[:, :, 7, 2] = 1.0
    return {
        "one matrix": ([np.array(one_matrix)], [False]),
        "layers": ([layers], [True]),
        "several leaves": (several, [False, False, True]),
        "spikes that meet": ([spikes, spikes], [False, False]),
        "longer than a block": ([long], [False]),
        "wider than a block": ([long.swapaxes(2, 3)], [False]),
    }


@pytest.mark.parametrize("name", gradient_pairs())
@pytest.mark.parametrize("dim", [7, 1000])
def test_inner_products_are_unbiased_and_within_the_stated_variance(name, dim):
    leaves, stacked = gradient_pairs()[name]
    pairs = leaves[0].shape[0]

    def one(seed):
        merged = [leaf.reshape(2 * pairs, *leaf.shape[2:]) for leaf in leaves]
        vectors = gradients.make_sketch("two_sided", dim, seed)(merged, stacked)
        vectors = vectors.reshape(pairs, 2, dim)
        return jnp.sum(vectors[:, 0] * vectors[:, 1], axis=-1)

    every = jax.jit(lambda seeds: jax.lax.map(one, seeds, batch_size=20))
    products = np.asarray(every(jnp.arange(SEEDS)), np.float64).T
    flat_Px2xD = np.concatenate([leaf.reshape(pairs, 2, -1) for leaf in leaves], axis=-1)
    for values, (x, y) in zip(products, flat_Px2xD.astype(np.float64), strict=True):
        exact, squares = np.dot(x, y), np.dot(x, x) * np.dot(y, y)
        bound = (2 * sum(two_sided.grid(dim)) + 4) / dim * squares
        assert abs(values.mean() - exact) <= 4 * np.sqrt(bound / SEEDS)
        deviations = (values - exact) ** 2
        assert deviations.mean() <= bound + 4 * deviations.std() / np.sqrt(SEEDS)


def test_long_vectors_of_rank_one_reach_the_stated_variance():
    # The bound is not idle: a looser sketch would be caught by the test above.
    u = jax.random.normal(jax.random.key(0), (400,))
    x = jnp.outer(u, u[::-1])[None] / jnp.dot(u, u)

    def one(seed):
        vector = gradients.make_sketch("two_sided", 144, seed)(x)
        return jnp.vdot(vector, vector)

    values = np.asarray(jax.jit(lambda s: jax.lax.map(one, s, batch_size=50))(jnp.arange(4000)))
    np.testing.assert_allclose(values.var(), (2 * 24 + 4) / 144, rtol=0.15)
