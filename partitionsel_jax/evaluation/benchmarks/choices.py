"""Questions with a choice of answers, as they were published; the reference is a letter."""

import re
from collections.abc import Sequence
from pathlib import Path

from partitionsel_jax.evaluation.benchmarks.files import Row, read_rows, read_table
from partitionsel_jax.evaluation.benchmarks.questions import Question

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


def aqua(path: Path, split: str) -> list[Question]:
    """JSON lines: question, options ("A)21"), rationale, correct.

    Source: Ling et al. 2017, arXiv 1705.04146; github.com/google-deepmind/AQuA.
    """
    return [
        _choice(
            row,
            str(row.number),
            row.text("question"),
            _options(row),
            row.text("correct"),
            rationale=row.text("rationale", default=""),
        )
        for row in read_rows(path)
    ]


def sat_math(path: Path, split: str) -> list[Question]:
    """JSON lines: passage (mostly null), question, options ("(A)21"), label, answer, other.

    Source: Zhong et al. 2023, arXiv 2304.06364 (AGIEval); github.com/ruixiangcui/AGIEval.
    """
    return [
        _choice(
            row,
            str(row.number),
            "\n".join(filter(None, (row.text("passage", default=""), row.text("question")))),
            _options(row),
            row.text("label"),
        )
        for row in read_rows(path)
    ]


def mmlu(path: Path, split: str) -> list[Question]:
    """<subject>_test.csv or <subject>_dev.csv without a header: question, A, B, C, D, answer.

    Mathematics is what the benchmark's own categories call so; other subjects give no question.

    Source: Hendrycks et al. 2021, arXiv 2009.03300; github.com/hendrycks/test.
    """
    subject = path.stem.rpartition("_")[0]
    if subject not in MMLU_MATHEMATICS:
        return []
    questions = []
    for row in read_table(path, ("question", "A", "B", "C", "D", "answer")):
        options = [row.text(letter) for letter in "ABCD"]
        name, asked = f"{subject}/{row.number}", row.text("question")
        questions.append(_choice(row, name, asked, options, row.text("answer"), group=subject))
    return questions


def _options(row: Row) -> list[str]:
    """The options without their letters, which must come in order."""
    options = row.fields.get("options")
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise row.error(f"expected options as a list of texts, got {str(options)[:40]!r}")
    found = [match for option in options if (match := _LETTERED.match(option))]
    letters = "".join(match[1] for match in found)
    if len(options) < 2 or letters != _LETTERS[: len(options)]:
        raise row.error(f"expected options (A), (B), ... in order, got {str(options)[:80]}")
    return [match.string[match.end() :].strip() for match in found]


def _choice(
    row: Row,
    name: str,
    asked: str,
    options: Sequence[str],
    label: str,
    *,
    group: str = "",
    rationale: str = "",
) -> Question:
    """A question with its options written out as in MathInstruct (arXiv 2309.05653)."""
    letters = _LETTERS[: len(options)]
    if len(label) != 1 or label not in letters:
        raise row.error(f"expected one of {', '.join(letters)} as the right choice, got {label!r}")
    listed = " ".join(f"({letter}) {text}" for letter, text in zip(letters, options, strict=True))
    return Question(
        name,
        f"{asked}\nAnswer Choices: {listed}",
        label,
        group,
        worked=f"{rationale}\nThe answer is {label}".strip(),
    )
