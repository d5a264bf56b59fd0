"""The published formats of the benchmarks, from rows of their files to questions.

Readers of rows take a file and a split ("test" or "train"); the others make a question of a row.
"""

import re
from pathlib import Path

from partitionsel_jax.data.sources.rows import BadRow
from partitionsel_jax.data.sources.schemas import joined, molecule_metadata
from partitionsel_jax.evaluation.benchmarks.files import (
    Row,
    read_rows,
    read_table,
    read_text,
    spelt,
)
from partitionsel_jax.evaluation.benchmarks.questions import Question
from partitionsel_jax.json_files import read_object

# The category "math" of the benchmark's own categories.py.
MMLU_MATHEMATICS = (
    "abstract_algebra",
    "college_mathematics",
    "elementary_mathematics",
    "high_school_mathematics",
    "high_school_statistics",
)
_LETTERS = "ABCDE"
_LETTERED = re.compile(r"\s*\(?([A-E])\)\s*")
# A module's training file holds hundreds of thousands of questions.
_EXAMPLES_PER_MODULE = 100


def gsm8k(row: Row) -> Question:
    """Columns question and answer ("steps\\n#### 18"), in JSON lines or Parquet.

    Source: Cobbe et al. 2021, arXiv 2110.14168; github.com/openai/grade-school-math.
    """
    return Question(str(row.number), row.text("question"), row.text("answer"))


def math_rows(path: Path, split: str) -> list[Row]:
    """A file each, as the benchmark's own release has it, or JSON lines of all."""
    return [Row(path, 0, read_object(path))] if path.suffix == ".json" else read_rows(path)


def mathematics(row: Row) -> Question:
    """Fields problem, level, type, solution, or also answer, subject and unique_id.

    The first is <subject>/<number>.json of the benchmark's own release, the second that of its
    500-question subset. The reference is the answer where it is given by itself, else the solution.

    Source: Hendrycks et al. 2021, arXiv 2103.03874; github.com/hendrycks/math. The subset: Lightman
    et al. 2023, arXiv 2305.20050; github.com/openai/prm800k.
    """
    name = str(row.number) if row.number else f"{row.path.parent.name}/{row.path.stem}"
    name, solution = row.text("unique_id", default=name), row.text("solution")
    asked, answer = row.text("problem"), row.text("answer", default=solution)
    return Question(name, asked, answer, row.text("subject", "type"), worked=solution)


def numglue(row: Row) -> Question:
    """JSON lines: question, answer, type ("Type_1" to "Type_8"), and what else a type has.

    Questions about a text have a passage, comparisons have options (or Option1 and Option2), and
    inferences have statement1, statement2 and options instead of a question. An answer is a number,
    a text, or DROP's {"number", "date": {"day", "month", "year"}, "spans"}.

    Source: Mishra et al. 2022, arXiv 2204.05660; github.com/allenai/numglue.
    """

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


def svamp(row: Row) -> Question:
    """SVAMP.json, an array: ID, Body, Question, Equation, Answer (a float), Type.

    Source: Patel et al. 2021, arXiv 2103.07191; github.com/arkilpatel/SVAMP.
    """
    prompt = f"{row.text('Body')} {row.text('Question')}"
    return Question(row.text("ID"), prompt, row.text("Answer"), row.text("Type", default=""))


def simuleq(row: Row) -> Question:
    """An array: sQuestion, lEquations, lSolutions, iIndex; or question and answer.

    The first is how the problems were released, with all of their solutions as the reference; the
    second is MAmmoTH's release of them (Yue et al. 2023, arXiv 2309.05653).

    Source: Kushman et al. 2014, ACL P14-1026; Koncel-Kedziorski et al. 2016, ACL N16-1136 (MAWPS);
    Upadhyay and Chang 2017, arXiv 1609.07197 (DRAW).
    """
    name = row.text("iIndex", "id", default=str(row.number))
    return Question(name, row.text("question", "sQuestion"), row.text("answer", "lSolutions"))


def deepmind_rows(path: Path, split: str) -> list[Row]:
    """<module>.txt: lines with a question and its answer by turns; of training files the first."""
    text = read_text(path, 2 * _EXAMPLES_PER_MODULE if split == "train" else None)
    lines = [line.strip() for line in text.rstrip("\n").split("\n")]
    if len(lines) % 2 or not all(lines):
        place = lines.index("") + 1 if "" in lines else len(lines)
        raise ValueError(
            f"{path}, line {place}: expected questions and answers by turns, a line each, got "
            f"{len(lines)} lines{', one of them empty' if '' in lines else ''}; download it again"
        )
    pairs = zip(lines[::2], lines[1::2], strict=True)
    return [Row(path, number, {"q": q, "a": a}) for number, (q, a) in enumerate(pairs, 1)]


def deepmind(row: Row) -> Question:
    """A question of a module.

    Source: Saxton et al. 2019, arXiv 1904.01557; github.com/google-deepmind/mathematics_dataset.
    """
    module = row.path.stem
    return Question(f"{module}/{row.number}", row.text("q"), row.text("a"), module)


def aqua(row: Row) -> Question:
    """JSON lines: question, options ("A)21"), rationale, correct.

    Source: Ling et al. 2017, arXiv 1705.04146; github.com/google-deepmind/AQuA.
    """
    rationale, label = row.text("rationale", default=""), row.text("correct")
    return _choice(row, row.text("question"), _options(row), label, rationale=rationale)


def sat_math(row: Row) -> Question:
    """JSON lines: passage (mostly null), question, options ("(A)21"), label, answer, other.

    Source: Zhong et al. 2023, arXiv 2304.06364 (AGIEval); github.com/ruixiangcui/AGIEval.
    """
    asked = "\n".join(filter(None, (row.text("passage", default=""), row.text("question"))))
    return _choice(row, asked, _options(row), row.text("label"))


def mmlu_rows(path: Path, split: str) -> list[Row]:
    """<subject>_test.csv or <subject>_dev.csv without a header; none of other than mathematics."""
    if path.stem.rpartition("_")[0] not in MMLU_MATHEMATICS:
        return []
    return read_table(path, ("question", *"ABCD", "answer"))


def mmlu(row: Row) -> Question:
    """Columns question, A, B, C, D, answer.

    Source: Hendrycks et al. 2021, arXiv 2009.03300; github.com/hendrycks/test.
    """
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


def molecule_rows(path: Path, split: str) -> list[Row]:
    """An array: instruction, input, output, metadata (JSON text with the task and the split).

    One file holds all splits; the rows of the others are left aside.
    """
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


def molecules(row: Row) -> Question:
    """A task of Mol-Instructions that asks for molecules, with the prompt of the training data.

    Source: Fang et al. 2023, arXiv 2306.08018; github.com/zjunlp/Mol-Instructions.
    """
    instruction, given = row.text("instruction"), row.text("input", default="")
    prompt = joined(instruction, given)
    return Question(str(row.number), prompt, row.text("output"), about=given or instruction)
