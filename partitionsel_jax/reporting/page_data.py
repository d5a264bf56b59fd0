"""The numbers that the page draws its charts from: one JSON value, read by page.js."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from partitionsel_jax.evaluation import statistics
from partitionsel_jax.reporting import canvas, curves, overlaps, selection_charts, theme
from partitionsel_jax.reporting.comparison import Row
from partitionsel_jax.reporting.costs import CURRENCIES
from partitionsel_jax.reporting.runs import Run

Sets = Sequence[Mapping[str, Sequence[Run]]]
_MOST_MIXES = 12
_LOSS_UNIT = "nats per token"


def facets(run: Run, number: int) -> dict[str, str]:
    """What runs can be filtered by, and this run's value of each.

    Args:
      run: one of the report.
      number: of the evaluation set that it belongs to, from 1.
    """
    axes = {field: json.dumps(value) for field, value in run.axes.items()}
    own = {"method": run.method, "seed": str(run.seed), "label": run.label}
    return {"evaluation set": str(number), **axes, **own}


def embedded(sets: Sets, rows: Sequence[Row], strokes: Mapping[str, theme.Stroke]) -> str:
    """The JSON text, in a form that may stand in a script element.

    Args:
      sets: the runs of each label, for each evaluation set.
      rows: the headline.
      strokes: of each label.
    """
    text = json.dumps(_data(sets, rows, strokes), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def ordered(sets: Sets) -> list[Run]:
    """All runs, in the order in which the page numbers them."""
    return [run for groups in sets for runs in groups.values() for run in runs]


def _data(sets: Sets, rows: Sequence[Row], strokes: Mapping[str, theme.Stroke]) -> dict[str, Any]:
    runs = ordered(sets)
    place = {run.name: number for number, run in enumerate(runs)}
    names = [label for groups in sets for label in groups]
    by_label = {row.label: row for row in rows}
    domains = list(dict.fromkeys(name for run in runs for name in run.domains))
    shared = [groups for groups in sets if len(groups) > 1]
    read = {
        run.name: overlaps.reader(groups)
        for groups in shared
        for each in groups.values()
        for run in each
    }
    labels = [
        {
            "name": label,
            "colour": theme.variable(strokes[label].colour),
            "dash": " ".join(f"{2 * length:g}" for length in strokes[label].dash[1]),
            "target": _number(by_label[label].target) if by_label[label].is_baseline else None,
            "runs": [place[run.name] for run in group],
            "domains": group[0].domains,
            "pool": _numbers(selection_charts.pool_mix(group), 3),
        }
        for groups in sets
        for label, group in groups.items()
    ]
    return {
        "quantiles": [
            round(statistics.t_quantile(freedom), 5)
            for freedom in range(1, max(2, max(len(group) for s in sets for group in s.values())))
        ],
        "cost_axes": [
            {"name": each.name, "axis": each.axis, "units": each.units}
            for each in CURRENCIES.values()
        ],
        "mostWithSeeds": canvas.MOST_WITH_SEEDS,
        "mostMixes": _MOST_MIXES,
        "domains": {name: theme.fill(i, len(domains)) for i, name in enumerate(domains)},
        "chance": _number(overlaps.chance(runs)),
        "corruptedPool": _number(selection_charts.corrupted_level(runs)),
        "charts": _charts(domains, sets),
        "labels": labels,
        "runs": [
            {
                "name": run.name,
                "label": names.index(run.label),
                "finished": run.finished,
                "facets": facets(run, number),
                "grids": _grids(run, domains, read.get(run.name)),
            }
            for number, groups in enumerate(sets, start=1)
            for group in groups.values()
            for run in group
        ],
    }


def _charts(domains: Sequence[str], sets: Sets) -> list[dict[str, Any]]:
    """Which charts there are, and from which series; the page names their places by `id`."""
    diagnostics = [
        {"key": column, "title": title, "unit": unit}
        for column, title, unit in selection_charts.DIAGNOSTICS
    ]
    accuracies = [
        {"key": f"{split}_accuracy", "title": f"On the {split} questions"}
        for split in ("validation", "test")
    ]
    per_domain = [
        {"key": "per_domain", "index": index, "title": name} for index, name in enumerate(domains)
    ]
    return [
        {**_lines("validation_loss", "validation_loss"), "tall": True, "unit": _LOSS_UNIT},
        {
            **_lines("validation_loss_per_domain", ""),
            "title": "Validation loss",
            "panels": per_domain,
        },
        {**_lines("accuracy", ""), "percent": True, "panels": accuracies},
        {**_lines("training_loss", "loss", "drawn"), "unit": _LOSS_UNIT},
        {"id": "domain_mix", "kind": "mix"},
        {
            **_lines("corrupted_share", "corrupted", "drawn"),
            "percent": True,
            "zero": True,
            "tall": True,
        },
        {**_lines("selection_diagnostics", "", "drawn"), "panels": diagnostics},
        {**_lines("overlap", "overlap", "drawn"), "percent": True, "zero": True, "tall": True},
    ]


_TITLES = {
    "validation_loss": "Validation loss",
    "training_loss": "Training loss of the picks",
    "corrupted_share": "Corrupted share of the picks",
    "overlap": "Overlap of the picks",
}


def _lines(name: str, key: str, grid: str = "evaluated") -> dict[str, Any]:
    panels = [{"key": key, "title": _TITLES.get(name, "")}]
    return {"id": name, "kind": "lines", "grid": grid, "panels": panels}


def _grids(
    run: Run, domains: Sequence[str], overlap: Callable[[Run], curves.Series] | None
) -> dict[str, Any]:
    """The series of a run: where it was evaluated, and smoothed where that is worth drawing."""
    evaluated, losses = run.evaluations()
    validated, tested = run.series("validation_accuracy"), run.test_accuracies()
    evaluated = np.unique(np.concatenate([evaluated, validated[0], tested[0]]))
    steps, per_domain = run.series("validation_loss_per_domain")
    of_domain: list[list[float | None]] = [[] for _ in domains]
    for index, name in enumerate(run.domains):
        of_domain[domains.index(name)] = _on(evaluated, (steps, per_domain[:, index]))
    smooth = {
        column: curves.smoothed(run.series(column))
        for column in ("loss", *(column for column, *_ in selection_charts.DIAGNOSTICS))
    }
    smooth["corrupted"] = selection_charts.corrupted_selected(run)
    if overlap is not None:
        smooth["overlap"] = curves.smoothed(overlap(run))
    mixed, mix = selection_charts.smoothed_mix(run)
    drawn = np.unique(np.concatenate([mixed, *(series[0] for series in smooth.values())]))
    drawn = drawn.astype(np.int64)
    series = {name: _on(drawn, values) for name, values in smooth.items() if len(values[0])}
    shares = [_on(drawn, (mixed, mix[:, index]), 3) for index in range(len(run.domains))]
    return {
        "evaluated": {
            **_spent(run, evaluated),
            "series": {
                "validation_loss": _on(evaluated, run.evaluations()) if len(losses) else [],
                "validation_accuracy": _on(evaluated, validated),
                "test_accuracy": _on(evaluated, tested),
                "per_domain": of_domain,
            },
        },
        "drawn": {**_spent(run, drawn), "series": {**series, "mix": shares}},
    }


def _spent(run: Run, steps: np.ndarray) -> dict[str, Any]:
    """The steps of a grid, and what was spent by each of them; null where it was not logged."""
    spent: dict[str, Any] = {"step": steps.tolist()}
    for name in CURRENCIES:
        values = run.spent_at(steps, name)
        spent[name] = None if np.isnan(values).any() else _numbers(values, 7)
    return spent


def _on(grid: np.ndarray, series: curves.Series, digits: int = 5) -> list[float | None]:
    """A series at the steps of a grid; None where it has no value."""
    values: dict[int, float] = dict(zip(series[0].tolist(), series[1].tolist(), strict=True))
    return [_number(values.get(step), digits) for step in grid.tolist()]


def _numbers(values: np.ndarray, digits: int) -> list[float | None]:
    return [_number(value, digits) for value in values.tolist()]


def _number(value: float | None, digits: int = 5) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
