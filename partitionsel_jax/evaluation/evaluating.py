"""A model on a benchmark: every output saved and judged, going on where a stopped one ended."""

import contextlib
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
from partitionsel_jax.evaluation.outputs import OUTPUTS, SUMMARY, Outputs, claim
from partitionsel_jax.evaluation.scoring import judged
from partitionsel_jax.json_files import write_json

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
    examples = examples or Examples()
    folder = epath.Path(folder)
    claim(folder, {**asked(questions, benchmark, examples), **settings})
    with contextlib.closing(Outputs(folder / OUTPUTS, {q.id for q in questions})) as outputs:
        left = [question for question in questions if question.id not in outputs.rows]
        if len(left) < len(questions):
            _LOG.info("%s: %d are answered already", benchmark.name, len(questions) - len(left))
        tasks = [(question, make_prompt(question, examples, fits)) for question in left]
        progress = _Progress(benchmark, len(questions), outputs)
        for question, prompt in tasks:
            if not prompt.fits:
                outputs.append(_row(question, prompt, "", benchmark, examples))
        fitting = [task for task in tasks if task[1].fits]
        fitting.sort(key=lambda task: len(task[1].text), reverse=True)
        for start in range(0, len(fitting), batch):
            piece = fitting[start : start + batch]
            written = _texts(generate([prompt.text for _, prompt in piece]), len(piece))
            for (question, prompt), output in zip(piece, written, strict=True):
                outputs.append(_row(question, prompt, output, benchmark, examples))
            outputs.flush()
            progress.show()
        rows = [outputs.rows[question.id] for question in questions]
    summary = {**(notes or {}), **summarise(rows, benchmark)}
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


def summarise(rows: Sequence[Mapping[str, Any]], benchmark: Benchmark) -> dict[str, Any]:
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
    if len(groups) > 1:
        parts = {name: [row for row in rows if row["group"] == name] for name in groups}
        summary["groups"] = {
            name: {"n": len(part), "metrics": _metrics(part)} for name, part in parts.items()
        }
    return summary


def _metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    found = {}
    for name in rows[0]["scores"]:
        interval = statistics.mean_interval([row["scores"][name] for row in rows])
        found[name] = {"mean": interval.mean, "low": interval.low, "high": interval.high}
    return found


def _texts(outputs: Sequence[str], count: int) -> list[str]:
    texts = list(outputs)
    if len(texts) != count or not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"expected {count} texts for as many prompts, got {len(texts)} of "
            f"{sorted({type(text).__name__ for text in texts})}; repair the generate function"
        )
    return texts


def _row(
    question: Question, prompt: Prompt, output: str, benchmark: Benchmark, examples: Examples
) -> dict[str, Any]:
    """Judges an output, and gives the line of it."""
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


class _Progress:
    """A line every few seconds: how many are answered, how well, how fast, and when it will end."""

    def __init__(self, benchmark: Benchmark, total: int, outputs: Outputs):
        self._benchmark, self._total, self._outputs = benchmark, total, outputs
        self._before, self._start = len(outputs.rows), time.monotonic()
        self._shown = self._start

    def show(self) -> None:
        now, done = time.monotonic(), len(self._outputs.rows)
        if done < self._total and now - self._shown < _SECONDS_BETWEEN_LINES:
            return
        self._shown = now
        primary = self._benchmark.primary
        mean = np.mean([row["scores"][primary] for row in self._outputs.rows.values()])
        pace = (done - self._before) / max(now - self._start, 1e-9)
        seconds = int((self._total - done) / pace)
        _LOG.info(
            "%s  %d/%d  %s %.3f  %.1f questions/s  ETA %d:%02d",
            *(self._benchmark.name, done, self._total, primary, mean, pace),
            *divmod(seconds, 60),
        )
