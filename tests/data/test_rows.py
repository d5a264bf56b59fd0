import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitionsel_jax import data

TOKENIZER = data.ByteTokenizer()
A, B, C = (3 + ord(letter) for letter in "abc")


@pytest.mark.parametrize(
    ("prompt", "response", "tokens", "is_response", "cut"),
    [
        ("ab", "c", [1, A, B, C, 2, 0], [0, 0, 0, 1, 1, 0], 0),
        ("", "c", [1, C, 2, 0, 0, 0], [0, 1, 1, 0, 0, 0], 0),
        ("ab", "", [1, A, B, 2, 0, 0], [0, 0, 0, 1, 0, 0], 0),
        ("aaab", "c", [1, A, A, B, C, 2], [0, 0, 0, 0, 1, 1], 1),
        ("ab", "cccc", [1, C, C, C, C, 2], [0, 1, 1, 1, 1, 1], 2),
    ],
)
def test_rows_made_by_hand(prompt, response, tokens, is_response, cut):
    encoded = data.encode_example(prompt, response, TOKENIZER, 6)
    np.testing.assert_array_equal(encoded.tokens, tokens)
    np.testing.assert_array_equal(encoded.response, np.array(is_response, bool))
    assert encoded.cut == cut
    assert encoded.tokens.dtype == np.int32


def test_a_response_without_room_is_refused():
    with pytest.raises(ValueError, match="at most 4 tokens in a row of 6, got 5"):
        data.encode_example("a", "ccccc", TOKENIZER, 6)


@given(prompt=st.text(max_size=20), response=st.text(max_size=6), length=st.integers(26, 60))
def test_the_marked_tokens_are_the_response_and_the_end(prompt, response, length):
    tokens, is_response, _ = data.encode_example(prompt, response, TOKENIZER, length)
    marked = tokens[is_response]
    assert TOKENIZER.decode(marked) == response
    assert marked[-1] == TOKENIZER.eos_id
    assert not is_response[0]


def test_generation_starts_from_the_ids_that_training_saw():
    tokens, is_response, _ = data.encode_example("aaab", "c", TOKENIZER, 6)
    start = tokens[: np.argmax(is_response)]
    np.testing.assert_array_equal(data.encode_prompt("aaab", TOKENIZER, 4), start)
    with pytest.raises(ValueError, match="length >= 1"):
        data.encode_prompt("a", TOKENIZER, 0)


def test_rows_pass_through_jit(corpus):
    rows = corpus.train.rows([0, 1])
    lengths = jax.jit(lambda rows: rows.response.sum(-1))(rows)
    np.testing.assert_array_equal(lengths, rows.response.sum(-1))
    assert {name: array.dtype for name, array in rows._asdict().items()} == {
        "tokens": np.int32,
        "response": bool,
        "domain": np.int32,
        "id": np.int32,
        "spoilt": bool,
    }
