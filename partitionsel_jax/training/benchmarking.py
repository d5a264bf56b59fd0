"""A model on several benchmarks: what is asked is checked, and only then the model loaded."""

import dataclasses
import functools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from partitionsel_jax import data, paths
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.config.checks import choice, not_below
from partitionsel_jax.data.generation import canonical_tasks
from partitionsel_jax.evaluation import benchmarks, comparing, evaluating, scoring
from partitionsel_jax.evaluation.benchmarks import BENCHMARKS, PROCEDURAL, Benchmark, Question
from partitionsel_jax.evaluation.evaluating import SUMMARY, differences
from partitionsel_jax.json_files import write_json
from partitionsel_jax.models.config import DTYPES
from partitionsel_jax.text_table import aligned
from partitionsel_jax.training import answering, corpora, starts

COMPARISON = "comparison.json"

_LOG = logging.getLogger(__name__)
_LISTED = 5  # names in a note


@dataclasses.dataclass(frozen=True)
class ProceduralSettings:
    """Questions of reasoning-gym: task name -> arguments, questions of each task, their seed."""

    tasks: Mapping[str, Mapping[str, Any]]
    questions: int
    seed: int


@dataclasses.dataclass(frozen=True)
class BenchmarkSettings:
    """Benchmarks and how they are put to a model; configs/evaluation.py says what fields mean."""

    benchmarks: tuple[str, ...]
    directory: str
    few_shot: Mapping[str, int]
    new_tokens: int
    batch: int
    limit: int
    template: str
    dtype: str
    seed: int
    reasoning_gym: ProceduralSettings

    def __post_init__(self):
        if not self.benchmarks:
            raise ValueError(
                f"no benchmark named: set --benchmarks to some of {', '.join(BENCHMARKS)}"
            )
        repeated = {name for name in self.benchmarks if self.benchmarks.count(name) > 1}
        if repeated:
            raise ValueError(f"benchmarks {sorted(repeated)} are named twice: name each once")
        for name in (*self.benchmarks, *self.few_shot):
            benchmarks.named(name)
        for name, count in self.few_shot.items():
            not_below(f"few_shot.{name}", count, 0)
        not_below("new_tokens", self.new_tokens, 0)
        not_below("batch", self.batch, 1)
        not_below("limit", self.limit, 0)
        not_below("reasoning_gym.questions", self.reasoning_gym.questions, 1)
        choice("template", self.template, ("", *data.TEMPLATES))
        choice("dtype", self.dtype, DTYPES)
        if not self.directory and set(self.benchmarks) - {PROCEDURAL}:
            raise ValueError(
                "directory is empty: set --config.directory to the folder that holds a folder of "
                "files for each benchmark"
            )

    def room(self, benchmark: Benchmark) -> int:
        """Most tokens of an answer."""
        return self.new_tokens or benchmark.new_tokens


def parse(config: Mapping[str, Any]) -> BenchmarkSettings:
    """Checks a whole evaluation config and freezes it.

    Raises:
      ValueError: an unknown or missing field, or a value out of its range, by name.
    """
    return run_settings.build(BenchmarkSettings, config, "")


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

    A run is not asked what it was trained on, nor what its anchors ask: such questions are left
    out, or of reasoning_gym replaced by others, and counted as `left_out` in the summary. What the
    run that it is compared with was trained on is not asked by reasoning_gym either. Questions
    whose published answer cannot be judged by are left out, too: `bad_references` are their ids.

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
      ValueError: flags that do not go together, files that are missing or damaged, another
        evaluation that cannot be compared with, or what the model or `evaluate` refuse; all but
        the last two before a model is loaded.
    """
    target, name = _target(run, model, adapter, output), f"--workdir={os.fspath(run or '')!r}"
    chosen = [benchmarks.named(one) for one in settings.benchmarks]
    for benchmark in chosen:
        scoring.check_scorer(benchmark.scorer)
    others = {one.name: _other(against, one.name, target) for one in chosen if against is not None}
    runs = [] if run is None else [starts.settings_of(run, name)]
    anchors = corpora.own_anchors(runs[0].data) if runs else None
    seen: set[str] = set()
    if PROCEDURAL in settings.benchmarks:
        if against is not None and (paths.absolute(against) / "config.json").exists():
            runs.append(starts.settings_of(against, f"--against={against!r}"))
        tasks = settings.reasoning_gym.tasks
        seen = seen.union(*(answering.seen_questions(one, tasks) for one in runs))
        seen |= set(anchors.questions if anchors is not None else ())
    asked = [(one, *_questions(settings, one, frozenset(seen), anchors)) for one in chosen]
    for benchmark, questions, examples, _ in asked:
        if other := others.get(benchmark.name):
            now = evaluating.asked(questions, benchmark, examples)
            now["new_tokens"] = settings.room(benchmark)
            _check_other(comparing.planned(questions, now), other)
    if model is None:
        subject = answering.of_run(run or "", name, settings.template)
    else:
        template, dtype = settings.template, settings.dtype
        subject = answering.of_model(model, adapter, template=template, dtype=dtype)
    for one in chosen:
        if not subject.fits("", new_tokens := settings.room(one)):
            raise ValueError(
                f"answers of {new_tokens} tokens to {one.name} leave no room for a question in "
                "the model's context: set a smaller --config.new_tokens"
            )
    identity, summaries, comparisons = subject.identity, [], []
    for benchmark, questions, examples, notes in asked:
        new_tokens, folder = settings.room(benchmark), target / benchmark.name
        summary = evaluating.evaluate(
            functools.partial(subject.answers, new_tokens=new_tokens),
            questions,
            benchmark,
            folder,
            settings={**identity, "new_tokens": new_tokens},
            examples=examples,
            fits=functools.partial(subject.fits, new_tokens=new_tokens),
            batch=settings.batch,
            notes=notes,
        )
        summaries.append(summary)
        if other := others.get(benchmark.name):
            comparisons.append(comparing.compare(folder, other))
            write_json(folder / COMPARISON, dataclasses.asdict(comparisons[-1]))
    return "\n\n".join(filter(None, (_table(summaries), _difference_table(comparisons))))


def _target(run: Any, model: str | None, adapter: str | None, output: str | None) -> epath.Path:
    """Checks that the flags go together, and says where the evaluations go."""
    if (run is None) == (model is None):
        raise ValueError("expected one of --workdir (a finished run) and --model (a checkpoint)")
    if adapter is not None and model is None:
        raise ValueError("--adapter needs the --model that it sits on; a --workdir has its own")
    if output is not None:
        return paths.absolute(output)
    if run is None:
        raise ValueError("--model needs --output: name the folder to write to")
    return paths.absolute(run) / "evaluation"


def _other(against: str, name: str, target: epath.Path) -> epath.Path:
    """Finds the finished evaluation of a benchmark to compare with, which is not this one."""
    root, own = paths.absolute(against), os.path.realpath(target / name)
    for folder in (root / "evaluation" / name, root / name):
        # Two paths may lead to one folder, by links.
        if os.path.realpath(folder) != own and (folder / SUMMARY).exists():
            return folder
    raise ValueError(
        f"--against={against!r} holds no finished evaluation of {name} beside this one itself: "
        "evaluate the other model first, by the same command with another --output"
    )


def _check_other(ours: comparing.Evaluation, folder: epath.Path) -> None:
    """Makes sure that an evaluation, which has not begun, can be compared with a finished one.

    A warning says what makes the comparison a lesser one: fewer pairs, other examples, other room.
    """
    theirs = comparing.read(folder)
    if (both := len(comparing.both_asked(ours, theirs))) < len(ours.questions):
        _LOG.warning(
            "%s  %d of %d questions are compared: %s was not asked the others",
            *(ours.benchmark, both, len(ours.questions), folder),
        )
    names = "few_shot", "examples", "new_tokens"
    there, here = ({name: one.settings.get(name) for name in names} for one in (theirs, ours))
    if changed := differences(there, here):
        _LOG.warning(
            "%s  %s was evaluated with other settings (%s)",
            *(ours.benchmark, folder, "; ".join(changed)),
        )


def _questions(
    settings: BenchmarkSettings,
    benchmark: Benchmark,
    seen: frozenset[str],
    anchors: data.OwnAnchors | None,
) -> tuple[list[Question], benchmarks.Examples, dict[str, Any]]:
    """Gives the questions of a benchmark, the examples for their prompts, and notes on them."""
    notes: dict[str, Any] = {}
    shots, solved = settings.few_shot.get(benchmark.name, 0), list[Question]()
    if benchmark.name == PROCEDURAL:
        chosen = settings.reasoning_gym
        tasks = canonical_tasks(chosen.tasks.items())
        questions = benchmarks.generated(tasks, chosen.questions, chosen.seed, seen)
        notes["left_out"] = benchmarks.passed_over(questions)
        notes["reference_only"] = [name for name, _ in tasks if data.takes_reference_only(name)]
        if shots:
            taken = seen.union(question.prompt for question in questions)
            solved = benchmarks.generated(tasks, shots, chosen.seed, taken)
    else:
        directory = Path(settings.directory).expanduser()
        read = benchmarks.read_questions(benchmark, directory)
        notes["bad_references"] = bad = [one.id for one in read if not benchmark.judgeable(one)]
        questions = sound = [one for one in read if one.id not in bad]
        if anchors is not None:
            texts = [one.about or one.prompt for one in sound]
            index, pairs = anchors.index([texts]), zip(sound, texts, strict=True)
            questions = [one for one, text in pairs if not index.match(one.prompt, text)]
        notes["left_out"] = len(sound) - len(questions)
        if not questions:
            raise ValueError(
                f"no question of {benchmark.name} in {directory} is left to ask: the answers of "
                f"{len(bad)} are no molecules, and the anchors of the run ask the {len(sound)} "
                "others; compare the file with the published one, or choose another benchmark"
            )
        if shots:
            solved = benchmarks.read_questions(benchmark, directory, "train")
    examples = benchmarks.Examples.drawn(
        solved, shots, seed=settings.seed, by_group=benchmark.by_group
    )
    questions = benchmarks.limited(questions, settings.limit, settings.seed)
    for question in questions:
        examples.of(question)
    return questions, examples, notes


def _table(summaries: Sequence[Mapping[str, Any]]) -> str:
    rows = [("benchmark", "n", "metric", "mean", "95 % interval")]
    for summary in summaries:
        start = summary["benchmark"], f"{summary['n']}"
        rows += [
            (*start, metric, f"{one['mean']:.4f}", f"{one['low']:.4f} to {one['high']:.4f}")
            for metric, one in summary["metrics"].items()
        ]
        over_all = summary.get("over_all", {}).items()
        rows += [(*start, metric, f"{value:.4f}", "–") for metric, value in over_all]
    notes = [f"{summary['benchmark']}: {note}" for summary in summaries for note in _notes(summary)]
    return "\n".join([aligned(rows), *notes])


def _notes(summary: Mapping[str, Any]) -> Iterator[str]:
    """Says what to know of a benchmark's figures."""
    if summary["too_long"] or summary["dropped_examples"]:
        yield (
            f"{summary['too_long']} questions did not fit, and count as wrong; "
            f"{summary['dropped_examples']} examples were dropped from prompts"
        )
    if summary["left_out"]:
        yield f"{summary['left_out']} questions that a run has seen, or its anchors ask, left out"
    if rows := summary.get("bad_references"):
        more = " ..." if len(rows) > _LISTED else ""
        yield (
            f"{len(rows)} questions left out whose published answer is no molecule (row "
            f"{', '.join(rows[:_LISTED])}{more})"
        )
    if names := summary.get("reference_only"):
        yield (
            f"of {', '.join(names)} the reference answer alone counts as right, since the scorer "
            "would execute any other"
        )


def _difference_table(comparisons: Sequence[comparing.Comparison]) -> str:
    if not comparisons:
        return ""
    rows = [("benchmark", "n", "metric", "difference", "95 % interval", "p", "McNemar's p")]
    notes = []
    for found in comparisons:
        for metric, one in found.differences.items():
            test = found.discordant.get(metric)
            interval, other = f"{one.low:+.4f} to {one.high:+.4f}", test and f"{test.p_value:.3g}"
            start = found.benchmark, f"{found.n}", metric, f"{one.difference:+.4f}", interval
            rows.append((*start, f"{one.p_value:.3g}", other or "–"))
        if found.only_this or found.only_other:
            notes.append(
                f"{found.benchmark}: not compared are {found.only_this} questions that this model "
                f"alone was asked, and {found.only_other} that the other alone was"
            )
    return "\n".join([aligned(rows), *notes])
