"""The reference path against a Python loop of `jax.grad`, for every scope."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from partitionsel_jax import gradients, models

CONFIG = models.DecoderConfig(
    vocab_size=11,
    layers=3,
    width=8,
    mlp_width=12,
    heads=2,
    kv_heads=1,
    head_dim=4,
    biases=("q", "k", "v"),
)
LORA = models.LoRAConfig(rank=2, alpha=4.0)
MODEL = models.Model(CONFIG, LORA)
BATCH, TOKENS = 5, 6


@pytest.fixture(scope="module")
def parameters():
    # Adapters start at zero, which would hide half of their gradients.
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32),
        MODEL.init(jax.random.key(0)),
    )


@pytest.fixture(scope="module")
def rows():
    tokens = np.random.default_rng(2).integers(0, 11, (BATCH, TOKENS))
    starts = np.array([1, 2, 3, 4, 5])  # the last row has a single response token
    return {
        "tokens": jnp.asarray(tokens),
        "response": jnp.arange(TOKENS)[None, :] >= starts[:, None],
    }


def row_loss(scope, parameters):
    def loss(scoped, row):
        everything = scope.insert(parameters, scoped)
        tokens, response = row["tokens"][None], row["response"][None]
        return MODEL.losses(everything, tokens, response, scope.stop_below)[0]

    return loss


@pytest.fixture(scope="module")
def loop_of_grad(parameters, rows):
    """Gradients of the whole tree by path, one example at a time."""

    def loss(everything, row):
        logits = MODEL.apply(everything, row["tokens"][None])
        return models.response_loss(logits, row["tokens"][None], row["response"][None])[0]

    one = jax.jit(jax.grad(loss))
    return [
        traverse_util.flatten_dict(one(parameters, jax.tree.map(lambda x, i=index: x[i], rows)))
        for index in range(BATCH)
    ]


def cut(loop_of_grad, scope):
    """The part of every example's gradient that is in scope, by hand, as one vector each."""
    gradients_of = []
    for flat in loop_of_grad:
        kept = []
        for path, leaf in sorted(flat.items()):
            stacked = path[0] == "layers"
            if scope.parameters == "lora" and not path[-1].startswith("lora_"):
                continue
            if scope.parameters == "lora_b" and path[-1] != "lora_b":
                continue
            if scope.last_layers and not stacked:
                continue
            if scope.last_layers and stacked:
                leaf = leaf[-scope.last_layers :]
            kept.append(np.ravel(leaf))
        gradients_of.append(np.concatenate(kept))
    return np.stack(gradients_of)


@pytest.mark.parametrize(
    ("family", "kind", "last_layers"),
    [
        ("srht", "full", 0),
        ("rademacher", "full", 1),
        ("rademacher", "lora", 0),
        ("srht", "lora", 2),
        ("two_sided", "full", 2),
        ("two_sided", "lora_b", 1),
    ],
)
def test_features_equal_sketches_of_a_loop_of_grad(
    parameters, rows, loop_of_grad, family, kind, last_layers
):
    scope = gradients.Scope(kind, last_layers, CONFIG.layers)
    scoped = scope.extract(parameters)
    sketch = gradients.make_sketch(family, 33, seed=1)
    stacked = gradients.stacked(scoped)
    features = jax.jit(
        lambda p: gradients.per_example_features(
            row_loss(scope, parameters),
            p,
            rows,
            sketch,
            microbatch=2,
            normalize=False,
            stacked=stacked,
        )
    )(scoped)
    exact = cut(loop_of_grad, scope)
    sizes = [leaf.size for leaf in jax.tree.leaves(scoped)]
    pieces = np.split(exact, np.cumsum(sizes)[:-1], axis=1)
    whole = {
        path: jnp.asarray(piece.reshape(BATCH, *scoped[path].shape))
        for path, piece in zip(sorted(scoped), pieces, strict=True)
    }
    expected = sketch(whole, stacked)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(features.vectors, expected, rtol=1e-4, atol=1e-5 * scale)
    np.testing.assert_allclose(features.norms, np.linalg.norm(exact, axis=1), rtol=1e-4)


def test_the_microbatch_changes_nothing(parameters, rows):
    scope = gradients.Scope("lora", 1, CONFIG.layers)
    sketch = gradients.make_sketch("rademacher", 8)

    @functools.partial(jax.jit, static_argnames="microbatch")
    def features(scoped, rows, microbatch):
        loss = row_loss(scope, parameters)
        return gradients.per_example_features(
            loss, scoped, rows, sketch, microbatch=microbatch, normalize=True
        )

    one, *others = (features(scope.extract(parameters), rows, size) for size in (2, 3, 64))
    np.testing.assert_allclose(np.linalg.norm(one.vectors, axis=1), 1.0, rtol=1e-5)
    for other in others:
        np.testing.assert_allclose(one.vectors, other.vectors, atol=1e-5)
        np.testing.assert_allclose(one.losses, other.losses, rtol=1e-5)


def test_zero_gradients_stay_zero_and_non_finite_ones_stay_visible():
    vectors = jnp.array([[0.0, 0.0], [3e30, 4e30], [3e-30, 4e-30], [jnp.nan, 1.0], [jnp.inf, 1.0]])
    scaled = np.asarray(gradients.unit(vectors))
    np.testing.assert_allclose(scaled[:3], [[0, 0], [0.6, 0.8], [0.6, 0.8]], rtol=1e-6)
    assert not np.isfinite(scaled[3:]).all(axis=1).any()


def test_scales_multiply_the_gradients_before_they_are_sketched():
    scales = jnp.array([2.0, 0.5])
    features = gradients.per_example_features(
        lambda w, row: jnp.sum(w * row),
        jnp.ones(2),
        jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
        gradients.make_sketch("identity", 2),
        microbatch=2,
        normalize=False,
        scales=scales,
    )
    np.testing.assert_allclose(features.vectors, np.array([[2, 1], [6, 2], [10, 3]]))
    np.testing.assert_allclose(features.norms, np.linalg.norm(features.vectors, axis=1), rtol=1e-6)


def test_rows_outside_the_span_are_left_at_zero():
    features = gradients.per_example_features(
        lambda w, row: jnp.sum(w * row),
        jnp.ones(2),
        jnp.ones((5, 2)),
        gradients.make_sketch("identity", 2),
        microbatch=2,
        normalize=True,
        span=(2, 3),
    )
    assert features.losses.tolist() == [0, 0, 2, 2, 0]
    assert np.any(features.vectors, axis=1).tolist() == [False, False, True, True, False]


def test_one_bad_example_leaves_the_others_alone():
    def loss(weights, row):
        return jnp.sum(weights * row)

    rows = jnp.array([[1.0, 2.0], [jnp.nan, 0.0], [3.0, 4.0]])
    features = gradients.per_example_features(
        loss, jnp.ones(2), rows, gradients.make_sketch("srht", 4), microbatch=2, normalize=True
    )
    finite = np.isfinite(np.asarray(features.vectors)).all(axis=1)
    assert finite.tolist() == [True, False, True]


def test_an_empty_batch_has_no_features():
    features = gradients.per_example_features(
        lambda w, row: jnp.sum(w * row),
        jnp.ones(2),
        jnp.zeros((0, 2)),
        gradients.make_sketch("srht", 4),
        microbatch=2,
        normalize=True,
    )
    assert features.vectors.shape == (0, 4) and features.losses.shape == (0,)


def test_extract_and_insert_are_inverse(parameters):
    scope = gradients.Scope("full", 2, CONFIG.layers)
    back = scope.insert(parameters, scope.extract(parameters))
    jax.tree.map(np.testing.assert_array_equal, parameters, back)


def test_layers_below_the_scope_receive_no_gradient(parameters, rows):
    def loss(everything):
        return MODEL.losses(everything, rows["tokens"], rows["response"], 2).sum()

    gradient = jax.jit(jax.grad(loss))(parameters)
    assert np.any(gradient["norm"]["scale"])
    for leaf in jax.tree.leaves(gradient["layers"]):
        assert not np.any(leaf[:2])
        assert np.any(leaf[2])


def test_bad_scopes_are_refused_by_name(parameters):
    with pytest.raises(ValueError, match=r"0 \(all\) .. 3"):
        gradients.Scope("full", 4, CONFIG.layers)
    with pytest.raises(ValueError, match="parameters must be one of"):
        gradients.Scope("half", 1, CONFIG.layers)
    plain = models.Model(CONFIG).init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"lora.rank > 0"):
        gradients.Scope("lora", 0, CONFIG.layers).extract(plain)
    with pytest.raises(ValueError, match="microbatch must be at least 1"):
        gradients.per_example_features(
            lambda p, r: jnp.zeros(()),
            {},
            jnp.ones((1, 1)),
            gradients.make_sketch("srht", 1),
            microbatch=0,
            normalize=True,
        )
