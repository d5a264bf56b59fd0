"""Numbers behind the charts: means over seeds, crossings of a target, smoothing, overlaps."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from partitionsel_jax.evaluation import statistics
from partitionsel_jax.reporting import labels
from partitionsel_jax.reporting.runs import Run

Series = tuple[np.ndarray, np.ndarray]
Groups = Mapping[str, Sequence[Run]]
EMPTY: Series = np.empty(0, np.int64), np.empty(0)


@dataclasses.dataclass(frozen=True)
class Curve:
    """A quantity of one label against x: each seed, their mean and a band around it.

    Attributes:
      x: f64[S] the amount spent at the steps that all averaged seeds have logged.
      mean, low, high: f64[S] mean over those seeds, and Student's 95 % interval of it; both ends
        are the mean if there is one seed.
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
    """The curve of one label.

    A point of the mean lies at the mean of what the seeds had spent at its step.

    Args:
      runs: the runs of one label.
      read: gives a run's steps i64[S] and values f64[S].
      cost_axis: the axis of x, see `costs`. Runs that did not log it have no curve.
    """
    series = {run.name: read(run) for run in runs}
    x = {run.name: run.spent_at(series[run.name][0], cost_axis) for run in runs}
    for name, spent in x.items():
        if np.isnan(spent).any():
            x[name], series[name] = np.empty(0), EMPTY
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
    """f64[S], half of Student's 95 % interval of the mean of f64[seeds, S]; 0 for one seed."""
    count = len(values)
    if count < 2:
        return np.zeros(values.shape[1:])
    return statistics.t_quantile(count - 1) * values.std(0, ddof=1) / np.sqrt(count)


def last_x(drawn: Collection[Curve]) -> float:
    """The largest finite position of any curve, 0 when there is none."""
    ends = [np.max(x[np.isfinite(x)], initial=0.0) for c in drawn for x, _, _ in c.seeds]
    return float(max(ends, default=0.0))


def limits(drawn: Collection[Curve], also: Sequence[float] = ()) -> tuple[float, float] | None:
    """Ends of a y axis, without the steep first twentieth where that flattens the rest.

    Bands of few seeds may be far wider than their curves: they are cut off at the frame.

    Args:
      drawn: the curves of one panel.
      also: heights that have to lie inside.

    Returns:
      (low, high), or None when there is nothing finite to draw.
    """
    x, y = (np.concatenate([np.empty(0), *(s[i] for c in drawn for s in c.seeds)]) for i in (0, 1))
    finite = np.isfinite(x) & np.isfinite(y)
    if not finite.any():
        return None
    later = y[finite & (x >= 0.05 * last_x(drawn))]
    low, top = float(y[finite].min()), float(y[finite].max())
    highest = float(np.max(later, initial=low))
    top = highest if highest - low < 0.6 * (top - low) else top
    low, top = min(low, *also, top), max(top, *also, low)
    margin = 0.06 * (top - low) or 0.05 * abs(top) or 1.0
    return low - margin, top + margin


def first_crossing(x: np.ndarray, losses: np.ndarray, target: float) -> float | None:
    """The position where a loss curve, linear between its evaluations, first reaches a target.

    Args:
      x: f64[E] increasing positions of the evaluations.
      losses: f64[E]; evaluations that are not finite are passed over.
      target: the loss to reach: the curve is at or below it.

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


def moving_sum(values: np.ndarray) -> np.ndarray:
    """Centred moving sum along the first axis, over `_window` steps; cut off at the ends."""
    rolling = pd.DataFrame(values).rolling(_window(len(values)), min_periods=1, center=True)
    return rolling.sum().to_numpy().reshape(values.shape)


def drawn_steps(steps: np.ndarray) -> np.ndarray:
    """bool[S], the smoothed values worth drawing: four a window, and the first and last."""
    if not len(steps):
        return np.zeros(0, bool)
    # By step and not by index, so that seeds agree although one of them lost a row.
    stride = max(1, _window(int(steps[-1])) // 4)
    return (steps % stride == 0) | (steps == steps[0]) | (steps == steps[-1])


def smoothed(series: Series) -> Series:
    """Steps and the centred moving mean of the values; values that are not finite are left out."""
    finite = np.isfinite(series[1])
    return share((series[0][finite], series[1][finite]), (series[0], np.ones(len(finite))))


def share(part: Series, whole: Series) -> Series:
    """Steps and smoothed share of `part` in `whole`, as a ratio of moving sums."""
    steps, at_part, at_whole = np.intersect1d(part[0], whole[0], return_indices=True)
    shares = moving_sum(part[1][at_part]) / np.maximum(moving_sum(whole[1][at_whole]), 1)
    shown = drawn_steps(steps)
    return steps[shown], shares[shown]


def same_pools(run: Run, other: Run) -> bool:
    """True if two runs draw from equal pools at every update."""
    return (
        run.seed == other.seed
        and _pool_fields(run) == _pool_fields(other)
        and labels.comparable(run, other)
    )


def overlap(run: Run, other: Run) -> Series:
    """Steps i64[S] and Jaccard indices f64[S] of two runs' picks, at steps that both logged.

    The index of picks A and B is |A & B| / |A | B|.
    """
    ours, theirs = run.picks, other.picks
    steps = [step for step in sorted(ours.keys() & theirs.keys()) if ours[step] or theirs[step]]
    shares = [len(ours[s] & theirs[s]) / len(ours[s] | theirs[s]) for s in steps]
    return np.array(steps, np.int64), np.array(shares, np.float64)


def overlap_with_first(groups: Groups) -> Callable[[Run], Series]:
    """Gives a run's overlap with the first label's run on the same pools; empty without one."""
    partners = next(iter(groups.values()))

    def read(run: Run) -> Series:
        for partner in partners:
            if partner.label != run.label and same_pools(run, partner):
                return overlap(run, partner)
        return EMPTY

    return read


def overlap_matrix(groups: Groups) -> pd.DataFrame:
    """Mean overlap of every two labels over updates and seeds; nan where no pools met."""
    found = np.eye(len(groups))
    for (row, first), (column, second) in itertools.combinations(enumerate(groups.values()), 2):
        met = [overlap(a, b)[1] for a in first for b in second if same_pools(a, b)]
        values = np.concatenate([np.empty(0), *met])
        found[row, column] = found[column, row] = values.mean() if len(values) else np.nan
    return pd.DataFrame(found, list(groups), list(groups))


def overlap_by_chance(runs: Sequence[Run]) -> float | None:
    """About the overlap of independent picks of k from N, k / (2N - k); None if k or N varies."""
    sizes = {
        (int(pool), int(picks))
        for run in runs
        for pool, picks in zip(
            run.series("pool")[1].sum(1), run.series("selected")[1].sum(1), strict=False
        )
    }
    if len(sizes) != 1:
        return None
    ((pool, picks),) = sizes
    return picks / (2 * pool - picks) if pool else None


def _window(num_steps: int) -> int:
    """The number of steps that a smoothed value averages: a twentieth of the run, odd, from 5."""
    return max(5, num_steps // 20) | 1


def _pool_fields(run: Run) -> tuple[object, object]:
    selection = run.config.get("selection")
    fields = selection if isinstance(selection, Mapping) else {}
    return fields.get("pool"), fields.get("updates_per_pool", 1)
