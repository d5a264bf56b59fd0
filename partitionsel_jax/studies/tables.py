"""Means over seeds, differences between runs of one seed, costs of a target, and their tables.

A group is the runs of one point of an ablation: rows of `Study.results` with their seeds as index.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from partitionsel_jax.reporting import comparison
from partitionsel_jax.reporting.comparison import Spread, ToTarget
from partitionsel_jax.text_table import of_records

Group: TypeAlias = pd.DataFrame
NOTHING = "–"


class Difference(NamedTuple):
    """The mean difference of two groups' runs, seed by seed, with Student's 95 % interval.

    The mean is over the pairs that have the number, `seen` of `pairs`; of one, the interval is it.
    """

    mean: float
    low: float
    high: float
    seen: int
    pairs: int

    @property
    def sign(self) -> int:
        """-1 or 1 where the difference is significant: the interval leaves out 0, else 0.

        A mean that leaves pairs out is never significant.
        """
        if self.seen < max(2, self.pairs):
            return 0
        return -1 if self.high < 0 else int(self.low > 0)


def select(runs: pd.DataFrame, method: str = "", **axes: Any) -> Group:
    """The runs of a method ("" for all) by seed, at values of the axes by their last names.

    An axis that a run lacks excludes it: select(runs, "random", size=8).
    """
    fits = np.array([not method or name == method for name in runs["method"]], bool)
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
    low, high = (found.mean + sign * (found.half or 0.0) for sign in (-1, 1))
    return Difference(found.mean, low, high, found.count, len(shared))


def final(group: Group, baseline: Group) -> Difference | None:
    """The difference of the final validation losses."""
    return difference(group["validation_loss"], baseline["validation_loss"])


def pairs(group: Group, baseline: Group) -> list[tuple[int, pd.DataFrame, pd.DataFrame]]:
    """Seed and both curves of the runs that share a seed."""
    shared = group.index.intersection(baseline.index)
    return list(zip(shared, group["curve"][shared], baseline["curve"][shared], strict=True))


def to_target(group: Group, baseline: Group, cost_axis: str) -> ToTarget:
    """The group's cost of the baseline's final loss, relative to the baseline's."""
    return comparison.to_target(pairs(group, baseline), cost_axis)


def typical(cost: ToTarget) -> float | None:
    """The mean ratio where all seeds reached the target, else the median; None without one.

    In the median, seeds that did not get there count as most expensive.
    """
    if cost.ratio is not None and cost.reached == cost.pairs:
        return cost.ratio.mean
    return cost.median


def whole_cost(group: Group, baseline: Group, cost_axis: str) -> float:
    """The cost of a run, relative to the baseline's; the mean over seeds, nan without a pair."""
    ends = [[c[cost_axis].iloc[-1] for c in pair[1:]] for pair in pairs(group, baseline)]
    return float(np.mean([own / other for own, other in ends])) if ends else math.nan


def relative_cost(group: Group, baseline: Group, cost_axis: str) -> float:
    """The cost of an update, relative to the baseline's."""
    longer = group["updates"].mean() / baseline["updates"].mean()
    return whole_cost(group, baseline, cost_axis) / longer


def loss_at_cost(group: Group, baseline: Group, cost_axis: str) -> pd.Series:
    """The validation loss of runs when they had spent what their partner spent altogether.

    Linear between evaluations; nan of a run that ended before, or has no partner.
    """
    found = pd.Series(np.nan, group.index)
    for seed, run, other in pairs(group, baseline):
        cost = other[cost_axis].iloc[-1]
        # A baseline ends where it ends, whatever was lost to rounding.
        if cost <= run[cost_axis].iloc[-1] * (1 + 1e-4):
            found[seed] = np.interp(cost, run[cost_axis], run["validation_loss"])
    return found


def spread_text(value: Spread | None, form: str = ".3f", factor: float = 1.0, of: int = 0) -> str:
    """Mean and half its 95 % interval; and of how many runs, where it is not all `of` them."""
    if value is None:
        return NOTHING
    half = "" if value.half is None else f" ± {format(factor * value.half, form)}"
    return f"{format(factor * value.mean, form)}{half}{_part(value.count, of)}"


def percent(values: pd.Series) -> str:
    """The mean of a share and half its 95 % interval, in per cent."""
    found = mean(values)
    return NOTHING if found is None else f"{spread_text(found, '.1f', 100.0)} %"


def times(value: float | None) -> str:
    """A ratio."""
    return NOTHING if value is None or not np.isfinite(value) else f"{value:.2f}×"


def difference_text(value: Difference | None, form: str = "+.3f") -> str:
    """Mean with its 95 % interval, in bold where that leaves 0 out."""
    if value is None:
        return NOTHING
    text, low, high = (format(number, form).replace("-", "−") for number in value[:3])
    text = f"**{text}**" if value.sign else text
    return f"{text} ({low} to {high}){_part(value.seen, value.pairs)}"


def ratio_text(cost: ToTarget) -> str:
    """`typical` with its 95 % interval, or with how many seeds reached the target."""
    if not cost.pairs:
        return NOTHING
    found = typical(cost)
    text = "not reached" if found is None else times(found)
    if cost.interval is None:
        return f"{text}{_part(cost.reached, cost.pairs)}"
    return f"{text} ({cost.interval[0]:.2f} to {cost.interval[1]:.2f})"


def _part(count: int, of: int) -> str:
    return f" ({count} of {of})" if count < of else ""


def _start(name: str, group: Group) -> dict[str, str]:
    """The first cells of a line: learning rates are one, as they are chosen together."""
    rates = ", ".join(f"{rate:g}" for rate in sorted(set(group["learning_rate"])))
    return {"": name, "learning rate": rates}


def against(
    groups: Mapping[str, Group],
    baseline: str,
    *,
    corrupted: bool = False,
    whole: bool = False,
    seconds: bool = False,
) -> str:
    """Groups of runs beside one of them: losses, differences, and what the baseline's loss costs.

    Where `corrupted`, with the share of corrupted picks; where `whole`, runs differ in length, and
    the costs to compare are those of whole runs. Where `seconds`, these are a cost as well.
    """
    reference, rows = groups[baseline], []
    asked = any(group["accuracy"].notna().any() for group in groups.values())
    at_cost = loss_at_cost(reference, reference, "flops")
    for name, group in groups.items():
        own = name == baseline
        row = _start(name, group)
        if whole:
            row["updates"] = f"{group['updates'].iloc[0]:g}"
        row["validation loss"] = spread_text(mean(group["validation_loss"]), of=len(group))
        row[f"less {baseline}'s"] = NOTHING if own else difference_text(final(group, reference))
        if asked:
            row["test accuracy"] = percent(group["accuracy"])
        if corrupted:
            row["corrupted picks"] = percent(group["corrupted_selected"])
        if whole:
            row["FLOPs"] = times(whole_cost(group, reference, "flops"))
            row["seconds"] = times(whole_cost(group, reference, "seconds"))
        else:
            row["FLOPs / update"] = times(relative_cost(group, reference, "flops"))
            nouns = {"updates": "updates", "flops": "FLOPs"}
            for axis, noun in (nouns | ({"seconds": "seconds"} if seconds else {})).items():
                cost = to_target(group, reference, axis)
                row[f"{noun} to target"] = "1" if own else ratio_text(cost)
            apart = difference(loss_at_cost(group, reference, "flops"), at_cost)
            row["at equal FLOPs"] = NOTHING if own else difference_text(apart)
            if seconds:
                apart = difference(
                    loss_at_cost(group, reference, "seconds"),
                    loss_at_cost(reference, reference, "seconds"),
                )
                row["at equal seconds"] = NOTHING if own else difference_text(apart)
        rows.append(row)
    return of_records(rows)


def logged(groups: Mapping[str, Group], *names: str) -> str:
    """Numbers that selection logs, a column each."""
    names = (*names, "validation_loss")
    return of_records(
        [
            _start(name, group) | {n.replace("_", " "): spread_text(mean(group[n])) for n in names}
            for name, group in groups.items()
        ]
    )


def seeds(runs: pd.DataFrame) -> str:
    """The seeds of some runs, as text."""
    found = sorted(set(runs["seed"]))
    if len(found) > 2 and found == list(range(found[0], found[-1] + 1)):
        return f"{found[0]} to {found[-1]}"
    return ", ".join(map(str, found))


def joined(parts: Sequence[str]) -> str:
    """An enumeration."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
