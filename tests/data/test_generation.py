import pytest

from configs.tasks import QUICKSTART_TASKS
from partitionsel_jax import data
from partitionsel_jax.data.generation import (
    canonical_tasks,
    create,
    distinct_entries,
    numbered_entries,
    worked_steps,
)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], "at least one task"),
        (["chain_sums"], "'chain_sums'; did you mean .*chain_sum"),
        (["composite"], "unknown reasoning-gym task 'composite'"),
        (["chain_sum", ("chain_sum", {"max_terms": 3})], "chain_sum came more than once"),
        ([("chain_sum", {"max_term": 3})], "refuses the settings.*it takes .*max_terms"),
        ([("chain_sum", {"min_terms": 9})], "refuses the settings"),
        ([("chain_sum", {"seed": 1})], "hold seed.*leave them out"),
        ([("chain_sum", {"allow_negation": {1}})], "must be JSON"),
    ],
)
def test_tasks_that_cannot_be_had_are_refused(tasks, message):
    with pytest.raises(ValueError, match=message):
        canonical_tasks(tasks)


def test_questions_are_distinct_and_the_same_every_time():
    task = ("coin_flip", {"max_trials": 10})
    entries = distinct_entries(task, 60, seed=0)
    assert len({entry["question"] for entry in entries}) == 60
    assert entries == distinct_entries(task, 60, seed=0)
    assert entries != distinct_entries(task, 60, seed=1)


@pytest.mark.parametrize("task", [("coin_flip", {"max_trials": 10}), ("acre", {})])
def test_a_number_names_the_same_question_whatever_is_asked_or_was_seen(task):
    few, more = (dict(numbered_entries(task, count, seed=0)) for count in (10, 60))
    assert list(more) == list(range(1, 61))
    assert few == {number: more[number] for number in few}
    assert len({entry["question"] for entry in more.values()}) == 60
    seen = {more[number]["question"] for number in (1, 4, 5, 20)}
    rest = dict(numbered_entries(task, 56, 0, seen))
    assert rest == {number: entry for number, entry in more.items() if number not in (1, 4, 5, 20)}
    assert dict(numbered_entries(task, 60, seed=1)) != more
    trained = {entry["question"] for entry in distinct_entries(task, 60, seed=0)}
    assert trained != {entry["question"] for entry in more.values()}


def test_an_exhausted_order_is_refused_with_the_numbers():
    seen = {entry["question"] for _, entry in numbered_entries(("count_bits", {"max_n": 7}), 3, 0)}
    with pytest.raises(ValueError, match=r"gave 4 distinct .*not seen in .*5 are wanted"):
        numbered_entries(("count_bits", {"max_n": 7}), 5, 0, seen)


def test_neighbouring_seeds_share_few_questions():
    task = ("chain_sum", {"max_digits": 4})
    first, second = (
        {entry["question"] for entry in distinct_entries(task, 100, seed)} for seed in (0, 1)
    )
    assert len(first & second) < 10


def test_an_exhausted_task_is_refused_with_the_numbers():
    with pytest.raises(ValueError, match=r"count_bits.*gave 7 distinct.*8 are wanted.*fewer rows"):
        distinct_entries(("count_bits", {"max_n": 7}), 8, seed=0)


def test_a_task_without_a_reference_answer_is_refused():
    with pytest.raises(ValueError, match="rush_hour gives no reference answer"):
        distinct_entries(("rush_hour", {}), 1, seed=0)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("base_conversion", {}),
        ("count_bits", {}),
        ("count_primes", {"max_n": 50}),
        ("gsm_symbolic", {}),
        ("string_manipulation", {}),
        ("string_splitting", {}),
        ("string_synthesis", {}),
    ],
)
def test_worked_steps_lead_to_the_answer(name, settings):
    for entry in distinct_entries((name, settings), 3, seed=0):
        steps = worked_steps(name, entry)
        response = data.response_text(entry["answer"], steps)
        assert steps.strip() or name == "count_primes"
        assert response.count("####") == bool(steps.strip())
        assert data.final_answer(response) == entry["answer"]
        assert data.score(name, response, entry) == 1.0


def test_a_task_without_steps_has_none():
    entry = create("chain_sum", {}, size=1, seed=0)[0]
    assert worked_steps("chain_sum", entry) == ""


def test_the_quickstart_covers_five_categories_and_fits_its_rows(corpus):
    categories = {create(name, settings, 1, 0).category for name, settings in QUICKSTART_TASKS}
    assert len(categories) >= 5
    assert corpus.domains == tuple(name for name, _ in QUICKSTART_TASKS)
    assert not any(rows.rows for rows in (*corpus.left_out.values(), *corpus.cut.values()))
