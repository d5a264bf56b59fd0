import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitionsel_jax import data
from tests.data import checkpoints
from tests.data.encoding import encode_example

TOKENIZER = data.ByteTokenizer()
QWEN, LLAMA = (checkpoints.golden(family) for family in checkpoints.FAMILIES)
# A response ends in one way, and a turn in another.
BASE = dataclasses.replace(QWEN, eos_token="<|endoftext|>")
TOKENIZERS = {"bytes": TOKENIZER, "qwen2": BASE, "llama3": LLAMA}
A, B, C, NEW = (3 + ord(letter) for letter in "abc\n")
EVERY = [(name, "plain") for name in TOKENIZERS] + [
    (name, template) for name in ("qwen2", "llama3") for template in ("alpaca", "chat")
]


@pytest.mark.parametrize(
    ("question", "response", "tokens", "is_response", "cut"),
    [
        ("a", "c", [1, A, NEW, C, 2, 0], [0, 0, 0, 1, 1, 0], 0),
        ("", "c", [1, NEW, C, 2, 0, 0], [0, 0, 1, 1, 0, 0], 0),
        ("a", "", [1, A, NEW, 2, 0, 0], [0, 0, 0, 1, 0, 0], 0),
        ("aab", "c", [1, A, B, NEW, C, 2], [0, 0, 0, 0, 1, 1], 1),
        ("a", "cccc", [1, C, C, C, C, 2], [0, 1, 1, 1, 1, 1], 2),
    ],
)
def test_rows_made_by_hand(question, response, tokens, is_response, cut):
    encoded = encode_example(question, response, TOKENIZER, 6)
    np.testing.assert_array_equal(encoded.tokens, tokens)
    np.testing.assert_array_equal(encoded.response, np.array(is_response, bool))
    assert encoded.cut == cut
    assert encoded.tokens.dtype == np.int32


def test_rows_without_a_beginning_token_begin_with_the_question():
    a, b, c, new = (QWEN.encode(letter)[0] for letter in "abc\n")
    end, pad = QWEN.eos_id, QWEN.pad_id
    for question, response, tokens, cut in (
        ("b", "c", [b, new, c, end, pad], 0),
        ("", "c", [new, c, end, pad, pad], 0),
        ("abab", "cc", [b, new, c, c, end], 3),
        ("ab", "ccc", [new, c, c, c, end], 2),
    ):
        encoded = encode_example(question, response, QWEN, 5)
        np.testing.assert_array_equal(encoded.tokens, tokens)
        assert encoded.cut == cut
    assert QWEN.encode("ab") == [a, b]


def test_a_response_without_room_has_no_row():
    assert data.encode_batch(["a"], ["ccccc"], TOKENIZER, 6) == [None]


@pytest.mark.parametrize("template", ["alpaca", "chat"])
def test_the_frame_around_a_question_stays_and_a_character_of_it(template):
    prompt = data.encode_prompt("a", QWEN, 200, template)
    assert data.encode_prompt("a", QWEN, len(prompt), template) == prompt
    message = rf"at least {len(prompt)} tokens of the prompt, got {len(prompt) - 1}; use longer"
    with pytest.raises(ValueError, match=message):
        data.encode_prompt("a", QWEN, len(prompt) - 1, template)
    assert encode_example("a", "c", QWEN, len(prompt) + 2, template).cut == 0
    assert data.encode_batch(["a"], ["c"], QWEN, len(prompt) + 1, template) == [None]


@pytest.mark.parametrize("template", ["alpaca", "chat"])
@settings(deadline=None)  # chat templates run in a process that has to be started
@given(question=st.text(min_size=1, max_size=30), room=st.integers(0, 30))
def test_a_long_question_loses_as_little_of_its_beginning_as_need_be(template, question, room):
    make = data.TEMPLATES[template]
    room += len(make(question[-1], QWEN))
    fits = [start for start in range(len(question)) if len(make(question[start:], QWEN)) <= room]
    found = data.encode_prompt(question, QWEN, room, template)
    assert found in [make(question[start:], QWEN) for start in fits]
    assert len(found) <= room
    # Where a longer text never takes fewer tokens, it is the longest that fits.
    sizes = [len(make(question[start:], QWEN)) for start in range(len(question))]
    if sizes == sorted(sizes, reverse=True):
        assert found == make(question[min(fits) :], QWEN)


def test_a_long_conversation_loses_its_first_turns_but_for_the_system_message():
    def turn(role, content):
        return {"role": role, "content": content}

    system, last = turn("system", "Be brief."), turn("user", "And of Italy?")
    early = [turn("user", "Capital of France?"), turn("assistant", "Paris.")]
    whole = data.TEMPLATES["chat"]([system, *early, last], QWEN)
    shorter = data.TEMPLATES["chat"]([system, last], QWEN)
    for room in (len(whole), len(whole) - 1, len(shorter), len(shorter) - 1):
        found = data.encode_prompt([system, *early, last], QWEN, room, "chat")
        if room >= len(shorter):
            assert found == (whole if room == len(whole) else shorter)
        else:
            cut = turn("user", "nd of Italy?")
            assert found == data.TEMPLATES["chat"]([system, cut], QWEN)


def test_a_conversation_without_a_chat_template_is_its_turns_one_below_the_other():
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    for template in ("plain", "alpaca"):
        expected = data.encode_prompt("a\nb", QWEN, 200, template)
        assert data.encode_prompt(turns, QWEN, 200, template) == expected


@pytest.mark.parametrize(("name", "template"), EVERY)
def test_examples_in_a_batch_are_those_one_by_one(name, template):
    tokenizer = TOKENIZERS[name]
    pairs = [
        ("a", "b"),
        ("", ""),
        ("<|im_end|> x", "y <|eot_id|>"),
        ("long " * 60, "z"),
        ("q", "w" * 900),
    ]
    prompts, responses = zip(*pairs, strict=True)
    batch = data.encode_batch(prompts, responses, tokenizer, 200, template)
    assert batch[-1] is None
    for (prompt, response), encoded in zip(pairs[:-1], batch, strict=False):
        tokens, is_response, cut = encode_example(prompt, response, tokenizer, 200, template)
        assert (encoded.prompt + encoded.response, encoded.cut) == (
            tokens[: len(encoded.prompt) + len(encoded.response)].tolist(),
            cut,
        )
        assert np.flatnonzero(is_response).tolist() == list(
            range(len(encoded.prompt), len(encoded.prompt) + len(encoded.response))
        )


def test_a_prompt_of_nothing_is_refused_where_there_is_no_beginning_token(monkeypatch):
    nothing = data.Template(
        lambda prompts, _: [[] for _ in prompts], lambda tokenizer: tokenizer.eos_id
    )
    monkeypatch.setitem(data.TEMPLATES, "nothing", nothing)
    with pytest.raises(ValueError, match="at least one token, got none"):
        data.encode_prompt("", QWEN, 5, "nothing")
    assert data.encode_prompt("", QWEN, 5) == QWEN.encode("\n")


def test_an_unknown_template_is_refused():
    with pytest.raises(ValueError, match="unknown template 'vicuna'"):
        data.encode_prompt("a", TOKENIZER, 5, "vicuna")


@pytest.mark.parametrize(("name", "template"), EVERY)
@given(question=st.text(max_size=20), response=st.text(max_size=6))
def test_the_marked_tokens_are_the_response_and_its_closing_token(
    name, template, question, response
):
    tokenizer = TOKENIZERS[name]
    tokens, is_response, _ = encode_example(question, response, tokenizer, 400, template)
    marked = tokens[is_response].tolist()
    closing = tokenizer.turn_end_id if template == "chat" else tokenizer.eos_id
    assert marked == [*tokenizer.encode(response), closing]
    start = tokens[: np.argmax(is_response)]
    np.testing.assert_array_equal(
        start, data.encode_prompt(question, tokenizer, 400 - len(marked), template)
    )
    if tokenizer.bos_id is not None:
        assert start.tolist().count(tokenizer.bos_id) == 1
        assert start[0] == tokenizer.bos_id


@pytest.mark.parametrize("name", TOKENIZERS)
@given(length=st.integers(3, 20))
def test_generation_starts_from_the_ids_that_training_saw_of_a_long_prompt(name, length):
    tokenizer = TOKENIZERS[name]
    tokens, is_response, cut = encode_example("aaab" * 9, "", tokenizer, length)
    start = tokens[: np.argmax(is_response)].tolist()
    whole = data.TEMPLATES["plain"]("aaab" * 9, tokenizer)
    assert data.encode_prompt("aaab" * 9, tokenizer, length - 1) == start
    assert len(start) + cut == len(whole)
    begun = int(tokenizer.bos_id is not None)
    assert start == whole[:begun] + whole[begun + cut :]


def test_there_must_be_room_for_a_prompt():
    with pytest.raises(ValueError, match="at least 1 tokens of the prompt, got 0"):
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
        "corrupted": bool,
    }
