"""The decoder against a NumPy forward pass written from the papers, and its options."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from partitionsel_jax import models
from partitionsel_jax.models import parameters as trees

CONFIG = models.DecoderConfig(
    vocab_size=13,
    layers=2,
    width=8,
    mlp_width=10,
    heads=4,
    kv_heads=2,
    head_dim=6,
    biases=("q", "k", "v"),
)


def noisy(model, seed=0):
    """Parameters far from their initial values: zeros and ones would hide mistakes."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32),
        model.init(jax.random.key(seed)),
    )


def apply(model, parameters, tokens):
    return jax.jit(model.apply)(parameters, jnp.asarray(tokens))


def numpy_logits(config, lora, parameters, tokens):
    """One sequence, in float64, head by head and position by position."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), parameters)

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_eps) * scale

    def project(part, x):
        y = x @ part["kernel"] + part.get("bias", 0.0)
        if "lora_a" in part:
            y = y + lora.alpha / lora.rank * (x @ part["lora_a"]) @ part["lora_b"]
        return y

    def rotate(x, position):
        half = config.head_dim // 2
        angle = position * config.rope_theta ** (-2 * np.arange(half) / config.head_dim)
        pair = (x[:half] + 1j * x[half:]) * np.exp(1j * angle)
        return np.concatenate([pair.real, pair.imag])

    x = p["embedding"][tokens]
    for index in range(config.layers):
        layer = jax.tree.map(lambda leaf, index=index: leaf[index], p["layers"])
        h = norm(x, layer["attention_norm"]["scale"])
        q, k, v = (project(layer["attention"][name], h) for name in "qkv")
        mixed = np.zeros_like(q)
        for head in range(config.heads):
            own = slice(head * config.head_dim, (head + 1) * config.head_dim)
            group = head // (config.heads // config.kv_heads)
            shared = slice(group * config.head_dim, (group + 1) * config.head_dim)
            for t in range(len(tokens)):
                scores = np.array(
                    [
                        rotate(q[t, own], t) @ rotate(k[u, shared], u) / np.sqrt(config.head_dim)
                        for u in range(t + 1)
                    ]
                )
                weights = np.exp(scores - scores.max())
                mixed[t, own] = weights / weights.sum() @ v[: t + 1, shared]
        x = x + project(layer["attention"]["o"], mixed)
        h = norm(x, layer["mlp_norm"]["scale"])
        gate = project(layer["mlp"]["gate"], h)
        up = project(layer["mlp"]["up"], h)
        x = x + project(layer["mlp"]["down"], gate / (1 + np.exp(-gate)) * up)
    x = norm(x, p["norm"]["scale"])
    return x @ (p["embedding"].T if config.tied else p["head"])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rank", [0, 3])
def test_logits_equal_a_numpy_forward_pass(tied, rank):
    config = dataclasses.replace(CONFIG, tied=tied)
    lora = models.LoRAConfig(rank=rank, alpha=5.0)
    model = models.Model(config, lora)
    parameters = noisy(model)
    tokens = np.array([[1, 5, 12, 0, 7], [3, 3, 3, 2, 1]])
    logits = apply(model, parameters, tokens)
    assert logits.dtype == jnp.float32
    for row, sequence in zip(logits, tokens, strict=True):
        expected = numpy_logits(config, lora, parameters, sequence)
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-4)


def test_a_fresh_adapter_changes_nothing_and_is_all_that_trains():
    tokens = jnp.array([[1, 2, 3]])
    plain, adapted = models.Model(CONFIG), models.Model(CONFIG, models.LoRAConfig(rank=2))
    parameters = adapted.init(jax.random.key(0))
    adapters, base = trees.split(parameters, models.is_adapter)
    np.testing.assert_allclose(
        apply(adapted, parameters, tokens), apply(plain, base, tokens), rtol=1e-5, atol=1e-6
    )
    # A [8 or 10 or 24, 2] and B [2, ...] on seven projections of two layers.
    sizes = {"q": (8, 24), "k": (8, 12), "v": (8, 12), "o": (24, 8)}
    sizes |= {"gate": (8, 10), "up": (8, 10), "down": (10, 8)}
    assert trees.count(adapters) == sum(2 * 2 * (a + b) for a, b in sizes.values())
    jax.tree.map(np.testing.assert_array_equal, parameters, trees.join(base, adapters))


def test_adapters_sit_on_the_named_projections_only():
    model = models.Model(CONFIG, models.LoRAConfig(rank=1, targets=("q", "down")))
    layers = model.init(jax.random.key(0))["layers"]
    adapted = {
        name
        for block in ("attention", "mlp")
        for name, part in layers[block].items()
        if "lora_a" in part
    }
    assert adapted == {"q", "down"}


def test_padding_to_the_right_and_later_tokens_change_nothing():
    model = models.Model(CONFIG)
    parameters = noisy(model)
    short = apply(model, parameters, [[4, 5, 6]])
    long = apply(model, parameters, [[4, 5, 6, 0, 9, 9]])
    np.testing.assert_allclose(short[0], long[0, :3], rtol=1e-5, atol=1e-5)


def test_rematerialised_layers_give_the_same_gradient():
    tokens = jnp.array([[1, 2, 3, 4]])
    gradients = []
    for remat in ("none", "layer"):
        model = models.Model(dataclasses.replace(CONFIG, remat=remat))
        parameters = noisy(model)
        loss = lambda p, model=model: jnp.sum(model.apply(p, tokens) ** 2)  # noqa: E731
        gradients.append(jax.jit(jax.grad(loss))(parameters))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), *gradients)


def rows_of(config, batch=3, length=6):
    """Tokens, and masks of different lengths: one token, the whole row, none."""
    tokens = np.random.default_rng(4).integers(0, config.vocab_size, (batch, length))
    response = np.arange(length)[None, :] >= np.array([length - 1, 0, length])[:, None]
    return jnp.asarray(tokens, jnp.int32), jnp.asarray(response)


@pytest.mark.parametrize(
    ("tied", "remat", "rank", "stop_below"),
    [(True, "none", 0, 0), (False, "none", 3, 1), (True, "layer", 3, 2), (False, "layer", 0, 0)],
)
def test_losses_are_those_of_the_logits(tied, remat, rank, stop_below):
    """Values, and the gradient of every parameter above `stop_below`; none below it."""
    config = dataclasses.replace(CONFIG, tied=tied, remat=remat)
    model = models.Model(config, models.LoRAConfig(rank=rank))
    parameters = noisy(model)
    tokens, response = rows_of(config)
    weights = jnp.array([1.0, -2.0, 5.0])

    def by_logits(parameters):
        losses = models.response_loss(model.apply(parameters, tokens), tokens, response)
        return losses @ weights, losses

    def by_losses(parameters):
        losses = model.losses(parameters, tokens, response, stop_below)
        return losses @ weights, losses

    found, expected = (
        jax.jit(jax.grad(function, has_aux=True))(parameters) for function in (by_losses, by_logits)
    )
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=1e-6)
    assert found[1][2] == 0
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    for name in ("norm", "head"):
        jax.tree.map(close, found[0].get(name), expected[0].get(name))

    def layer_by_layer(leaf, exact):
        assert not np.any(leaf[:stop_below])
        close(leaf[stop_below:], exact[stop_below:])

    jax.tree.map(layer_by_layer, found[0]["layers"], expected[0]["layers"])
    if not stop_below:
        close(found[0]["embedding"], expected[0]["embedding"])
    elif not tied:
        assert not np.any(found[0]["embedding"])


class Named(models.taps.NoTap):
    """Notes the name of everything that it is shown."""

    def __init__(self, seen, path=()):
        self.seen, self.path = seen, path

    def layer(self, piece):
        return Named(self.seen, ("layers",))

    def at(self, name):
        return Named(self.seen, (*self.path, name))

    def _note(self, name, value):
        self.seen.add((*self.path, name))
        return value

    def drop(self, x):
        return x

    def linear(self, name, x, y):
        return self._note(name, y)

    def shift(self, name, y):
        return self._note(name, y)

    def scale(self, name, x, y):
        return self._note(name, y)

    def lookup(self, name, tokens, y):
        return self._note(name, y)

    def probe(self, name, vocab_axis):
        return self._note(name, None)


@pytest.mark.parametrize("tied", [True, False])
def test_a_watch_is_shown_every_parameter_by_its_name(tied):
    config = dataclasses.replace(CONFIG, tied=tied)
    model = models.Model(config, models.LoRAConfig(rank=2))
    parameters = jax.eval_shape(model.init, jax.random.key(0))
    for stop_below in (0, 1):
        seen: set[tuple[str, ...]] = set()
        jax.eval_shape(
            functools.partial(model.losses, stop_below=stop_below, tap=Named(seen)),
            parameters,
            *rows_of(config),
        )
        # Nobody looks the embedding up above a layer that is stopped; a tied one is the head too.
        unseen = {("embedding",)} if stop_below and not tied else set()
        assert seen == set(traverse_util.flatten_dict(parameters)) - unseen


def test_bfloat16_follows_float32_and_keeps_float32_logits():
    config = dataclasses.replace(CONFIG, dtype="bfloat16", param_dtype="bfloat16")
    model = models.Model(config, models.LoRAConfig(rank=1))
    parameters = model.init(jax.random.key(0))
    assert parameters["layers"]["mlp"]["up"]["kernel"].dtype == jnp.bfloat16
    assert parameters["layers"]["mlp"]["up"]["lora_a"].dtype == jnp.float32
    tokens = jnp.array([[1, 2, 3]])
    low = apply(model, parameters, tokens)
    exact = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), parameters)
    high = apply(models.Model(CONFIG, models.LoRAConfig(rank=1)), exact, tokens)
    assert low.dtype == jnp.float32
    assert np.abs(low - high).max() < 0.05 * np.abs(high).max()


def test_the_program_does_not_grow_with_depth():
    def size(layers):
        model = models.Model(dataclasses.replace(CONFIG, layers=layers))
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
        return len(jax.jit(model.apply).lower(shapes, tokens).as_text().splitlines())

    assert size(30) == size(4)


def test_equal_configs_are_one_model():
    assert models.Model(CONFIG) == models.Model(CONFIG)
    assert hash(models.Model(CONFIG)) == hash(models.Model(dataclasses.replace(CONFIG)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "model.layers must be at least 1"),
        ({"kv_heads": 3}, "multiple of model.kv_heads=3"),
        ({"head_dim": 5}, "head_dim must be even"),
        ({"dtype": "float16"}, "model.dtype must be one of"),
        ({"remat": "all"}, "model.remat must be one of"),
        ({"chunk_vocab": 0}, "model.chunk_vocab must be at least 1"),
        ({"chunk_tokens": -1}, "model.chunk_tokens must be at least 0"),
    ],
)
def test_bad_shapes_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": -1}, "lora.rank"),
        ({"rank": 1, "targets": ("query",)}, "not projections"),
        ({"rank": 1, "targets": ()}, "targets is empty"),
    ],
)
def test_bad_adapters_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.LoRAConfig(**arguments)


@pytest.mark.parametrize("attention", ["xla", "cudnn"])
def test_attention_is_computed_by_the_implementation_asked_for(monkeypatch, attention):
    asked = []
    real = jax.nn.dot_product_attention

    def record(*arguments, implementation=None, **options):
        asked.append(implementation)
        return real(*arguments, **options)  # cuDNN itself is not on this machine

    monkeypatch.setattr(jax.nn, "dot_product_attention", record)
    model = models.Model(dataclasses.replace(CONFIG, attention=attention, dtype="bfloat16"))
    tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    jax.eval_shape(model.apply, jax.eval_shape(model.init, jax.random.key(0)), tokens)
    assert asked == [attention]
