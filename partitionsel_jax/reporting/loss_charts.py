"""Charts of the validation loss: against updates and seconds, and per domain."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from partitionsel_jax.reporting import canvas, comparison, curves, theme
from partitionsel_jax.reporting.canvas import Heading, Layout
from partitionsel_jax.reporting.runs import Run
from partitionsel_jax.reporting.theme import Stroke

Groups = Mapping[str, Sequence[Run]]
_MOST_NOTES = 4


@dataclasses.dataclass(frozen=True)
class _Mark:
    """Where a label first reaches its target, in the units of the axes, and the text beside it."""

    x: float
    y: float
    colour: str
    text: str


def validation_loss(
    groups: Groups, rows: Sequence[comparison.Row], heading: Heading, layout: Layout
) -> Figure:
    """Validation loss against updates and against seconds, and where the target is reached.

    Args:
      groups: the runs of each label.
      rows: the headline rows of the same labels.
      heading: title, subtitle and the stroke of each label.
      layout: where the chart goes.
    """
    columns = 2 if layout.width > canvas.PHONE.width else 1
    legend = dataclasses.replace(heading, strokes={**heading.strokes, **_target_strokes(rows)})
    figure, axes = canvas.panels(2, legend, layout, columns, height=3.1)
    heights = None
    for panel, seconds in zip(axes, (False, True), strict=True):
        drawn = {
            label: curves.over_seeds(runs, Run.evaluations, seconds)
            for label, runs in groups.items()
        }
        divisor, unit = time_unit(canvas.last_x(drawn.values())) if seconds else (1.0, "updates")
        canvas.draw_curves(panel, drawn, heading.strokes, divisor)
        # The same losses in both panels, so the same heights.
        heights = heights or panel.get_ylim()
        panel.set_ylim(heights)
        panel.set_title("against training time" if seconds else "against updates", loc="left")
        panel.set_xlabel(f"training time ({unit})" if seconds else "model updates")
        panel.set_ylabel("validation loss (nats per token)")
        _draw_targets(panel, rows, heading.strokes, seconds, divisor)
    return figure


def validation_loss_per_domain(groups: Groups, heading: Heading, layout: Layout) -> Figure | None:
    """Validation loss of each domain against updates; None when no run logged any."""
    names = list(dict.fromkeys(d for runs in groups.values() for d in runs[0].domains))
    figure, axes = canvas.panels(len(names), heading, layout, columns=4, height=1.45)
    columns = min(4, layout.most_columns)
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
        if index >= len(names) - columns:
            panel.set_xlabel("model updates")
        if index % columns == 0:
            panel.set_ylabel("loss (nats/token)")
    return figure if logged else None


def time_unit(seconds: float) -> tuple[float, str]:
    """Seconds per unit and the unit's name, so that an axis up to `seconds` reads well."""
    for size, unit in ((86_400.0, "days"), (3_600.0, "hours"), (60.0, "minutes")):
        if seconds > 5 * size:
            return size, unit
    return 1.0, "seconds"


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
    seconds: bool,
    divisor: float,
) -> None:
    """Dashed line at each baseline's final loss; marker and ratio where others first reach it."""
    if not _target_strokes(rows):
        return
    for row in rows:
        if row.is_baseline and row.target is not None:
            colour = strokes[row.label].colour
            panel.axhline(row.target, color=colour, lw=1.1, ls=theme.TARGET_DASH, zorder=1.5)
    marks = _marks(rows, strokes, seconds, divisor)
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
    rows: Sequence[comparison.Row], strokes: Mapping[str, Stroke], seconds: bool, divisor: float
) -> list[_Mark]:
    """Where the labels reach their targets, the latest first."""
    marks = []
    for row in rows:
        cost = row.seconds if seconds else row.updates
        if row.is_baseline or row.target is None or cost.at is None or cost.ratio is None:
            continue
        text = f"{cost.ratio.mean:.2f}× the {'time' if seconds else 'updates'}"
        if cost.reached < cost.pairs:
            text += f" ({cost.reached}/{cost.pairs} seeds)"
        marks.append(_Mark(cost.at / divisor, row.target, strokes[row.label].colour, text))
    return sorted(marks, key=lambda mark: -mark.x)


def _note(panel: Axes, mark: _Mark, y: float) -> None:
    """A dotted line from a mark down to its text at height y."""
    panel.plot([mark.x] * 2, [mark.y, y], color=mark.colour, lw=1, ls=(0, (1.2, 1.6)), zorder=1.6)
    rightwards = mark.x < 0.55 * panel.get_xlim()[1]
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
