"""No task's score is trusted that was not attacked: the same attacks on every task."""

import json
import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from reasoning_gym.factory import DATASETS

from partitionsel_jax import data
from partitionsel_jax.data.generation import canonical_tasks, numbered_entries
from partitionsel_jax.data.scoring_rules import RULES

ENTRIES = 20
# Settings under which twenty entries are made in seconds rather than a minute.
SMALL: Mapping[str, dict[str, Any]] = {
    "futoshiki": {"max_board_size": 4, "min_board_size": 4},
}
NO_REFERENCE = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
TASKS = sorted(set(DATASETS) - {"composite"} - NO_REFERENCE)


def attacks(reference: str, others: list[str]) -> list[str]:
    """Answers that are wrong, but for those that happen to be right by the task's rule."""
    found = ["", "0", "@@@@", reference + " 7", reference + ", 12", reference + "\n3", *others]
    if re.fullmatch(r"[-+]?[\d.,/ ]*[1-9][\d.,/ ]*", reference):
        found.append(reference.removeprefix("-") if reference[0] == "-" else f"-{reference}")
    size = len(reference)
    found += [reference[: 1 + round(i * (size - 2) / 19)] for i in range(20) if size > 1]
    return [answer for answer in found if answer.strip() != reference.strip()]


def is_right(task: str, answer: str, entry: Mapping[str, Any]) -> bool:
    """An oracle of its own, for the tasks of which an answer beside the reference is right."""
    if task in ORACLES:
        return ORACLES[task](answer, entry)
    value, reference = number(answer), number(entry["answer"])
    return value is not None and reference is not None and value == reference


def number(text: str) -> Fraction | None:
    try:
        return Fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        return None


def near(relative):
    def right(answer, entry):
        value, wanted = number(answer), number(entry["answer"])
        return value is not None and abs(value - wanted) <= Fraction(relative) * abs(wanted)

    return right


def three_figures(answer, entry):
    value, wanted = number(answer), number(entry["answer"])
    rounded = value is not None and f"{float(value):.2e}" == f"{float(wanted):.2e}"
    return rounded or near("1e-4")(answer, entry)


def matrix(answer, entry):
    rows, rights = (
        [[float(cell) for cell in line.split()] for line in text.splitlines()]
        for text in (answer, entry["answer"])
    )
    return [len(row) for row in rows] == [len(row) for row in rights] and all(
        abs(a - b) < 0.006
        for row, right in zip(rows, rights, strict=True)
        for a, b in zip(row, right, strict=True)
    )


def roots(answer, entry):
    values, rights = (
        sorted(float(x) for x in text.split(",")) for text in (answer, entry["answer"])
    )
    return len(values) == len(rights) and all(
        abs(a - b) < 6e-5 for a, b in zip(values, rights, strict=True)
    )


def jugs(answer, entry):
    sizes = entry["metadata"]["puzzle"]["jug_capacities"]
    held = [0] * len(sizes)
    for move in json.loads(answer):
        verb, place = move.split(" ")
        first = ord(place[0]) - ord("A")
        if verb == "pour":
            second = ord(place[-1]) - ord("A")
            moved = min(held[first], sizes[second] - held[second])
            held[first], held[second] = held[first] - moved, held[second] + moved
        else:
            held[first] = sizes[first] if verb == "fill" else 0
    return entry["metadata"]["puzzle"]["target"] in held


def queens(answer, entry):
    board = [line.split() for line in answer.splitlines()]
    given = [
        line.split() for line in entry["question"].splitlines() if line.startswith(("_ ", "Q "))
    ]
    places = [(r, c) for r, row in enumerate(board) for c, cell in enumerate(row) if cell == "Q"]
    kept = all(
        board[r][c] == "Q" for r, row in enumerate(given) for c, x in enumerate(row) if x == "Q"
    )
    lines = [
        {f(r, c) for r, c in places}
        for f in (lambda r, c: r, lambda r, c: c, lambda r, c: r + c, lambda r, c: r - c)
    ]
    return kept and len(places) == len(board) and all(len(line) == len(board) for line in lines)


def sokoban(answer, entry):
    rows = entry["metadata"]["gamestr"].replace(" ", "").strip().split("\n")
    cells = {(r, c): cell for r, row in enumerate(rows) for c, cell in enumerate(row)}
    [player] = [place for place, cell in cells.items() if cell in "*%"]
    boxes = {place for place, cell in cells.items() if cell in "@$"}
    goals = {place for place, cell in cells.items() if cell in "X$%"}
    for move in answer:
        step = {"L": (0, -1), "R": (0, 1), "U": (-1, 0), "D": (1, 0)}[move]
        ahead = (player[0] + step[0], player[1] + step[1])
        beyond = (ahead[0] + step[0], ahead[1] + step[1])
        if cells[ahead] == "+" or (ahead in boxes and (cells[beyond] == "+" or beyond in boxes)):
            continue
        if ahead in boxes:
            boxes = boxes - {ahead} | {beyond}
        player = ahead
    return boxes == goals


def survo(answer, entry):
    rows = [[int(cell) for cell in line.split()] for line in answer.splitlines()]
    given = [cell for row in entry["metadata"]["puzzle"] for cell in row]
    cells = [cell for row in rows for cell in row]
    placed = [cell for cell, fixed in zip(cells, given, strict=True) if fixed != cell]
    columns = zip(*rows, strict=True)
    return (
        sorted(placed) == sorted(entry["metadata"]["candidate_numbers"])
        and len(placed) == given.count(0)
        and all(sum(line) == 2 * line[-1] for line in (*rows, *columns))
    )


def full_stop(answer, entry):
    # The format that the question asks for has none.
    return answer == entry["answer"].removesuffix(".")


def arithmetic(answer, entry):
    used = sorted(map(int, re.findall(r"\d+", answer)))
    target = entry["metadata"].get("target", 24)
    # The answers are other entries' own here, no model's.
    return used == sorted(entry["metadata"]["numbers"]) and abs(eval(answer) - target) < 1e-9


ORACLES = {
    "countdown": arithmetic,
    "puzzle24": arithmetic,
    "coin_flip": near("1e-4"),
    "decimal_arithmetic": near("1e-11"),
    "number_format": near("1e-14"),
    "power_function": three_figures,
    "pool_matrix": matrix,
    "polynomial_equations": roots,
    "jugs": jugs,
    "n_queens": queens,
    "sokoban": sokoban,
    "survo": survo,
    "knights_knaves": full_stop,
}


@pytest.mark.parametrize("name", TASKS)
def test_only_right_answers_score_one(name):
    [task] = canonical_tasks([(name, SMALL.get(name, {}))])
    entries = [entry for _, entry in numbered_entries(task, ENTRIES, seed=0)]
    answers = [entry["answer"] for entry in entries]
    for entry in entries:
        stored = json.dumps(entry, default=str)
        assert data.score(task, entry["answer"], stored) == 1.0
        for answer in attacks(entry["answer"], answers):
            if data.score(task, answer, stored) == 1.0:
                assert is_right(name, answer, entry), (answer, entry["answer"])


def test_every_task_that_reasoning_gym_has_is_tried_or_has_no_reference():
    assert set(TASKS) | NO_REFERENCE | {"composite"} == set(DATASETS)
    assert set(RULES) <= set(TASKS)
    for name in NO_REFERENCE:
        with pytest.raises(ValueError, match="gives no reference answer"):
            numbered_entries(canonical_tasks([name])[0], 1, seed=0)


RIGHT = [
    ("chain_sum", "1234", "+1,234.0"),
    ("chain_sum", "-5", "−5"),
    ("coin_flip", "0.9061292205", "0.90613"),
    ("coin_flip", "0.3125", "5/16"),
    ("power_function", "-0.0013674811612376526", "-1.37e-3"),
    ("fraction_simplification", "$\\dfrac{138}{583}$", "138/583"),
    ("fraction_simplification", "138/583", "$\\frac{138}{583}$"),
    ("complex_arithmetic", "-5.00i", "-5i"),
    ("complex_arithmetic", "-15.0 + 3.0i", "(-15+3i)"),
    ("advanced_geometry", "76.71°", "76.714°"),
    ("advanced_geometry", "(4.051, -5.487)", "(4.0513,-5.4872)"),
    ("pool_matrix", "4.5 4.5\n4.75 5.0", "4.5 4.50 \n4.75 5"),
    ("number_sorting", "['52.2', '30.0']", '["52.2", "30"]'),
    ("number_filtering", "['52.2', '30.0']", '["52.2", "30.0"]'),
    ("polynomial_equations", "-3.625, 0.0", "0, -3.62504"),
    ("prime_factorization", "2 × 2 × 5", "5 * 2 x 2"),
    ("word_sorting", "They, WARRANTY, niggard", "They,WARRANTY,niggard"),
    ("group_anagrams", '[["a", "b"], ["c"]]', '[["c"],["b","a"]]'),
    ("palindrome_partitioning", '[["a", "a"], ["aa"]]', '[["aa"], ["a", "a"]]'),
    ("palindrome_generation", "oucuo", "uocou"),
    ("knights_knaves", "A is a hero, and B is a knave.", "B is a knave and A is a hero"),
    ("codeio", '{"a": 1, "b": 2}', '{"b":2,"a":1}'),
]
WRONG = [
    ("chain_sum", "1234", "1235"),
    ("chain_sum", "12532.9000", "12532.8"),
    ("gsm_symbolic", "196", "196 eggs and 7"),
    ("coin_flip", "0.9061292205", "0.906"),
    ("coin_flip", "0.5", "1/0"),
    ("number_format", "860070201.868", "860070201.86"),
    ("power_function", "-0.0013674811612376526", "-1.36e-3"),
    ("fraction_simplification", "138/583", "276/1166"),
    ("fraction_simplification", "$79/236$", "$79/236"),
    ("advanced_geometry", "76.71°", "76.71"),
    ("advanced_geometry", "(4.051, -5.487)", "(4.051, 5.487)"),
    ("pool_matrix", "4.5 4.5\n4.75 5.0", "4.5 4.5 4.75 5.0"),
    ("pool_matrix", "4.0 0.5", "4.00.5"),
    ("complex_arithmetic", "13.0 + 13.0i", "1 3.0 + 13.0i"),
    ("complex_arithmetic", "13.0 + 13.0i", "(13.0 + 13.0i"),
    ("cryptarithm", "A=1,B=2", "A=3,A=1,B=2"),
    ("decimal_arithmetic", "21.069182788961610485", "21.0691827889616"),
    ("number_sorting", "['52.2', '30.0']", "['52.2', '29.5']"),
    ("prime_factorization", "2 × 2 × 5", "4 × 5"),
    ("word_sorting", "type, except", "type, except, 12"),
    ("group_anagrams", '[["a", "b"], ["c"]]', '[["c"], ["b", "a"], ["c"]]'),
    ("palindrome_partitioning", '[["a", "b"], ["c"]]', '[["b", "a"], ["c"]]'),
    ("palindrome_generation", "oucuo", "ouuo"),
    ("knights_knaves", "A is a hero, and B is a knave.", "A is a hero, and B is a hero."),
    ("knights_knaves", "A is a hero, and B is a knave.", "A is a hero, and B is a knave. 7"),
    ("game_of_life", "[[0, 1], [1, 0]]", "[[0, 1, 1], [1, 0], [1]]"),
    ("game_of_life", "[[0, 1], [1, 0]]", "[[false, true], [true, false]]"),
    ("game_of_life_halting", "False", "True"),
    ("figlet_font", "ABCDEFGHIJKL", "ABCDEFGHIJ"),
    ("spell_backward", "rotireh", "Rotireh"),
]


@pytest.mark.parametrize(("task", "reference", "answer"), RIGHT)
def test_answers_that_a_task_means_are_right(task, reference, answer):
    assert data.score(task, answer, {"answer": reference, "metadata": {}}) == 1.0


@pytest.mark.parametrize(("task", "reference", "answer"), WRONG)
def test_answers_that_only_look_like_it_are_wrong(task, reference, answer):
    assert data.score(task, answer, {"answer": reference, "metadata": {}}) == 0.0


def test_cells_of_a_kakurasu_are_zeros_and_ones_with_the_sums_asked_for():
    metadata = {"n_rows": 2, "n_cols": 2, "row_sums": [1, 3], "col_sums": [3, 2]}
    entry = {"answer": "1 0\n1 1", "metadata": metadata}
    assert data.score("kakurasu", "1 0 \n1 1", entry) == 1.0
    for answer in ("-1 0\n1 1", "1 0\n1 1 7", "1 0\n1 1\n0 0", "1 1\n1 1", "1 0 1 1"):
        assert data.score("kakurasu", answer, entry) == 0.0
    # Another answer than the stored one, with the same sums.
    assert data.score("kakurasu", "1 0\n1 1", entry | {"answer": "?"}) == 1.0


def test_a_survo_is_filled_with_the_numbers_given_and_has_the_sums_asked_for():
    puzzle = [[0, 0, 3], [0, 0, 3], [3, 3, 6]]
    metadata = {"puzzle": puzzle, "candidate_numbers": [1, 2, 2, 1]}
    entry = {"answer": "1 2 3\n2 1 3\n3 3 6", "metadata": metadata}
    assert data.score("survo", "2 1 3\n1 2 3\n3 3 6", entry) == 1.0
    for answer in ("0 3 3\n3 0 3\n3 3 6", "1 2 3\n2 1 3", "1 1 3\n2 2 3\n3 3 6", "1 2 3 2 1 3"):
        assert data.score("survo", answer, entry) == 0.0


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("(7 - 3) * 6 / 1", True),
        ("6*(7-3)*1", True),
        ("6/(1-3/7)*1", False),
        ("6 * 4", False),
        ("7 + 3 + 6 + 1", False),
        ("7 - 3 * 6 / 0", False),
        ("6*(7-3)**1", False),
        ("6*(7-3)*1 = 24", False),
        ("24", False),
        ("(" * 300, False),
        ("-" * 399 + "1", False),
        ("__import__('os')", False),
    ],
)
def test_arithmetic_is_judged_by_its_value_and_its_numbers(answer, right):
    metadata = {"numbers": [1, 3, 6, 7], "target": 24}
    for task in ("puzzle24", "countdown"):
        assert data.score(task, answer, {"answer": "?", "metadata": metadata}) == float(right)


@pytest.mark.parametrize("task", sorted(name for name, rule in RULES.items() if not rule.form))
def test_no_text_makes_a_rule_raise(task):
    metadata = {"n_rows": 1, "n_cols": 1, "valid_answers": [], "row_sums": [], "col_sums": []}
    metadata |= {"puzzle": [[0]], "candidate_numbers": []}
    metadata |= {"numbers": [], "target": 1}
    for text in ("9" * 9000, "9/" * 4000, "1e999", "[" * 9000, "\ud800", "-", ".", "−"):
        for reference in ("3.5", "1/2", "[1]", "a, b"):
            entry = {"answer": reference, "metadata": metadata}
            assert data.score(task, text, entry) == 0.0


def test_the_page_for_users_has_the_rule_of_every_task():
    page = (Path(__file__).parents[2] / "docs/answers.md").read_text()
    shown = {
        task: meaning
        for meaning, tasks in re.findall(r"^\| (.*?) \| (.*?) \|$", page, re.MULTILINE)
        for task in tasks.split(", ")
    }
    assert {task: rule.meaning for task, rule in RULES.items()}.items() <= shown.items()
