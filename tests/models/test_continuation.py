"""Continuations with a cache against full forward passes, one token at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from partitionsel_jax import models
from partitionsel_jax.models import generation

CONFIG = models.DecoderConfig(
    vocab_size=13,
    layers=2,
    width=8,
    mlp_width=10,
    heads=4,
    kv_heads=2,
    head_dim=6,
    biases=("q", "k", "v"),
    context=64,
)
PROMPTS = [[1], [2, 3, 5], [7, 8, 1, 2, 6, 3], [4] * 40]


@pytest.fixture(scope="module")
def model():
    lora = models.LoRAConfig(rank=2)
    return models.Model(CONFIG, lora)


@pytest.fixture(scope="module")
def parameters(model):
    keys = iter(jax.random.split(jax.random.key(1), 100))
    return jax.tree.map(
        lambda leaf: leaf + 0.5 * jax.random.normal(next(keys), leaf.shape),
        model.init(jax.random.key(0)),
    )


@pytest.fixture(scope="module")
def following(model, parameters):
    """(sequence) -> logits of its next token, by a forward pass over all of it."""
    apply = jax.jit(model.apply)

    def logits(sequence):
        padded = np.zeros((1, CONFIG.context), np.int32)
        padded[0, : len(sequence)] = sequence
        return np.asarray(apply(parameters, padded)[0, len(sequence) - 1])

    return logits


def oracle(following, prompt, new_tokens, stops=()):
    sequence = list(prompt)
    while len(sequence) < min(len(prompt) + new_tokens, CONFIG.context):
        sequence.append(int(following(sequence).argmax()))
        if sequence[-1] in stops:
            break
    return sequence[len(prompt) :]


@pytest.mark.parametrize("stops", [(), (4,), (5, 9)])
def test_greedy_continuations_equal_a_loop_of_forward_passes(model, parameters, following, stops):
    found = models.generate(model, parameters, PROMPTS, new_tokens=30, stops=stops)
    expected = [oracle(following, prompt, 30, stops) for prompt in PROMPTS]
    assert found == expected
    assert len(found[-1]) <= 24  # the context ends it
    if stops:
        assert any(row[-1] in stops for row in found)
    assert len({len(row) for row in found}) > 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_does_not_depend_on_the_rows_beside_it(model, parameters, temperature):
    def written(prompts):
        return models.generate(
            model, parameters, prompts, new_tokens=12, temperature=temperature, seed=3
        )

    together = written(PROMPTS)
    assert written(PROMPTS[:1]) == together[:1]
    assert written(PROMPTS[:3]) == together[:3]
    assert written([PROMPTS[0], [6, 6], PROMPTS[2]])[::2] == together[:3:2]


def test_every_new_token_is_drawn_from_the_model_s_distribution(model, parameters, following):
    count = 2048
    drawn = models.generate(
        model, parameters, [[2, 3, 5]] * count, new_tokens=1, temperature=0.7, seed=1
    )
    expected = np.asarray(jax.nn.softmax(following([2, 3, 5]) / 0.7), np.float64)
    found = np.bincount([row[0] for row in drawn], minlength=13)
    assert stats.chisquare(found, count * expected / expected.sum()).pvalue > 1e-3
    again = models.generate(
        model, parameters, [[2, 3, 5]] * count, new_tokens=1, temperature=0.7, seed=2
    )
    assert again != drawn


@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.6, 0.9])
def test_top_p_draws_from_the_smallest_set_that_reaches_it(model, parameters, following, top_p):
    probabilities = np.asarray(jax.nn.softmax(following([2, 3, 5])))
    order = np.argsort(-probabilities)
    size = 1 + int(np.sum(np.cumsum(probabilities[order]) < top_p))
    drawn = models.generate(
        model, parameters, [[2, 3, 5]] * 512, new_tokens=1, temperature=1.0, top_p=top_p
    )
    assert {row[0] for row in drawn} == set(order[:size].tolist())


def test_the_nucleus_of_ties_and_of_certainty():
    tied = jnp.zeros((1, 4))
    assert np.isfinite(generation._nucleus(tied, 0.5)).all()
    sure = jnp.array([[0.0, 100.0, 1.0]])
    assert np.isfinite(generation._nucleus(sure, 1.0)).sum() >= 1
    assert np.isfinite(generation._nucleus(sure, 0.5)).tolist() == [[False, True, False]]


@pytest.mark.parametrize(("temperature", "top_p"), [(1e-30, 1.0), (1e-46, 1.0), (1.0, 1e-46)])
def test_extreme_settings_come_down_to_the_most_likely_token(
    model, parameters, following, temperature, top_p
):
    found = models.generate(
        model, parameters, PROMPTS[:3], new_tokens=5, temperature=temperature, top_p=top_p
    )
    assert found == [oracle(following, prompt, 5) for prompt in PROMPTS[:3]]


def test_no_more_is_held_than_the_context(model, parameters):
    (written,) = models.generate(model, parameters, [[1, 2]], new_tokens=10**9)
    assert len(written) == CONFIG.context - 2


def test_a_top_p_of_1_keeps_every_token():
    logits = jnp.linspace(0.0, 20.0, 150_000)[None, :]
    assert np.isfinite(jax.jit(generation._nucleus)(logits, 1.0)).all()


def test_what_follows_an_end_stays_as_it_came(model, parameters):
    tokens = np.full((3, 16), 12, np.int32)
    lengths, limits = np.array([1, 3, 6]), np.array([5, 3, 16])
    for row, prompt in enumerate(PROMPTS[:3]):
        tokens[row, : len(prompt)] = prompt
    out = models.continuation(
        model,
        parameters,
        jnp.asarray(tokens),
        jnp.asarray(lengths),
        jnp.asarray(limits),
        jnp.zeros(0, jnp.int32),
        prompt=8,
    )
    assert out.ends.tolist() == [5, 3, 16]
    for row, (length, end) in enumerate(zip(lengths, out.ends, strict=True)):
        assert out.tokens[row, :length].tolist() == PROMPTS[row]
        assert np.all(out.tokens[row, end:] == 12)


def test_a_bucket_of_sizes_is_compiled_once(model, parameters):
    def run(prompts, new_tokens, **options):
        models.generate(model, parameters, prompts, new_tokens=new_tokens, **options)

    run([[1, 2]] * 3, 9)
    sampled = {"temperature": 1.0, "seed": 1}
    run([[1, 2]], 5, **sampled)
    before = generation._compiled._cache_size()
    run([[1, 2, 3]] * 4, 20, stops=())
    run([[5]] * 3, 32)
    run([[5] * 31], 5, temperature=0.3, top_p=0.5, seed=9)
    assert generation._compiled._cache_size() == before


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([[]], {}, "prompt 0 is empty"),
        ([[1], [13]], {}, r"prompt 1: expected token ids in 0 \.\. 12, got 13"),
        ([[1], [-1]], {}, "prompt 1: expected token ids"),
        ([[0.5]], {}, "expected integer token ids, got float64"),
        ([[1] * 64], {}, "prompt 0 has 64 tokens, and the model's context of 64"),
        ([[1]], {"stops": [2**40]}, "stops: expected token ids"),
        ([[1]], {"new_tokens": 0}, "expected new_tokens >= 1, got 0"),
        ([[1]], {"temperature": -1.0}, "temperature must be finite and at least 0"),
        ([[1]], {"temperature": float("nan")}, "temperature must be finite"),
        ([[1]], {"top_p": 0.0}, r"top_p must lie in \(0, 1\], not 0.0"),
        ([[1]], {"top_p": 1.5}, "top_p must lie"),
    ],
)
def test_what_generation_refuses(model, parameters, prompts, options, message):
    with pytest.raises(ValueError, match=message):
        models.generate(model, parameters, prompts, **{"new_tokens": 4} | options)


def test_no_prompts_no_continuations(model, parameters):
    assert models.generate(model, parameters, [], new_tokens=4) == []


def test_a_prompt_that_leaves_room_for_one_token_gets_one(model, parameters):
    (written,) = models.generate(model, parameters, [[1] * 63], new_tokens=9)
    assert len(written) == 1


def test_bfloat16_caches_hold_bfloat16(parameters):
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    cache = models.Cache.empty(config, 2, 5)
    assert cache.keys.dtype == jnp.bfloat16
    assert cache.keys.shape == (2, 2, 5, 2, 6)
    model = models.Model(config)
    weights = model.init(jax.random.key(0))
    assert len(models.generate(model, weights, [[1, 2]], new_tokens=3)[0]) == 3
