"""The scales that put gradients into the geometry of Adam's steps, against NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from partitionsel_jax import gradients, models
from partitionsel_jax.gradients import preconditioning
from partitionsel_jax.gradients.features import Path

DECAY = 0.99
STACKED: Path = ("layers", "mlp", "up", "kernel")
MATRIX: Path = ("head",)
STACKED_VECTOR: Path = ("layers", "mlp_norm", "scale")
VECTOR: Path = ("norm", "scale")


def second_moments(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {STACKED: (3, 4, 5), MATRIX: (4, 6), STACKED_VECTOR: (3, 4), VECTOR: (4,)}
    return {path: rng.gamma(0.5, 1e-4, shape).astype(np.float32) for path, shape in shapes.items()}


def corrected(moments, updates):
    return {path: np.float64(v) / (1 - DECAY**updates) for path, v in moments.items()}


def root_mean(moments):
    return np.sqrt(np.concatenate([np.ravel(v) for v in moments.values()]).mean())


def test_exact_scales_are_the_inverse_root_of_adams_denominator():
    found = jax.jit(preconditioning.exact)(second_moments(), jnp.int32(3), DECAY)
    moments = corrected(second_moments(), 3)
    eps = preconditioning.DAMPING * root_mean(moments)
    for path, v in moments.items():
        np.testing.assert_allclose(found[path], (np.sqrt(v) + eps) ** -0.5, rtol=1e-4)


def test_factored_scales_are_those_of_row_and_column_means():
    found = jax.jit(preconditioning.factored)(second_moments(), jnp.int32(3), DECAY)
    moments = corrected(second_moments(), 3)
    eps = preconditioning.DAMPING * root_mean(moments)
    for path in (STACKED, MATRIX):
        v = moments[path]
        rows, columns = v.mean(-1) + eps**2, v.mean(-2) + eps**2
        rank_one = rows[..., :, None] * columns[..., None, :] / rows.mean(-1)[..., None, None]
        left, right = found[path]
        product = np.asarray(left)[..., :, None] * np.asarray(right)[..., None, :]
        np.testing.assert_allclose(product, rank_one**-0.25, rtol=1e-4)
        assert left.shape == v.shape[:-1] and right.shape == (*v.shape[:-2], v.shape[-1])
    for path in (STACKED_VECTOR, VECTOR):
        np.testing.assert_allclose(found[path], (np.sqrt(moments[path]) + eps) ** -0.5, rtol=1e-4)


def test_factored_scales_are_exact_for_moments_of_rank_one(monkeypatch):
    monkeypatch.setattr(preconditioning, "DAMPING", 1e-9)
    moments = second_moments()
    for path in (STACKED, MATRIX):
        v = moments[path] + 1e-5
        moments[path] = v[..., :, :1] * v[..., :1, :]
    arguments = (moments, jnp.int32(5), DECAY)
    found = preconditioning.expand(preconditioning.factored(*arguments))
    expected = preconditioning.exact(*arguments)
    assert found.keys() == expected.keys()
    for path in expected:
        np.testing.assert_allclose(found[path], expected[path], rtol=1e-3)


@pytest.mark.parametrize(
    ("updates", "change"),
    [(0, lambda v: v), (0, np.zeros_like), (4, np.zeros_like), (4, lambda v: v + np.nan)],
)
@pytest.mark.parametrize("make", [preconditioning.exact, preconditioning.factored])
def test_scales_are_one_where_there_is_nothing_to_go_by(make, updates, change):
    moments = {path: change(v) for path, v in second_moments().items()}
    found = jax.jit(make)(moments, jnp.int32(updates), DECAY)
    for leaf in jax.tree.leaves(found):
        np.testing.assert_array_equal(leaf, 1.0)


@pytest.mark.parametrize("make", [preconditioning.exact, preconditioning.factored])
def test_coordinates_without_a_gradient_yet_keep_a_finite_scale(make):
    moments = second_moments()
    moments[MATRIX][0] = moments[MATRIX][:, 2] = moments[VECTOR][1] = 0
    found = preconditioning.expand(make(moments, jnp.int32(2), DECAY))
    eps = preconditioning.DAMPING * root_mean(corrected(moments, 2))
    for leaf in found.values():
        assert np.isfinite(leaf).all()
    np.testing.assert_allclose(found[VECTOR][1], eps**-0.5, rtol=1e-4)


def test_expand_multiplies_the_two_sides_out_and_leaves_the_rest():
    left, right = jnp.arange(6.0).reshape(2, 3), jnp.arange(8.0).reshape(2, 4)
    vector = jnp.ones(3)
    whole = preconditioning.expand({STACKED: (left, right), VECTOR: vector})
    np.testing.assert_array_equal(whole[STACKED], np.einsum("li,lo->lio", left, right))
    assert whole[VECTOR] is vector


MODEL = models.Model(
    models.DecoderConfig(
        vocab_size=11,
        layers=2,
        width=8,
        mlp_width=12,
        heads=2,
        kv_heads=1,
        head_dim=4,
        tied=False,
        biases=("q", "k", "v"),
    ),
    models.LoRAConfig(rank=2, targets=("q", "up")),
)


@pytest.mark.parametrize(
    ("family", "kind", "last"), [("identity", "full", 0), ("two_sided", "lora", 1)]
)
def test_both_paths_scale_alike_by_factored_moments(family, kind, last):
    scope = gradients.Scope(kind, last, 2)
    rng = np.random.default_rng(1)
    parameters = jax.tree.map(
        lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32),
        MODEL.init(jax.random.key(0)),
    )
    scoped = scope.extract(parameters)
    moments = {path: rng.gamma(0.5, 1.0, x.shape).astype(np.float32) for path, x in scoped.items()}
    tokens = jnp.asarray(rng.integers(0, 11, (3, 5)), jnp.int32)
    rows: Any = tokens, jnp.arange(5)[None, :] >= jnp.array([1, 2, 4])[:, None]
    dim = sum(x.size for x in scoped.values()) if family == "identity" else 20
    chosen: Any = {
        "sketch": gradients.make_sketch(family, dim),
        "microbatch": 3,
        "normalize": False,
    }

    def loss(scoped, row):
        everything = scope.insert(parameters, scoped)
        tokens, response = (x[None] for x in row)
        return MODEL.losses(everything, tokens, response, scope.stop_below)[0]

    def losses(rows, tap):
        return MODEL.losses(parameters, rows[0], rows[1], scope.stop_below, tap)

    @jax.jit
    def features(moments):
        scales = preconditioning.factored(moments, jnp.int32(2), DECAY)
        factored, unscaled = (
            gradients.factored_features(
                losses,
                scoped,
                rows,
                scales=applied,
                **chosen,
            ).vectors
            for applied in (scales, None)
        )
        reference = gradients.per_example_features(
            loss,
            scoped,
            rows,
            scales=preconditioning.expand(scales),
            stacked=gradients.stacked(scoped),
            **chosen,
        )
        return factored, reference.vectors, unscaled

    factored, reference, unscaled = features(moments)
    assert np.abs(factored - reference).max() <= 2e-5 * np.abs(reference).max()
    assert np.abs(factored - unscaled).max() > 0.1 * np.abs(unscaled).max()
