import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitionsel_jax import data

TOKENIZER = data.ByteTokenizer()


@given(st.text(max_size=60))
def test_decode_undoes_encode(text):
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert all(3 <= i < TOKENIZER.vocab_size for i in ids)
    assert len(ids) == len(text.encode())
    assert TOKENIZER.encode_markup(text) == ids


@given(st.lists(st.integers(0, 300), max_size=40))
def test_any_ids_decode(ids):
    assert isinstance(TOKENIZER.decode(ids), str)


def test_special_ids_and_padded_vocabulary_are_skipped():
    assert TOKENIZER.decode([1, 3 + ord("a"), 0, 2, 259, 300, 3 + ord("b")]) == "ab"
    assert (TOKENIZER.pad_id, TOKENIZER.bos_id, TOKENIZER.eos_id) == (0, 1, 2)
    assert (TOKENIZER.turn_end_id, TOKENIZER.stop_ids) == (2, (2,))
    assert TOKENIZER.vocab_size == 259


def test_invalid_text_and_invalid_bytes_are_replaced():
    assert TOKENIZER.decode(TOKENIZER.encode("a\ud800b")) == "a?b"
    assert TOKENIZER.decode([3 + 0xFF, 3 + ord("a")]) == "\ufffda"


def test_bytes_have_no_chat_template():
    assert TOKENIZER.chat_template is None
    with pytest.raises(ValueError, match=r"no chat template.*another template than 'chat'"):
        TOKENIZER.chat_batch([[{"role": "user", "content": "?"}]])
