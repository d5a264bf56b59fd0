"""Dropout on the adapters' inputs: unbiased, by row, and nowhere but in a training update."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from partitionsel_jax import models
from partitionsel_jax.models.taps import Dropping

CONFIG = models.DecoderConfig(
    vocab_size=13, layers=3, width=8, mlp_width=10, heads=4, kv_heads=2, head_dim=6
)
LORA = models.LoRAConfig(rank=2, alpha=6.0, targets=("q", "down"), dropout=0.5)
TOKENS = jax.random.randint(jax.random.key(2), (4, 9), 0, 13)
RESPONSE = jnp.arange(9)[None, :] >= jnp.full((4, 1), 3)
IDS = jnp.array([5, 7, 5, 9])


@pytest.fixture(scope="module")
def parameters():
    keys = iter(jax.random.split(jax.random.key(1), 100))
    return jax.tree.map(
        lambda leaf: leaf + 0.5 * jax.random.normal(next(keys), leaf.shape),
        models.Model(CONFIG, LORA).init(jax.random.key(0)),
    )


def losses(parameters, key=None, ids=IDS, lora=LORA, tokens=TOKENS, config=CONFIG):
    tap = models.dropping(lora, key, ids, config.layers)
    model = models.Model(config, lora)
    return model.losses(parameters, tokens, RESPONSE[: len(tokens)], tap=tap)


def test_masks_belong_to_key_id_layer_and_projection():
    tap = Dropping(0.5, jax.random.split(jax.random.key(0), 2), 3)
    ones = jnp.ones((2, 4, 64))

    def mask(*names, layer=0):
        found = tap.layer(layer)
        for name in names:
            found = found.at(name)
        return np.asarray(found.drop(ones))

    first = mask("attention", "q")
    assert np.any(first[0] != first[1])
    np.testing.assert_array_equal(first, mask("attention", "q"))
    for other in (mask("attention", "k"), mask("mlp", "q"), mask("attention", "q", layer=1)):
        # Independent halves agree in about half of the places.
        assert 0.3 < np.mean(other == first) < 0.7


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_what_is_kept_is_scaled_so_that_the_mean_stays(rate):
    tap = Dropping(rate, jax.random.split(jax.random.key(0), 8), 1)
    found = np.asarray(tap.drop(jnp.ones((8, 50, 100))))
    np.testing.assert_allclose(np.unique(found), [0, 1 / (1 - rate)], rtol=1e-5)
    assert np.mean(found == 0) == pytest.approx(rate, abs=0.01)


def test_rows_of_one_id_share_their_masks_whatever_stands_beside_them(parameters):
    key = jax.random.key(4)
    together = losses(parameters, key, tokens=jnp.broadcast_to(TOKENS[:1], (4, 9)))
    assert together[0] == pytest.approx(float(together[2]), rel=1e-5)
    assert len(np.unique(np.round(together, 4))) == 3
    alone = losses(parameters, key, ids=IDS[1:2], tokens=TOKENS[:1])
    np.testing.assert_allclose(alone[0], together[1], rtol=1e-5)


def test_another_key_drops_otherwise_and_none_is_an_error(parameters):
    assert np.any(losses(parameters, jax.random.key(4)) != losses(parameters, jax.random.key(5)))
    with pytest.raises(ValueError, match=r"lora\.dropout=0\.5 needs a key"):
        losses(parameters)


def test_only_what_adapters_read_is_dropped(parameters):
    plain = dataclasses.replace(LORA, dropout=0.0)
    zeroed = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.zeros_like(leaf) if path[-1].key == "lora_b" else leaf, parameters
    )
    found = losses(zeroed, jax.random.key(4))
    np.testing.assert_allclose(found, losses(zeroed, lora=plain), rtol=1e-5)


@pytest.mark.parametrize("remat", ["layer", "dots"])
def test_what_is_computed_again_drops_the_same(parameters, remat):
    def gradient(config):
        return jax.jit(jax.grad(lambda p: losses(p, jax.random.key(4), config=config).sum()))(
            parameters
        )

    expected, found = gradient(CONFIG), gradient(dataclasses.replace(CONFIG, remat=remat))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), expected, found
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dropout": 1.0}, r"lora\.dropout must lie in \[0, 1\), not 1\.0"),
        ({"dropout": -0.1}, r"lora\.dropout must lie"),
        ({"rank": 0}, r"lora\.dropout=0\.5 concerns adapters, and lora\.rank=0"),
    ],
)
def test_what_a_dropout_may_not_be(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(LORA, **changes)
