"""Verdicts on the table of answers, and what holds for every text: no exception, no execution."""

import concurrent.futures
import importlib.util
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitionsel_jax import evaluation
from partitionsel_jax.evaluation.answers import (
    ANSWER_KINDS,
    equivalence,
    final_answer_of,
    is_correct,
)
from tests.evaluation.answer_cases import CASES
from tests.evaluation.answer_forms import FORMS

TOWER = "(0,9^{9^{9^{9}}})"
# What makes a pattern that can take a character in two ways slow; repeated up to 20,000 characters.
UNITS = [
    *("7 or ", "7 and ", "and ", "or ", " ", "(", "$", "\\boxed{", "\\boxed ", "answer ", "####"),
    *("####\n", "\n#### ", "\n#### Step 1\n", "1", "1,", ",", "1/", "1/1 ", "A or ", "(A) or "),
    *("option ", "option A ", "not A ", "A) 1\n", "B. ", "\\frac{", "\\text {", "<<", "**a", "** "),
    *(
        "\\[",
        "\\(",
        "\\",
        "{",
        "}",
        "-",
        ".",
        "x^",
        "x = ",
        "x = 1\n",
        "- x = 1\n",
        "x=1,",
        "=",
        "~",
    ),
    *(
        "\\,",
        "\\quad ",
        "50 % ",
        "hundred ",
        "one hundred and ",
        "half a ",
        "$1",
        "1 000 ",
        "1.",
        "e",
    ),
    *("\n", " \n", "\t", "\u2009", "&", "\\\\", "\\begin{aligned}", "x &= 1 \\\\", "Option 2: "),
    *("answer is ", "answer to ", "the answer is 5 or ", "answer is a ", "entailment or ", "is x "),
    *(
        "\\boxed{3} and ",
        "\\boxed{3}\n",
        "so ",
        "because ",
        "[1,",
        ")",
        "degrees ",
        "m/s",
        "1e",
        "|",
    ),
    *("<answer>", "</answer>", "<|im_end|>", "</s>18", "<b>", "</think>", "答案是", "不选", "５，"),
    *(
        "选B",
        "1万",
        "respuesta ",
        "option 2 ",
        "b) ",
        "9 x ",
        "= 1 ",
        "≈",
        "_{2}",
        "\\text{ or }x>2",
    ),
]
AROUND = [
    *(("", ""), ("", "x"), ("answer", ""), ("The answer is ", "$"), ("The answer is 5", "because")),
    *(
        ("\\boxed{", "}"),
        ("\\boxed{\\frac{", "}"),
        ("#### ", "."),
        ("B. 12\n", "\n\nA"),
        ("$", "!"),
    ),
]


def repeated(unit, before="", behind=""):
    """A text of 20,000 characters."""
    count = (20_000 - len(before) - len(behind)) // len(unit)
    return before + unit * count + behind


def is_running(pid):
    """Whether a process exists and is no zombie that nobody waits for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


ALL = CASES + FORMS


@pytest.mark.parametrize("case", ALL, ids=[f"{c.benchmark}-{n}" for n, c in enumerate(ALL)])
def test_every_case_of_the_tables_has_its_verdict(case):
    assert is_correct(case.output, case.reference, case.benchmark) is case.right, case


def test_every_form_is_told_from_the_answer_that_tempts():
    assert len(FORMS) >= 300
    right = {(case.output, case.benchmark) for case in FORMS if case.right}
    assert len(right) >= 150
    for output, benchmark in right:
        verdicts = {c.right for c in FORMS if (c.output, c.benchmark) == (output, benchmark)}
        assert verdicts == {True, False}, output


def test_the_table_covers_every_benchmark_with_right_and_wrong_answers():
    assert len(CASES) >= 200
    for benchmark in ANSWER_KINDS:
        verdicts = [case.right for case in CASES if case.benchmark == benchmark]
        assert min(verdicts.count(True), verdicts.count(False)) >= 3, benchmark
    wrong = sum(not case.right for case in CASES)
    assert 0.4 < wrong / len(CASES) < 0.6


def test_every_reference_answers_itself():
    for case in CASES:
        if case.reference and case.right:
            assert is_correct(case.reference, case.reference, case.benchmark), case


@pytest.mark.parametrize(
    ("output", "benchmark", "answer"),
    [
        ("9 * 2 = 18\n#### 18", "gsm8k", "18"),
        ("so \\boxed{\\frac{3}{4}} it is", "math", "\\frac{3}{4}"),
        ("\\boxed{\\{1, \\frac{1}{2}\\}}", "math", "\\{1, \\frac{1}{2}\\}"),
        ("I think A is wrong, so the answer is C", "aqua", "C"),
        ("The two numbers are 12 and 30.", "simuleq", "12 and 30"),
        ("She has 1,234 eggs left over.", "gsm8k", "1,234"),
        ("No idea.", "gsm8k", ""),
    ],
)
def test_the_final_answer_is_given_as_it_was_written(output, benchmark, answer):
    assert final_answer_of(output, benchmark) == answer


def test_an_unknown_benchmark_is_refused_with_the_names():
    for function in (lambda: is_correct("1", "1", "gsm"), lambda: final_answer_of("1", "gsm")):
        with pytest.raises(ValueError, match=r"'gsm'; choose one of gsm8k, svamp, math"):
            function()


def test_the_default_benchmark_is_gsm8k_and_the_package_exports_the_check():
    assert evaluation.is_correct is is_correct
    assert is_correct("#### 18", "#### 18")


any_text = st.text(st.characters(codec=None), max_size=60)
PIECES = (
    "\\boxed{ } { $ 18 1,000 \\frac \\frac{1}{2} \\text{ ^ _ = + - ( ) [ , % (C) A or and \\pm \\{ "
    "\\} half dozen one million \ud800 \x00 \u0663 \u2212 "
    "2 thou\u017fand the \u017fecond option m\u0130llion 1010 _2 _\u017fix 答案是 选 １ ，２ 十 万 "
    "⁵ ₂ <answer> </answer> </s> <|im_end|> x × = ≈ ln ! 9^{9^{9}} e i "
)
pieces = st.lists(
    st.sampled_from([*PIECES.split(" "), " ", "\n", "#### ", "The answer is "]), max_size=12
).map("".join)


@settings(max_examples=150, deadline=None)
@given(output=any_text | pieces, reference=any_text | pieces)
def test_no_text_raises(output, reference):
    for benchmark in ANSWER_KINDS:
        assert is_correct(output, reference, benchmark) in (True, False)
        assert isinstance(final_answer_of(output, benchmark), str)


@pytest.mark.parametrize("benchmark", ANSWER_KINDS)
def test_no_text_takes_long(benchmark):
    # Each benchmark meets its own quarter of all combinations, and every unit bare.
    first = list(ANSWER_KINDS).index(benchmark)
    for place, unit in enumerate(UNITS):
        for before, behind in [("", ""), *AROUND[(first + place) % 4 :: 4]]:
            long = repeated(unit, before, behind)
            # Answers are read up to 1,000 characters, or 400.
            for text in (long, before + long[-900:], before + long[-300:]):
                start = time.process_time()
                is_correct(text, "7", benchmark)
                assert time.process_time() - start < 0.5, (unit, before, behind)


@pytest.mark.parametrize("unit", UNITS)
def test_a_text_that_only_repeats_itself_is_no_answer(unit):
    for benchmark in ANSWER_KINDS:
        assert not is_correct(repeated(unit), "17", benchmark)
        assert not is_correct("17", repeated(unit), benchmark)


def test_the_end_of_a_very_long_text_decides():
    steps = "Then 3 and 4 are 7. " * 100_000
    start = time.process_time()
    assert is_correct(f"{steps}\n#### 18", "#### 18")
    assert not is_correct(f"#### 18\n{steps}", "#### 18")
    assert is_correct(f"{steps}\n\nThe answer is B.", "B", "aqua")
    assert is_correct(f"{steps}\nx = 3\ny = 5", "3, 5", "simuleq")
    assert time.process_time() - start < 2.0


whole = st.integers(-(10**12), 10**12)


def integer_spellings(value):
    """Ways of writing an integer."""
    sign, digits = ("-" if value < 0 else ""), abs(value)
    return [
        f"{value}",
        f"{value:,}",
        f"{value}.0",
        f"{value}.00",
        f"${value}$",
        f"\\boxed{{{value:,}}}",
        f"The answer is: {value}.",
        f"x = {value}",
        f"so it is\n#### {sign}${digits:,}",
        f"The answer is {value} \\text{{ apples}}.".replace("-", "\u2212"),
        f"**Answer:** {value:,}".replace(",", "\\,"),
    ]


@settings(max_examples=40, deadline=None)
@given(value=whole, shift=st.integers(1, 10**6))
def test_an_integer_equals_itself_in_every_spelling_and_no_other(value, shift):
    for spelling in integer_spellings(value):
        for benchmark in ("gsm8k", "svamp", "simuleq", "deepmind", "math"):
            assert is_correct(spelling, str(value), benchmark), (spelling, benchmark)
            for other in {value + shift, value - shift, 10 * value + 1, -value - 1}:
                assert not is_correct(spelling, str(other), benchmark), (spelling, other)


@settings(max_examples=40, deadline=None)
@given(
    value=st.fractions(-50, 50, max_denominator=60).filter(lambda value: value.denominator > 1),
    shift=st.fractions(Fraction(1, 100), 3, max_denominator=100),
)
def test_a_fraction_equals_itself_in_every_spelling_and_no_other(value, shift):
    sign, top, bottom = ("-" if value < 0 else ""), abs(value.numerator), value.denominator
    spellings = [
        f"{value}",
        f"\\boxed{{{sign}\\dfrac{{{top}}}{{{bottom}}}}}",
        f"The answer is $\\frac{{{sign}{top}}}{{{bottom}}}$.",
    ]
    if top > bottom:
        spellings.append(f"{sign}{top // bottom} {top % bottom}/{bottom}")
        spellings.append(f"{sign}{top // bottom}\\frac{{{top % bottom}}}{{{bottom}}}")
    for spelling in spellings:
        for benchmark in ("gsm8k", "deepmind", "math"):
            assert is_correct(spelling, str(value), benchmark), (spelling, benchmark)
            for other in (
                value + shift,
                value - shift,
                1 / value if abs(value) != 1 else value + 1,
            ):
                assert not is_correct(spelling, str(other), benchmark), (spelling, other)


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.integers(-999, 999), min_size=3, max_size=5, unique=True))
def test_a_list_equals_itself_in_every_spelling_and_no_other(values):
    comma = ", ".join(map(str, values))
    worded = ", ".join(map(str, values[:-1])) + f" and {values[-1]}"
    moved = ", ".join(map(str, [*values[1:], values[0]]))
    for spelling in (
        comma,
        worded,
        f"[{comma}]",
        f"The answer is {worded}.",
        f"\\boxed{{{comma}}}",
    ):
        for benchmark in ("simuleq", "deepmind", "math"):
            assert is_correct(spelling, comma, benchmark), (spelling, benchmark)
            assert not is_correct(spelling, f"{comma}, 1000", benchmark)
            assert not is_correct(spelling, ", ".join(map(str, [1000, *values[1:]])), benchmark)
            assert not is_correct(spelling, str(values[-1]), benchmark)
    assert is_correct(moved, comma, "math")
    assert not is_correct(moved, comma, "deepmind")
    assert not is_correct(f"\\boxed{{({moved})}}", f"({comma})", "math")


@settings(max_examples=40, deadline=None)
@given(letter=st.sampled_from("ABCDE"), other=st.sampled_from("ABCDE"))
def test_a_letter_equals_itself_in_every_spelling_and_no_other(letter, other):
    for spelling in (
        "{}",
        "({})",
        "The answer is {}.",
        "\\boxed{{\\text{{({})}}}}",
        "#### {}",
        "option {}",
    ):
        assert is_correct(spelling.format(letter), other, "aqua") is (letter == other), spelling


def test_what_a_model_wrote_is_never_executed(tmp_path):
    proof = tmp_path / "executed"
    code = f"__import__('pathlib').Path({str(proof)!r}).touch()"
    for text in (
        code,
        f"f({code},2)",
        f"\\max({code},1)",
        f"x_{{{code}}}",
        f"{code} + x",
        f"{code}*1",
    ):
        for output in (text, f"\\boxed{{{text}}}", f"#### {text}", f"The answer is ${text}$"):
            for benchmark in ANSWER_KINDS:
                assert not is_correct(output, "x + 1", benchmark)
                assert not is_correct("x + 1", output, benchmark)
    assert not equivalence.equivalent(code, "x + 1")
    assert not proof.exists()


def test_a_comparison_that_takes_too_long_is_ended_and_the_next_one_served():
    assert equivalence.equivalent("\\sqrt{12}", "2\\sqrt{3}")
    before = equivalence._SERVICE._process
    start = time.perf_counter()
    assert not equivalence.equivalent("(0,1)", TOWER, seconds=0.5)
    assert time.perf_counter() - start < 3.0
    # The computation went on inside one call of the integer power, which no exception can leave.
    assert before.poll() is not None
    assert equivalence.equivalent("\\sqrt{12}", "2\\sqrt{3}")


def test_an_answer_of_many_slow_parts_takes_no_longer_than_one(monkeypatch):
    monkeypatch.setattr(equivalence, "_SECONDS", 0.5)
    slow = ", ".join(f"\\binom{{999999{digit}}}{{99999}}" for digit in range(6, 10))
    start = time.perf_counter()
    assert not is_correct(f"\\boxed{{{slow}}}", "1, 2, 3, 4", "math")
    assert time.perf_counter() - start < 8.0
    assert is_correct("\\boxed{\\sqrt{12}}", "2\\sqrt{3}", "math")


def test_a_worker_that_does_not_move_is_replaced():
    assert equivalence.equivalent("\\sqrt{12}", "2\\sqrt{3}")
    os.kill(equivalence._SERVICE._process.pid, signal.SIGSTOP)
    start = time.perf_counter()
    assert not equivalence.equivalent("\\sqrt{12}", "2\\sqrt{3}", seconds=0.2)
    assert time.perf_counter() - start < 10.0
    assert equivalence.equivalent("\\sqrt{12}", "2\\sqrt{3}")


def test_a_long_comparison_ends_though_its_program_was_killed():
    script = (
        "import os, signal, threading, time\n"
        "from partitionsel_jax.evaluation.answers import equivalence\n"
        "equivalence.equivalent('x', 'y')\n"
        "print(equivalence._SERVICE._process.pid, flush=True)\n"
        "threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()\n"
        f"equivalence.equivalent('(0,1)', {TOWER!r}, seconds=0.5)\n"
        "time.sleep(60)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10.0
    while is_running(int(killed.stdout)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_texts_that_need_no_reading_do_not_reach_math_verify(monkeypatch):
    monkeypatch.setattr(equivalence._SERVICE, "ask", lambda *_: pytest.fail("asked"))
    for text in (
        "x" * 500,
        "(" * 30 + "x" + ")" * 30,
        "9" * 80,
        "\\sum_{i=1}^{n} i",
        "\\int x",
        "\\operatorname{zeros}(9, 9)",
        "\\begin{tabular}",
        "101_2",
        "1 2",
        "\ud800",
        "",
    ):
        assert not equivalence.equivalent(text, "x + 1")
        assert not equivalence.equivalent("x + 1", text)


def test_threads_get_the_verdicts_of_one_thread():
    cases = [case for case in CASES if case.benchmark in ("math", "metamathqa")]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda case: is_correct(*case[:3]), cases))
    assert found == [case.right for case in cases]


def test_a_missing_extra_is_named_before_any_text_is_read(monkeypatch):
    equivalence.require_math_verify.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"\[evaluation\]"):
        is_correct("5", "5", "math")
    assert is_correct("5", "5", "gsm8k")


SCRIPT = """
import os, signal, sys
from partitionsel_jax.evaluation.answers import equivalence, is_correct
assert "math_verify" not in sys.modules and "sympy" not in sys.modules
assert is_correct(r"\\boxed{\\sqrt{12}}", r"2\\sqrt{3}", "math")
assert "math_verify" not in sys.modules
worker = equivalence._SERVICE._process
modules = open(f"/proc/{worker.pid}/maps").read() if os.path.exists("/proc/self/maps") else ""
assert "jaxlib" not in modules
child = os.fork()
if child == 0:
    fresh = is_correct(r"\\boxed{\\sqrt{18}}", r"3\\sqrt{2}", "math")
    other = equivalence._SERVICE._process.pid != worker.pid
    equivalence._SERVICE.close()
    os._exit(0 if fresh and other else 1)
assert os.waitpid(child, 0)[1] == 0
assert is_correct(r"\\boxed{\\sqrt{8}}", r"2\\sqrt{2}", "math")
assert equivalence._SERVICE._process.pid == worker.pid
print(worker.pid)
os.kill(worker.pid, signal.SIGSTOP)
"""


def test_the_worker_ends_with_the_program_and_nothing_is_printed():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    pid = int(done.stdout)
    assert done.stderr == ""
    assert not is_running(pid)
