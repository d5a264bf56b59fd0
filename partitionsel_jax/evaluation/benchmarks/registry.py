"""The benchmarks by name: how they were published, and how outputs are judged."""

import dataclasses
import difflib
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from partitionsel_jax.data.generation import Task, numbered_entries
from partitionsel_jax.data.scoring import score
from partitionsel_jax.data.sources.rows import BadRow
from partitionsel_jax.data.sources.schemas import joined, molecule_metadata
from partitionsel_jax.data.templates import final_answer, response_text
from partitionsel_jax.evaluation import molecules
from partitionsel_jax.evaluation.answers import final_answer_of, is_correct
from partitionsel_jax.evaluation.benchmarks.files import (
    Row,
    find,
    read_rows,
    read_table,
    read_text,
    spelt,
)
from partitionsel_jax.evaluation.benchmarks.questions import Question
from partitionsel_jax.json_files import read_object

# The name of the benchmark whose questions are generated, not read.
PROCEDURAL = "reasoning_gym"
# Scores that are 0 or 1, for which McNemar's test is made.
BINARY = frozenset({"accuracy", "exact", "valid"})
_MOLECULAR = ("exact", "bleu", "levenshtein", "valid", "maccs", "rdk", "morgan")
_LETTERS = "ABCDE"
_LETTERED = re.compile(r"\s*\(?([A-E])\)\s*")
# The category "math" of the benchmark's own categories.py.
_MMLU_MATHEMATICS = (
    *("abstract_algebra", "college_mathematics", "elementary_mathematics"),
    *("high_school_mathematics", "high_school_statistics"),
)


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
      question: row -> question; None where questions are generated.
      files: where its questions are, relative to its folder; the first pattern that is found.
      examples: likewise, its published training questions for few-shot prompts; () for none.
      rows: (file, "test" or "train") -> the file's rows.
      by_group: True if examples are of the question's own group.
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
    new_tokens: int = 512
    metrics: tuple[str, ...] = ("accuracy",)
    over_all: Callable[[Sequence[Mapping[str, Any]]], dict[str, float]] | None = None
    judgeable: Callable[[Question], bool] = lambda question: True

    @property
    def primary(self) -> str:
        return self.metrics[0]


def _mathematical(name: str, question: Callable[[Row], Question], **fields: Any) -> Benchmark:
    """Makes a benchmark that `is_correct` judges."""

    def judge(output: str, question: Question) -> Judgement:
        right = is_correct(output, question.reference, benchmark=name)
        return Judgement(final_answer_of(output, name), {"accuracy": float(right)})

    return Benchmark(name, judge, "mathematics", question, **fields)


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
        *(name, judge, "molecules", _molecule_question, (file,), (file,)),
        rows=_molecule_rows,
        metrics=_MOLECULAR,
        over_all=corpus_bleu,
        judgeable=lambda question: molecules.is_molecule(question.reference),
    )


def _by_its_task(output: str, question: Question) -> Judgement:
    """Judges by the scorer of a reasoning-gym task: right is the full score of 1."""
    record = json.loads(question.entry)
    right = score((record["task"], record["settings"]), output, record["entry"]) == 1.0
    return Judgement(final_answer(output), {"accuracy": float(right)})


def _math_rows(path: Path, split: str) -> list[Row]:
    return [Row(path, 0, read_object(path))] if path.suffix == ".json" else read_rows(path)


def _math_question(row: Row) -> Question:
    name = str(row.number) if row.number else f"{row.path.parent.name}/{row.path.stem}"
    name, solution = row.text("unique_id", default=name), row.text("solution")
    asked, answer = row.text("problem"), row.text("answer", default=solution)
    return Question(name, asked, answer, row.text("subject", "type"), worked=solution)


def _numglue_question(row: Row) -> Question:
    def named(*names: str) -> list[str]:
        there = row.text(names[0], default="")
        return [f"{name}: {row.text(name)}" for name in names] if there else []

    statements = named("statement1", "statement2")
    question = row.text("question", default="") if statements else row.text("question")
    passage, options = row.text("passage", default=""), row.text("options", default="")
    lines = [passage, *statements, question, options, *named("Option1", "Option2")]
    prompt = "\n".join(filter(None, lines))
    return Question(str(row.number), prompt, _numglue_answer(row), row.text("type"))


def _numglue_answer(row: Row) -> str:
    answer = row.fields.get("answer")
    if not isinstance(answer, dict):
        return row.text("answer")
    date = answer.get("date")
    parts = [date.get(name) for name in ("day", "month", "year")] if isinstance(date, dict) else []
    try:
        dated = " ".join(filter(None, map(spelt, parts)))
        found = spelt(answer.get("number")) or spelt(answer.get("spans")) or dated
    except (TypeError, ValueError) as error:
        raise row.error(f"the field 'answer': {error}") from None
    if not found:
        raise row.error("expected an answer with a number, a date or spans in it")
    return found


def _svamp_question(row: Row) -> Question:
    prompt = f"{row.text('Body')} {row.text('Question')}"
    return Question(row.text("ID"), prompt, row.text("Answer"), row.text("Type", default=""))


def _simuleq_question(row: Row) -> Question:
    name = row.text("iIndex", "id", default=str(row.number))
    return Question(name, row.text("question", "sQuestion"), row.text("answer", "lSolutions"))


def _deepmind_rows(path: Path, split: str) -> list[Row]:
    # A module's training file holds hundreds of thousands of questions.
    text = read_text(path, 200 if split == "train" else None)
    lines = [line.strip() for line in text.rstrip("\n").split("\n")]
    if len(lines) % 2 or not all(lines):
        place = lines.index("") + 1 if "" in lines else len(lines)
        raise ValueError(
            f"{path}, line {place}: expected questions and answers by turns, a line each, got "
            f"{len(lines)} lines{', one of them empty' if '' in lines else ''}; download it again"
        )
    pairs = zip(lines[::2], lines[1::2], strict=True)
    return [Row(path, number, {"q": q, "a": a}) for number, (q, a) in enumerate(pairs, 1)]


def _deepmind_question(row: Row) -> Question:
    module = row.path.stem
    return Question(f"{module}/{row.number}", row.text("q"), row.text("a"), module)


def _aqua_question(row: Row) -> Question:
    rationale, label = row.text("rationale", default=""), row.text("correct")
    return _choice(row, row.text("question"), _options(row), label, rationale=rationale)


def _sat_question(row: Row) -> Question:
    asked = "\n".join(filter(None, (row.text("passage", default=""), row.text("question"))))
    return _choice(row, asked, _options(row), row.text("label"))


def _mmlu_rows(path: Path, split: str) -> list[Row]:
    mathematical = path.stem.rpartition("_")[0] in _MMLU_MATHEMATICS
    return read_table(path, ("question", *"ABCD", "answer")) if mathematical else []


def _mmlu_question(row: Row) -> Question:
    subject, options = row.path.stem.rpartition("_")[0], [row.text(letter) for letter in "ABCD"]
    return _choice(row, row.text("question"), options, row.text("answer"), group=subject)


def _options(row: Row) -> list[str]:
    """Reads the options without their letters, which must come in order."""
    options = row.fields.get("options")
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise row.error(f"expected options as a list of texts, got {str(options)[:40]!r}")
    found = [match for option in options if (match := _LETTERED.match(option))]
    letters = "".join(match[1] for match in found)
    if len(options) < 2 or letters != _LETTERS[: len(options)]:
        raise row.error(f"expected options (A), (B), ... in order, got {str(options)[:80]}")
    return [match.string[match.end() :].strip() for match in found]


def _choice(
    row: Row, asked: str, options: list[str], label: str, *, group: str = "", rationale: str = ""
) -> Question:
    """Makes a question with its options written out as in MathInstruct (arXiv 2309.05653)."""
    letters = _LETTERS[: len(options)]
    if len(label) != 1 or label not in letters:
        raise row.error(f"expected one of {', '.join(letters)} as the right choice, got {label!r}")
    listed = " ".join(f"({letter}) {text}" for letter, text in zip(letters, options, strict=True))
    name = f"{group}/{row.number}" if group else str(row.number)
    prompt, worked = f"{asked}\nAnswer Choices: {listed}", f"{rationale}\nThe answer is {label}"
    return Question(name, prompt, label, group, worked=worked.strip())


def _molecule_rows(path: Path, split: str) -> list[Row]:
    rows = []
    for row in read_rows(path):
        try:
            found = molecule_metadata(row.fields).get("split")
        except BadRow as error:
            raise row.error(f"the {error}") from None
        if not isinstance(found, str):
            raise row.error("expected metadata that name the split")
        rows += [row] if found == split else []
    return rows


def _molecule_question(row: Row) -> Question:
    instruction, given = row.text("instruction"), row.text("input", default="")
    prompt = joined(instruction, given)  # as in the training data
    return Question(str(row.number), prompt, row.text("output"), about=given or instruction)


_ALL = (
    # Columns question and answer ("steps\\n#### 18"), in JSON lines or Parquet.
    # Cobbe et al. 2021, arXiv 2110.14168; github.com/openai/grade-school-math.
    _mathematical(
        "gsm8k",
        lambda row: Question(str(row.number), row.text("question"), row.text("answer")),
        files=("test.jsonl", "main/test-*.parquet"),
        examples=("train.jsonl", "main/train-*.parquet"),
    ),
    # A file each with problem, level, type and solution, as the benchmark's own release has it, or
    # JSON lines of its 500-question subset, which has answer, subject and unique_id too. The
    # reference is the answer where it is given by itself, else the solution.
    # Hendrycks et al. 2021, arXiv 2103.03874; github.com/hendrycks/math. The subset: Lightman et
    # al. 2023, arXiv 2305.20050; github.com/openai/prm800k.
    _mathematical(
        "math",
        _math_question,
        files=("test/*/*.json", "test.jsonl"),
        examples=("train/*/*.json", "train.jsonl"),
        rows=_math_rows,
        new_tokens=1024,
    ),
    # JSON lines: question, answer, type ("Type_1" to "Type_8"), and what else a type has. Questions
    # about a text have a passage, comparisons have options (or Option1 and Option2), and inferences
    # have statement1, statement2 and options instead of a question. An answer is a number, a text,
    # or DROP's {"number", "date": {"day", "month", "year"}, "spans"}.
    # Mishra et al. 2022, arXiv 2204.05660; github.com/allenai/numglue.
    _mathematical(
        "numglue",
        _numglue_question,
        files=("NumGLUE_test.json",),
        examples=("NumGLUE_train.json",),
        by_group=True,
    ),
    # An array: ID, Body, Question, Equation, Answer (a float), Type.
    # Patel et al. 2021, arXiv 2103.07191; github.com/arkilpatel/SVAMP.
    _mathematical("svamp", _svamp_question, files=("SVAMP.json",)),
    # An array: sQuestion, lEquations, lSolutions, iIndex, as the problems were released, with all
    # of their solutions as the reference; or question and answer, as MAmmoTH released them (Yue et
    # al. 2023, arXiv 2309.05653). Kushman et al. 2014, ACL P14-1026; Koncel-Kedziorski et al. 2016,
    # ACL N16-1136 (MAWPS); Upadhyay and Chang 2017, arXiv 1609.07197 (DRAW).
    _mathematical("simuleq", _simuleq_question, files=("simuleq.json", "SimulEq*.json")),
    # <module>.txt: lines with a question and its answer by turns.
    # Saxton et al. 2019, arXiv 1904.01557; github.com/google-deepmind/mathematics_dataset.
    _mathematical(
        "deepmind",
        _deepmind_question,
        files=("interpolate/*.txt",),
        examples=("train-easy/*.txt",),
        rows=_deepmind_rows,
        by_group=True,
    ),
    # JSON lines: question, options ("A)21"), rationale, correct.
    # Ling et al. 2017, arXiv 1705.04146; github.com/google-deepmind/AQuA.
    _mathematical("aqua", _aqua_question, files=("test.json",), examples=("train.json",)),
    # JSON lines: passage (mostly null), question, options ("(A)21"), label, answer, other.
    # Zhong et al. 2023, arXiv 2304.06364 (AGIEval); github.com/ruixiangcui/AGIEval.
    _mathematical("sat_math", _sat_question, files=("sat-math.jsonl",)),
    # <subject>_test.csv or <subject>_dev.csv without a header: question, A, B, C, D, answer.
    # Hendrycks et al. 2021, arXiv 2009.03300; github.com/hendrycks/test.
    _mathematical(
        "mmlu_math",
        _mmlu_question,
        files=("test/*_test.csv",),
        examples=("dev/*_dev.csv",),
        rows=_mmlu_rows,
        by_group=True,
    ),
    Benchmark(PROCEDURAL, _by_its_task, by_group=True, new_tokens=256),
    # Tasks of Mol-Instructions: an array of instruction, input, output and metadata (JSON text with
    # the task and the split), all splits in one file.
    # Fang et al. 2023, arXiv 2306.08018; github.com/zjunlp/Mol-Instructions.
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

    The split "train" has its published training questions, which few-shot prompts show solved.

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
    """Generates `count` distinct questions of every task: the first that a model has not seen.

    "task/number" names the same question whatever was seen, so that a model that was trained on
    some of them and one that was not are compared on all others.

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
