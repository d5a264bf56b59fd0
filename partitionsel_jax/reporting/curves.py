"""Numbers behind the charts: means over seeds, first crossings of a target, smoothed shares."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from partitionsel_jax.evaluation import statistics
from partitionsel_jax.reporting.runs import Run

Series = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Curve:
    """A quantity of one label against x: each seed, their mean and a band around it.

    Attributes:
      x: f64[S] what was spent at the steps that all averaged seeds have logged.
      mean, low, high: f64[S] mean over those seeds, and Student's 95 % interval of it; of one seed
        both ends are the mean.
      seeds: x f64[S_i], y f64[S_i] and "is it finished" of every run, averaged or not.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: tuple[tuple[np.ndarray, np.ndarray, bool], ...]


def averaged(runs: Sequence[Run]) -> list[Run]:
    """The runs that a mean is taken over: the finished ones, or all while none is."""
    return [run for run in runs if run.finished] or list(runs)


def over_seeds(
    runs: Sequence[Run], read: Callable[[Run], Series], cost_axis: str = "updates"
) -> Curve:
    """One label's curve.

    A point of the mean lies at the mean of what the seeds had spent at its step.

    Args:
      runs: the runs of one label.
      read: gives a run's steps i64[S] and values f64[S].
      cost_axis: of x; see `costs`. Runs that did not log it have no curve.
    """
    series = {run.name: read(run) for run in runs}
    x = {run.name: run.spent_at(series[run.name][0], cost_axis) for run in runs}
    for name, spent in x.items():
        if np.isnan(spent).any():
            x[name], series[name] = np.empty(0), (np.empty(0, np.int64), np.empty(0))
    # A seed without a single point, such as a run that has just begun, takes no part.
    counted = [run.name for run in averaged(runs) if len(series[run.name][0])]
    lines = tuple((x[run.name], series[run.name][1], run.finished) for run in runs)
    if not counted:
        empty = np.empty(0)
        return Curve(empty, empty, empty, empty, lines)
    common = functools.reduce(np.intersect1d, (series[name][0] for name in counted))
    at = {name: np.isin(series[name][0], common) for name in counted}
    values = np.stack([series[name][1][at[name]] for name in counted])
    mean_x = np.mean([x[name][at[name]] for name in counted], axis=0)
    mean, half = values.mean(0), half_width(values)
    return Curve(mean_x, mean, mean - half, mean + half, lines)


def half_width(values: np.ndarray) -> np.ndarray:
    """f64[S], half of Student's 95 % interval of the mean of f64[seeds, S]; 0 of one seed."""
    count = len(values)
    if count < 2:
        return np.zeros(values.shape[1:])
    return statistics.t_quantile(count - 1) * values.std(0, ddof=1) / np.sqrt(count)


def first_crossing(x: np.ndarray, losses: np.ndarray, target: float) -> float | None:
    """Where a loss curve, linear between its evaluations, is first at or below a target.

    Args:
      x: f64[E] increasing positions of the evaluations.
      losses: f64[E]; evaluations that are not finite are passed over.
      target: the loss to reach.

    Returns:
      The position, or None when no evaluation reaches the target.
    """
    finite = np.isfinite(losses)
    x, losses = x[finite], losses[finite]
    reached = np.flatnonzero(losses <= target)
    if not len(reached):
        return None
    at = int(reached[0])
    if at == 0:
        return float(x[0])
    fraction = (losses[at - 1] - target) / (losses[at - 1] - losses[at])
    return float(x[at - 1] + fraction * (x[at] - x[at - 1]))


def window(num_steps: int) -> int:
    """How many steps a smoothed value averages: a twentieth of the run, odd, at least 5."""
    return max(5, num_steps // 20) | 1


def moving_sum(values: np.ndarray, width: int) -> np.ndarray:
    """Centred moving sum along the first axis; at the ends the window is cut off."""
    total = np.cumsum(np.concatenate([np.zeros_like(values[:1]), values]), axis=0)
    index = np.arange(len(values))
    upper = np.minimum(index + width // 2 + 1, len(values))
    return total[upper] - total[np.maximum(index - width // 2, 0)]


def drawn_steps(steps: np.ndarray) -> np.ndarray:
    """Which smoothed values are worth drawing, bool[S]: four a window, and the first and last."""
    if not len(steps):
        return np.zeros(0, bool)
    # By step and not by index, so that seeds agree although one of them lost a row.
    stride = max(1, window(int(steps[-1])) // 4)
    return (steps % stride == 0) | (steps == steps[0]) | (steps == steps[-1])


def smoothed(series: Series) -> Series:
    """Steps and the centred moving mean of the values; values that are not finite are left out."""
    finite = np.isfinite(series[1])
    steps, values = series[0][finite], series[1][finite]
    width = window(len(steps))
    means = moving_sum(values, width) / moving_sum(np.ones(len(values)), width)
    shown = drawn_steps(steps)
    return steps[shown], means[shown]


def share(part: Series, whole: Series) -> Series:
    """Steps and smoothed share of `part` in `whole`, as a ratio of moving sums."""
    steps, at_part, at_whole = np.intersect1d(part[0], whole[0], return_indices=True)
    width = window(len(steps))
    totals = moving_sum(whole[1][at_whole], width)
    shares = moving_sum(part[1][at_part], width) / np.maximum(totals, 1)
    shown = drawn_steps(steps)
    return steps[shown], shares[shown]
