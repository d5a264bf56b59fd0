"""The loss counts response tokens only; greedy decoding equals a token-by-token loop."""

import jax
import jax.numpy as jnp
import numpy as np

from partitionsel_jax import models


def test_response_loss_equals_its_definition():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 5, 7)).astype(np.float32)
    tokens = rng.integers(0, 7, size=(3, 5))
    response = np.array([[0, 0, 1, 1, 0], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0]], bool)
    losses = models.response_loss(jnp.asarray(logits), jnp.asarray(tokens), jnp.asarray(response))
    for row in range(2):
        nll = []
        for t in np.flatnonzero(response[row]):
            scores = logits[row, t - 1].astype(np.float64)
            nll.append(np.log(np.exp(scores).sum()) - scores[tokens[row, t]])
        np.testing.assert_allclose(losses[row], np.mean(nll), rtol=1e-5)
    assert losses[2] == 0


def test_padding_and_prompt_get_no_gradient():
    tokens = jnp.array([[1, 2, 3, 0]])
    response = jnp.array([[False, False, True, False]])
    gradient = jax.grad(lambda x: models.response_loss(x, tokens, response).sum())(
        jnp.zeros((1, 4, 5))
    )
    assert np.any(gradient[0, 1])
    assert not np.any(gradient[0, [0, 2, 3]])


def test_greedy_equals_a_loop_and_stops():
    table = jax.random.normal(jax.random.key(0), (9, 9))
    stop = 4

    def apply(tokens):
        # The next token depends on the last two, so that a wrong position shows.
        previous = jnp.pad(tokens, ((0, 0), (1, 0)))[:, :-1]
        return table[tokens] + 0.7 * table[previous][..., ::-1]

    prompts = [[1], [2, 3, 5], [7, 8, 1, 2, 6, 3]]
    size = 6
    tokens = np.zeros((3, size), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    lengths = jnp.array([len(prompt) for prompt in prompts])
    found = jax.jit(lambda t: models.greedy(apply, t, lengths, stop))(jnp.asarray(tokens))
    for row, prompt in enumerate(prompts):
        sequence = list(prompt)
        while len(sequence) < size and (len(sequence) == len(prompt) or sequence[-1] != stop):
            scores = np.asarray(apply(jnp.asarray([sequence]))[0, -1])
            sequence.append(int(scores.argmax()))
        assert found[row, : len(sequence)].tolist() == sequence
        assert not np.any(found[row, len(sequence) :])
