"""Verdicts on whole kinds of answers, and on right answers whose number was changed."""

import re

import pytest

from partitionsel_jax.evaluation.answers import ANSWER_KINDS, final_answer_of, is_correct
from tests.evaluation.answer_cases import CASES
from tests.evaluation.answer_forms import FORMS
from tests.evaluation.answer_reports import REPORTED
from tests.evaluation.answer_variants import CLOSE, EQUAL, REFUSED, VARIANTS, boxed

RIGHT = [case[:3] for case in CASES + FORMS if case.right] + [
    row[:3] for rows in REPORTED.values() for row in rows if row[3]
]


@pytest.mark.parametrize("kind", REPORTED)
def test_reported_outputs_have_their_verdicts(kind):
    for output, reference, benchmark, right in REPORTED[kind]:
        assert is_correct(output, reference, benchmark) is right, output


@pytest.mark.parametrize("kind", VARIANTS)
def test_an_answer_is_right_in_every_form_and_for_its_reference_only(kind):
    variants = VARIANTS[kind]
    for output in variants.outputs:
        assert is_correct(output, variants.reference, variants.benchmark), output
        for tempting in variants.tempting:
            assert not is_correct(output, tempting, variants.benchmark), (output, tempting)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_looks_like_an_answer_and_is_none_is_wrong(kind):
    benchmark, reference, outputs = REFUSED[kind]
    for output in outputs:
        assert not is_correct(output, reference, benchmark), output


@pytest.mark.parametrize("pair", CLOSE, ids=[" ".join(pair) for pair in CLOSE])
def test_values_that_differ_are_told_apart_however_close_they_are(pair):
    for given, expected in (pair, pair[::-1]):
        assert not is_correct(boxed(given)[0], expected, "math"), pair


@pytest.mark.parametrize("pair", EQUAL, ids=[" ".join(pair) for pair in EQUAL])
def test_values_that_are_equal_are_found_equal_however_they_are_written(pair):
    for given, expected in (pair, pair[::-1]):
        for benchmark in ("math", "metamathqa"):
            assert is_correct(boxed(given)[0], expected, benchmark), pair


def test_a_turn_that_the_model_made_up_is_not_read():
    for end in ("<|im_end|>\n<|im_start|>user\n", "</s>", "<|endoftext|>Question: "):
        assert final_answer_of(f"#### 18{end}#### 20") == "18"


def changed(answer):
    """An answer with one number changed: a digit, one digit more, the sign."""
    for digit in re.finditer("[0-9]", answer):
        other = str((int(digit[0]) + 1) % 10)
        yield answer[: digit.start()] + other + answer[digit.end() :]
    for number in re.finditer(r"[0-9]+(?![0-9.])", answer):
        yield f"{answer[: number.end()]}7{answer[number.end() :]}"
    first = re.search(r"(?<![\w.])[-−]?[0-9]", answer)
    if first:
        turned = first[0][1:] if len(first[0]) > 1 else f"-{first[0]}"
        yield answer[: first.start()] + turned + answer[first.end() :]


def is_one_value(output, answer, reference, benchmark):
    """Whether all numbers of an answer are its value: no working, no dimension, nothing rounded."""
    working = re.search(r"=| \(|<<|because|–|[÷×*/] *[0-9]+ =|\^[23]|=.*,", answer)
    rounded = ANSWER_KINDS[benchmark].rounded and "." in reference
    return answer and not (working or rounded) and output.count(answer) == 1


@pytest.mark.parametrize(
    "benchmark", [name for name in ANSWER_KINDS if name[:2] not in ("aq", "sa")]
)
def test_a_right_answer_whose_number_is_changed_is_wrong(benchmark):
    tried = 0
    for output, reference, name in RIGHT:
        answer = final_answer_of(output, name)
        if name != benchmark or not is_one_value(output, answer, reference, benchmark):
            continue
        others = list(changed(answer))
        # The place in the list stands for chance: half of the changes, each kind among them.
        for other in others[len(output) % 2 :: 2]:
            tried += 1
            wrong = output.replace(answer, other)
            assert not is_correct(wrong, reference, benchmark), (output, wrong)
    assert tried >= (0 if ANSWER_KINDS[benchmark].letters else 8)


def test_a_right_expression_to_which_nearly_nothing_is_added_is_wrong():
    for output, reference, benchmark in RIGHT:
        answer = final_answer_of(output, benchmark)
        value = re.fullmatch(r"[^=,<>()\[\]|]*[0-9}]", answer) and "text" not in answer
        if benchmark == "math" and value and f"{{{answer}}}" in output:
            wrong = output.replace(answer, f"{answer}+10^{{-40}}")
            assert not is_correct(wrong, reference, benchmark), wrong
