import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from partitionsel_jax import data
from tests.data import checkpoints

TEXT = st.text(max_size=40)


@given(answer=TEXT, steps=TEXT)
def test_final_answer_gives_back_what_response_text_was_given(answer, steps):
    assume("####" not in answer)
    assert data.final_answer(data.response_text(answer, steps)) == answer.strip()


def test_the_marker_is_written_only_behind_steps():
    assert data.response_text("42") == "42"
    assert data.response_text("42", steps=" \n") == "42"
    assert data.response_text("42", steps="6 * 7 = 42") == "6 * 7 = 42\n#### 42"


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("", ""),
        ("  7\n", "7"),
        ("one\n#### 1\n#### 2 ", "2"),
        ("####3", "3"),
        ("not #### a marker", "not #### a marker"),
    ],
)
def test_the_answer_is_behind_the_last_marker_that_starts_a_line(output, answer):
    assert data.final_answer(output) == answer


def test_an_answer_that_could_not_be_found_again_is_refused():
    with pytest.raises(ValueError, match="'####'"):
        data.response_text("a\n#### b")


ALPACA = """Below is an instruction that describes a task. Write a response that appropriately \
completes the request.

### Instruction:
{} {{x}} <|im_end|>

### Response:
"""
QWEN, LLAMA = (checkpoints.golden(family) for family in ("qwen2", "llama3"))
QUESTION = "2 + 2 = {x} <|im_end|>"


@pytest.mark.parametrize("tokenizer", [data.ByteTokenizer(), QWEN, LLAMA], ids=["bytes", *"ql"])
def test_prompts_are_the_templates_text_behind_the_beginning(tokenizer):
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    plain, alpaca = (data.TEMPLATES[name](QUESTION, tokenizer) for name in ("plain", "alpaca"))
    assert plain == begin + tokenizer.encode(QUESTION + "\n")
    assert alpaca == begin + tokenizer.encode(ALPACA.format("2 + 2 ="))


@pytest.mark.parametrize("tokenizer", [QWEN, LLAMA], ids=["qwen2", "llama3"])
def test_a_chat_is_the_users_turn_and_the_start_of_an_answer(tokenizer):
    expected = tokenizer.chat([{"role": "user", "content": QUESTION}], answer=True)
    assert data.TEMPLATES["chat"](QUESTION, tokenizer) == expected


def test_responses_are_closed_by_the_turns_end_or_the_end(tmp_path):
    tokenizer = data.load_tokenizer(
        checkpoints.edited(tmp_path, "qwen2", eos_token="<|endoftext|>")
    )
    closing = {name: template.closing(tokenizer) for name, template in data.TEMPLATES.items()}
    end, turn_end = checkpoints.named(tokenizer, "<|endoftext|>", "<|im_end|>")
    assert closing == {"plain": end, "alpaca": end, "chat": turn_end}


def test_templates_are_checked_on_a_question(tmp_path):
    assert data.check_template("chat", QWEN) is data.TEMPLATES["chat"]
    with pytest.raises(ValueError, match=r"unknown template 'vicuna'; choose one of plain, alp"):
        data.check_template("vicuna", QWEN)
    with pytest.raises(ValueError, match="no chat template"):
        data.check_template("chat", data.ByteTokenizer())
    refusing = checkpoints.edited(tmp_path, "qwen2", chat_template="{{ raise_exception('odd') }}")
    with pytest.raises(ValueError, match="odd"):
        data.check_template("chat", data.load_tokenizer(refusing))
