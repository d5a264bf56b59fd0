"""Evaluations by a plain function: what is written, how they go on, and how two are compared."""

import dataclasses
import functools
import json
import logging
import re
import shutil

import jax
import numpy as np
import pytest

from configs import evaluation as configuration
from partitionsel_jax import data, models
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.data.generation import distinct_entries
from partitionsel_jax.evaluation import benchmarks, comparing, evaluating, molecules
from partitionsel_jax.models.pretrained import adapters, tiny
from partitionsel_jax.time_limited import NotStarted
from partitionsel_jax.training import answering, benchmarking, starts
from tests import commands
from tests.evaluation import benchmark_files
from tests.tiny_runs import tiny_config


def judge(output, question):
    right = output.strip() == question.reference
    scores = {"accuracy": float(right), "length": float(len(output))}
    return benchmarks.Judgement(output.strip(), scores)


SUMS = benchmarks.Benchmark("sums", judge)
QUESTIONS = [
    benchmarks.Question(f"q{n}", f"What is {n} + {n}?" + " " * (n % 4), str(2 * n), f"g{n % 3}")
    for n in range(10)
]
SETTINGS = {"model": "plain", "new_tokens": 8}


def answers(prompts, wrong=()):
    """The sums, but for the wrong ones, of which one is half a character."""
    numbers = [int(prompt.rpartition("What is ")[2].split(" ")[0]) for prompt in prompts]
    return ["\udce9" if number in wrong else str(2 * number) for number in numbers]


def wrong_ones(*wrong):
    return lambda prompts: answers(prompts, wrong)


def evaluated(folder, generate=answers, **changes):
    arguments = {"settings": SETTINGS, "batch": 3} | changes
    questions = arguments.pop("questions", QUESTIONS)
    return evaluating.evaluate(generate, questions, SUMS, folder, **arguments)


def rows_of(folder):
    lines = (folder / "outputs.jsonl").read_text().splitlines()
    return {row["id"]: row for row in map(json.loads, lines)}


def test_every_output_is_saved_and_the_summary_is_of_all_of_them(tmp_path):
    summary = evaluated(tmp_path, wrong_ones(0, 3, 4))
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert (summary["benchmark"], summary["n"], summary["primary"]) == ("sums", 10, "accuracy")
    assert summary["metrics"]["accuracy"]["mean"] == pytest.approx(0.7)
    low, high = (summary["metrics"]["accuracy"][end] for end in ("low", "high"))
    assert 0.3 < low < 0.7 < high < 1.0
    groups = {
        name: group["metrics"]["accuracy"]["mean"] for name, group in summary["groups"].items()
    }
    assert groups == {"g0": 0.5, "g1": pytest.approx(2 / 3), "g2": 1.0}
    assert [summary["groups"][name]["n"] for name in ("g0", "g1", "g2")] == [4, 3, 3]
    assert rows_of(tmp_path)["q3"] == {
        "id": "q3",
        "question": benchmarks.digest([QUESTIONS[3]]),
        "group": "g0",
        "prompt": QUESTIONS[3].prompt,
        "output": "\udce9",
        "answer": "\udce9",
        "reference": "6",
        "scores": {"accuracy": 0.0, "length": 1.0},
        "too_long": False,
        "dropped_examples": 0,
    }


def test_prompts_come_in_batches_the_longest_first(tmp_path):
    sizes, lengths = [], []

    def generate(prompts):
        sizes.append(len(prompts))
        lengths.extend(map(len, prompts))
        return answers(prompts)

    evaluated(tmp_path, generate, batch=4)
    assert sizes == [4, 4, 2]
    assert lengths == sorted(lengths, reverse=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an evaluation that was not stopped."""
    folder = tmp_path_factory.mktemp("whole")
    evaluated(folder, wrong_ones(2))
    return folder


@pytest.mark.parametrize("line", range(11))
@pytest.mark.parametrize("behind", [0, 1, 40, -1])
def test_it_goes_on_after_a_cut_anywhere(tmp_path, whole, line, behind):
    text = (whole / "outputs.jsonl").read_text()
    lines = text.splitlines(keepends=True)
    cut = max(0, len("".join(lines[:line])) + behind)
    (tmp_path / "settings.json").write_text((whole / "settings.json").read_text())
    (tmp_path / "outputs.jsonl").write_text(text[:cut])
    kept = {
        json.loads(one)["id"] for one in text[:cut].splitlines(keepends=True) if one[-1] == "\n"
    }
    asked = []

    def generate(prompts):
        asked.extend(prompts)
        return answers(prompts, {2})

    summary = evaluated(tmp_path, generate)
    assert set(asked) == {q.prompt for q in QUESTIONS if q.id not in kept}
    assert summary == json.loads((whole / "summary.json").read_text())
    assert rows_of(tmp_path) == rows_of(whole)
    assert len((tmp_path / "outputs.jsonl").read_text().splitlines()) == len(QUESTIONS)


def test_what_was_answered_before_an_interruption_is_kept(tmp_path):
    calls = []

    def interrupted(prompts):
        calls.append(prompts)
        if len(calls) == 3:
            # What is on the disk now outlives a kill.
            assert len(rows_of(tmp_path)) == 6
            raise KeyboardInterrupt
        return answers(prompts)

    with pytest.raises(KeyboardInterrupt):
        evaluated(tmp_path, interrupted)
    assert not (tmp_path / "summary.json").exists()
    evaluated(tmp_path, lambda prompts: answers(prompts) if len(prompts) < 4 else pytest.fail())
    assert len(rows_of(tmp_path)) == 10


def test_a_finished_evaluation_asks_nothing_again(tmp_path, whole):
    again = evaluated(whole, pytest.fail)
    assert again == json.loads((whole / "summary.json").read_text())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": SETTINGS | {"new_tokens": 9}}, "new_tokens: 8 there, 9 now"),
        ({"settings": SETTINGS | {"template": "chat"}}, "template: None there, 'chat' now"),
        ({"questions": QUESTIONS[:9]}, "questions: '"),
        ({"examples": benchmarks.Examples.drawn(QUESTIONS, 1, seed=0)}, "few_shot: 0 there, 1 now"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused_and_named(whole, changes, message):
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    with pytest.raises(ValueError, match=message):
        evaluated(whole, pytest.fail, **changes)
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before


def edited_line(**changes):
    """Makes another line of one: fields changed, or left out where they are None."""

    def edit(line):
        row = json.loads(line) | changes
        return json.dumps({name: value for name, value in row.items() if value is not None})

    return edit


OTHER_SCORES = "has other fields than id, question, group"
DAMAGES = [
    (lambda line: line[:40], "no JSON"),
    (lambda line: "3", "holds 3 where it should be a JSON object"),
    (lambda line: "", "no JSON"),
    (lambda line: "[" * 100_000, "no JSON (it is nested too deeply)"),
    (lambda line: line.replace("What", "Wh\xff"), "no JSON ('utf-8' codec can't decode"),
    (edited_line(id=None), "lacks id"),
    (edited_line(id=[]), "has id=[], not a text"),
    (edited_line(question=None), "lacks question"),
    (edited_line(scores=None), "lacks scores"),
    (edited_line(scores={}), OTHER_SCORES),
    (edited_line(scores={"accuracy": 1.0}), OTHER_SCORES),
    (edited_line(scores={"accuracy": "1", "length": 1.0}), OTHER_SCORES),
    (edited_line(scores={"accuracy": float("nan"), "length": 1.0}), OTHER_SCORES),
    (edited_line(too_long=None), "lacks too_long"),
    (edited_line(seconds=1.0), OTHER_SCORES),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_damaged_line_is_refused_by_its_number(tmp_path, whole, damage, message):
    shutil.copytree(whole, tmp_path / "damaged")
    path = tmp_path / "damaged/outputs.jsonl"
    lines = path.read_text().splitlines()
    lines[1] = damage(lines[1])
    # In Latin-1, "\xff" is a byte that UTF-8 does not know.
    path.write_bytes("".join(line + "\n" for line in lines).encode("latin-1"))
    before = path.read_bytes()
    expected = rf"outputs\.jsonl, line 2:? {re.escape(message)}.*[:;] take that line out"
    for reading in (
        lambda: evaluated(tmp_path / "damaged"),
        lambda: comparing.compare(whole, tmp_path / "damaged"),
    ):
        with pytest.raises(ValueError, match=expected) as caught:
            reading()
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_a_question_of_another_evaluation_is_refused(tmp_path, whole):
    shutil.copytree(whole, tmp_path / "edited")
    path = tmp_path / "edited/outputs.jsonl"
    path.write_text(path.read_text().replace('"q3"', '"q99"'))
    with pytest.raises(ValueError, match="holds the question 'q99', which is none of"):
        evaluated(tmp_path / "edited")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("settings.json", b"{}", r"settings\.json lacks benchmark: .* evaluate again"),
        ("settings.json", b"[]", r"settings\.json holds \[\] where it should be a JSON object"),
        ("settings.json", b'{"benchmark', r"settings\.json is no .* damaged"),
        ("settings.json", b'{"\xff', r"settings\.json is no .* damaged"),
        ("summary.json", b"{}", r"summary\.json lacks n"),
        (
            "summary.json",
            b'{"n": 11}',
            r"outputs\.jsonl holds 10 outputs, and summary\.json is of 11",
        ),
    ],
)
def test_other_damaged_files_are_refused_by_name(tmp_path, whole, file, content, message):
    shutil.copytree(whole, tmp_path / "damaged")
    (tmp_path / "damaged" / file).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        comparing.compare(whole, tmp_path / "damaged")
    assert "\n" not in str(caught.value)
    if file == "settings.json":
        with pytest.raises(ValueError, match=message):
            evaluated(tmp_path / "damaged")


def test_an_output_that_is_there_twice_is_refused(tmp_path, whole):
    (tmp_path / "settings.json").write_text((whole / "settings.json").read_text())
    text = (whole / "outputs.jsonl").read_text()
    (tmp_path / "outputs.jsonl").write_text(text + text.splitlines(keepends=True)[0])
    with pytest.raises(ValueError, match=r"line 11 answers 'q\d' again: take that"):
        evaluated(tmp_path)


def test_outputs_of_nobody_are_not_taken_over(tmp_path, whole):
    (tmp_path / "outputs.jsonl").write_text((whole / "outputs.jsonl").read_text())
    with pytest.raises(ValueError, match=r"holds outputs without settings\.json"):
        evaluated(tmp_path)


@pytest.mark.parametrize("outputs", [["4"], ["4", "4", 4], []])
def test_outputs_that_are_not_a_text_each_are_refused(tmp_path, outputs):
    with pytest.raises(ValueError, match="expected 3 texts for as many prompts"):
        evaluated(tmp_path, lambda prompts: outputs)


def test_no_question_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no question of sums"):
        evaluated(tmp_path / "new", questions=[])
    assert not (tmp_path / "new").exists()


def test_a_question_that_does_not_fit_counts_as_wrong_and_is_not_asked(tmp_path):
    longest = max(len(question.prompt) for question in QUESTIONS)
    long = {question.id for question in QUESTIONS if len(question.prompt) == longest}
    summary = evaluated(tmp_path, fits=lambda prompt: len(prompt) < longest)
    assert summary["too_long"] == len(long) > 0
    assert summary["metrics"]["accuracy"]["mean"] == pytest.approx(1 - len(long) / 10)
    rows = rows_of(tmp_path)
    assert {name for name, row in rows.items() if row["too_long"]} == long
    assert {rows[name]["output"] for name in long} == {""}


def test_examples_stand_before_the_question_and_dropped_ones_are_counted(tmp_path):
    solved = [benchmarks.Question(f"t{n}", f"Sum {n}?", str(n)) for n in range(2)]
    examples = benchmarks.Examples.drawn(solved, 2, seed=0)

    def generate(prompts):
        return [f" {text}\n\nQuestion: What is 1?\nAnswer: 1" for text in answers(shown(prompts))]

    def shown(prompts):
        assert all(prompt.endswith("\nAnswer:") for prompt in prompts)
        return [prompt.removesuffix("\nAnswer:") for prompt in prompts]

    room = len("Question: Sum 0?\nAnswer: 0\n\nQuestion: What is 0 + 0?   \nAnswer:")
    summary = evaluated(
        tmp_path, generate, examples=examples, fits=lambda prompt: len(prompt) <= room
    )
    # What follows the answer, a question of the model's own making, is not judged.
    assert summary["metrics"]["accuracy"]["mean"] == 1.0
    assert (summary["dropped_examples"], summary["too_long"]) == (10, 0)
    assert all(row["prompt"].count("Question: ") == 2 for row in rows_of(tmp_path).values())


def test_molecules_have_a_metric_over_all_of_them(tmp_path):
    benchmark_files.write(tmp_path, "mol_forward")
    benchmark = benchmarks.named("mol_forward")
    questions = benchmarks.read_questions(benchmark, tmp_path)
    right = questions[0].reference

    def generate(prompts):
        return [f"It is {right}." for _ in prompts]

    summary = evaluating.evaluate(generate, questions, benchmark, tmp_path / "out", settings={})
    scores = [molecules.compare(right, question.reference) for question in questions]
    references = [question.reference for question in questions]
    expected = molecules.corpus_bleu([score.smiles for score in scores], references)
    assert summary["over_all"] == {"corpus_bleu": pytest.approx(expected)}
    means = {name: value["mean"] for name, value in summary["metrics"].items()}
    expected = {name: np.mean([getattr(score, name) for score in scores]) for name in means}
    assert means == pytest.approx(expected) and means["exact"] == 0.5


@pytest.mark.parametrize(
    "error", [ValueError("odd"), RecursionError(), MemoryError(), KeyError("x"), OSError("odd")]
)
def test_a_judge_that_raises_ends_nothing_counts_as_wrong_and_names_the_row(
    tmp_path, caplog, error
):
    def fails_over_six(output, question):
        if output == "6":
            raise error
        return judge(output, question)

    benchmark = dataclasses.replace(SUMS, judge=fails_over_six)
    summary = evaluating.evaluate(answers, QUESTIONS, benchmark, tmp_path, settings=SETTINGS)
    assert summary["metrics"]["accuracy"]["mean"] == pytest.approx(0.9)
    assert rows_of(tmp_path)["q3"]["scores"] == {"accuracy": 0.0, "length": 1.0}
    (warning,) = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert warning.startswith("sums, question q3: the scorer failed (")
    assert evaluating.evaluate(pytest.fail, QUESTIONS, benchmark, tmp_path, settings=SETTINGS)


def test_a_judge_that_always_raises_gives_zero(tmp_path):
    benchmark = dataclasses.replace(SUMS, judge=lambda output, question: 1 / 0)
    summary = evaluating.evaluate(answers, QUESTIONS, benchmark, tmp_path, settings=SETTINGS)
    assert summary["metrics"]["accuracy"]["mean"] == 0.0


def test_a_judge_that_cannot_start_is_no_wrong_answer(tmp_path):
    def judge(output, question):
        raise NotStarted("no process")

    benchmark = dataclasses.replace(SUMS, judge=judge)
    with pytest.raises(NotStarted):
        evaluating.evaluate(answers, QUESTIONS, benchmark, tmp_path, settings=SETTINGS)


def test_a_molecule_that_cannot_be_compared_in_time_has_the_worst_scores(
    tmp_path, caplog, monkeypatch
):
    benchmark_files.write(tmp_path, "mol_forward")
    benchmark = benchmarks.named("mol_forward")
    questions = benchmarks.read_questions(benchmark, tmp_path)
    monkeypatch.setattr(molecules._process(), "ask", lambda *pair, seconds: None)
    right = questions[0].reference
    summary = evaluating.evaluate(
        lambda prompts: [right] * len(prompts), questions, benchmark, tmp_path / "out", settings={}
    )
    assert summary["metrics"]["exact"]["mean"] == 0.0
    assert {question.id for question in questions} == {
        record.getMessage().partition(": ")[0].removeprefix("mol_forward, question ")
        for record in caplog.records
    }


def test_progress_tells_how_far_how_well_and_how_long(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(evaluating, "_SECONDS_BETWEEN_LINES", 0.0)
    caplog.set_level(logging.INFO, logger="partitionsel_jax")
    evaluated(tmp_path, wrong_ones(9))
    first, *_, last = [record.getMessage() for record in caplog.records]
    assert first.startswith("sums  3/10  accuracy ") and "questions/s  ETA 0:00" in first
    assert last.startswith("sums  10/10  accuracy 0.900")


def test_a_comparison_is_that_of_the_pairs_whatever_their_order(tmp_path):
    ours, theirs = {1, 2}, {1, 2, 3, 4, 6, 7, 8}
    evaluated(tmp_path / "a", wrong_ones(*ours))
    evaluated(tmp_path / "b", wrong_ones(*theirs), batch=1, settings=SETTINGS | {"model": "other"})
    lines = (tmp_path / "b/outputs.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "b/outputs.jsonl").write_text("".join(lines[::-1]))
    found = comparing.compare(tmp_path / "a", tmp_path / "b")
    a, b = (np.array([float(n not in wrong) for n in range(10)]) for wrong in (ours, theirs))
    assert (found.benchmark, found.n) == ("sums", 10)
    difference = found.differences["accuracy"]
    assert difference.difference == pytest.approx((a - b).mean())
    rng = np.random.default_rng(1)
    means = (a - b)[rng.integers(10, size=(20_000, 10))].mean(axis=1)
    assert [difference.low, difference.high] == pytest.approx(
        np.quantile(means, [0.025, 0.975]), abs=0.1
    )
    # Five are right in the first alone, none in the second alone: five heads of a fair coin.
    test = found.discordant["accuracy"]
    assert (test.both, test.only_a, test.only_b, test.neither) == (3, 5, 0, 2)
    assert test.p_value == pytest.approx(2 / 2**5)
    # The lengths of outputs are no 0/1 metric.
    assert set(found.differences) == {"accuracy", "length"}
    assert set(found.discordant) == {"accuracy"}
    assert json.loads(json.dumps(dataclasses.asdict(found)))["n"] == 10


def test_comparing_swaps_signs_when_the_folders_are_swapped(tmp_path):
    evaluated(tmp_path / "a", wrong_ones(1))
    evaluated(tmp_path / "b", wrong_ones(2, 3, 4))
    there, back = (
        comparing.compare(tmp_path / one, tmp_path / two).differences["accuracy"].difference
        for one, two in ("ab", "ba")
    )
    assert there == pytest.approx(0.2) and back == pytest.approx(-0.2)


def test_what_one_of_them_alone_was_asked_is_not_compared_but_counted(tmp_path):
    evaluated(tmp_path / "a", wrong_ones(0, 1, 9), questions=QUESTIONS[:8])
    evaluated(tmp_path / "b", wrong_ones(3), questions=QUESTIONS[1:])
    found = comparing.compare(tmp_path / "a", tmp_path / "b")
    assert (found.n, found.only_this, found.only_other) == (7, 1, 2)
    assert found.differences["accuracy"].difference == pytest.approx(0.0)
    assert (found.discordant["accuracy"].only_a, found.discordant["accuracy"].only_b) == (1, 1)


@pytest.mark.parametrize("field", ["prompt", "reference", "entry"])
def test_two_questions_under_one_id_are_refused(tmp_path, whole, field):
    other = [dataclasses.replace(QUESTIONS[0], **{field: "1"}), *QUESTIONS[1:]]
    evaluated(tmp_path, lambda prompts: ["1"] * len(prompts), questions=other)
    with pytest.raises(ValueError, match=r"^'q0' are not the same questions in .*the same files"):
        comparing.compare(whole, tmp_path)


def test_outputs_of_other_metrics_are_not_compared(tmp_path, whole):
    shutil.copytree(whole, tmp_path / "older")
    path = tmp_path / "older/outputs.jsonl"
    path.write_text(path.read_text().replace('"length"', '"words"'))
    with pytest.raises(ValueError, match=r"is scored by accuracy, length, .* by accuracy, words:"):
        comparing.compare(whole, tmp_path / "older")


def test_evaluations_that_are_no_pairs_are_refused(tmp_path, whole):
    evaluated(tmp_path / "few", questions=QUESTIONS[:3])
    evaluated(tmp_path / "others", questions=QUESTIONS[3:])
    with pytest.raises(ValueError, match=r"few and .*others share no question"):
        comparing.compare(tmp_path / "few", tmp_path / "others")
    (tmp_path / "few/summary.json").unlink()
    for pair in (("few", whole), (whole, "few")):
        with pytest.raises(ValueError, match=r"few is not the folder of a finished .*lacks summ"):
            comparing.compare(tmp_path / pair[0], tmp_path / pair[1])
    products = dataclasses.replace(SUMS, name="products")
    evaluating.evaluate(answers, QUESTIONS, products, tmp_path / "products", settings=SETTINGS)
    with pytest.raises(ValueError, match=r"answers sums, .* answers products"):
        comparing.compare(whole, tmp_path / "products")
    with pytest.raises(ValueError, match=r"nowhere is not the folder of a finished eval"):
        comparing.compare(whole, tmp_path / "nowhere")


def config(**changes):
    """configs/evaluation.py:smoke as plain values, with changes."""
    return configuration.get_config("smoke").to_dict() | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmarks": ()}, "no benchmark named"),
        ({"benchmarks": ("gsm8",)}, "unknown benchmark 'gsm8'.*did you mean 'gsm8k'"),
        ({"benchmarks": ("reasoning_gym",) * 2}, "named twice"),
        ({"benchmarks": ("gsm8k",)}, "directory is empty"),
        ({"few_shot": {"gsm8": 1}}, "unknown benchmark 'gsm8'"),
        ({"few_shot": {"gsm8k": -1}}, r"few_shot\.gsm8k must be an integer of at least 0"),
        ({"new_tokens": -1}, "new_tokens must be"),
        ({"batch": 0}, "batch must be an integer of at least 1"),
        ({"limit": -1}, "limit must be"),
        ({"template": "chatt"}, "template must be one of .*did you mean 'chat'"),
        ({"dtype": "float16"}, "dtype must be one of"),
        ({"reasoning_gym": {"tasks": {}, "questions": 0, "seed": 0}}, "questions must be"),
        ({"reasoning_gym": {"tasks": {}, "seed": 0}}, r"the config lacks reasoning_gym\.questions"),
        ({"new_token": 4}, r"unknown config key 'new_token'.*did you mean 'new_tokens'"),
    ],
)
def test_every_field_is_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        benchmarking.parse(config(**changes))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "expected one of --workdir"),
        ({"run": "a", "model": "b"}, "expected one of --workdir"),
        ({"run": "a", "adapter": "b"}, "--adapter needs the --model"),
        ({"model": "a"}, "--model needs --output"),
        ({"run": "nowhere"}, "--workdir='nowhere' is not the folder of a finished run"),
        (
            {"model": "a", "output": "b", "against": "c"},
            "--against='c' holds no finished evaluation of reas",
        ),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        benchmarking.evaluate_all(benchmarking.parse(config()), **flags)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "no test questions of gsm8k in .*expected test.jsonl"),
        ({"benchmarks": ("svamp",), "few_shot": {"svamp": 1}}, r"set config\.few_shot\.svamp=0"),
        ({"benchmarks": ("math",), "few_shot": {"math": 9}}, "expected 9 examples for question"),
        (
            {
                "benchmarks": ("reasoning_gym",),
                "reasoning_gym": {"tasks": {"no_such": {}}, "questions": 1, "seed": 0},
            },
            "unknown reasoning-gym task 'no_such'",
        ),
    ],
)
def test_files_are_read_before_a_model_is_loaded(tmp_path, monkeypatch, changes, message):
    for name in ("svamp", "math"):
        benchmark_files.write(tmp_path, name)
    monkeypatch.setattr(answering, "of_model", pytest.fail)
    settings = config(**({"benchmarks": ("gsm8k",), "directory": str(tmp_path)} | changes))
    with pytest.raises(ValueError, match=message):
        benchmarking.evaluate_all(
            benchmarking.parse(settings), model="tiny-llama3.2", output=str(tmp_path / "out")
        )
    assert not (tmp_path / "out").exists()


class Told:
    """Stands in for a model: knows answers by heart."""

    def __init__(self, known, **identity):
        self.known, self.identity = known, identity

    def answers(self, prompts, new_tokens):
        return [self.known.get(prompt, "?") for prompt in prompts]

    def fits(self, prompt, new_tokens):
        return True


def test_two_models_on_two_benchmarks_give_a_table_each_and_their_differences(
    tmp_path, monkeypatch
):
    for name in ("gsm8k", "mmlu_math"):
        benchmark_files.write(tmp_path, name)
    read = benchmarks.read_questions(benchmarks.named("mmlu_math"), tmp_path)
    by_heart = {question.prompt: question.reference for question in read}
    settings = benchmarking.parse(
        config(benchmarks=("gsm8k", "mmlu_math"), directory=str(tmp_path), new_tokens=0)
    )

    def told(known, output, **flags):
        monkeypatch.setattr(answering, "of_model", lambda *_, **__: Told(known, weights=len(known)))
        return benchmarking.evaluate_all(
            settings, model="told", output=str(tmp_path / output), **flags
        )

    assert told({}, "none").splitlines()[2].split()[:4] == ["mmlu_math", "15", "accuracy", "0.0000"]
    table, differences = told(by_heart, "all", against=str(tmp_path / "none")).split("\n\n")
    header, gsm8k, mmlu = table.splitlines()
    assert header.split("  ")[0] == "benchmark"
    assert gsm8k.split()[:4] == ["gsm8k", "2", "accuracy", "0.0000"]
    assert mmlu.split()[:4] == ["mmlu_math", "15", "accuracy", "1.0000"]
    assert differences.splitlines()[2].split()[:4] == ["mmlu_math", "15", "accuracy", "+1.0000"]
    stored = json.loads((tmp_path / "all/mmlu_math/comparison.json").read_text())
    assert stored["differences"]["accuracy"]["difference"] == 1.0
    settings_there = json.loads((tmp_path / "all/gsm8k/settings.json").read_text())
    assert (settings_there["new_tokens"], settings_there["weights"]) == (512, 15)


@pytest.fixture
def told_twice(tmp_path, monkeypatch):
    """Evaluates gsm8k by a model that says nothing; and not at all, once it may not be loaded."""
    benchmark_files.write(tmp_path, "gsm8k")

    def run(output, loads=True, **flags):
        def of_model(*_, **__):
            assert loads, "the model is loaded"
            return Told({}, weights=output)

        monkeypatch.setattr(answering, "of_model", of_model)
        changes = {"benchmarks": ("gsm8k",), "directory": str(tmp_path)}
        changes |= flags.pop("changes", {})
        settings = benchmarking.parse(config(**changes))
        flags = {"output": str(tmp_path / output)} | flags
        return benchmarking.evaluate_all(settings, model="told", **flags)

    return run


OTHERS = {
    "another file": "'1' are not the same questions in this evaluation and .*first/gsm8k",
    "another benchmark": "this evaluation answers gsm8k, .*first/gsm8k answers math",
    "no shared question": "this evaluation and .*first/gsm8k share no question",
    "a damaged line": r"outputs\.jsonl, line 1: no JSON",
    "lost settings": r"settings\.json lacks benchmark",
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_cannot_be_compared_is_found_before_a_model_is_loaded(tmp_path, told_twice, other):
    told_twice("first")
    folder = tmp_path / "first/gsm8k"
    outputs, settings = folder / "outputs.jsonl", folder / "settings.json"
    if other == "another file":
        path = tmp_path / "gsm8k/test.jsonl"
        path.write_text(path.read_text().replace("Ann", "Eve"))
    elif other == "another benchmark":
        settings.write_text(settings.read_text().replace('"gsm8k"', '"math"'))
    elif other == "no shared question":
        outputs.write_text(outputs.read_text().replace('{"id": "', '{"id": "0'))
    elif other == "a damaged line":
        outputs.write_text("{\n" + outputs.read_text())
    else:
        settings.write_text("{}")
    with pytest.raises(ValueError, match=OTHERS[other]):
        told_twice("second", loads=False, against=str(tmp_path / "first"))
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize("linked", [False, True])
def test_an_evaluation_is_not_compared_with_itself(tmp_path, told_twice, linked):
    message = r"--against=.* holds no finished evaluation of gsm8k beside this one itself"
    with pytest.raises(ValueError, match=message):
        told_twice("first", loads=False, against=str(tmp_path / "first"))
    told_twice("first")
    if linked:
        (tmp_path / "link").symlink_to(tmp_path / "first")
    with pytest.raises(ValueError, match=message):
        told_twice("first", loads=False, against=str(tmp_path / ("link" if linked else "first")))


def test_a_comparison_of_fewer_pairs_or_by_other_means_is_announced(tmp_path, told_twice, caplog):
    told_twice("first", changes={"limit": 1})
    caplog.set_level(logging.WARNING, logger="partitionsel_jax")
    changes = {"few_shot": {"gsm8k": 1}}
    told_twice("second", changes=changes, against=str(tmp_path / "first"))
    fewer, otherwise = [record.getMessage() for record in caplog.records]
    assert fewer.startswith("gsm8k  1 of 2 questions are compared: ")
    assert "other settings (examples: " in otherwise and "few_shot: 0 there, 1 now" in otherwise
    caplog.clear()
    told_twice("third", changes=changes, against=str(tmp_path / "second"))
    assert not caplog.records


def test_test_rows_without_a_molecule_are_left_out_named_and_counted(tmp_path, told_twice):
    rows = [dict(benchmark_files.MOLECULES[0]) for _ in range(9)]
    for row in rows[1:8]:
        row["output"] = "no molecule"
    path = tmp_path / "mol_forward/forward_reaction_prediction.json"
    benchmark_files.put(path, json.dumps(rows))
    changes = {"benchmarks": ("mol_forward",)}
    table = told_twice("out", changes=changes)
    summary = json.loads((tmp_path / "out/mol_forward/summary.json").read_text())
    assert summary["n"] == 2 and summary["bad_references"] == list("2345678")
    note = "7 questions left out whose published answer is no molecule (row 2, 3, 4, 5, 6 ...)"
    assert table.splitlines()[-1] == f"mol_forward: {note}"
    benchmark_files.put(path, json.dumps(rows[1:8]))
    with pytest.raises(
        ValueError, match=r"no question of mol_forward in .* is left to ask: the answers of 7 are"
    ):
        told_twice("other", loads=False, changes=changes)


def test_a_run_is_not_asked_what_it_was_trained_on(tmp_path, monkeypatch):
    # Few sums have one digit, so that another seed gives many of the run's again.
    tasks = {"chain_sum": {"max_terms": 2, "max_digits": 1}}
    trained = tiny_config()
    trained.data.tasks = tasks
    trained = run_settings.parse(trained.to_dict())
    monkeypatch.setattr(starts, "settings_of", lambda *_: trained)
    monkeypatch.setattr(answering, "of_run", lambda *_: Told({}))
    asked = {"tasks": tasks, "questions": 20, "seed": 1}
    changes = {"reasoning_gym": asked, "few_shot": {"reasoning_gym": 2}}
    benchmarking.evaluate_all(benchmarking.parse(config(**changes)), run=tmp_path)
    shown, questions = set(), set()
    for row in rows_of(tmp_path / "evaluation/reasoning_gym").values():
        *examples, question = row["prompt"].split("\n\n")
        assert len(examples) == 2
        shown |= {example.partition("\nAnswer: ")[0] for example in examples}
        questions.add(question.removesuffix("\nAnswer:"))
    seen = {f"Question: {one}" for one in answering.seen_questions(trained, tasks)}
    again = benchmarks.generated(tuple(tasks.items()), 20, seed=1)
    first = {f"Question: {question.prompt}" for question in again}
    assert first & seen
    assert len(questions) == 20 and not questions & seen
    assert first - seen <= questions
    assert shown and not shown & (seen | questions)
    summary = json.loads((tmp_path / "evaluation/reasoning_gym/summary.json").read_text())
    assert summary["left_out"] >= len(first & seen)


@pytest.fixture
def trained_run(tmp_path, monkeypatch):
    """A run's folder whose settings alone are read, and the settings of an evaluation."""
    tasks = {"chain_sum": {"max_terms": 2, "max_digits": 1}, "simple_integration": {}}
    chosen = tiny_config()
    chosen.data.tasks = {"chain_sum": tasks["chain_sum"]}
    chosen = run_settings.parse(chosen.to_dict())
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text("{}")
    monkeypatch.setattr(starts, "settings_of", lambda *_: chosen)
    monkeypatch.setattr(answering, "of_run", lambda *_: Told({}, weights=1))
    monkeypatch.setattr(answering, "of_model", lambda *_, **__: Told({}, weights=2))
    asked = {"tasks": tasks, "questions": 20, "seed": 1}
    return tmp_path, benchmarking.parse(config(reasoning_gym=asked))


def test_a_run_and_its_base_are_compared_on_the_same_questions(trained_run):
    root, settings = trained_run
    benchmarking.evaluate_all(settings, run=root / "run")
    against = {"model": "base", "output": str(root / "base"), "against": str(root / "run")}
    table = benchmarking.evaluate_all(settings, **against)
    assert table.splitlines()[-1].split()[:3] == ["reasoning_gym", "40", "accuracy"]
    assert "not compared" not in table
    # What is asked of a base that is compared with nothing, the run may have seen: the others are
    # compared.
    benchmarking.evaluate_all(settings, model="base", output=str(root / "alone"))
    found = comparing.compare(root / "run/evaluation/reasoning_gym", root / "alone/reasoning_gym")
    assert 20 < found.n < 40 and found.only_this == found.only_other == 40 - found.n
    output = {"output": str(root / "again"), "against": str(root / "alone")}
    table = benchmarking.evaluate_all(settings, run=root / "run", **output)
    counts = f"{40 - found.n} questions that this model alone was asked, and {40 - found.n} that"
    assert f"reasoning_gym: not compared are {counts} the other" in table.splitlines()[-1]


def test_tasks_of_which_the_reference_alone_is_right_are_named(trained_run):
    root, settings = trained_run
    table = benchmarking.evaluate_all(settings, model="base", output=str(root / "base"))
    assert table.splitlines()[-1].startswith(
        "reasoning_gym: of simple_integration the reference answer al"
    )
    summary = json.loads((root / "base/reasoning_gym/summary.json").read_text())
    assert summary["reference_only"] == ["simple_integration"]


def test_what_the_anchors_of_a_run_ask_is_left_out_and_counted(tmp_path, monkeypatch):
    benchmark_files.write(tmp_path, "mmlu_math")
    read = benchmarks.read_questions(benchmarks.named("mmlu_math"), tmp_path)
    anchors = tmp_path / "anchors.jsonl"
    tasks = {"chain_sum": {"max_terms": 2, "max_digits": 1}}
    generated = benchmarks.generated(tuple(tasks.items()), 20, seed=1)
    asked = [*read[2:5], generated[3]]
    rows = [{"prompt": one.prompt, "response": "1", "domain": "target"} for one in asked]
    anchors.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = tiny_config()
    chosen.data.anchors_path = str(anchors)
    chosen.selection.anchor_balance = False
    chosen = run_settings.parse(chosen.to_dict())
    monkeypatch.setattr(starts, "settings_of", lambda *_: chosen)
    monkeypatch.setattr(answering, "of_run", lambda *_: Told({}))
    monkeypatch.setattr(answering, "seen_questions", lambda *_: frozenset())
    settings = config(
        benchmarks=("mmlu_math", "reasoning_gym"),
        directory=str(tmp_path),
        reasoning_gym={"tasks": tasks, "questions": 20, "seed": 1},
    )
    table = benchmarking.evaluate_all(benchmarking.parse(settings), run=tmp_path / "run")
    folder = tmp_path / "run/evaluation"
    left = {one.id for one in read} - {one.id for one in asked}
    assert set(rows_of(folder / "mmlu_math")) == left and len(left) == len(read) - 3
    prompts = {row["prompt"] for row in rows_of(folder / "reasoning_gym").values()}
    assert len(prompts) == 20 and generated[3].prompt not in prompts
    for name, count in (("mmlu_math", 3), ("reasoning_gym", 1)):
        assert json.loads((folder / name / "summary.json").read_text())["left_out"] == count
        assert f"{name}: {count} questions that a run has seen, or its anchors ask, left" in table
    anchors.write_text(
        "".join(
            json.dumps({"prompt": one.prompt, "response": "1", "domain": "target"}) + "\n"
            for one in read
        )
    )
    with pytest.raises(
        ValueError, match=r"mmlu_math in .* is left to ask: .* anchors of the run ask the 15 others"
    ):
        benchmarking.evaluate_all(benchmarking.parse(settings), run=tmp_path / "other")
    anchors.unlink()
    with pytest.raises(ValueError, match=r"expected a file of anchors at .*anchors\.jsonl"):
        benchmarking.evaluate_all(benchmarking.parse(settings), run=tmp_path / "other")


def test_answers_that_leave_no_room_for_a_question_are_refused(tmp_path, checkpoint):
    settings = benchmarking.parse(config(new_tokens=2048))
    with pytest.raises(ValueError, match="answers of 2048 tokens to reasoning_gym leave no room"):
        benchmarking.evaluate_all(settings, model=str(checkpoint), output=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny.write("tiny-llama3.2", tmp_path_factory.mktemp("model") / "tiny")


def test_a_checkpoint_answers_by_its_chat_template_and_knows_its_room(checkpoint):
    subject = answering.of_model(checkpoint)
    assert subject.template == "chat"
    assert answering.of_model(checkpoint, template="plain").identity != subject.identity
    prompts = ["What is 1 + 1?", "Two?"]
    expected = models.load(checkpoint).generate(prompts, new_tokens=4, template="chat")
    assert subject.answers(prompts, 4) == expected
    room = subject.model.config.context - len(data.TEMPLATES["chat"]("", subject.tokenizer))
    assert subject.fits("a" * (room - 4), 4) and not subject.fits("a" * (room - 3), 4)


def test_an_adapter_sits_on_the_checkpoint(tmp_path, checkpoint):
    base = answering.of_model(checkpoint)
    lora = models.LoRAConfig(2, 4.0, ("q",))
    model = models.Model(base.model.config, lora)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    parameters = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    adapters.write(tmp_path / "adapter", base.model.config, lora, parameters, base="tiny")
    subject = answering.of_model(checkpoint, tmp_path / "adapter")
    assert subject.model.lora == lora
    assert subject.identity["weights"] != base.identity["weights"]


def test_a_run_answers_by_its_own_parameters_tokenizer_and_template(monkeypatch):
    chosen = tiny_config()
    chosen.data.template = "alpaca"
    settings = run_settings.parse(chosen.to_dict())
    parameters = models.Model(settings.model, settings.lora).init(jax.random.key(1))
    run = dataclasses.make_dataclass("Run", ["parameters"])(parameters)
    monkeypatch.setattr(starts, "settings_of", lambda *_: settings)
    monkeypatch.setattr(starts, "load_finished", lambda *_: run)
    subject = answering.of_run("run", "--workdir='run'")
    assert (subject.template, subject.tokenizer) == ("alpaca", data.ByteTokenizer())
    assert subject.fits("a" * 10_000, 512)
    assert answering.of_run("run", "run", template="plain").template == "plain"
    with pytest.raises(ValueError, match="no chat template"):
        answering.of_run("run", "run", template="chat")
    seen = answering.seen_questions(settings, ("chain_sum",))
    tasks = (("chain_sum", {"max_terms": 2}),)
    trained = [distinct_entries(task, 52, settings.data.seed) for task in tasks]
    assert {entry["question"] for entries in trained for entry in entries} == seen


command = functools.partial(commands.run, "evaluate")


def test_the_smoke_command_ends_with_a_table(tmp_path, checkpoint):
    smoke = "--config=configs/evaluation.py:smoke"
    result = command(smoke, f"--model={checkpoint}", f"--output={tmp_path}/out")
    assert result.returncode == 0, result.stderr
    header, row = result.stdout.splitlines()[-2:]
    assert header.split()[:4] == ["benchmark", "n", "metric", "mean"]
    assert row.split()[:3] == ["reasoning_gym", "8", "accuracy"]
    written = {path.name for path in (tmp_path / "out/reasoning_gym").iterdir()}
    assert written == {"settings.json", "outputs.jsonl", "summary.json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.few_shot.gsm8=1"], "gsm8k"),
        (["--benchmarks=gsm8k,svamps"], "error: unknown benchmark 'svamps' (did you mean 'svamp'"),
    ],
)
def test_what_is_wrong_ends_the_command_with_a_clear_line(arguments, message):
    result = command("--model=tiny-llama3.2", "--output=nowhere", *arguments)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr
