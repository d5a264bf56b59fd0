"""The sheet a chart is drawn on: heading, legend, a grid of panels, and the curves in a panel."""

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath

from partitionsel_jax.reporting import theme
from partitionsel_jax.reporting.curves import Curve
from partitionsel_jax.reporting.theme import Stroke

DPI = 100
# Of every chart, in inches.
WIDTH = 9.6
# Labels in one panel up to which the thin lines of single seeds can be told apart.
MOST_WITH_SEEDS = 4


@dataclasses.dataclass(frozen=True)
class Heading:
    """Title and subtitle of a chart, and what its legend explains (label -> stroke)."""

    title: str
    subtitle: str
    strokes: Mapping[str, Stroke]


def panels(
    count: int,
    heading: Heading,
    columns: int,
    height: float = 2.0,
    right: float = 0.15,
    left: float = 0.7,
) -> tuple[Figure, list[Axes]]:
    """A figure with a heading and a grid of equally large axes; call it under theme.RC.

    Args:
      count: number of axes, at least 1.
      heading: what stands above them.
      columns: axes in a row.
      height: of one axes, inches.
      right, left: space beside each axes for labels, inches.
    """
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    below, gap = 0.5, 0.3
    entries = _legend_rows(heading.strokes, WIDTH)
    header = 0.74 + 0.24 * len(entries) + 0.3
    total = header + rows * (height + below) + (rows - 1) * gap
    figure = Figure(figsize=(WIDTH, total), dpi=DPI)
    FigureCanvasAgg(figure)
    cell = WIDTH / columns
    axes = []
    for index in range(count):
        row, column = divmod(index, columns)
        bottom = total - header - row * (height + below + gap) - height
        box = (
            (column * cell + left) / WIDTH,
            bottom / total,
            (cell - left - right) / WIDTH,
            height / total,
        )
        axes.append(figure.add_axes(box))
    _write_heading(figure, heading, entries)
    return figure, axes


@functools.cache
def text_width(text: str) -> float:
    """Inches that a text takes in the charts' type."""
    outline = TextPath((0, 0), text, size=theme.FONT_SIZE).vertices
    return float(np.max(outline[:, 0], initial=0.0)) / 72


def width_of(panel: Axes) -> float:
    """Inches from the left to the right end of an axes."""
    return panel.get_window_extent().width / DPI


def fitted(text: str, width: float) -> str:
    """The text, cut off with an ellipsis where it is wider than `width` inches."""
    if text_width(text) <= width:
        return text
    while text and text_width(text + "…") > width:
        text = text[:-1]
    return text + "…"


def draw_curve(
    panel: Axes, curve: Curve, stroke: Stroke, divisor: float = 1.0, neighbours: int = 0
) -> None:
    """Mean line, its 95 % interval as a band, and each seed as a thin line (dotted: unfinished).

    Args:
      panel: where to draw.
      curve: what to draw.
      stroke: colour and dash pattern of the mean.
      divisor: units of x per unit of the axis.
      neighbours: other labels in the panel; where they are many, bands are paler and the seeds'
        lines are left out.
    """
    several = len(curve.seeds) > 1
    if several and len(curve.x):
        alpha = min(0.15, 0.6 / (neighbours + 1))
        panel.fill_between(
            curve.x / divisor, curve.low, curve.high, color=stroke.colour, alpha=alpha, linewidth=0
        )
    for x, y, finished in curve.seeds:
        if not finished or (several and neighbours < MOST_WITH_SEEDS):
            dash = "-" if finished else ":"
            panel.plot(x / divisor, y, color=stroke.colour, lw=0.7, alpha=0.4, ls=dash)
    panel.plot(curve.x / divisor, curve.mean, color=stroke.colour, lw=2.0, ls=stroke.dash)


def draw_curves(
    panel: Axes, drawn: Mapping[str, Curve], strokes: Mapping[str, Stroke], divisor: float = 1.0
) -> None:
    """All labels' curves in one panel, and the axes fitted to them."""
    for label, curve in drawn.items():
        draw_curve(panel, curve, strokes[label], divisor, neighbours=len(drawn) - 1)
    frame(panel, drawn.values(), divisor)


def frame(panel: Axes, drawn: Collection[Curve], divisor: float = 1.0) -> None:
    """Fits the axes to the curves, without the steep first twentieth where that hides the rest."""
    lines = [(x, y) for curve in drawn for x, y, _ in curve.seeds if len(x)]
    if not lines:
        return
    x, y = (np.concatenate(values) for values in zip(*lines, strict=True))
    finite = np.isfinite(x) & np.isfinite(y)
    if not finite.any():
        return
    x, y, end = x[finite], y[finite], last_x(drawn)
    low, top = y.min(), y.max()
    # Bands of few seeds may be far wider than their curves: they are cut off half a range away.
    room = 0.5 * (top - low)
    bands = [(curve.x, bound) for curve in drawn for bound in (curve.low, curve.high)]
    x = np.concatenate([x, *(places for places, _ in bands)])
    y = np.concatenate([y, *(np.clip(bound, low - room, top + room) for _, bound in bands)])
    later = y[(x >= 0.05 * end) & np.isfinite(y)]
    low = min(low, np.min(later, initial=low))
    highest = np.max(later, initial=low)
    top = highest if highest - low < 0.6 * (top - low) else max(top, highest)
    margin = 0.06 * (top - low) or 0.05 * abs(top) or 1.0
    panel.set_ylim(low - margin, top + margin)
    if end > 0:
        panel.set_xlim(0, 1.01 * end / divisor)


def last_x(drawn: Collection[Curve]) -> float:
    """The largest finite position of any curve, 0 when there is none."""
    ends = [np.max(x[np.isfinite(x)], initial=0.0) for c in drawn for x, _, _ in c.seeds]
    return float(max(ends, default=0.0))


def _legend_rows(entries: Mapping[str, Stroke], width: float) -> list[list[str]]:
    """Breaks the legend into lines that fit the width."""
    rows: list[list[str]] = []
    room = 0.0
    for label in entries:
        room -= _entry_width(label)
        if not rows or room < 0:
            rows.append([])
            room = width - 0.3 - _entry_width(label)
        rows[-1].append(label)
    return rows


def _entry_width(label: str) -> float:
    return 0.41 + text_width(label) + 0.28


def _write_heading(figure: Figure, heading: Heading, entries: Sequence[Sequence[str]]) -> None:
    width, total = figure.get_size_inches()
    y = total - 0.12
    figure.text(0.14 / width, (y - 0.04) / total, heading.title, size=13, weight="bold", va="top")
    figure.text(
        0.14 / width,
        (y - 0.33) / total,
        fitted(heading.subtitle, 0.92 * width),
        size=theme.FONT_SIZE + 0.5,
        color=theme.PALETTE["muted"][0],
        va="top",
    )
    y -= 0.62
    for row in entries:
        x = 0.14
        for label in row:
            stroke = heading.strokes[label]
            line = Line2D(
                [x / width, (x + 0.34) / width],
                [(y - 0.1) / total] * 2,
                color=stroke.colour,
                linestyle=stroke.dash,
                linewidth=2.0,
            )
            figure.add_artist(line)
            text = fitted(label, width - x - 0.5)
            figure.text((x + 0.41) / width, (y - 0.105) / total, text, va="center_baseline")
            x += _entry_width(label)
        y -= 0.24
