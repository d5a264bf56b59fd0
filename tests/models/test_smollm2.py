"""The real SmolLM2-135M-Instruct against HF transformers; skipped where it was not fetched.

`python -m experiments.fetch --model=smollm2-135m` brings it. Golden values: golden/make_golden.py.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_checkpoints import GOLDEN

from partitionsel_jax import models
from partitionsel_jax.models.pretrained import locating

pytestmark = pytest.mark.skipif(
    locating.cached("smollm2-135m") is None,
    reason="run: python -m experiments.fetch --model=smollm2-135m",
)


@pytest.fixture(scope="module")
def smollm2():
    return models.load("smollm2-135m")


@pytest.fixture(scope="module")
def texts():
    return json.loads((GOLDEN / "smollm2.json").read_text())


@pytest.fixture(scope="module")
def values():
    with np.load(GOLDEN / "smollm2.npz") as arrays:
        return dict(arrays)


def test_its_file_describes_the_preset(smollm2):
    assert smollm2.config == models.PRESETS["smollm2-135m"].config


def test_tokens_equal_those_of_its_published_tokenizer(smollm2, texts):
    tokenizer = smollm2.tokenizer
    assert tokenizer.bos_id is None
    for sample in texts["strings"]:
        assert tokenizer.encode_markup(sample["text"]) == sample["ids"], sample["text"]
    for chat in texts["chats"]:
        answer = chat["add_generation_prompt"]
        assert tokenizer.render(chat["messages"], answer=answer) == chat["text"]
        assert tokenizer.chat(chat["messages"], answer=answer) == chat["ids"]


def test_logits_equal_those_of_transformers(smollm2, texts, values):
    for number, prompt in enumerate(texts["prompts"]):
        ids = smollm2.tokenizer.encode(prompt["text"])
        assert ids == prompt["ids"]
        logits = smollm2.logits([ids])[0]
        np.testing.assert_allclose(
            logits[:, values["columns"]], values[f"prompt{number}/logits"], atol=5e-4, rtol=0
        )
        np.testing.assert_allclose(
            jax.nn.logsumexp(logits, axis=-1),
            values[f"prompt{number}/logsumexp"],
            atol=5e-4,
            rtol=0,
        )


def test_perplexity_of_a_paragraph_is_that_of_transformers(smollm2, texts):
    paragraph = texts["paragraph"]
    ids = jnp.array([smollm2.tokenizer.encode(paragraph["text"])])
    counted = jnp.ones(ids.shape, bool)
    loss = models.response_loss(smollm2.logits(ids), ids, counted)[0]
    assert float(jnp.exp(loss)) == pytest.approx(paragraph["perplexity"], rel=1e-2)
    # The blocks of the head must say the same.
    in_blocks = jax.jit(smollm2.model.losses)(smollm2.parameters, ids, counted)[0]
    assert float(in_blocks) == pytest.approx(float(loss), rel=1e-5)


def test_greedy_tokens_equal_those_of_transformers_in_a_batch_and_one_by_one(smollm2, texts):
    prompts = [sample["ids"] for sample in texts["greedy"]]
    expected = [sample["greedy"] for sample in texts["greedy"]]

    def written(prompts):
        return models.generate(smollm2.model, smollm2.parameters, prompts, new_tokens=64)

    together = written(prompts)
    assert together == expected
    for number in (0, 7):  # the shortest and the longest prompt
        assert written(prompts[number : number + 1])[0] == together[number]


def test_it_knows_the_capital_of_france(smollm2):
    (answer,) = smollm2.generate(["What is the capital of France?"], template="chat", new_tokens=16)
    assert "Paris" in answer
