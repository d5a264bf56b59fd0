"""Subword tokenizers: what transformers gives, and what content can never become."""

import concurrent.futures
import copy
import unicodedata

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from partitionsel_jax import data
from tests.data import checkpoints

TOKENIZERS = {family: checkpoints.golden(family) for family in checkpoints.FAMILIES}
QWEN, LLAMA = TOKENIZERS["qwen2"], TOKENIZERS["llama3"]
EACH = pytest.mark.parametrize("family", checkpoints.FAMILIES)


@EACH
@pytest.mark.parametrize("number", range(len(checkpoints.VALUES["qwen2"]["strings"])))
def test_ids_are_those_of_transformers(family, number):
    tokenizer = TOKENIZERS[family]
    golden = checkpoints.VALUES[family]["strings"][number]
    assert tokenizer.encode_markup(golden["text"]) == golden["ids"]
    assert tokenizer.decode(golden["ids_with_special_tokens"]) == golden["decoded"]
    if tokenizer.special_ids.isdisjoint(golden["ids"]):
        assert tokenizer.encode(golden["text"]) == golden["ids"]


@given(st.text(max_size=60))
def test_decode_undoes_encode_where_nothing_is_normalised(text):
    assert LLAMA.decode(LLAMA.encode(text)) == text
    assert QWEN.decode(QWEN.encode(text)) == unicodedata.normalize("NFC", text)


@EACH
@given(text=checkpoints.TRICKY)
def test_content_has_no_special_ids_and_loses_nothing(family, text):
    tokenizer = TOKENIZERS[family]
    ids = tokenizer.encode(text)
    assert tokenizer.special_ids.isdisjoint(ids)
    written = text.replace("\ud800", "?")
    if family == "qwen2":
        written = unicodedata.normalize("NFC", written)
    assert tokenizer.decode(ids) == written


def test_markup_has_its_special_ids():
    im_end = QWEN.encode_markup("<|im_end|>")
    assert im_end == [QWEN.eos_id]
    assert QWEN.encode_markup("a<|im_end|>b") == QWEN.encode("a") + im_end + QWEN.encode("b")


def test_words_added_to_the_vocabulary_are_no_markup():
    """Qwen's "<tool_call>" is vocabulary, and shown in decoded text."""
    ids = QWEN.encode("<tool_call>")
    assert len(ids) == 1
    assert QWEN.decode(ids) == "<tool_call>"


@EACH
@given(ids=st.lists(st.integers(-5, 500), max_size=30))
@example(ids=[2**40])
def test_any_ids_decode(family, ids):
    tokenizer = TOKENIZERS[family]
    text = tokenizer.decode(np.array(ids, np.int64))
    known = [i for i in ids if 0 <= i < tokenizer.vocab_size and i not in tokenizer.special_ids]
    assert text == tokenizer.decode(known)
    assert not any(f"<|{name}|>" in text for name in ("im_end", "eot_id", "begin_of_text"))


@EACH
def test_the_vocabulary_ends_behind_the_largest_id(family):
    tokenizer = TOKENIZERS[family]
    added = checkpoints.files(family)["tokenizer.json"]["added_tokens"]
    assert tokenizer.vocab_size == 1 + max(token["id"] for token in added)


def test_nothing_is_cut_filled_up_or_added_whatever_the_definition_says(tmp_path):
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    padding = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "!",
    }
    folder = checkpoints.edited(
        tmp_path, "llama3", {"truncation": truncation, "padding": padding}, add_bos_token=False
    )
    changed = data.load_tokenizer(folder)
    text = "The gradient of a minibatch"
    assert changed.encode(text) == changed.encode_markup(text) == LLAMA.encode(text)


def test_words_that_happen_to_be_special_tokens_are_spelt_out(tmp_path):
    """A vocabulary may reach a special token by a look-up, or by merges, and not only as markup."""
    definition = checkpoints.files("llama3")["tokenizer.json"]
    vocabulary = definition["model"]["vocab"]
    added = copy.deepcopy(definition["added_tokens"])
    # "Ġmatroid" is found whole before any merge, "Ġa" is what the merges make of its letters.
    for word in ("Ġmatroid", "Ġa"):
        added.append(added[0] | {"id": vocabulary[word], "content": word})
    tokenizer = data.load_tokenizer(checkpoints.edited(tmp_path, "llama3", {"added_tokens": added}))
    assert {vocabulary["Ġmatroid"], vocabulary["Ġa"]} < tokenizer.special_ids
    assert {vocabulary["Ġmatroid"], vocabulary["Ġa"]} < set(LLAMA.encode("is a matroid"))
    ids = tokenizer.encode("is a matroid")
    assert tokenizer.special_ids.isdisjoint(ids)
    assert LLAMA.decode(ids) == "is a matroid"


def test_tokens_that_are_named_are_special_whatever_the_definition_says(tmp_path):
    definition = checkpoints.files("qwen2")["tokenizer.json"]
    added = [token | {"special": False} for token in definition["added_tokens"]]
    tokenizer = data.load_tokenizer(checkpoints.edited(tmp_path, "qwen2", {"added_tokens": added}))
    assert tokenizer.special_ids == QWEN.special_ids
    for text in ("<|im_end|>", "<|im_start|>", "<|endoftext|>"):
        assert tokenizer.encode(text) == QWEN.encode(text)
        assert tokenizer.encode_markup(text) == QWEN.encode_markup(text)


def test_content_and_markup_may_be_encoded_at_the_same_time():
    text = "a<|im_end|>b" * 50
    content, markup = QWEN.encode(text), QWEN.encode_markup(text)
    with concurrent.futures.ThreadPoolExecutor(4) as executor:
        calls = [QWEN.encode, QWEN.encode_markup] * 100
        found = list(executor.map(lambda call: call(text), calls))
    assert content != markup
    assert found == [content, markup] * 100


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen2", {}),
        ("qwen2", {"add_bos_token": True, "bos_token": "<|im_start|>", "pad_token": None}),
        ("qwen2", {"generation": {"eos_token_id": [3, 368]}}),
        ("llama3", {}),
        ("llama3", {"add_bos_token": False, "eos_token": "<|end_of_text|>"}),
    ],
)
def test_a_saved_tokenizer_is_loaded_as_it_was(tmp_path, family, changes):
    original = data.load_tokenizer(checkpoints.edited(tmp_path / "original", family, **changes))
    (tmp_path / "copy").mkdir()
    original.save(tmp_path / "copy")
    loaded = data.load_tokenizer(tmp_path / "copy")
    for name in ("bos_id", "eos_id", "pad_id", "turn_end_id", "stop_ids", "special_ids"):
        assert getattr(loaded, name) == getattr(original, name)
    chat = [{"role": "user", "content": "naïve <|im_end|>"}]
    assert loaded.chat(chat) == original.chat(chat)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"eos_token": "<|no|>"}, r"here: eos_token '<\|no\|>' is not in the vocabulary"),
        ({"bos_token": "<|no|>"}, r"here: bos_token '<\|no\|>' is not in the vocabulary"),
        ({"begins_rows": True}, "here: rows are to begin with the bos token, and none is named"),
        ({"definition": "{}"}, r"here cannot be read \(Model missing"),
        ({"definition": '{"model": 1}'}, "here cannot be read"),
    ],
)
def test_what_does_not_fit_the_vocabulary_is_refused(fields, message):
    given = {"definition": QWEN.definition, "eos_token": "<|im_end|>", "origin": "here"} | fields
    with pytest.raises(ValueError, match=message):
        data.SubwordTokenizer(**given)


@EACH
@given(text=checkpoints.TRICKY)
def test_a_text_that_cannot_hold_special_tokens_has_none(family, text):
    tokenizer = TOKENIZERS[family]
    if not tokenizer._may_hold_special(text):
        assert tokenizer.special_ids.isdisjoint(tokenizer.encode_markup(text))
    assert any(not tokenizer._may_hold_special(word) for word in ("plain", "<", "?"))
