"""Cells and tables of RESULTS.md."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from partitionsel_jax.reporting.comparison import Spread, ToTarget
from partitionsel_jax.studies import measures
from partitionsel_jax.studies.measures import Difference, Group
from partitionsel_jax.text_table import of_records

NOTHING = "–"


def spread(value: Spread | None, form: str = ".3f", factor: float = 1.0, of: int = 0) -> str:
    """Mean and half its 95 % interval; and of how many runs, where it is not all `of` them."""
    if value is None:
        return NOTHING
    half = "" if value.half is None else f" ± {format(factor * value.half, form)}"
    return f"{format(factor * value.mean, form)}{half}{_part(value.count, of)}"


def percent(values: pd.Series) -> str:
    """The mean of a share and half its 95 % interval, in per cent."""
    found = measures.mean(values)
    return NOTHING if found is None else f"{spread(found, '.1f', 100.0)} %"


def times(value: float | None) -> str:
    """A ratio."""
    return NOTHING if value is None or not np.isfinite(value) else f"{value:.2f}×"


def difference(value: Difference | None, form: str = "+.3f") -> str:
    """Mean with its 95 % interval, in bold where that leaves 0 out."""
    if value is None:
        return NOTHING
    numbers = (value.mean, value.low, value.high)
    text, low, high = (format(number, form).replace("-", "−") for number in numbers)
    text = f"**{text}**" if value.sign else text
    return f"{text} ({low} to {high}){_part(value.count, value.pairs)}"


def ratio(cost: ToTarget) -> str:
    """`measures.typical` with its 95 % interval, or with how many seeds reached the target."""
    if not cost.pairs:
        return NOTHING
    found = measures.typical(cost)
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
    groups: Mapping[str, Group], baseline: str, *, corrupted: bool = False, whole: bool = False
) -> str:
    """Groups of runs beside a baseline: losses, differences, and what the baseline's loss costs.

    Args:
      groups: name -> runs; in the table's order.
      baseline: the name of one of them.
      corrupted: whether to say how many of the picks were corrupted.
      whole: whether runs differ in length, so that the costs to compare are those of whole runs.
    """
    reference, rows = groups[baseline], []
    asked = any(group["accuracy"].notna().any() for group in groups.values())
    at_cost = measures.loss_at_cost(reference, reference, "flops")
    for name, group in groups.items():
        own = name == baseline
        row = _start(name, group)
        if whole:
            row["updates"] = f"{group['updates'].iloc[0]:g}"
        row["validation loss"] = spread(measures.mean(group["validation_loss"]), of=len(group))
        apart = measures.final(group, reference)
        row[f"less {baseline}'s"] = NOTHING if own else difference(apart)
        if asked:
            row["test accuracy"] = percent(group["accuracy"])
        if corrupted:
            row["corrupted picks"] = percent(group["corrupted_selected"])
        if whole:
            for cost_axis, noun in (("flops", "FLOPs"), ("seconds", "seconds")):
                row[noun] = times(measures.whole_cost(group, reference, cost_axis))
        else:
            row["FLOPs / update"] = times(measures.relative_cost(group, reference, "flops"))
            for cost_axis, noun in (("updates", "updates"), ("flops", "FLOPs")):
                cost = measures.to_target(group, reference, cost_axis)
                row[f"{noun} to target"] = "1" if own else ratio(cost)
            apart = measures.difference(measures.loss_at_cost(group, reference, "flops"), at_cost)
            row["at equal FLOPs"] = NOTHING if own else difference(apart)
        rows.append(row)
    return of_records(rows)


def logged(groups: Mapping[str, Group], *names: str) -> str:
    """Numbers that selection logs, a column each."""
    names = (*names, "validation_loss")
    return of_records(
        [
            _start(name, group)
            | {n.replace("_", " "): spread(measures.mean(group[n])) for n in names}
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
