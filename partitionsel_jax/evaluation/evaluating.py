"""A model on a benchmark: every output saved and judged, going on where a stopped one ended.

The folder of an evaluation holds its settings, its outputs as lines, and its summary.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from partitionsel_jax.evaluation import statistics
from partitionsel_jax.evaluation.benchmarks import (
    BINARY,
    Benchmark,
    Examples,
    Judgement,
    Question,
    digest,
)
from partitionsel_jax.evaluation.benchmarks.questions import Prompt, make_prompt, own_answer
from partitionsel_jax.evaluation.scoring import judged
from partitionsel_jax.file_errors import one_line, reading
from partitionsel_jax.json_files import INTEGER, check_fields, read_fields, write_json, write_text

SETTINGS, OUTPUTS, SUMMARY = "settings.json", "outputs.jsonl", "summary.json"

_ANEW = "restore it from a copy, or evaluate again in another folder"
_LINE_ANEW = "take that line out and evaluate again, which answers the question anew"
_TEXTS = ("id", "question", "group", "prompt", "output", "answer", "reference")
_FIELDS: Mapping[str, Any] = dict.fromkeys(_TEXTS, str) | {
    "scores": dict,
    "too_long": bool,
    "dropped_examples": INTEGER,
}

Row = dict[str, Any]

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 5.0


def evaluate(
    generate: Callable[[list[str]], Sequence[str]],
    questions: Sequence[Question],
    benchmark: Benchmark,
    folder: epath.PathLike,
    *,
    settings: Mapping[str, Any],
    examples: Examples | None = None,
    fits: Callable[[str], bool] = lambda prompt: True,
    batch: int = 16,
    notes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Answers and judges the questions, and writes outputs and summary into a folder.

    Guarantees:
      * every question counts: one whose prompt does not fit even without examples is answered by
        nothing, judged as that, and counted as `too_long`;
      * what a killed evaluation had judged is not answered again, and a line that it left half
        written is dropped;
      * a folder holds one evaluation: other settings, other questions and other examples are
        refused;
      * prompts that are alike in length come together, the longest first, so that few shapes are
        compiled and memory that does not suffice is found out at once.

    Args:
      generate: at most `batch` prompts -> as many outputs.
      questions: of the benchmark.
      folder: made when missing: settings.json, outputs.jsonl (a line per question as batches are
        done) and summary.json.
      settings: what else decides the outputs: the model's identity, the template, new tokens.
      examples: what few-shot prompts show; None for none.
      fits: prompt -> True if it leaves room for an answer; examples are dropped until it does.
      batch: prompts per call.
      notes: what else summary.json is to say of the questions.

    Returns:
      What summary.json holds: the notes, benchmark, primary, n, too_long, dropped_examples,
      metrics (name -> mean, low, high: 95 % interval), over_all where the benchmark has metrics
      that are no means, and, where there are several groups, n and metrics of each.

    Raises:
      ValueError: no question, a folder with other settings, or outputs that are not one text for
        each prompt.
    """
    if not questions:
        raise ValueError(f"no question of {benchmark.name} to answer: pass at least one")
    examples, folder = examples or Examples(), epath.Path(folder)
    _claim(folder, {**asked(questions, benchmark, examples), **settings})
    rows = _earlier(folder / OUTPUTS, questions)
    if before := len(rows):
        _LOG.info("%s: %d are answered already", benchmark.name, before)
    left = [question for question in questions if question.id not in rows]
    tasks = [(question, make_prompt(question, examples, fits)) for question in left]
    too_long = [task for task in tasks if not task[1].fits]
    fitting = [task for task in tasks if task[1].fits]
    fitting.sort(key=lambda task: len(task[1].text), reverse=True)
    start = shown = time.monotonic()
    with (folder / OUTPUTS).open("a") as file:

        def save(tasks: Sequence[tuple[Question, Prompt]], outputs: Sequence[str]) -> None:
            for (question, prompt), output in zip(tasks, outputs, strict=True):
                row = _judged_row(question, prompt, output, benchmark, examples)
                rows[question.id] = row
                file.write(_line(row))
            file.flush()  # to the system, so that a kill does not lose it

        save(too_long, [""] * len(too_long))
        for place in range(0, len(fitting), batch):
            piece = fitting[place : place + batch]
            save(piece, _texts(generate([prompt.text for _, prompt in piece]), len(piece)))
            now = time.monotonic()
            if now - shown >= _SECONDS_BETWEEN_LINES or len(rows) == len(questions):
                shown = now
                pace = (len(rows) - before) / max(now - start, 1e-9)
                _show_progress(benchmark, list(rows.values()), len(questions), pace)
    summary = {**(notes or {}), **summarise([rows[one.id] for one in questions], benchmark)}
    write_json(folder / SUMMARY, summary)
    return summary


def asked(
    questions: Sequence[Question], benchmark: Benchmark, examples: Examples
) -> dict[str, Any]:
    """Describes the questions and the examples for settings.json, whatever the model."""
    return {
        "benchmark": benchmark.name,
        "questions": digest(questions),
        "few_shot": examples.count,
        "examples": digest(example for pool in examples.pools.values() for example in pool),
    }


def summarise(rows: Sequence[Row], benchmark: Benchmark) -> dict[str, Any]:
    """Averages scores, with 95 % intervals, over all outputs and over those of each group."""
    summary: dict[str, Any] = {
        "benchmark": benchmark.name,
        "primary": benchmark.primary,
        "n": len(rows),
        "too_long": sum(row["too_long"] for row in rows),
        "dropped_examples": sum(row["dropped_examples"] for row in rows),
        "metrics": _metrics(rows),
    }
    if benchmark.over_all is not None:
        summary["over_all"] = benchmark.over_all(rows)
    groups = sorted({row["group"] for row in rows})
    parts = {name: [row for row in rows if row["group"] == name] for name in groups}
    if len(groups) > 1:
        summary["groups"] = {
            name: {"n": len(part), "metrics": _metrics(part)} for name, part in parts.items()
        }
    return summary


def _claim(folder: epath.Path, settings: Mapping[str, Any]) -> None:
    """Makes a folder an evaluation's own, unless it is already; refuses other settings by name."""
    ours = json.loads(json.dumps(settings))
    if not (folder / SETTINGS).exists():
        if (folder / OUTPUTS).exists():
            raise ValueError(f"{folder} holds outputs without {SETTINGS}: choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / SETTINGS, ours)
    elif changed := differences(read_settings(folder), ours):
        raise ValueError(
            f"{folder} holds an evaluation with other settings ({'; '.join(changed)}): choose "
            "another folder, or the settings that it was started with"
        )


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Names what differs between two settings."""
    return [
        f"{name}: {theirs.get(name)!r} there, {ours.get(name)!r} now"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name)
    ]


def read_settings(folder: epath.Path) -> dict[str, Any]:
    """Reads the settings of an evaluation, which name its benchmark; ValueError if damaged."""
    return read_fields(folder / SETTINGS, {"benchmark": str}, _ANEW)


def read_finished(folder: epath.Path) -> dict[str, Row]:
    """Reads id -> row of an evaluation that has answered all of its questions.

    Raises:
      ValueError: it has not, or a file is damaged: named with its line.
    """
    for file in (SETTINGS, OUTPUTS, SUMMARY):
        if not (folder / file).exists():
            raise ValueError(
                f"{folder} is not the folder of a finished evaluation, as it lacks {file}: "
                "name the one that experiments.evaluate wrote, and let it finish"
            )
    rows = read_outputs(folder / OUTPUTS)
    if (count := read_fields(folder / SUMMARY, {"n": INTEGER}, _ANEW)["n"]) != len(rows):
        raise ValueError(
            f"{folder / OUTPUTS} holds {len(rows)} outputs, and {SUMMARY} is of {count}: some "
            "were lost; evaluate again by the same command, which answers those anew"
        )
    return rows


def read_outputs(path: epath.Path) -> dict[str, Row]:
    """Reads id -> row; a last line that is cut off is left out.

    Raises:
      ValueError: another damaged line, or an id that came twice.
    """
    # What follows the last line's end was being written when the process was killed.
    with reading(path):
        *lines, _ = path.read_bytes().split(b"\n")
    rows: dict[str, Row] = {}
    for number, line in enumerate(lines, 1):
        place = f"{path}, line {number}"
        try:
            row = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place}: no JSON ({one_line(error)}): {_LINE_ANEW}") from None
        check_fields(row, _FIELDS, place, _LINE_ANEW)
        scores, first = row["scores"], next(iter(rows.values()), row)["scores"]
        numbers = [one for one in scores.values() if isinstance(one, int | float)]
        alike = row.keys() == _FIELDS.keys() and scores.keys() == first.keys()
        if row["id"] in rows:
            raise ValueError(f"{place} answers {row['id']!r} again: {_LINE_ANEW}")
        if not (alike and scores and len(numbers) == len(scores) and np.isfinite(numbers).all()):
            raise ValueError(
                f"{place} has other fields than {', '.join(_FIELDS)}, or other scores than finite "
                f"numbers for {', '.join(first)}: it was damaged or edited; {_LINE_ANEW}"
            )
        rows[row["id"]] = row
    return rows


def _earlier(path: epath.Path, questions: Sequence[Question]) -> dict[str, Row]:
    """Reads what was answered before, and drops a line that was left half written."""
    rows = read_outputs(path) if path.exists() else {}
    if strange := rows.keys() - {question.id for question in questions}:
        raise ValueError(
            f"{path} holds the question {min(strange)!r}, which is none of this evaluation's: "
            "it was edited; choose another folder"
        )
    write_text(path, "".join(map(_line, rows.values())))
    return rows


def _metrics(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    return {
        name: statistics.mean_interval([row["scores"][name] for row in rows])._asdict()
        for name in rows[0]["scores"]
    }


def _texts(outputs: Sequence[str], count: int) -> list[str]:
    texts = list(outputs)
    if len(texts) != count or not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"expected {count} texts for as many prompts, got {len(texts)} of "
            f"{sorted({type(text).__name__ for text in texts})}; repair the generate function"
        )
    return texts


def _judged_row(
    question: Question, prompt: Prompt, output: str, benchmark: Benchmark, examples: Examples
) -> Row:
    judgement = judged(
        lambda: benchmark.judge(own_answer(output, examples), question),
        lambda: _wrong(output, benchmark, question),
        f"{benchmark.name}, question {question.id}",
    )
    return {
        "id": question.id,
        "question": digest([question]),
        "group": question.group,
        "prompt": prompt.text,
        "output": output,
        "answer": judgement.answer,
        "reference": question.reference,
        "scores": dict(judgement.scores),
        "too_long": not prompt.fits,
        "dropped_examples": prompt.dropped,
    }


def _wrong(output: str, benchmark: Benchmark, question: Question) -> Judgement:
    """Judges an output that cannot be judged as a text of its length that has no answer."""
    try:
        scores = benchmark.judge("?" * len(output), question).scores
    except Exception:  # it fails whatever it is given
        scores = dict.fromkeys(benchmark.metrics, 0.0)
    return Judgement("", {name: 0.0 if name in BINARY else scores[name] for name in scores})


def _show_progress(benchmark: Benchmark, rows: Sequence[Row], total: int, pace: float) -> None:
    mean = np.mean([row["scores"][benchmark.primary] for row in rows])
    minutes, seconds = divmod(int((total - len(rows)) / pace), 60)
    _LOG.info(
        "%s  %d/%d  %s %.3f  %.1f questions/s  ETA %d:%02d",
        *(benchmark.name, len(rows), total, benchmark.primary, mean, pace, minutes, seconds),
    )


def _line(row: Row) -> str:
    return json.dumps(row, allow_nan=False) + "\n"
