"""The sheet a chart is drawn on: heading, legend, a grid of panels, and the curves in a panel."""

import dataclasses
import functools
import io
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath

from partitionsel_jax.reporting import curves, theme
from partitionsel_jax.reporting.curves import Curve
from partitionsel_jax.reporting.theme import Stroke

DPI = 100
# The width of every chart, in inches.
WIDTH = 9.6
# Thin lines of single seeds are drawn for at most so many labels in a panel.
MOST_WITH_SEEDS = 4


@dataclasses.dataclass(frozen=True)
class Heading:
    """Title and subtitle of a chart, and the entries of its legend (label -> stroke)."""

    title: str
    subtitle: str
    strokes: Mapping[str, Stroke]


def panels(
    count: int, heading: Heading, columns: int, height: float = 2.0, left: float = 0.7
) -> tuple[Figure, list[Axes]]:
    """A figure with a heading and a grid of equally large axes; call it under theme.RC.

    Args:
      count: number of axes, at least 1.
      heading: title, subtitle and legend above them.
      columns: axes in a row.
      height: the height of one axes, inches.
      left: space for labels beside each axes, inches.
    """
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    below, gap, right = 0.5, 0.3, 0.15
    names = [fitted(label, WIDTH - 1) for label in heading.strokes]
    in_line = max(1, int(WIDTH / (0.7 + max(map(text_width, names), default=0.0))))
    header = 1.04 + 0.24 * -(-len(names) // in_line)
    total = header + rows * (height + below) + (rows - 1) * gap
    figure = Figure(figsize=(WIDTH, total), dpi=DPI)
    FigureCanvasAgg(figure)
    cell = WIDTH / columns
    axes = []
    for index in range(count):
        row, column = divmod(index, columns)
        bottom = total - header - row * (height + below + gap) - height
        box = np.array([column * cell + left, bottom, cell - left - right, height])
        axes.append(figure.add_axes(tuple(box / [WIDTH, total, WIDTH, total])))
    text = functools.partial(figure.text, 0.14 / WIDTH, va="top")
    text(y=1 - 0.16 / total, s=heading.title, size=13, weight="bold")
    muted = theme.PALETTE["muted"][0]
    text(y=1 - 0.45 / total, s=fitted(heading.subtitle, 0.92 * WIDTH), size=9.5, color=muted)
    if names:
        figure.legend(
            [Line2D([], [], color=s.colour, ls=s.dash, lw=2) for s in heading.strokes.values()],
            names,
            loc="upper left",
            bbox_to_anchor=(0.0, 1 - 0.62 / total),
            ncols=in_line,
            frameon=False,
        )
    return figure, axes


@functools.cache
def text_width(text: str) -> float:
    """Inches that a text takes in the charts' type."""
    if not text.strip():  # matplotlib fails to make a path of it
        return 0.0
    outline = TextPath((0, 0), text, size=theme.FONT_SIZE).vertices
    return float(np.max(outline[:, 0], initial=0.0)) / 72


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
      curve: the curve to draw.
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
    if (ends := curves.limits(drawn.values())) is not None:
        panel.set_ylim(ends)
    if (end := curves.last_x(drawn.values())) > 0:
        panel.set_xlim(0, 1.01 * end / divisor)


def png(figure: Figure, scale: int = 2) -> bytes:
    """The figure as a PNG of `scale` times its nominal resolution."""
    return _saved(figure, format="png", dpi=scale * DPI)


def svg(figure: Figure) -> str:
    """The figure as a stand-alone SVG document."""
    unstated = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    return _saved(figure, format="svg", metadata=unstated).decode()


def _saved(figure: Figure, **options) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, **options)
    return buffer.getvalue()
