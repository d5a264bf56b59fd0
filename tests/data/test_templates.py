import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from partitionsel_jax import data

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


def test_the_response_starts_on_a_line_of_its_own():
    assert data.prompt_text("2 + 2 =") == "2 + 2 =\n"
