"""Charts of validation loss and accuracy against what they cost, and of the loss per domain."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import ScaledTranslation

from partitionsel_jax.reporting import canvas, comparison, curves, theme
from partitionsel_jax.reporting.canvas import Heading
from partitionsel_jax.reporting.costs import CURRENCIES, CostAxis
from partitionsel_jax.reporting.runs import Run
from partitionsel_jax.reporting.theme import Stroke

Groups = Mapping[str, Sequence[Run]]
_MOST_NOTES = 4
# Of panels, a domain each.
_COLUMNS = 4
# Inches between points that would lie on each other.
_ASIDE = 0.09


@dataclasses.dataclass(frozen=True)
class _Mark:
    """Where a label first reaches its target, in the units of the axes, and the text beside it."""

    x: float
    y: float
    colour: str
    text: str


def validation_loss(groups: Groups, rows: Sequence[comparison.Row], heading: Heading) -> Figure:
    """Validation loss against each cost_axis that was logged, and where the target is reached.

    Args:
      groups: the runs of each label.
      rows: the headline rows of the same labels.
      heading: title, subtitle and the stroke of each label.
    """
    legend = dataclasses.replace(heading, strokes={**heading.strokes, **_target_strokes(rows)})
    drawn = _against(groups, Run.evaluations)
    figure, axes = canvas.panels(len(drawn), legend, columns=2, height=3.1)
    heights = None
    for panel, (cost_axis, found) in zip(axes, drawn.items(), strict=True):
        divisor = _draw(panel, cost_axis, found, heading.strokes)
        # The same losses in every panel, so the same heights.
        heights = heights or panel.get_ylim()
        panel.set_ylim(heights)
        panel.set_ylabel("validation loss (nats per token)")
        _draw_targets(panel, rows, heading.strokes, cost_axis, divisor)
    return figure


def accuracy(groups: Groups, heading: Heading) -> Figure | None:
    """Accuracy against each cost_axis that was logged; None when no question was answered.

    That of the validation questions, where some run answered them on the way; else that of the
    test questions after the last update.
    """
    read = _test_accuracies
    if any(len(_validated(run)[0]) for runs in groups.values() for run in runs):
        read = _validated
    drawn = _against(groups, read)
    if not any(len(x) for found in drawn.values() for c in found.values() for x, _, _ in c.seeds):
        return None
    figure, axes = canvas.panels(len(drawn), heading, columns=2, height=2.4)
    for panel, (cost_axis, found) in zip(axes, drawn.items(), strict=True):
        divisor = _draw(panel, cost_axis, found, heading.strokes)
        points = {label: curve for label, curve in found.items() if len(curve.x) == 1}
        for place, (label, curve) in enumerate(reversed(points.items())):
            error = np.minimum(curve.high - curve.mean, [curve.mean, 1 - curve.mean])
            # Side by side, where they are in one place.
            aside = ScaledTranslation(-_ASIDE * place, 0, figure.dpi_scale_trans)
            panel.errorbar(
                curve.x / divisor,
                curve.mean,
                error,
                fmt="o",
                color=heading.strokes[label].colour,
                ms=5,
                transform=panel.transData + aside,
            )
        if points:
            ends = [bound for curve in points.values() for bound in (*curve.low, *curve.high)]
            margin = 0.06 * (max(ends) - min(ends)) + 0.01
            panel.set_ylim(max(0.0, min(ends) - margin), min(1.0, max(ends) + margin))
        panel.set_ylabel("right answers")
        panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure


def accuracy_per_domain(rows: Sequence[comparison.Row], heading: Heading) -> Figure | None:
    """Test accuracy of each domain with its interval; None with fewer than two domains."""
    names = list(dict.fromkeys(name for row in rows for name in row.domain_accuracies))
    if len(names) < 2:
        return None
    answered = [row for row in rows if row.domain_accuracies]
    lines = max(1, len(answered))
    height = len(names) * (0.14 + 0.1 * lines) + 0.2
    figure, (panel,) = canvas.panels(1, heading, columns=1, height=height, left=2.0)
    for place, row in enumerate(answered):
        # One line below the other within the domain's strip.
        aside = 0.7 * ((place + 0.5) / lines - 0.5)
        for line, name in enumerate(names):
            if (share := row.domain_accuracies.get(name)) is not None:
                panel.errorbar(
                    share.mean,
                    line + aside,
                    xerr=[[share.mean - share.low], [share.high - share.mean]],
                    fmt="o",
                    color=heading.strokes[row.label].colour,
                    ms=4,
                )
    panel.set_yticks(range(len(names)), [canvas.fitted(name, 1.8) for name in names])
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.grid(axis="y", visible=False)
    panel.set_xlim(left=0.0)
    panel.set_xlabel("right answers to test questions, 95 % interval")
    panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure


def validation_loss_per_domain(groups: Groups, heading: Heading) -> Figure | None:
    """Validation loss of each domain against updates; None when no run logged any."""
    names = list(dict.fromkeys(d for runs in groups.values() for d in runs[0].domains))
    figure, axes = canvas.panels(len(names), heading, columns=_COLUMNS, height=1.45)
    logged = False
    for index, (panel, name) in enumerate(zip(axes, names, strict=True)):
        drawn = {}
        for label, runs in groups.items():
            if name in runs[0].domains:
                domain = runs[0].domains.index(name)
                drawn[label] = curves.over_seeds(
                    runs, functools.partial(_domain_loss, domain=domain)
                )
        canvas.draw_curves(panel, drawn, heading.strokes)
        logged = logged or canvas.last_x(drawn.values()) > 0
        panel.set_title(canvas.fitted(name, canvas.width_of(panel) + 0.15), loc="left", size=8.5)
        panel.locator_params(axis="x", nbins=4)
        panel.locator_params(axis="y", nbins=5)
        if index >= len(names) - _COLUMNS:
            panel.set_xlabel("model updates")
        if index % _COLUMNS == 0:
            panel.set_ylabel("loss (nats/token)")
    return figure if logged else None


def _against(
    groups: Groups, read: Callable[[Run], curves.Series]
) -> dict[CostAxis, dict[str, curves.Curve]]:
    """The labels' curves against every cost_axis that some run has logged."""
    drawn = {
        cost_axis: {label: curves.over_seeds(runs, read, name) for label, runs in groups.items()}
        for name, cost_axis in CURRENCIES.items()
    }
    return {
        cost_axis: found
        for cost_axis, found in drawn.items()
        if cost_axis.name == "updates" or canvas.last_x(found.values()) > 0
    }


def _draw(
    panel: Axes,
    cost_axis: CostAxis,
    drawn: Mapping[str, curves.Curve],
    strokes: Mapping[str, Stroke],
) -> float:
    """Curves, title and x axis of a panel; returns how much a unit of the axis is."""
    divisor, unit = cost_axis.unit(canvas.last_x(drawn.values()))
    canvas.draw_curves(panel, drawn, strokes, divisor)
    panel.set_title(cost_axis.title, loc="left")
    panel.set_xlabel(f"{cost_axis.axis} ({unit})" if unit else cost_axis.axis)
    return divisor


def _test_accuracies(run: Run) -> curves.Series:
    return run.test_accuracies()


def _validated(run: Run) -> curves.Series:
    return run.series("validation_accuracy")


def _domain_loss(run: Run, domain: int) -> curves.Series:
    steps, losses = run.series("validation_loss_per_domain")
    return steps, losses[:, domain]


def _target_strokes(rows: Sequence[comparison.Row]) -> dict[str, Stroke]:
    """The legend entry of the dashed lines, when there are any."""
    baselines = [row.label for row in rows if row.is_baseline and row.target is not None]
    if not baselines or all(row.is_baseline for row in rows):
        return {}
    name = baselines[0] if len(baselines) == 1 else "the baseline"
    return {f"final loss of {name}": Stroke(theme.PALETTE["baseline"][0], theme.TARGET_DASH)}


def _draw_targets(
    panel: Axes,
    rows: Sequence[comparison.Row],
    strokes: Mapping[str, Stroke],
    cost_axis: CostAxis,
    divisor: float,
) -> None:
    """Dashed line at each baseline's final loss; marker and ratio where others first reach it."""
    if not _target_strokes(rows):
        return
    for row in rows:
        if row.is_baseline and row.target is not None:
            colour = strokes[row.label].colour
            panel.axhline(row.target, color=colour, lw=1.1, ls=theme.TARGET_DASH, zorder=1.5)
    # In an order in which no text crosses the line of a mark below it: those on the right, whose
    # text stands to the left, from the earliest on, then the others from the latest on.
    end = panel.get_xlim()[1]
    marks = sorted(
        _marks(rows, strokes, cost_axis, divisor),
        key=lambda mark: (_rightwards(mark, end), -mark.x if _rightwards(mark, end) else mark.x),
    )
    bottom, top = panel.get_ylim()
    # The ratios stand in a strip of their own below every curve, one line each.
    line = 0.085 * (top - bottom)
    noted = len(marks) <= _MOST_NOTES
    panel.set_ylim(bottom - line * len(marks) * noted, top)
    for index, mark in enumerate(marks):
        edge = theme.PALETTE["paper"][0]
        panel.plot(mark.x, mark.y, "o", ms=7, color=mark.colour, mec=edge, mew=1.4, zorder=5)
        if noted:
            _note(panel, mark, bottom - line * (index + 0.35))


def _marks(
    rows: Sequence[comparison.Row],
    strokes: Mapping[str, Stroke],
    cost_axis: CostAxis,
    divisor: float,
) -> list[_Mark]:
    """Where the labels reach their targets."""
    marks = []
    for row in rows:
        cost = row.costs[cost_axis.name]
        if row.is_baseline or row.target is None or cost.at is None or cost.ratio is None:
            continue
        text = f"{cost.ratio.mean:.2f}× the {cost_axis.noun}"
        if cost.reached < cost.pairs:
            text += f" ({cost.reached}/{cost.pairs} seeds)"
        marks.append(_Mark(cost.at / divisor, row.target, strokes[row.label].colour, text))
    return marks


def _rightwards(mark: _Mark, end: float) -> bool:
    """Whether a mark's text has its room to the right."""
    return mark.x < 0.55 * end


def _note(panel: Axes, mark: _Mark, y: float) -> None:
    """A dotted line from a mark down to its text at height y."""
    panel.plot([mark.x] * 2, [mark.y, y], color=mark.colour, lw=1, ls=(0, (1.2, 1.6)), zorder=1.6)
    rightwards = _rightwards(mark, panel.get_xlim()[1])
    panel.annotate(
        mark.text,
        (mark.x, y),
        xytext=(5 if rightwards else -5, 0),
        textcoords="offset points",
        ha="left" if rightwards else "right",
        va="center",
        color=mark.colour,
        weight="bold",
    )
