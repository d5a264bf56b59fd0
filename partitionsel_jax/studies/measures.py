"""Means over seeds, differences between runs of one seed, and what a target costs.

A group is the runs of one point of an ablation: rows of `Study.results` with their seeds as index.
"""

import dataclasses
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from partitionsel_jax.reporting import comparison
from partitionsel_jax.reporting.comparison import Spread, ToTarget
from partitionsel_jax.studies.records import Curve

Group: TypeAlias = pd.DataFrame


@dataclasses.dataclass(frozen=True)
class Difference:
    """The mean difference of two groups' runs, seed by seed, with its 95 % interval.

    Attributes:
      mean: of the differences.
      low, high: the ends of Student's interval; the mean itself, of one pair.
      count: pairs that have the number.
      pairs: all of them.
    """

    mean: float
    low: float
    high: float
    count: int
    pairs: int

    @property
    def sign(self) -> int:
        """-1 or 1 where the difference is significant: the interval leaves out 0, else 0.

        A mean that leaves pairs out is never significant.
        """
        if self.count < max(2, self.pairs):
            return 0
        return -1 if self.high < 0 else int(self.low > 0)


def select(runs: pd.DataFrame, method: str = "", **axes: Any) -> Group:
    """The runs of a method at some values of the axes, by seed.

    Args:
      runs: of a study.
      method: its label; "" for all.
      **axes: the axis' last name -> its value, e.g. size=8. One that a run lacks excludes it.
    """
    fits = np.full(len(runs), True) if not method else (runs["method"] == method).to_numpy()
    columns = {name.rpartition(".")[2]: name for name in runs if "." in name}
    for axis, wanted in axes.items():
        values = runs[columns[axis]] if axis in columns else [None] * len(runs)
        fits = fits & np.array([value == wanted for value in values], bool)
    return runs[fits].set_index("seed", drop=False).sort_index()


def mean(values: pd.Series) -> Spread | None:
    """The mean over the seeds that have the number; None where none has."""
    return comparison.spread(values[np.isfinite(values)].tolist())


def difference(ours: pd.Series, theirs: pd.Series) -> Difference | None:
    """The difference of a number of two groups; None without a pair that has it."""
    shared = ours.index.intersection(theirs.index)
    found = mean(ours[shared] - theirs[shared])
    if found is None:
        return None
    half = found.half or 0.0
    return Difference(found.mean, found.mean - half, found.mean + half, found.count, len(shared))


def final(group: Group, baseline: Group) -> Difference | None:
    """The difference of the final validation losses."""
    return difference(group["validation_loss"], baseline["validation_loss"])


def curves(group: Group, baseline: Group) -> list[tuple[Curve, Curve]]:
    """The curves of runs that share a seed."""
    shared = group.index.intersection(baseline.index)
    return list(zip(group["curve"][shared], baseline["curve"][shared], strict=True))


def to_target(group: Group, baseline: Group, cost_axis: str) -> ToTarget:
    """The group's cost of the baseline's final loss, relative to the baseline's."""
    return comparison.to_target(curves(group, baseline), cost_axis)


def typical(cost: ToTarget) -> float | None:
    """The mean ratio where all seeds reached the target, else the median; None without one.

    In the median, seeds that did not get there count as most expensive.
    """
    if cost.ratio is not None and cost.reached == cost.pairs:
        return cost.ratio.mean
    return cost.median


def whole_cost(group: Group, baseline: Group, cost_axis: str) -> float:
    """The cost of a run, relative to the baseline's; the mean over seeds."""
    pairs = curves(group, baseline)
    ratios = [run.total(cost_axis) / other.total(cost_axis) for run, other in pairs]
    return float(np.mean(ratios)) if ratios else float("nan")


def relative_cost(group: Group, baseline: Group, cost_axis: str) -> float:
    """The cost of an update, relative to the baseline's."""
    if not (len(group) and len(baseline)):
        return float("nan")
    longer = group["updates"].iloc[0] / baseline["updates"].iloc[0]
    return whole_cost(group, baseline, cost_axis) / longer


def loss_at_cost(group: Group, baseline: Group, cost_axis: str) -> pd.Series:
    """The validation loss of runs when they had spent what their partner spent altogether.

    Linear between evaluations; nan of a run that ended before, or has no partner.
    """
    found = pd.Series(np.nan, group.index)
    for run, other in curves(group, baseline):
        spent, losses = run.points[cost_axis], run.points["validation_loss"]
        # A baseline ends where it ends, whatever was lost to rounding.
        if (cost := other.total(cost_axis)) <= spent.iloc[-1] * (1 + 1e-4):
            found[run.seed] = np.interp(cost, spent, losses)
    return found
