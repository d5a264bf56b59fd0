"""Means over seeds, differences between runs of one seed, and what a target costs."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from partitionsel_jax.reporting import comparison
from partitionsel_jax.reporting.comparison import Spread, ToTarget
from partitionsel_jax.studies.records import Result

Group = Sequence[Result]


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
        """-1 or 1 where the interval leaves 0 out on that side of it, else 0.

        A mean that leaves pairs out decides nothing.
        """
        if self.count < max(2, self.pairs):
            return 0
        return -1 if self.high < 0 else int(self.low > 0)


def select(results: Iterable[Result], method: str = "", **axes: Any) -> list[Result]:
    """The runs of a method at some values of the axes, by seed.

    Args:
      results: of a study.
      method: its label; "" for all.
      **axes: the axis' last name -> its value, e.g. size=8. One that a run lacks excludes it.
    """

    def fits(result: Result) -> bool:
        short = {name.rpartition(".")[2]: value for name, value in result.axes.items()}
        found = all(name in short and short[name] == value for name, value in axes.items())
        return found and method in ("", result.method)

    return sorted((r for r in results if fits(r)), key=lambda result: result.seed)


def number(name: str) -> Callable[[Result], float]:
    """Reads one of a run's numbers."""
    return lambda result: result.numbers[name]


def accuracy(result: Result) -> float:
    """Reads a run's share of right answers."""
    return result.accuracy


def mean(group: Group, read: Callable[[Result], float]) -> Spread | None:
    """Over the seeds that have the number; None where none has."""
    values = [read(result) for result in group]
    return comparison.spread([value for value in values if np.isfinite(value)])


def pairs(group: Group, baseline: Group) -> list[tuple[Result, Result]]:
    """The runs of two groups that share a seed."""
    partners = {result.seed: result for result in baseline}
    return [(result, partners[result.seed]) for result in group if result.seed in partners]


def difference(group: Group, baseline: Group, read: Callable[[Result], float]) -> Difference | None:
    """Of a number, group less baseline; None without a pair that has it."""
    each = [read(result) - read(partner) for result, partner in pairs(group, baseline)]
    found = comparison.spread([value for value in each if np.isfinite(value)])
    if found is None:
        return None
    half = found.half or 0.0
    return Difference(found.mean, found.mean - half, found.mean + half, found.count, len(each))


def to_target(group: Group, baseline: Group, cost_axis: str) -> ToTarget:
    """What the baseline's final loss costs the group, relative to the baseline."""
    return comparison.to_target(pairs(group, baseline), cost_axis)


def typical(cost: ToTarget) -> float | None:
    """The mean ratio where all seeds reached the target, else the median; None without one.

    In the median, seeds that did not get there count as most expensive.
    """
    if cost.ratio is not None and cost.reached == cost.pairs:
        return cost.ratio.mean
    return cost.median


def whole_cost(group: Group, baseline: Group, cost_axis: str) -> float:
    """What a run of the group costs, relative to the baseline's; the mean over seeds."""
    ratios = [run.total(cost_axis) / one.total(cost_axis) for run, one in pairs(group, baseline)]
    return float(np.mean(ratios)) if ratios else float("nan")


def relative_cost(group: Group, baseline: Group, cost_axis: str) -> float:
    """What an update of the group costs, relative to the baseline's."""
    if not (group and baseline):
        return float("nan")
    longer = group[0].numbers["updates"] / baseline[0].numbers["updates"]
    return whole_cost(group, baseline, cost_axis) / longer


def loss_at_cost(partner: Mapping[int, Result], cost_axis: str) -> Callable[[Result], float]:
    """The validation loss of a run when it had spent what its partner spent altogether.

    Linear between evaluations; nan of a run that ended before.

    Args:
      partner: seed -> the run that sets the cost.
      cost_axis: that is compared.
    """

    def read(result: Result) -> float:
        if result.seed not in partner:
            return float("nan")
        spent, losses = result.curve[cost_axis], result.curve["validation_loss"]
        cost = partner[result.seed].total(cost_axis)
        # A baseline ends where it ends, whatever was lost to rounding.
        if cost > spent[-1] * (1 + 1e-4):
            return float("nan")
        return float(np.interp(cost, spent, losses))

    return read
