"""Questions whose answer is a number, an expression or a few words, as they were published."""

from pathlib import Path

from partitionsel_jax.evaluation.benchmarks.files import Row, read_object, read_rows, read_text
from partitionsel_jax.evaluation.benchmarks.questions import Question, spelt

# What is read of a module's training file, which holds hundreds of thousands of questions.
_EXAMPLES_PER_MODULE = 100


def gsm8k(path: Path, split: str) -> list[Question]:
    """test.jsonl, or the same columns in Parquet: question, answer ("steps\\n#### 18").

    Source: Cobbe et al. 2021, arXiv 2110.14168; github.com/openai/grade-school-math.
    """
    return [
        Question(str(row.number), row.text("question"), row.text("answer"))
        for row in read_rows(path)
    ]


def mathematics(path: Path, split: str) -> list[Question]:
    """A file each (problem, level, type, solution), or JSON lines of all.

    The first is <subject>/<number>.json of the benchmark's own release, the second (with answer,
    subject and unique_id) that of its 500-question subset. The reference is the answer where it is
    given by itself, else the solution.

    Source: Hendrycks et al. 2021, arXiv 2103.03874; github.com/hendrycks/math. The subset: Lightman
    et al. 2023, arXiv 2305.20050; github.com/openai/prm800k.
    """
    if path.suffix == ".json":
        return [_problem(read_object(path), f"{path.parent.name}/{path.stem}")]
    return [
        _problem(row, row.text("unique_id", default=str(row.number))) for row in read_rows(path)
    ]


def _problem(row: Row, name: str) -> Question:
    solution = row.text("solution")
    return Question(
        name,
        row.text("problem"),
        row.text("answer", default=solution),
        row.text("subject", "type"),
        worked=solution,
    )


def numglue(path: Path, split: str) -> list[Question]:
    """JSON lines: question, answer, type ("Type_1" to "Type_8"), and what else a type has.

    Questions about a text have a passage, comparisons have options (or Option1 and Option2), and
    inferences have statement1, statement2 and options instead of a question. An answer is a number,
    a text, or DROP's {"number", "date": {"day", "month", "year"}, "spans"}.

    Source: Mishra et al. 2022, arXiv 2204.05660; github.com/allenai/numglue.
    """
    return [
        Question(str(row.number), _numglue_prompt(row), _numglue_answer(row), row.text("type"))
        for row in read_rows(path)
    ]


def _numglue_prompt(row: Row) -> str:
    lines = [row.text("passage", default="")]
    if row.text("statement1", default=""):
        lines += [f"{name}: {row.text(name)}" for name in ("statement1", "statement2")]
        lines.append(row.text("question", default=""))
    else:
        lines.append(row.text("question"))
    lines.append(row.text("options", default=""))
    if row.text("Option1", default=""):
        lines += [f"{name}: {row.text(name)}" for name in ("Option1", "Option2")]
    return "\n".join(filter(None, lines))


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


def svamp(path: Path, split: str) -> list[Question]:
    """SVAMP.json, an array: ID, Body, Question, Equation, Answer (a float), Type.

    Source: Patel et al. 2021, arXiv 2103.07191; github.com/arkilpatel/SVAMP.
    """
    return [
        Question(
            row.text("ID"),
            f"{row.text('Body')} {row.text('Question')}",
            row.text("Answer"),
            row.text("Type", default=""),
        )
        for row in read_rows(path)
    ]


def simuleq(path: Path, split: str) -> list[Question]:
    """An array: sQuestion, lEquations, lSolutions, iIndex; or question and answer.

    The first is how the problems were released, with all of their solutions as the reference; the
    second is MAmmoTH's release of them (Yue et al. 2023, arXiv 2309.05653).

    Source: Kushman et al. 2014, ACL P14-1026; Koncel-Kedziorski et al. 2016, ACL N16-1136 (MAWPS);
    Upadhyay and Chang 2017, arXiv 1609.07197 (DRAW).
    """
    return [
        Question(
            row.text("iIndex", "id", default=str(row.number)),
            row.text("question", "sQuestion"),
            row.text("answer", "lSolutions"),
        )
        for row in read_rows(path)
    ]


def deepmind(path: Path, split: str) -> list[Question]:
    """<module>.txt: lines with a question and its answer by turns.

    Of training files the first hundred questions are read, for examples.

    Source: Saxton et al. 2019, arXiv 1904.01557; github.com/google-deepmind/mathematics_dataset.
    """
    text = read_text(path, 2 * _EXAMPLES_PER_MODULE if split == "train" else None)
    rows = [line.strip() for line in text.rstrip("\n").split("\n")]
    if len(rows) % 2 or not all(rows):
        place = rows.index("") + 1 if "" in rows else len(rows)
        raise ValueError(
            f"{path}, line {place}: expected questions and answers by turns, a line each, got "
            f"{len(rows)} lines{', one of them empty' if '' in rows else ''}; download it again"
        )
    module = path.stem
    return [
        Question(f"{module}/{number}", question, answer, module)
        for number, (question, answer) in enumerate(zip(rows[::2], rows[1::2], strict=True), 1)
    ]
