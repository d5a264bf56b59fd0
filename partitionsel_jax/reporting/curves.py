"""Numbers behind the charts: means over seeds, crossings of a target, smoothing, overlaps."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from partitionsel_jax.evaluation import statistics
from partitionsel_jax.reporting import labels
from partitionsel_jax.reporting.costs import COST_AXES
from partitionsel_jax.reporting.runs import Run, Series

Groups = Mapping[str, Sequence[Run]]
EMPTY: Series = np.empty(0, np.int64), np.empty(0)


@dataclasses.dataclass(frozen=True)
class Curve:
    """A quantity of one label against x: each seed, and their mean with a band around it.

    Attributes:
      x: cost axis -> f64[S], the mean of what the averaged seeds had spent at the steps that all of
        them have logged; without the axes that one of them did not log.
      mean, half: f64[S] mean over those seeds, and half of Student's 95 % interval of it; 0 if
        there is one seed.
      seeds: x as above, y f64[S_i] and "is it finished" of every run, averaged or not.
    """

    x: Mapping[str, np.ndarray]
    mean: np.ndarray
    half: np.ndarray
    seeds: tuple[tuple[Mapping[str, np.ndarray], np.ndarray, bool], ...]


def averaged(runs: Sequence[Run]) -> list[Run]:
    """The runs that a mean is taken over: the finished ones, or all while none is."""
    return [run for run in runs if run.finished] or list(runs)


def over_seeds(runs: Sequence[Run], read: Callable[[Run], Series]) -> Curve:
    """The curve of one label's runs; `read` gives a run's steps i64[S] and values f64[S]."""
    seeds, counted, taken = [], [], averaged(runs)
    for run in runs:
        steps, values = read(run)
        spent = {axis: run.spent_at(steps, axis) for axis in COST_AXES}
        spent = {axis: x for axis, x in spent.items() if not np.isnan(x).any()}
        seeds.append((spent, values, run.finished))
        # A seed without a single point, such as a run that has just begun, takes no part.
        if len(steps) and run in taken:
            counted.append((steps, spent, values))
    if not counted:
        return Curve({"updates": np.empty(0)}, np.empty(0), np.empty(0), tuple(seeds))
    common = functools.reduce(np.intersect1d, (steps for steps, _, _ in counted))
    at = [np.isin(steps, common) for steps, _, _ in counted]
    y = np.stack([values[shared] for shared, (_, _, values) in zip(at, counted, strict=True)])
    x = {
        axis: np.mean([x[axis][s] for s, (_, x, _) in zip(at, counted, strict=True)], axis=0)
        for axis in COST_AXES
        if all(axis in x for _, x, _ in counted)
    }
    return Curve(x, y.mean(0), half_width(y), tuple(seeds))


def half_width(values: np.ndarray) -> np.ndarray:
    """f64[S], half of Student's 95 % interval of the mean of f64[seeds, S]; 0 for one seed."""
    count = len(values)
    if count < 2:
        return np.zeros(values.shape[1:])
    return statistics.t_quantile(count - 1) * values.std(0, ddof=1) / np.sqrt(count)


def last_x(drawn: Iterable[Curve], axis: str = "updates") -> float:
    """The largest position of any curve, 0 when there is none."""
    ends = [np.max(x[axis], initial=0.0) for c in drawn for x, _, _ in c.seeds if axis in x]
    return float(max(ends, default=0.0))


def limits(drawn: Collection[Curve], also: Sequence[float] = ()) -> tuple[float, float]:
    """Ends of a y axis, without the steep first twentieth where that flattens the rest.

    Bands of few seeds may be far wider than their curves: they are cut off at the frame. Heights
    that are in `also` lie inside.
    """
    seeds = [(x["updates"], y) for curve in drawn for x, y, _ in curve.seeds]
    x, y = (np.concatenate(parts) for parts in zip(*seeds, strict=True))
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    low, top = float(np.min(y, initial=np.inf)), float(np.max(y, initial=-np.inf))
    later = float(np.max(y[x >= 0.05 * last_x(drawn)], initial=low))
    top = later if later - low < 0.6 * (top - low) else top
    low, top = min(low, top, *also), max(low, top, *also)
    if not np.isfinite(top - low):
        return 0.0, 1.0
    margin = 0.06 * (top - low) or 0.05 * abs(top) or 1.0
    return low - margin, top + margin


def first_crossing(x: np.ndarray, losses: np.ndarray, target: float) -> float | None:
    """The x where a loss curve, linear between evaluations f64[E], is first at or below a target.

    Evaluations that are not finite are passed over; None when no other reaches the target.
    """
    known = np.isfinite(x) & np.isfinite(losses)
    x, losses = x[known], losses[known]
    reached = np.flatnonzero(losses <= target)
    if not len(reached):
        return None
    at = int(reached[0])
    if at == 0:
        return float(x[0])
    fraction = (losses[at - 1] - target) / (losses[at - 1] - losses[at])
    return float(x[at - 1] + fraction * (x[at] - x[at - 1]))


def _window(num_steps: int) -> int:
    """The number of steps that a smoothed value averages: a twentieth of the run, odd, from 5."""
    return max(5, num_steps // 20) | 1


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

    def pool(run: Run) -> tuple[object, ...]:
        selection, rows = run.section("selection"), run.section("data")
        filtered = rows.get("filter") or {}
        source = rows.get("train_on", "rows"), filtered if filtered.get("model") else {}
        return run.seed, selection.get("pool"), selection.get("updates_per_pool", 1), source

    return pool(run) == pool(other) and labels.comparable(run, other)


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
    sizes = {(run.facts.get("pool_size"), run.facts.get("selected")) for run in runs}
    (pool, picks), *others = sizes
    return picks / (2 * pool - picks) if pool and picks and not others else None
