"""Cells and tables of RESULTS.md."""

from collections.abc import Mapping, Sequence

import numpy as np

from partitionsel_jax.reporting.comparison import Spread, ToTarget
from partitionsel_jax.studies import measures
from partitionsel_jax.studies.measures import Difference, Group
from partitionsel_jax.text_table import markdown

NOTHING = "–"


def spread(value: Spread | None, form: str = ".3f", factor: float = 1.0, of: int = 0) -> str:
    """Mean and half its 95 % interval; and of how many runs, where it is not all `of` them."""
    if value is None:
        return NOTHING
    half = "" if value.half is None else f" ± {format(factor * value.half, form)}"
    return f"{format(factor * value.mean, form)}{half}{_part(value.count, of)}"


def percent(value: Spread | None) -> str:
    """As `spread`, of a share."""
    return NOTHING if value is None else f"{spread(value, '.1f', 100.0)} %"


def times(value: float | None) -> str:
    """A ratio."""
    return NOTHING if value is None or not np.isfinite(value) else f"{value:.2f}×"


def difference(value: Difference | None, form: str = "+.3f") -> str:
    """Mean with its 95 % interval, in bold where that leaves 0 out."""
    if value is None:
        return NOTHING
    text, low, high = (
        format(number, form).replace("-", "−") for number in (value.mean, value.low, value.high)
    )
    mean = f"**{text}**" if value.sign else text
    return f"{mean} ({low} to {high}){_part(value.count, value.pairs)}"


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


def rates(group: Group) -> str:
    """The learning rates of a group: one, as they are chosen together."""
    return ", ".join(f"{rate:g}" for rate in sorted({r.numbers["learning_rate"] for r in group}))


def _were_asked(groups: Mapping[str, Group]) -> bool:
    """Whether some run of a study answered questions that count."""
    return any(result.accuracies for group in groups.values() for result in group)


def against(groups: Mapping[str, Group], baseline: str, *, corrupted: bool = False) -> str:
    """Groups of runs beside a baseline: losses, differences, and what the baseline's loss costs.

    Args:
      groups: name -> runs; in the table's order.
      baseline: the name of one of them.
      corrupted: whether to say how many of the picks were corrupted.
    """
    asked = _were_asked(groups)
    headings = ["", "learning rate", "validation loss", f"less {baseline}'s"]
    headings += ["test accuracy"] * asked + ["corrupted picks"] * corrupted
    headings += ["FLOPs / update", "updates to target", "FLOPs to target", "at equal FLOPs"]
    reference = groups[baseline]
    at_cost = measures.loss_at_cost({run.seed: run for run in reference}, "flops")
    final = measures.number("validation_loss")
    rows = []
    for name, group in groups.items():
        own = name == baseline
        row = [name, rates(group), spread(measures.mean(group, final), of=len(group))]
        row.append(NOTHING if own else difference(measures.difference(group, reference, final)))
        if asked:
            row.append(percent(measures.mean(group, measures.accuracy)))
        if corrupted:
            row.append(percent(measures.mean(group, measures.number("corrupted_selected"))))
        row.append(times(measures.relative_cost(group, reference, "flops")))
        costed = (measures.to_target(group, reference, name) for name in ("updates", "flops"))
        row += ["1", "1"] if own else [ratio(cost) for cost in costed]
        row.append(NOTHING if own else difference(measures.difference(group, reference, at_cost)))
        rows.append(row)
    return markdown(headings, rows)


def whole_runs(groups: Mapping[str, Group], baseline: str) -> str:
    """Groups whose runs differ in length: losses, and what whole runs cost."""
    final, reference = measures.number("validation_loss"), groups[baseline]
    headings = ["", "updates", "learning rate", "validation loss", f"less {baseline}'s"]
    asked = _were_asked(groups)
    headings += ["corrupted picks", *["test accuracy"] * asked, "FLOPs", "seconds"]
    rows = []
    for name, group in groups.items():
        apart = measures.difference(group, reference, final)
        rows.append(
            [
                name,
                f"{group[0].numbers['updates']:g}",
                rates(group),
                spread(measures.mean(group, final), of=len(group)),
                NOTHING if name == baseline else difference(apart),
                percent(measures.mean(group, measures.number("corrupted_selected"))),
                *[percent(measures.mean(group, measures.accuracy))] * asked,
                *(
                    times(measures.whole_cost(group, reference, cost_axis))
                    for cost_axis in ("flops", "seconds")
                ),
            ]
        )
    return markdown(headings, rows)


def diagnostics(groups: Mapping[str, Group], numbers: Mapping[str, str]) -> str:
    """Numbers that selection logs, a column each: heading -> name."""
    final = measures.number("validation_loss")
    rows = [
        [
            name,
            rates(group),
            *(spread(measures.mean(group, measures.number(n))) for n in numbers.values()),
            spread(measures.mean(group, final)),
        ]
        for name, group in groups.items()
    ]
    return markdown(["", "learning rate", *numbers, "validation loss"], rows)


def seeds(group: Group) -> str:
    """The seeds of some runs, as text."""
    found = sorted({run.seed for run in group})
    if len(found) > 2 and np.array_equal(found, np.arange(found[0], found[-1] + 1)):
        return f"{found[0]} to {found[-1]}"
    return ", ".join(map(str, found))


def joined(parts: Sequence[str]) -> str:
    """An enumeration."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
