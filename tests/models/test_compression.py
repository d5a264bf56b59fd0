"""Models cut to their first layers, or of low-rank matrices, and their checkpoints."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from partitionsel_jax import models
from partitionsel_jax.models import compression, pretrained
from partitionsel_jax.models.pretrained import description, writing
from partitionsel_jax.step import costs

SHAPE = models.DecoderConfig(
    vocab_size=96,
    layers=2,
    width=16,
    mlp_width=24,
    heads=4,
    kv_heads=2,
    head_dim=4,
    biases=("q", "k", "v"),
)
# At this rank q, o and the maps of the SwiGLU are factors; k and v, of 16 x 8, stay whole.
LOW = dataclasses.replace(SHAPE, rank=6)
TOKENS = np.random.default_rng(0).integers(0, 96, (2, 10)).astype(np.int32)


def logits(config, parameters):
    return jax.jit(models.Model(config).apply)(parameters, TOKENS)


@functools.cache
def drawn(config):
    rng = np.random.default_rng(1)
    shapes = models.Model(config).shapes
    return jax.tree.map(lambda x: rng.normal(size=x.shape, scale=0.4).astype(np.float32), shapes)


def multiplied(parameters):
    """The same model with whole matrices, each the product of its factors."""

    def whole(tree):
        if "kernel_a" in tree:
            a, b = tree["kernel_a"], tree["kernel_b"]
            rest = {name: leaf for name, leaf in tree.items() if not name.startswith("kernel")}
            return rest | {"kernel": a @ b}
        return {
            name: whole(leaf) if isinstance(leaf, dict) else leaf for name, leaf in tree.items()
        }

    return whole(parameters)


def test_factors_stand_for_their_product():
    parameters = drawn(LOW)
    attention = parameters["layers"]["attention"]
    assert set(attention["q"]) == {"kernel_a", "kernel_b", "bias"}
    assert set(attention["k"]) == {"kernel", "bias"}
    expected = logits(SHAPE, multiplied(parameters))
    np.testing.assert_allclose(logits(LOW, parameters), expected, atol=1e-4, rtol=1e-4)


def test_matrices_of_that_rank_are_kept_and_the_logits_with_them():
    whole = multiplied(drawn(LOW))
    parameters, kept = compression.low_rank(LOW, whole)
    assert kept == pytest.approx(1, abs=1e-5)
    expected = logits(SHAPE, whole)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(logits(LOW, parameters), expected, atol=1e-4)


def test_factors_are_the_nearest_matrices_of_their_rank():
    """Eckart and Young: what is lost are the squares of the singular values that are cut."""
    whole = drawn(SHAPE)["layers"]
    parameters, kept = compression.low_rank(LOW, drawn(SHAPE))
    lost = total = 0.0
    places = {"attention": ("q", "o"), "mlp": ("gate", "up", "down")}
    for part, name in [(part, name) for part, names in places.items() for name in names]:
        factors = parameters["layers"][part][name]
        assert factors["kernel_a"].shape[2] == factors["kernel_b"].shape[1] == LOW.rank
        for layer, matrix in enumerate(whole[part][name]["kernel"]):
            squares = np.linalg.svd(matrix, compute_uv=False) ** 2
            a, b = (factors[f"kernel_{side}"][layer] for side in "ab")
            distance = np.sum((matrix - a @ b) ** 2)
            np.testing.assert_allclose(distance, squares[LOW.rank :].sum(), rtol=1e-4)
            # Neither factor's gradient dwarfs the other's.
            np.testing.assert_allclose(jnp.linalg.norm(a), jnp.linalg.norm(b), rtol=1e-4)
            lost, total = lost + distance, total + squares.sum()
    assert kept == pytest.approx(1 - lost / total)


def test_a_matrix_of_zeros_has_finite_factors():
    whole = jax.tree.map(jnp.zeros_like, drawn(SHAPE))
    whole["layers"]["mlp"]["up"]["kernel"] += 1.0
    parameters, kept = compression.low_rank(LOW, whole)
    assert kept == pytest.approx(1, abs=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(parameters))


def test_first_layers_say_what_transformers_says_of_a_model_with_no_more(golden, tmp_path):
    """A third layer behind the two that the golden values are of, which is cut away again."""
    directory, expected = golden["llama-biases"]
    model = models.load(directory)
    longer = dataclasses.replace(model.config, layers=model.config.layers + 1)
    more = jax.tree.map(
        lambda leaf: jnp.concatenate([leaf, leaf[:1] + 0.5]), model.parameters["layers"]
    )
    whole = model.parameters | {"layers": more}
    apply = jax.jit(models.Model.apply, static_argnums=0)
    other = apply(models.Model(longer), whole, expected["tokens"])
    assert np.abs(other - expected["logits"]).max() > 1
    cut = compression.first_layers(whole, model.config.layers)
    found = apply(models.Model(model.config), cut, expected["tokens"])
    np.testing.assert_allclose(found, expected["logits"], atol=1e-4)


@pytest.mark.parametrize("biases", [("q", "k", "v"), ()])
def test_a_low_rank_checkpoint_is_read_back_and_no_other_library_takes_it(tmp_path, biases):
    config = dataclasses.replace(LOW, biases=biases, tied=False)
    parameters = drawn(config)
    writing.checkpoint(tmp_path, config, parameters, "float32")
    assert pretrained.describe(tmp_path) == config
    found = models.load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, found.parameters, parameters)
    content = json.loads((tmp_path / description.CONFIG).read_text())
    assert content["model_type"] == ("low_rank_qwen2" if biases else "low_rank_llama")
    transformers = pytest.importorskip("transformers")
    with pytest.raises(ValueError, match=content["model_type"]):
        transformers.AutoConfig.from_pretrained(tmp_path)


def test_whole_matrices_are_not_taken_for_factors(tmp_path):
    writing.checkpoint(tmp_path, SHAPE, drawn(SHAPE), "float32")
    content = description.config_json(LOW, "float32")
    (tmp_path / description.CONFIG).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"lacks the tensor .*\.a\.weight"):
        models.load(tmp_path)


def test_a_rank_that_makes_nothing_smaller_is_refused():
    # 16 x 24 are 384 numbers, and 9 x (16 + 24) are 360.
    assert dataclasses.replace(SHAPE, rank=9).matrices("up")["kernel_b"] == (9, 24)
    with pytest.raises(ValueError, match=r"model.rank=10 makes no matrix .* use 9 at most"):
        dataclasses.replace(SHAPE, rank=10)
    with pytest.raises(ValueError, match=r"model.rank must be at least 0, not -1"):
        dataclasses.replace(SHAPE, rank=-1)


def test_multiplications_are_those_of_the_traced_model():
    """Attention's own products, two of them, are of no weight."""
    for config in (SHAPE, LOW):
        model = models.Model(config)
        counted = costs.count(model.apply, model.shapes, TOKENS, devices=1).products
        attention = 2 * 2 * config.layers * config.heads * config.head_dim * TOKENS.shape[1]
        assert counted == TOKENS.size * (2 * config.multiplications + attention)


def test_devices_split_the_factors():
    axes = dict(models.Model(LOW).split("data", 2).gathering.axes)
    up, down = (("layers", "mlp", name) for name in ("up", "down"))
    found = [axes[*path, name] for path in (up, down) for name in ("kernel_a", "kernel_b")]
    assert found == [-2, -2, -2, -2]
    assert ("layers", "attention", "q", "bias") not in axes


def test_no_adapter_is_merged_into_factors():
    def zeros(*targets):
        lora = models.LoRAConfig(rank=2, targets=targets)
        return jax.tree.map(lambda x: np.zeros(x.shape), models.Model(LOW, lora).shapes), lora

    with pytest.raises(ValueError, match="no adapter can be merged"):
        models.merge(*zeros("q", "k"))
    merged = models.merge(*zeros("k"))
    assert jax.tree.structure(merged) == jax.tree.structure(models.Model(LOW).shapes)
