"""The benchmarks by name: which files they are read from, and how outputs are judged."""

import dataclasses
import difflib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from partitionsel_jax.data.generation import Task, numbered_entries
from partitionsel_jax.data.scoring import score
from partitionsel_jax.data.templates import final_answer, response_text
from partitionsel_jax.evaluation import molecules
from partitionsel_jax.evaluation.answers import final_answer_of, is_correct
from partitionsel_jax.evaluation.benchmarks import published
from partitionsel_jax.evaluation.benchmarks.files import Row, find, read_rows
from partitionsel_jax.evaluation.benchmarks.questions import Question

# The name of the benchmark whose questions are generated, not read.
PROCEDURAL = "reasoning_gym"
# Scores that are 0 or 1, for which McNemar's test is made.
BINARY = frozenset({"accuracy", "exact", "valid"})
_MOLECULAR = ("exact", "bleu", "levenshtein", "valid", "maccs", "rdk", "morgan")


class Judgement(NamedTuple):
    """The answer that was read in an output ("" for none), and metric -> score."""

    answer: str
    scores: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
      name: its key in `BENCHMARKS`, and the folder of its files.
      judge: (output, question) -> what the output is worth.
      scorer: the one of `evaluation.SCORERS` that needs the packages that it needs.
      question: row -> question; its docstring tells the format and the source. None where
        questions are generated.
      files: where its questions are, relative to its folder; the first pattern that is found.
      examples: likewise, its published training questions for few-shot prompts; () for none.
      rows: (file, "test" or "train") -> the file's rows.
      by_group: True if examples are of the question's own group.
      few_shot: examples in a prompt unless a config says otherwise; models that were tuned on
        instructions are asked without.
      new_tokens: most tokens of an answer unless a config says otherwise.
      metrics: the scores that its judge gives, the first of which stands for it.
      over_all: saved outputs -> metrics that are no means over questions.
      judgeable: question -> True if answers can be compared with its reference.
    """

    name: str
    judge: Callable[[str, Question], Judgement]
    scorer: str = "text"
    question: Callable[[Row], Question] | None = None
    files: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    rows: Callable[[Path, str], list[Row]] = read_rows
    by_group: bool = False
    few_shot: int = 0
    new_tokens: int = 512
    metrics: tuple[str, ...] = ("accuracy",)
    over_all: Callable[[Sequence[Mapping[str, Any]]], dict[str, float]] | None = None
    judgeable: Callable[[Question], bool] = lambda question: True

    @property
    def primary(self) -> str:
        return self.metrics[0]


def _mathematical(
    name: str, question: Callable[[Row], Question], *files: str, **fields
) -> Benchmark:
    """Makes a benchmark that `is_correct` judges."""

    def judge(output: str, question: Question) -> Judgement:
        right = is_correct(output, question.reference, benchmark=name)
        return Judgement(final_answer_of(output, name), {"accuracy": float(right)})

    return Benchmark(name, judge, "mathematics", question, files, **fields)


def _molecular(name: str, file: str) -> Benchmark:
    """Makes a benchmark of molecules: what cannot be decoded is wrong by every metric."""

    def judge(output: str, question: Question) -> Judgement:
        found = molecules.compare(output, question.reference)
        return Judgement(found.smiles, {name: float(getattr(found, name)) for name in _MOLECULAR})

    def corpus_bleu(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        # That of all molecules together is not the mean of theirs.
        answers, references = ([row[field] for row in rows] for field in ("answer", "reference"))
        return {"corpus_bleu": molecules.corpus_bleu(answers, references)}

    return Benchmark(
        *(name, judge, "molecules", published.molecules, (file,), (file,)),
        rows=published.molecule_rows,
        metrics=_MOLECULAR,
        over_all=corpus_bleu,
        judgeable=lambda question: molecules.is_molecule(question.reference),
    )


def _by_its_task(output: str, question: Question) -> Judgement:
    """Judges by the scorer of a reasoning-gym task: right is the full score of 1."""
    record = json.loads(question.entry)
    right = score((record["task"], record["settings"]), output, record["entry"]) == 1.0
    return Judgement(final_answer(output), {"accuracy": float(right)})


_ALL = (
    _mathematical(
        *("gsm8k", published.gsm8k, "test.jsonl", "main/test-*.parquet"),
        examples=("train.jsonl", "main/train-*.parquet"),
    ),
    _mathematical(
        *("math", published.mathematics, "test/*/*.json", "test.jsonl"),
        examples=("train/*/*.json", "train.jsonl"),
        rows=published.math_rows,
        new_tokens=1024,
    ),
    _mathematical(
        *("numglue", published.numglue, "NumGLUE_test.json"),
        examples=("NumGLUE_train.json",),
        by_group=True,
    ),
    _mathematical("svamp", published.svamp, "SVAMP.json"),
    _mathematical("simuleq", published.simuleq, "simuleq.json", "SimulEq*.json"),
    _mathematical(
        *("deepmind", published.deepmind, "interpolate/*.txt"),
        examples=("train-easy/*.txt",),
        rows=published.deepmind_rows,
        by_group=True,
    ),
    _mathematical("aqua", published.aqua, "test.json", examples=("train.json",)),
    _mathematical("sat_math", published.sat_math, "sat-math.jsonl"),
    _mathematical(
        *("mmlu_math", published.mmlu, "test/*_test.csv"),
        examples=("dev/*_dev.csv",),
        rows=published.mmlu_rows,
        by_group=True,
    ),
    Benchmark(PROCEDURAL, _by_its_task, by_group=True, new_tokens=256),
    _molecular("mol_design", "description_guided_molecule_design.json"),
    _molecular("mol_forward", "forward_reaction_prediction.json"),
    _molecular("mol_reagent", "reagent_prediction.json"),
    _molecular("mol_retrosynthesis", "retrosynthesis.json"),
)
BENCHMARKS: Mapping[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}


def named(name: str) -> Benchmark:
    """Looks up a benchmark; ValueError for an unknown name."""
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(name, BENCHMARKS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown benchmark {name!r}{hint}; choose from {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def read_questions(benchmark: Benchmark, directory: Path, split: str = "test") -> list[Question]:
    """Reads the questions of a benchmark from the folder of its name in a directory.

    Args:
      split: "train" for its published training questions, which few-shot prompts show solved.

    Raises:
      ValueError: its files are not there, or damaged; no question, or none of that split; an id
        that came twice.
    """
    if benchmark.question is None:
        raise ValueError(f"the questions of {benchmark.name} are generated: there is none to read")
    patterns = benchmark.files if split == "test" else benchmark.examples
    if not patterns:
        raise ValueError(
            f"{benchmark.name} was published without training questions that could be examples: "
            f"set config.few_shot.{benchmark.name}=0"
        )
    folder = directory / benchmark.name
    paths = find(folder, patterns, f"{split} questions of {benchmark.name}")
    rows = [row for path in paths for row in benchmark.rows(path, split)]
    if not rows:
        raise ValueError(
            f"no {split} question of {benchmark.name} in {', '.join(map(str, paths[:3]))}: "
            "compare it with the published file"
        )
    questions = {}
    for question in map(benchmark.question, rows):
        if question.id in questions:
            raise ValueError(
                f"{benchmark.name}: the id {question.id!r} came twice in {folder}; keep one file "
                "or one row of it"
            )
        questions[question.id] = question
    return list(questions.values())


def generated(
    tasks: Sequence[Task], count: int, seed: int, seen: Collection[str] = frozenset()
) -> list[Question]:
    """Generates `count` distinct questions of every task: the first ones that were not seen.

    "task/number" names the same question whatever was seen, so that a model that was trained on
    some of them and one that was not are compared on all others.

    Args:
      tasks: (name, settings) of each, as `canonical_tasks` gives them.
      count: questions of each.
      seed: of the questions.
      seen: questions that a model has been trained on.

    Raises:
      ValueError: a task with too few distinct questions beside the seen ones, or an answer that
        could not be found again in an output.
    """
    questions = []
    for name, settings in tasks:
        for number, entry in numbered_entries((name, settings), count, seed, seen):
            record = {"task": name, "settings": settings, "entry": entry}
            stored = json.dumps(record, ensure_ascii=False, default=str)
            reference, identity = response_text(entry["answer"]), f"{name}/{number}"
            questions.append(Question(identity, entry["question"], reference, name, entry=stored))
    return questions


def passed_over(questions: Sequence[Question]) -> int:
    """Counts the seen questions that stood before the last ones of every task in `generated`."""
    last = {question.group: int(question.id.rpartition("/")[2]) for question in questions}
    return sum(last.values()) - len(questions)
