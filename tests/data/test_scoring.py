import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.tasks import QUICKSTART_TASKS
from partitionsel_jax import data
from partitionsel_jax.data import scoring
from partitionsel_jax.time_limited import TimeLimited

NAMES = [name for name, _ in QUICKSTART_TASKS]
WEIRD = [
    "",
    " ",
    "####",
    "\x00",
    "\ud800",
    "💥" * 50,
    "1e999999999",
    "9" * 9000,
    "-nan",
    "nan+nanj",
    "-inf",
]


@pytest.fixture(scope="session")
def entries(corpus):
    """One test example of every domain."""
    first: dict[str, data.Example] = {}
    for example in corpus.test.examples(range(len(corpus.test))):
        first.setdefault(corpus.domains[example.domain], example)
    return first


def test_right_answers_score_one_and_nonsense_zero(corpus):
    for example in corpus.test.examples(range(len(corpus.test))):
        name = corpus.domains[example.domain]
        assert data.score(name, example.response, example.entry) == 1.0
        assert data.score(name, f"so it is\n#### {example.answer} ", example.entry) == 1.0
        assert data.score(name, "@@@@@@@@", example.entry) == 0.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", WEIRD, ids=range(len(WEIRD)))
def test_weird_text_never_raises(entries, name, text):
    assert 0.0 <= data.score(name, text, entries[name].entry) < 1.0


@settings(max_examples=60)
@given(text=st.text(st.characters(codec="utf-8"), max_size=30))
def test_no_text_raises(entries, text):
    for name in NAMES:
        assert 0.0 <= data.score(name, text, entries[name].entry) <= 1.0


def test_what_a_model_wrote_is_never_executed(tmp_path):
    entry = {"question": "?", "answer": "ab", "metadata": {}}
    proof = tmp_path / "executed"
    output = f"[__import__('pathlib').Path({str(proof)!r}).touch() or 'ab']"
    assert data.score("string_insertion", output, entry) == 0.0
    assert not proof.exists()
    assert data.score("string_insertion", "ab", json.dumps(entry)) == 1.0


def test_a_scorer_that_fails_gives_zero():
    # A puzzle without its board.
    assert data.score("sokoban", "LR", {"answer": "RL", "metadata": {}}) == 0.0
    assert data.score("jugs", '["fill A"]', {"answer": "[]", "metadata": {}}) == 0.0


def test_a_scorer_that_takes_too_long_gives_zero(tmp_path, monkeypatch):
    program = tmp_path / "slow.py"
    program.write_text("def answer(*_):\n    while True:\n        pass\n")
    monkeypatch.setattr(scoring, "_PROCESS", TimeLimited(program))
    monkeypatch.setattr(scoring, "_SECONDS", 0.2)
    entry = {"answer": "LR", "metadata": {}}
    assert data.score("sokoban", "RL", entry) == 0.0
    # The reference, and what has not the form of an answer, are not asked about.
    monkeypatch.setattr(scoring._PROCESS, "ask", None)
    assert data.score("sokoban", "LR", entry) == 1.0
    assert data.score("sokoban", "I go left", entry) == 0.0
    scoring._PROCESS.close()


def test_a_task_s_own_scorer_finds_solutions_beside_the_reference():
    puzzle = {"jug_capacities": [3, 5], "target": 2, "min_moves": 2}
    entry = {"answer": '["fill B", "pour B->A"]', "metadata": {"puzzle": puzzle}}
    for answer, right in {
        '["fill A", "empty A", "fill B", "pour B->A"]': 1.0,
        '["fill A"]': 0.0,
        '["fill B", "pour B->A"] 7': 0.0,
        '["fill B 7", "pour B->A"]': 0.0,
    }.items():
        assert data.score("jugs", answer, entry) == right


def test_tasks_of_which_the_reference_alone_is_right_are_told():
    assert data.takes_reference_only("simple_integration") and not data.takes_reference_only(
        "chain_sum"
    )


def test_an_unknown_task_is_refused_with_close_matches():
    with pytest.raises(ValueError, match=r"'count_bit'; did you mean count_bits"):
        data.score("count_bit", "3", "{}")
