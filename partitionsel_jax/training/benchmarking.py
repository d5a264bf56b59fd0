"""A model on several benchmarks: what is asked is checked, and only then the model loaded."""

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from partitionsel_jax.evaluation import benchmarks, comparing, evaluating, scoring
from partitionsel_jax.evaluation.benchmarks import PROCEDURAL, Benchmark, Question
from partitionsel_jax.evaluation.outputs import SETTINGS
from partitionsel_jax.json_files import write_json
from partitionsel_jax.text_table import aligned
from partitionsel_jax.training import answering, finished, workdir
from partitionsel_jax.training.benchmark_settings import BenchmarkSettings

COMPARISON = "comparison.json"


def evaluate_all(
    settings: BenchmarkSettings,
    *,
    run: str | os.PathLike[str] | None = None,
    model: str | None = None,
    adapter: str | None = None,
    output: str | None = None,
    against: str | None = None,
) -> str:
    """Evaluates a finished run, an adapter or a checkpoint on every benchmark.

    Args:
      settings: what is asked.
      run: the folder of a finished run; or
      model: a checkpoint, as `models.load` takes it, with
      adapter: an adapter in PEFT's format, if any.
      output: where the folder of every benchmark goes; RUN/evaluation if empty.
      against: the `output` of another evaluation, or the folder of another run, to compare with:
        comparison.json goes beside this one's summary.json.

    Returns:
      The table of all metrics, and of all differences.

    Raises:
      ValueError: flags that do not go together, files that are missing or damaged, or what the
        model or `evaluate` refuse; all but the last two before a model is loaded.
    """
    target, name = _target(run, model, adapter, output), f"--workdir={os.fspath(run or '')!r}"
    chosen = [benchmarks.named(one) for one in settings.benchmarks]
    for benchmark in chosen:
        scoring.check_scorer(benchmark.scorer)
    others = {one.name: _evaluation_of(against, one.name) for one in chosen if against is not None}
    seen = frozenset[str]()
    if run is not None:
        described = finished.settings_of(run, name)
        if PROCEDURAL in settings.benchmarks:
            seen = answering.seen_questions(described, settings.reasoning_gym.tasks)
    asked = [(one, *_questions(settings, one, seen)) for one in chosen]
    if run is not None:
        subject = answering.of_run(run, name, settings.template)
    else:
        assert model is not None
        subject = answering.of_model(
            model, adapter, template=settings.template, dtype=settings.dtype
        )
    room = {one.name: settings.new_tokens or one.new_tokens for one in chosen}
    for one, new_tokens in room.items():
        if not subject.fits("", new_tokens):
            raise ValueError(
                f"answers of {new_tokens} tokens to {one} leave no room for a question in "
                "the model's context: set a smaller --config.new_tokens"
            )
    identity = subject.identity
    summaries, differences = [], []
    for benchmark, questions, examples in asked:
        new_tokens = room[benchmark.name]
        folder = target / benchmark.name
        summaries.append(
            evaluating.evaluate(
                functools.partial(subject.answers, new_tokens=new_tokens),
                questions,
                benchmark,
                folder,
                settings=identity | {"new_tokens": new_tokens},
                examples=examples,
                fits=functools.partial(subject.fits, new_tokens=new_tokens),
                batch=settings.batch,
            )
        )
        if benchmark.name in others:
            comparison = comparing.compare(folder, others[benchmark.name])
            write_json(folder / COMPARISON, comparison.to_dict())
            differences.append(comparison)
    return "\n\n".join(filter(None, (_table(summaries), _difference_table(differences))))


def _target(run: Any, model: str | None, adapter: str | None, output: str | None) -> epath.Path:
    """Where the evaluations go, once it is known that the flags go together."""
    if (run is None) == (model is None):
        raise ValueError("expected one of --workdir (a finished run) and --model (a checkpoint)")
    if adapter is not None and model is None:
        raise ValueError("--adapter needs the --model that it sits on; a --workdir has its own")
    if output is not None:
        return workdir.absolute(output)
    if run is None:
        raise ValueError("--model needs --output: name the folder to write to")
    return workdir.absolute(run) / "evaluation"


def _evaluation_of(against: str, name: str) -> epath.Path:
    """The evaluation of a benchmark that is compared with."""
    root = workdir.absolute(against)
    for folder in (root / "evaluation" / name, root / name):
        if (folder / SETTINGS).exists():
            return folder
    raise ValueError(
        f"--against={against!r} holds no evaluation of {name}: evaluate it first, by the same "
        "command on the other model"
    )


def _questions(
    settings: BenchmarkSettings, benchmark: Benchmark, seen: frozenset[str]
) -> tuple[list[Question], benchmarks.Examples]:
    """The questions of a benchmark and the examples for their prompts."""
    shots, solved = settings.shots(benchmark), list[Question]()
    if benchmark.name == PROCEDURAL:
        tasks, chosen = settings.tasks, settings.reasoning_gym
        questions = benchmarks.generated(tasks, chosen.questions, chosen.seed, seen)
        if shots:
            taken = seen.union(question.prompt for question in questions)
            solved = benchmarks.generated(tasks, shots, chosen.seed, taken)
    else:
        directory = Path(settings.directory).expanduser()
        questions = benchmarks.read_questions(benchmark, directory)
        if shots:
            solved = benchmarks.read_examples(benchmark, directory)
    examples = benchmarks.Examples.drawn(
        solved, shots, seed=settings.seed, by_group=benchmark.by_group
    )
    questions = benchmarks.limited(questions, settings.limit, settings.seed)
    for question in questions:
        examples.of(question)
    return questions, examples


def _table(summaries: Sequence[Mapping[str, Any]]) -> str:
    rows = [("benchmark", "n", "metric", "mean", "95 % interval")]
    for summary in summaries:
        for metric, value in summary["metrics"].items():
            interval = f"{value['low']:.4f} to {value['high']:.4f}"
            rows.append((*_start(summary, metric), f"{value['mean']:.4f}", interval))
        for metric, value in summary.get("over_all", {}).items():
            rows.append((*_start(summary, metric), f"{value:.4f}", "–"))
    notes = [
        f"{summary['benchmark']}: {summary['too_long']} questions did not fit, and count as wrong; "
        f"{summary['dropped_examples']} examples were dropped from prompts"
        for summary in summaries
        if summary["too_long"] or summary["dropped_examples"]
    ]
    return "\n".join([aligned(rows), *notes])


def _start(summary: Mapping[str, Any], metric: str) -> tuple[str, str, str]:
    return summary["benchmark"], f"{summary['n']}", metric


def _difference_table(comparisons: Sequence[comparing.Comparison]) -> str:
    if not comparisons:
        return ""
    rows = [("benchmark", "n", "metric", "difference", "95 % interval", "p", "McNemar's p")]
    for found in comparisons:
        for metric, value in found.differences.items():
            test = found.discordant.get(metric)
            rows.append(
                (
                    found.benchmark,
                    f"{found.n}",
                    metric,
                    f"{value.difference:+.4f}",
                    f"{value.low:+.4f} to {value.high:+.4f}",
                    f"{value.p_value:.3g}",
                    "–" if test is None else f"{test.p_value:.3g}",
                )
            )
    return aligned(rows)
