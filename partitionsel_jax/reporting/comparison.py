"""The headline numbers: final loss, cost to reach the baseline's, corrupted picks, accuracy."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from partitionsel_jax.evaluation import statistics
from partitionsel_jax.reporting import curves, labels
from partitionsel_jax.reporting.costs import COST_AXES
from partitionsel_jax.reporting.runs import STAGES, Run


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean over seeds, sample standard deviation (n - 1; None for one seed), number of seeds."""

    mean: float
    std: float | None
    count: int

    @property
    def half(self) -> float | None:
        """Half the width of Student's 95 % interval of the mean; None for one seed."""
        if self.std is None:
            return None
        return statistics.t_quantile(self.count - 1) * self.std / math.sqrt(self.count)


@dataclasses.dataclass(frozen=True)
class Pair:
    """Cost of the baseline's final loss to one seed of a method and of its baseline.

    Attributes:
      seed: the seed of both.
      cost: the method's cost; all that it spent if it never reached that loss.
      baseline: the baseline's cost.
      reached: True if the method reached that loss.
    """

    seed: int
    cost: float
    baseline: float
    reached: bool

    @property
    def ratio(self) -> float:
        """Cost relative to the baseline's; a lower bound if the loss was not reached."""
        return self.cost / self.baseline


@dataclasses.dataclass(frozen=True)
class ToTarget:
    """Cost of the baseline's final loss relative to the baseline, seed by seed.

    Attributes:
      ratio: cost of the method / cost of the baseline over the seeds that reached it; None if none.
      at: mean cost (update, token, ...) at which those seeds reached it.
      reached: number of seeds that reached it.
      pairs: number of seeds that both the method and the baseline finished.
      seeds: those pairs, the ones that did not reach it included.
    """

    ratio: Spread | None
    at: float | None
    reached: int
    pairs: int
    seeds: tuple[Pair, ...] = ()

    @property
    def interval(self) -> tuple[float, float] | None:
        """Student's 95 % interval of the mean ratio, cut off at 0.

        None for fewer than two seeds, and where some did not reach the target: the mean leaves
        them out.
        """
        if self.ratio is None or self.ratio.half is None or self.reached < self.pairs:
            return None
        return max(0.0, self.ratio.mean - self.ratio.half), self.ratio.mean + self.ratio.half

    @property
    def median(self) -> float | None:
        """Median ratio of all pairs; None where half of them or more did not reach the target.

        Seeds that did not reach it count as more expensive than any that did.
        """
        ratios = [pair.ratio if pair.reached else math.inf for pair in self.seeds]
        value = float(np.median(ratios)) if ratios else math.inf
        return value if math.isfinite(value) else None


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """A share of right answers to test questions, 0 .. 1, with a 95 % interval.

    The interval goes as far as the wider of two at either end: Student's over seeds, and Wilson's
    over the questions of one run. Seeds answer the same questions, so that more seeds do not make
    the questions more.

    Attributes:
      mean, std: over seeds; the sample standard deviation (n - 1) is None for one seed.
      low, high: ends of the interval.
      questions: number of questions that one run answers.
    """

    mean: float
    std: float | None
    low: float
    high: float
    questions: int

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} % ({100 * self.low:.0f} – {100 * self.high:.0f})"


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the headline table; None stands for what was not logged or has no partner.

    Attributes:
      label, method: the name of the line, and the method that it ran.
      seeds: the seeds that the means are over.
      unfinished: number of runs without a summary; they enter the means only while none has one.
      baseline: label of the baseline that the ratios refer to, the row's own if it is one; None
        where no label runs on the same data.
      validation_loss: final validation loss, the mean over the validation examples.
      target: mean final loss of the baseline, the loss to be reached.
      costs: the cost of reaching it, by the name of the cost axis (see `costs`).
      corrupted_share: share of corrupted rows among all picks of all seeds, 0 .. 1.
      test_loss: loss on the test examples after the last update.
      accuracy: share of test answers that are right, with its interval.
      domain_accuracies: the same by domain; empty where no run knows it.
      seconds_per_update: mean training seconds an update takes.
      shares: shares of features, selection and update in a step's time, mean over the seeds whose
        step was measured; empty if none was.
    """

    label: str
    method: str
    seeds: tuple[int, ...]
    unfinished: int
    baseline: str | None
    validation_loss: Spread | None
    target: float | None
    costs: Mapping[str, ToTarget]
    corrupted_share: float | None
    test_loss: Spread | None
    accuracy: Accuracy | None
    domain_accuracies: Mapping[str, Accuracy]
    seconds_per_update: float | None
    shares: Mapping[str, float]

    @property
    def is_baseline(self) -> bool:
        return self.baseline == self.label

    @property
    def updates(self) -> ToTarget:
        return self.costs["updates"]


def headline(runs: Sequence[Run]) -> tuple[Row, ...]:
    """Compares the labels with their baseline.

    The target of a seed is the final validation loss of the baseline run with the same seed. A
    run's cost is where its validation curve, linear between evaluations, first reaches the target;
    the baseline's is measured by the same rule on its own curve, which is at its last update
    unless it has been there before. Ratios are taken seed by seed, then averaged.

    Args:
      runs: as `read_runs` returns them.

    Returns:
      One row a label, the baseline's last; runs that are validated on the same rows together.

    Raises:
      ValueError: `runs` is empty.
    """
    if not runs:
        raise ValueError("headline needs at least one run, got none; see read_runs")
    return tuple(
        _row(group, _baseline_of(label, groups))
        for groups in map(labels.by_label, labels.evaluation_sets(runs))
        for label, group in groups.items()
    )


def spread(values: Iterable[float]) -> Spread | None:
    """Mean and sample standard deviation; None for no values."""
    found = list(values)
    if not found:
        return None
    std = float(np.std(found, ddof=1)) if len(found) > 1 else None
    return Spread(float(np.mean(found)), std, len(found))


def accuracy(runs: Sequence[Run], domain: str | None = None) -> Accuracy | None:
    """The accuracy on the test questions of a domain or of all; None where no run knows one."""
    shares, questions = [], []
    for test in (run.tested() for run in runs):
        if test and domain is None:
            shares.append(test["accuracy"])
            questions.append(sum(test["questions_per_domain"].values()))
        elif test and domain in test["accuracy_per_domain"]:
            shares.append(test["accuracy_per_domain"][domain])
            questions.append(test["questions_per_domain"][domain])
    if (over_seeds := spread(shares)) is None:
        return None
    mean, half = over_seeds.mean, over_seeds.half or 0.0
    low, high = statistics.share_interval(mean, min(questions))
    low, high = min(low, max(0.0, mean - half)), max(high, min(1.0, mean + half))
    return Accuracy(mean, over_seeds.std, low, high, min(questions))


def to_target(pairs: Iterable[tuple[int, pd.DataFrame, pd.DataFrame]], cost_axis: str) -> ToTarget:
    """The cost of the baseline's final validation loss.

    Args:
      pairs: seed, and the curves (see `Run.curve`) of a run and of its baseline with this seed.
      cost_axis: a column of the curves.
    """
    costed = []
    for seed, own, reference in pairs:
        target = float(reference["validation_loss"].iloc[-1]) if len(reference) else math.nan
        cost, baseline = (_crossing(curve, target, cost_axis) for curve in (own, reference))
        spent = float(own[cost_axis].iloc[-1]) if len(own) else 0.0
        # A baseline that ends no better than it began sets no target, and a run that did not log
        # the cost axis has no cost at all.
        if baseline and (cost is not None or math.isfinite(spent)):
            costed.append(Pair(seed, spent if cost is None else cost, baseline, cost is not None))
    reached = [pair for pair in costed if pair.reached]
    return ToTarget(
        ratio=spread(pair.ratio for pair in reached),
        at=float(np.mean([pair.cost for pair in reached])) if reached else None,
        reached=len(reached),
        pairs=len(costed),
        seeds=tuple(costed),
    )


def corrupted_share(runs: Sequence[Run]) -> float | None:
    """Share of corrupted rows among all picks of some runs; None where none was logged."""
    corrupted, picked = 0.0, 0.0
    for run in runs:
        steps, counts = run.series("corrupted_selected")
        logged, picks = run.series("selected")
        corrupted += counts[np.isin(steps, logged)].sum()
        picked += picks[np.isin(logged, steps)].sum()
    return float(corrupted / picked) if picked else None


def _row(group: Sequence[Run], baseline: Sequence[Run]) -> Row:
    runs = curves.averaged(group)
    partners = {run.seed: run.curve() for run in baseline if run.finished}
    pairs = [
        (run.seed, run.curve(), partners[run.seed])
        for run in group
        if run.finished and run.seed in partners
    ]
    target = spread(_finals(curves.averaged(baseline)))
    seconds = [
        run.spent_at(np.array([run.last_step]), "seconds")[0] / run.last_step
        for run in runs
        if run.last_step
    ]
    cost = spread(value for value in seconds if np.isfinite(value))
    domains = dict.fromkeys(d for run in runs for d in run.tested().get("accuracy_per_domain", ()))
    tests = [run.summary.get("test") or {} for run in runs]
    measured = [run.shares for run in runs if run.shares]
    return Row(
        label=group[0].label,
        method=group[0].method,
        seeds=tuple(run.seed for run in runs),
        unfinished=sum(not run.finished for run in group),
        baseline=baseline[0].label if baseline else None,
        validation_loss=spread(_finals(runs)),
        target=target.mean if target else None,
        costs={name: to_target(pairs, name) for name in COST_AXES},
        corrupted_share=corrupted_share(runs),
        test_loss=spread(t["loss"] for t in tests if t.get("loss") is not None),
        accuracy=accuracy(runs),
        domain_accuracies={d: found for d in domains if (found := accuracy(runs, d))},
        seconds_per_update=cost.mean if cost else None,
        shares={s: float(np.mean([m[s] for m in measured])) for s in STAGES if measured},
    )


def _finals(runs: Sequence[Run]) -> list[float]:
    return [float(loss) for run in runs for loss in run.evaluations()[1][-1:]]


def _crossing(curve: pd.DataFrame, target: float, cost_axis: str) -> float | None:
    x, losses = curve[[cost_axis, "validation_loss"]].to_numpy(float).T
    return curves.first_crossing(x, losses, target) if math.isfinite(target) else None


def _baseline_of(label: str, groups: Mapping[str, Sequence[Run]]) -> Sequence[Run]:
    """The baseline runs on the same data closest to the label's: by axes, then by the config."""
    baselines = labels.baselines({name: runs[0].method for name, runs in groups.items()})
    if label in baselines:
        return groups[label]
    run = groups[label][0]
    candidates = [groups[name] for name in groups if name in baselines]
    candidates = [runs for runs in candidates if labels.comparable(runs[0], run)]
    return min(candidates, key=lambda runs: _distance(runs[0], run), default=[])


def _distance(run: Run, other: Run) -> tuple[int, int]:
    # Axes count first: tuned fields may differ between a run and its true partner.
    shared = run.axes.keys() & other.axes.keys()
    apart = sum(run.axes[field] != other.axes[field] for field in shared)
    return apart, len(labels.differing([labels.fields(r.config) for r in (run, other)]))
