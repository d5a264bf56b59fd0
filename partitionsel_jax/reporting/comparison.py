"""The headline numbers: final loss, cost to reach the baseline's, spoilt picks, accuracy."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np

from partitionsel_jax.reporting import curves, labels
from partitionsel_jax.reporting.runs import Run

# How many candidates a step sees is the method's business; which rows there are is not.
_POOL_FIELDS = {"data.pool", "data.pool_size"}


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean over seeds, sample standard deviation (n - 1; None for one seed), number of seeds."""

    mean: float
    std: float | None
    count: int


@dataclasses.dataclass(frozen=True)
class ToTarget:
    """What reaching the baseline's final loss cost, relative to the baseline, seed by seed.

    Attributes:
      ratio: cost of the method / cost of the baseline over the seeds that reached it; None if none.
      at: mean update, or second, at which those seeds reached it.
      reached: number of seeds that reached it.
      pairs: number of seeds that both the method and the baseline finished.
    """

    ratio: Spread | None
    at: float | None
    reached: int
    pairs: int


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the headline table; None stands for what was not logged or has no partner.

    Attributes:
      label, method: what the line is called, and the method that it ran.
      seeds: the seeds that the means are over.
      unfinished: number of runs without a summary; they enter the means only while none has one.
      baseline: label of the baseline that the ratios refer to, the row's own if it is one; None
        where no label runs on the same data.
      validation_loss: final validation loss, the mean over the validation examples.
      target: mean final loss of the baseline, the loss to be reached.
      updates, seconds: cost to reach it in updates and in training seconds.
      spoilt_share: share of spoilt rows among all picks of all seeds, 0 .. 1.
      accuracy: share of test answers that are right, 0 .. 1.
      seconds_per_update: mean training seconds an update takes.
    """

    label: str
    method: str
    seeds: tuple[int, ...]
    unfinished: int
    baseline: str | None
    validation_loss: Spread | None
    target: float | None
    updates: ToTarget
    seconds: ToTarget
    spoilt_share: float | None
    accuracy: Spread | None
    seconds_per_update: float | None

    @property
    def is_baseline(self) -> bool:
        return self.baseline == self.label


def by_label(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each label ordered by seed; labels by name, the baseline's last."""
    order = labels.in_order({run.label: run.method for run in runs})
    return {
        label: sorted((run for run in runs if run.label == label), key=lambda run: run.seed)
        for label in order
    }


def headline(runs: Sequence[Run]) -> tuple[Row, ...]:
    """Compares the labels with their baseline.

    The target of a seed is the final validation loss of the baseline run with the same seed. A
    run's cost is where its validation curve, linear between evaluations, first reaches the target;
    the baseline's is measured by the same rule on its own curve, which is at its last update
    unless it has been there before. Ratios are taken seed by seed, then averaged.

    Args:
      runs: what `read_runs` returned.

    Returns:
      One row a label, the baseline's last.

    Raises:
      ValueError: `runs` is empty.
    """
    if not runs:
        raise ValueError("headline needs at least one run, got none; see read_runs")
    groups = by_label(runs)
    return tuple(_row(group, _baseline_of(label, groups)) for label, group in groups.items())


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and sample standard deviation; None for no values."""
    if not values:
        return None
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), std, len(values))


def comparable(run: Run, other: Run) -> bool:
    """Whether two runs train and validate on the same data, so that their losses compare."""
    return _data(run) == _data(other)


def _row(group: Sequence[Run], baseline: Sequence[Run]) -> Row:
    runs = curves.averaged(group)
    pairs = [
        (run, partner)
        for run in group
        for partner in baseline
        if run.seed == partner.seed and run.finished and partner.finished
    ]
    targets = [loss for run in curves.averaged(baseline) for loss in run.evaluations()[1][-1:]]
    target = spread([float(loss) for loss in targets])
    seconds = [s for run in runs for s in run.seconds_at(np.array([run.last_step]))]
    per_update = [s / run.last_step for s, run in zip(seconds, runs, strict=True) if run.last_step]
    cost = spread([value for value in per_update if np.isfinite(value)])
    finals = [float(loss) for run in runs for loss in run.evaluations()[1][-1:]]
    tests = [run.summary.get("test") or {} for run in runs]
    return Row(
        label=group[0].label,
        method=group[0].method,
        seeds=tuple(run.seed for run in runs),
        unfinished=sum(not run.finished for run in group),
        baseline=baseline[0].label if baseline else None,
        validation_loss=spread(finals),
        target=target.mean if target else None,
        updates=_to_target(pairs, seconds=False),
        seconds=_to_target(pairs, seconds=True),
        spoilt_share=_spoilt_share(runs),
        accuracy=spread([t["accuracy"] for t in tests if t.get("accuracy") is not None]),
        seconds_per_update=cost.mean if cost else None,
    )


def _to_target(pairs: Sequence[tuple[Run, Run]], seconds: bool) -> ToTarget:
    ratios, positions, valid = [], [], 0
    for run, partner in pairs:
        losses = partner.evaluations()[1]
        if not len(losses) or not np.isfinite(losses[-1]):
            continue
        own, reference = (_cost(r, float(losses[-1]), seconds) for r in (run, partner))
        # A baseline that ends no better than it began sets no target.
        if not reference:
            continue
        valid += 1
        if own is not None:
            ratios.append(own / reference)
            positions.append(own)
    at = float(np.mean(positions)) if positions else None
    return ToTarget(spread(ratios), at, len(ratios), valid)


def _cost(run: Run, target: float, seconds: bool) -> float | None:
    steps, losses = run.evaluations()
    x = run.seconds_at(steps) if seconds else steps.astype(np.float64)
    known = np.isfinite(x)
    return curves.first_crossing(x[known], losses[known], target)


def _spoilt_share(runs: Sequence[Run]) -> float | None:
    spoilt, picked = 0.0, 0.0
    for run in runs:
        steps, counts = run.series("spoilt_picks")
        logged, picks = run.series("picks")
        spoilt += counts[np.isin(steps, logged)].sum()
        picked += picks[np.isin(logged, steps)].sum()
    return float(spoilt / picked) if picked else None


def _baseline_of(label: str, groups: Mapping[str, Sequence[Run]]) -> Sequence[Run]:
    """The baseline runs on the same data whose config is closest to the label's."""
    baselines = labels.baselines({name: runs[0].method for name, runs in groups.items()})
    if label in baselines:
        return groups[label]
    run = groups[label][0]
    candidates = [groups[name] for name in groups if name in baselines]
    candidates = [runs for runs in candidates if comparable(runs[0], run)]
    return min(candidates, key=lambda runs: _distance(runs[0], run), default=[])


def _distance(run: Run, other: Run) -> int:
    ours, theirs = (
        {key: json.dumps(value) for key, value in labels.flatten(r.config)} for r in (run, other)
    )
    return sum(ours.get(key) != theirs.get(key) for key in ours.keys() | theirs.keys())


def _data(run: Run) -> tuple[tuple[str, ...], str]:
    fields = {
        key: value
        for key, value in labels.flatten(run.config)
        if key.startswith("data.")
        and not any(key == field or key.startswith(f"{field}.") for field in _POOL_FIELDS)
    }
    return run.domains, json.dumps(fields, sort_keys=True)
