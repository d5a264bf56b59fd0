"""Benchmarks read from files in their published formats, and what is wrong with files."""

import json

import pytest

from partitionsel_jax.data.generation import distinct_entries
from partitionsel_jax.evaluation import benchmarks
from partitionsel_jax.evaluation.benchmarks import files, questions
from tests.evaluation import benchmark_files


def read(root, name):
    return benchmarks.read_questions(benchmarks.named(name), root)


def read_written(root, name):
    benchmark_files.write(root, name)
    return read(root, name)


def judged(name, question, output):
    return benchmarks.named(name).judge(output, question).scores["accuracy"]


FOUND = {
    "gsm8k": [("1", "", "18"), ("2", "", "1000")],
    "math": [
        ("counting_and_probability/1", "Counting & Probability", "\\boxed{5}"),
        ("prealgebra/1", "Prealgebra", "$\\frac14$"),
    ],
    "numglue": [
        ("1", "Type_1", "24"),
        ("2", "Type_2", "36"),
        ("3", "Type_3", "Option 2"),
        ("4", "Type_4", "5"),
        ("5", "Type_5", "7"),
        ("6", "Type_6", "Smith, Jones"),
        ("7", "Type_7", "Entailment"),
        ("8", "Type_6", "3 May 1808"),
    ],
    "svamp": [("chal-1", "Subtraction", "51"), ("chal-2", "Subtraction", "1")],
    "simuleq": [("1004", "", "5, 3")],
    "deepmind": [
        ("algebra__linear_1d/1", "algebra__linear_1d", "-6"),
        ("algebra__linear_1d/2", "algebra__linear_1d", "4"),
        ("numbers__is_prime/1", "numbers__is_prime", "True"),
    ],
    "aqua": [("1", "", "The answer is (C)."), ("2", "", "A")],
    "sat_math": [("1", "", "C"), ("2", "", "A")],
    "mmlu_math": [
        (f"{subject}/{number}", subject, "B")
        for subject in benchmark_files.MMLU_SUBJECTS
        for number in (1, 2, 3)
    ],
}


@pytest.mark.parametrize("name", FOUND)
def test_every_question_of_the_published_files_is_read_and_its_answer_judged(tmp_path, name):
    found = read_written(tmp_path, name)
    expected = FOUND[name]
    assert [(q.id, q.group) for q in found] == [(number, group) for number, group, _ in expected]
    for question, (_, _, right) in zip(found, expected, strict=True):
        assert judged(name, question, f"The answer is: {right}") == 1.0
        assert judged(name, question, "The answer is: 123456789") == 0.0
        assert judged(name, question, "") == 0.0


PROMPTS = {
    "gsm8k": benchmark_files.GSM8K[0]["question"],
    "math": benchmark_files.MATH[0]["problem"],
    "svamp": "Each pack costs 76 dollars. If there is a discount of 25 dollars on each pack "
    "How much do you have to pay to buy each pack?",
    "simuleq": benchmark_files.SIMULEQ[0]["sQuestion"],
    "deepmind": "Solve 24 = 1601*c - 1605*c for c.",
    "aqua": "A car goes 60 km in 2 hours. What is its speed in km/h?\n"
    "Answer Choices: (A) 20 (B) 25 (C) 30 (D) 35 (E) 40",
    "sat_math": "If $x+2=5$, what is $x$?\nAnswer Choices: (A) $1$ (B) $2$ (C) $3$ (D) $4$",
    "mmlu_math": 'What, in abstract_algebra (test), is\n"0 + 1"?\n'
    "Answer Choices: (A) 0 (B) 1 (C) 2 (D) 3",
    "mol_forward": "Given the reactants, predict the product.\n"
    "[C][C][O].[C][C][=Branch1][C][=O][O]",
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_hold_the_question_and_its_options(tmp_path, name):
    assert read_written(tmp_path, name)[0].prompt == PROMPTS[name]


def test_numglue_prompts_hold_what_their_type_has(tmp_path):
    prompts = [question.prompt for question in read_written(tmp_path, "numglue")]
    assert prompts[2].endswith("?\nOption1: on the rug\nOption2: on the ice")
    assert prompts[4] == "The Bears won 21-14 in 1999.\nBy how many points did they win?"
    assert prompts[6] == (
        "statement1: There are 8 boys in the room.\n"
        "statement2: There are more than 5 boys in the room.\n"
        "Entailment or contradiction or neutral?"
    )


def test_a_passage_stands_before_its_question(tmp_path):
    second = read_written(tmp_path, "sat_math")[1].prompt
    assert second.startswith("A line has slope 2.\nWhich is parallel to it?\nAnswer Choices: (A) y")


def test_parquet_gives_what_json_lines_give(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    expected = read_written(tmp_path / "lines", "gsm8k")
    folder = tmp_path / "parquet" / "gsm8k" / "main"
    folder.mkdir(parents=True)
    table = pyarrow.Table.from_pylist(benchmark_files.GSM8K[:2])
    path = folder / "test-00000-of-00001.parquet"
    parquet.write_table(table, path)
    assert read(tmp_path / "parquet", "gsm8k") == expected
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"parquet cannot be read .*fetch"):
        read(tmp_path / "parquet", "gsm8k")


def test_the_500_question_release_of_math_is_read_too(tmp_path):
    row = benchmark_files.MATH_500[0]
    benchmark_files.put(tmp_path / "math/test.jsonl", benchmark_files.lines([row]))
    (question,) = read(tmp_path, "math")
    assert question == benchmarks.Question(
        row["unique_id"], row["problem"], row["answer"], "Precalculus", worked=row["solution"]
    )
    assert judged("math", question, "It is $\\boxed{(3, \\frac{\\pi}{2})}$.") == 1.0


def test_simuleq_in_the_release_with_one_answer_is_read_too(tmp_path):
    row = {"id": "q7", "question": "x + y = 8, x - y = 2. What is x?", "answer": 5}
    benchmark_files.put(tmp_path / "simuleq/simuleq.json", json.dumps([row]))
    (question,) = read(tmp_path, "simuleq")
    assert question == benchmarks.Question("q7", row["question"], "5")


def test_only_the_test_rows_of_a_molecule_task_are_asked(tmp_path):
    found = read_written(tmp_path, "mol_forward")
    assert [question.id for question in found] == ["1", "3"]
    assert found[0].prompt.endswith("\n" + found[0].about) and found[0].about.startswith("[")
    (example,) = benchmarks.read_questions(benchmarks.named("mol_forward"), tmp_path, "train")
    assert example.reference == "[C][=O]"


@pytest.mark.parametrize(
    "name", [name for name in benchmarks.BENCHMARKS if name.startswith("mol_")]
)
def test_molecules_are_judged_by_every_metric(tmp_path, name):
    question = read_written(tmp_path, name)[0]
    judge = benchmarks.named(name).judge
    right, wrong = judge(question.reference, question).scores, judge("(((", question).scores
    others = {"exact", "bleu", "valid", "maccs", "rdk", "morgan"}
    assert set(right) == set(wrong) == others | {"levenshtein"}
    assert {right[metric] for metric in others} == {1.0} and right["levenshtein"] == 0.0
    assert {wrong[metric] for metric in others} == {0.0} and wrong["levenshtein"] > 0.0


def test_a_reference_that_is_no_molecule_cannot_be_judged_by(tmp_path):
    rows = [dict(row) for row in benchmark_files.MOLECULES]
    rows[2]["output"] = "no molecule"
    benchmark_files.put(tmp_path / "mol_forward/forward_reaction_prediction.json", json.dumps(rows))
    benchmark = benchmarks.named("mol_forward")
    assert [benchmark.judgeable(question) for question in read(tmp_path, "mol_forward")] == [
        True,
        False,
    ]


def test_missing_packages_are_not_taken_for_bad_references(tmp_path, monkeypatch):
    question = read_written(tmp_path, "mol_forward")[0]

    def missing(name):
        raise ValueError(f"molecule metrics need {name}")

    monkeypatch.setattr("partitionsel_jax.evaluation.molecules.library", missing)
    with pytest.raises(ValueError, match="molecule metrics need selfies"):
        benchmarks.named("mol_forward").judgeable(question)


ALGEBRA = "mmlu_math/test/abstract_algebra_test.csv"
FORWARD = "mol_forward/forward_reaction_prediction.json"
ROWS_WITH_NAN = json.dumps(benchmark_files.SVAMP).replace('1.0, "Type": "Subtraction"}]', "NaN}]")
SOLVED_BY_NAN = '[{"sQuestion": "?", "lSolutions": [1.0, NaN], "iIndex": 1}]'
NAN_ANSWER = '{"question": "?", "type": "Type_1", "answer": {"number": Infinity}}'
NO_ANSWER = '{"question": "?", "type": "Type_1", "answer": {}}'


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("gsm8k/test.jsonl", '{"question": "?", "answer": "1"}\n{"quest', "cannot be read at"),
        ("gsm8k/test.jsonl", '{"question": "?", "answer": ""}\n', "row 1: .*'answer' with text"),
        ("gsm8k/test.jsonl", '{"question": "?"}\n', "row 1: expected a field 'answer'"),
        ("gsm8k/test.jsonl", '{"question": "?", "answer": {}}', "row 1: .*a dict is neither"),
        ("gsm8k/test.jsonl", "3\n", "row 1: not a JSON object"),
        ("gsm8k/test.jsonl", "\n", "no test question of gsm8k in .*test.jsonl"),
        ("svamp/SVAMP.json", json.dumps(benchmark_files.SVAMP)[:-9], "json cannot be read at row"),
        ("svamp/SVAMP.json", json.dumps(benchmark_files.SVAMP * 2), "'chal-1' came twice"),
        ("svamp/SVAMP.json", ROWS_WITH_NAN, "row 2: .*'Answer': expected a finite number, got nan"),
        ("simuleq/simuleq.json", SOLVED_BY_NAN, "row 1: .*'lSolutions': .* finite number, got nan"),
        ("numglue/NumGLUE_test.json", NAN_ANSWER, "row 1: .*finite number, got inf"),
        ("math/test/algebra/1.json", '{"problem": ', "1.json is no valid JSON"),
        ("math/test/algebra/1.json", "[]", "1.json: expected a JSON object"),
        ("numglue/NumGLUE_test.json", NO_ANSWER, "row 1"),
        ("aqua/test.json", '{"question": "?", "options": "A", "correct": "A"}', "as a list"),
        (
            "aqua/test.json",
            '{"question": "?", "options": ["B)1", "A)2"], "correct": "A"}',
            "row 1: expected options .* in order",
        ),
        (
            "aqua/test.json",
            '{"question": "?", "options": ["A)1", "B)2"], "correct": "C"}',
            "row 1: expected one of A, B .* got 'C'",
        ),
        (ALGEBRA, "q,1,2,3,4,A\nq,1,2,3,A\n", "row 2: another number of cells"),
        (ALGEBRA, 'q,1,2,3,4,A\n"q,1', "cannot be read at row 2"),
        ("mmlu_math/test/anatomy_test.csv", "q,1,2,3,4,A\n", "no test question of mmlu_math"),
        ("deepmind/interpolate/m.txt", "Solve it.\n3\nAnd this?\n", "line 3: expected questions"),
        ("deepmind/interpolate/m.txt", "Solve it.\n\nAnd?\n4\n", "line 2: .* one of them empty"),
        (FORWARD, '[{"metadata": "{"}]', "row 1: the meta"),
        (FORWARD, '[{"input": ""}]', "row 1: expected meta"),
    ],
)
def test_a_bad_row_is_one_clear_line_with_its_number(tmp_path, file, content, message):
    benchmark_files.put(tmp_path / file, content)
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path, file.partition("/")[0])
    assert "\n" not in str(caught.value)


def test_invalid_utf8_is_named_by_its_row(tmp_path):
    (tmp_path / "gsm8k").mkdir()
    path = tmp_path / "gsm8k/test.jsonl"
    path.write_bytes(
        benchmark_files.lines(benchmark_files.GSM8K).encode() + b'{"question": "\xff"}'
    )
    with pytest.raises(ValueError, match=r"test\.jsonl, row 4: invalid UTF-8; compare"):
        read(tmp_path, "gsm8k")


def test_a_mark_before_the_text_and_other_ends_of_lines_are_no_error(tmp_path):
    expected = read_written(tmp_path / "as_published", "gsm8k")
    text = benchmark_files.lines(benchmark_files.GSM8K[:2]).replace("\n", "\r\n")
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k/test.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read(tmp_path, "gsm8k") == expected


@pytest.mark.parametrize("name", benchmark_files.WRITERS)
def test_a_missing_file_says_what_is_looked_for_and_where(tmp_path, name):
    with pytest.raises(ValueError, match=rf"no test questions of {name} in {tmp_path}") as caught:
        read(tmp_path, name)
    assert benchmarks.BENCHMARKS[name].files[0] in str(caught.value)


@pytest.mark.parametrize("name", ["svamp", "simuleq", "sat_math"])
def test_examples_of_a_benchmark_without_training_questions_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=rf"config\.few_shot\.{name}=0"):
        benchmarks.read_questions(benchmarks.named(name), tmp_path, "train")


def test_an_unknown_benchmark_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"unknown benchmark 'gsm8'.*did you mean 'gsm8k'"):
        benchmarks.named("gsm8")


def test_every_file_that_is_read_is_written_by_these_tests():
    """The registry and the writers know the same benchmarks."""
    read_from_files = {name for name, one in benchmarks.BENCHMARKS.items() if one.files}
    assert read_from_files == set(benchmark_files.WRITERS)
    assert set(benchmarks.BENCHMARKS) - read_from_files == {benchmarks.PROCEDURAL}


def test_few_lines_of_a_large_training_file_are_read(tmp_path):
    rows = [f"What is {number} + 1?\n{number + 1}\n" for number in range(500)]
    benchmark_files.put(tmp_path / "deepmind/train-easy/sums.txt", "".join(rows))
    solved = benchmarks.read_questions(benchmarks.named("deepmind"), tmp_path, "train")
    assert [question.reference for question in solved] == [str(n + 1) for n in range(100)]


NUMBERED = [questions.Question(str(n), f"What is {n}?", str(n), f"group{n % 2}") for n in range(20)]


def test_a_larger_limit_adds_to_the_questions_of_a_smaller_one():
    few, more = (benchmarks.limited(NUMBERED, limit, seed=0) for limit in (5, 9))
    assert (len(few), len(more)) == (5, 9)
    assert set(few) < set(more)
    assert [q.id for q in more] == sorted((q.id for q in more), key=int)
    assert benchmarks.limited(NUMBERED, 5, seed=1) != few
    assert (
        benchmarks.limited(NUMBERED, 0, seed=0) == benchmarks.limited(NUMBERED, 99, 0) == NUMBERED
    )


def test_a_limit_leaves_the_others_where_a_question_is_missing():
    drawn = benchmarks.limited(NUMBERED, 9, seed=0)
    rest = [question for question in NUMBERED if question != drawn[3]]
    assert set(drawn) - {drawn[3]} < set(benchmarks.limited(rest, 9, seed=0))


@pytest.mark.parametrize(
    "field", ["id", "prompt", "reference", "group", "worked", "entry", "about"]
)
def test_the_digest_tells_any_changed_field(field):
    changed = [benchmarks.Question(**(vars(NUMBERED[0]) | {field: "other"})), *NUMBERED[1:]]
    assert benchmarks.digest(changed) != benchmarks.digest(NUMBERED)
    assert benchmarks.digest(NUMBERED[::-1]) != benchmarks.digest(NUMBERED)


def test_no_question_is_among_its_own_examples():
    examples = questions.Examples.drawn(NUMBERED, 19, seed=0)
    for question in NUMBERED:
        shown = [example.id for example in examples.of(question)]
        assert len(shown) == len(set(shown)) == 19
        assert question.id not in shown
    with pytest.raises(ValueError, match="expected 20 examples for question '0', got 19"):
        questions.Examples.drawn(NUMBERED, 20, seed=0).of(NUMBERED[0])


def test_fewer_examples_are_the_first_of_more_and_the_seed_decides_which():
    three, five = (
        questions.Examples.drawn(NUMBERED[1:], k, seed=3).of(NUMBERED[0]) for k in (3, 5)
    )
    assert five[:3] == three
    assert questions.Examples.drawn(NUMBERED[1:], 5, seed=4).of(NUMBERED[0]) != five


def test_examples_are_of_the_question_s_own_group_where_that_is_asked():
    examples = questions.Examples.drawn(NUMBERED, 4, seed=0, by_group=True)
    for question in NUMBERED:
        assert {example.group for example in examples.of(question)} == {question.group}
    lonely = questions.Question("x", "?", "!", "group2")
    with pytest.raises(ValueError, match="4 examples of the group 'group2'"):
        examples.of(lonely)


def test_examples_are_dropped_from_the_first_on_until_the_prompt_fits():
    question = NUMBERED[0]
    solved = [questions.Question(str(n), f"Q{n}", f"A{n}", worked=f"W{n}") for n in range(3)]
    examples = questions.Examples(3, {"": solved})
    asked = "Question: What is 0?\nAnswer:"
    whole = questions.make_prompt(question, examples, lambda text: True)
    assert whole.text.startswith("Question: Q0\nAnswer: W0\n\nQuestion: Q1\nAnswer: W1\n\nQuest")
    assert whole.text.endswith("\n\n" + asked) and (whole.dropped, whole.fits) == (0, True)
    room = len("Question: Q2\nAnswer: W2\n\n" + asked)
    cut = questions.make_prompt(question, examples, lambda text: len(text) <= room)
    assert cut.text == "Question: Q2\nAnswer: W2\n\n" + asked
    assert (cut.dropped, cut.fits) == (2, True)
    none = questions.make_prompt(question, examples, lambda text: False)
    assert (none.text, none.dropped, none.fits) == (asked, 3, False)


def test_without_examples_the_prompt_is_the_question_alone():
    prompt = questions.make_prompt(NUMBERED[0], questions.Examples(), lambda text: True)
    assert prompt.text == "What is 0?"


def test_a_made_up_next_question_is_no_part_of_the_answer():
    output = " It is 3.\n\nQuestion: What is 4?\nAnswer: 4"
    shown = questions.Examples(1, {"": NUMBERED})
    assert questions.own_answer(output, shown) == " It is 3.\n"
    assert questions.own_answer(output, questions.Examples()) == output


SUMS = (("chain_sum", {"max_terms": 2, "max_digits": 2}),)


def test_generated_questions_are_a_function_of_their_arguments_and_score_themselves():
    found = benchmarks.generated((*SUMS, ("count_bits", {})), 3, seed=5)
    assert found == benchmarks.generated((*SUMS, ("count_bits", {})), 3, seed=5)
    assert [q.id for q in found] == [
        f"{name}/{n}" for name in ("chain_sum", "count_bits") for n in (1, 2, 3)
    ]
    judge = benchmarks.named(benchmarks.PROCEDURAL).judge
    for question in found:
        steps = f"steps\n#### {question.reference}"
        assert judge(steps, question).scores == {"accuracy": 1.0}
        assert judge(steps, question).answer == question.reference
        assert judge("", question).scores == {"accuracy": 0.0}
    assert benchmarks.generated(SUMS, 3, seed=6) != found[:3]


def test_generated_questions_leave_out_the_seen_ones():
    # With one digit there are about two hundred sums: many of the two seeds' agree.
    small = (("chain_sum", {"max_terms": 2, "max_digits": 1}),)
    seen = {entry["question"] for entry in distinct_entries(small[0], 100, seed=0)}
    overlap = {q.prompt for q in benchmarks.generated(small, 20, seed=1)} & seen
    fresh = {q.prompt for q in benchmarks.generated(small, 20, seed=1, seen=seen)}
    assert overlap and not fresh & seen and len(fresh) == 20


def test_text_of_published_values():
    assert files.spelt([5.0, 3]) == "5.0, 3"
    assert (files.spelt(None), files.spelt(" a "), files.spelt(True)) == (
        "",
        "a",
        "true",
    )
    with pytest.raises(TypeError, match="a dict is neither"):
        files.spelt({})
    for value in (float("nan"), float("inf"), [1, float("-inf")]):
        with pytest.raises(ValueError, match="expected a finite number, got"):
            files.spelt(value)


def test_files_come_in_order_of_the_first_pattern_that_any_matches(tmp_path):
    for name in ("b.txt", "a.txt", "c.json"):
        benchmark_files.put(tmp_path / name, "")
    found = files.find(tmp_path, ("*.csv", "*.txt", "*.json"), "it")
    assert [path.name for path in found] == ["a.txt", "b.txt"]
