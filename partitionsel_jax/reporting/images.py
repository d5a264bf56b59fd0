"""The image files of a report, drawn by matplotlib."""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import ScaledTranslation

from partitionsel_jax.reporting import charts, curves, tables, wording
from partitionsel_jax.reporting.charts import GREY, SERIES, Chart, Mix, Stroke
from partitionsel_jax.reporting.comparison import Row
from partitionsel_jax.reporting.costs import COST_AXES
from partitionsel_jax.reporting.curves import Curve, Groups
from partitionsel_jax.reporting.runs import STAGES

# The names of the image files.
NAMES = (
    *("validation_loss", "accuracy", "validation_loss_per_domain", "guard"),
    *("training_loss", "selection_diagnostics", "corrupted_share", "overlap"),
    *("domain_mix", "accuracy_per_domain", "stage_shares"),
)
# Of matplotlib, while charts are made and saved.
STYLE: Any = {
    **{"font.size": 9, "axes.grid": True, "grid.color": "#e4e7eb", "axes.titlesize": 9},
    **{"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False},
    # Names may hold dollars; the same chart gives the same file.
    **{"text.parse_math": False, "svg.fonttype": "path", "svg.hashsalt": "partitionsel_jax"},
}
_DASHED = Stroke(GREY, "dashed")
_LONGEST = 60
_STAGES = dict(zip(STAGES, (SERIES[0], SERIES[4], SERIES[2]), strict=True))


def of_set(
    groups: Groups, rows: Sequence[Row], drawn: Sequence[Chart], strokes: Mapping[str, Stroke]
) -> Iterator[tuple[str, str, bytes]]:
    """Name, format and content of the PNG and SVG files of all charts that show something."""
    facts = wording.facts([run for runs in groups.values() for run in runs])
    own = {label: strokes[label] for label in groups}
    with matplotlib.rc_context(STYLE):
        for chart in drawn:
            level = {chart.level: _DASHED} if chart.levels else {}
            yield from _files(chart.name, _curves(chart, own), chart.title, facts, own | level)
        if mixes := charts.mixes(groups):
            colours = {name: Stroke(c) for mix in mixes.values() for name, c in mix.colours.items()}
            figure = _mixes(mixes)
            yield from _files("domain_mix", figure, "Domain mix of the picks", facts, colours)
        if len(tables.accuracies(rows)):
            figure = _accuracies(rows, own)
            yield from _files("accuracy_per_domain", figure, "Test accuracy per domain", facts, own)
        if len(shares := tables.stages(rows)):
            figure, ((axis,),) = sheet(1, 1, 0.3 * len(shares) + 0.1)
            shares.index = shares.index.map(_fitted)
            shares.plot.barh(stacked=True, ax=axis, color=_STAGES, legend=False)
            axis.set(xlabel="seconds of an update", ylabel="")
            axis.invert_yaxis()
            axis.grid(axis="y", visible=False)
            stages = {stage: Stroke(colour) for stage, colour in _STAGES.items()}
            title = "Where the time of an update goes"
            yield from _files("stage_shares", figure, title, facts, stages)


def sheet(rows: int, columns: int, height: float) -> tuple[Figure, np.ndarray]:
    """A figure with a grid of axes, each of so many inches; call it under `STYLE`."""
    figure = Figure(figsize=(9.6, 0.9 + rows * height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _grid(count: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    figure, grid = sheet(-(-count // columns), columns, height)
    for spare in grid.flat[count:]:
        spare.remove()
    return figure, list(grid.flat[:count])


def _files(
    name: str, figure: Figure, title: str, facts: str, strokes: Mapping[str, Stroke]
) -> Iterator[tuple[str, str, bytes]]:
    """Adds heading and legend, and saves both formats."""
    names = list(map(_fitted, strokes))
    columns = max(1, int(130 / (8 + max(map(len, names)))))
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.2 * -(-len(names) // columns))
    figure.legend(
        [Line2D([], [], color=s.colour, ls=s.dash, lw=2) for s in strokes.values()],
        names,
        loc="outside lower center",
        ncols=columns,
    )
    figure.suptitle(f"{title}\n{facts}", x=0.01, ha="left")
    layout: Any = figure.get_layout_engine()
    layout.execute(figure)  # once for both files
    figure.set_layout_engine("none")
    unstated = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    for ending, options in (("png", {"dpi": 200}), ("svg", {"metadata": unstated})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=ending, **options)
        yield name, ending, buffer.getvalue()


def _fitted(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _curves(chart: Chart, strokes: Mapping[str, Stroke]) -> Figure:
    """The image of a chart of curves: its panels, or the first one against every cost axis."""
    panels = [(panel, "updates") for panel in chart.panels]
    if chart.by_cost:
        first = chart.panels[0]
        panels = [(first, axis) for axis in COST_AXES if curves.last_x(first.curves.values(), axis)]
    columns, height = {1: (1, 3.3), 2: (2, 3.1), 4: (2, 3.1)}.get(len(panels), (3, 2.3))
    figure, grid = _grid(len(panels), columns, height)
    for axes, (panel, name) in zip(grid, panels, strict=True):
        axis, drawn = COST_AXES[name], panel.curves.values()
        end = curves.last_x(drawn, name)
        divisor, unit = axis.unit(end)
        for place, (label, curve) in enumerate(panel.curves.items()):
            _draw(axes, curve, strokes[label], name, divisor, place, len(drawn))
        for at in chart.levels:
            axes.axhline(at, color=_DASHED.colour, lw=1.1, ls=_DASHED.dash)
        axes.set_ylim(curves.limits(drawn))
        if end > 0:
            axes.set_xlim(0, 1.01 * end / divisor)
        if chart.percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            tops = [1.05 * float(c.mean[0] + c.half[0]) for c in drawn if len(c.mean) == 1]
            levels = [1.25 * at for at in chart.levels]
            axes.set_ylim(0, max([axes.get_ylim()[1], *tops, *levels]))
        axes.set_title(_fitted(axis.title if chart.by_cost else panel.title), loc="left")
        axes.set_xlabel(f"{axis.axis} ({unit})" if unit else axis.axis)
        axes.set_ylabel(panel.unit)
    return figure


def _draw(
    axes: Axes, curve: Curve, stroke: Stroke, axis: str, divisor: float, place: int, among: int
) -> None:
    """Mean line, its 95 % interval as a band, and each seed as a thin line (dotted: unfinished)."""
    several, colour = len(curve.seeds) > 1, stroke.colour
    for spent, y, finished in curve.seeds:
        if axis in spent and (not finished or (several and among <= charts.MOST_WITH_SEEDS)):
            dash = "-" if finished else ":"
            axes.plot(spent[axis] / divisor, y, color=colour, lw=0.7, alpha=0.4, ls=dash)
    if axis not in curve.x:
        return
    x, mean, half = curve.x[axis] / divisor, curve.mean, curve.half
    if several and len(x):
        # Where there are many labels, bands are paler and the seeds' lines are left out.
        alpha = min(0.15, 0.6 / among)
        axes.fill_between(x, mean - half, mean + half, color=colour, alpha=alpha, linewidth=0)
    axes.plot(x, mean, color=colour, lw=2.0, ls=stroke.dash)
    if len(x) == 1:
        # Points that would lie on each other stand side by side, so many inches apart.
        inches: Any = axes.figure.dpi_scale_trans
        aside = axes.transData + ScaledTranslation(-0.09 * place, 0, inches)
        axes.errorbar(x, mean, half, fmt="o", ms=5, color=colour, transform=aside)


def _mixes(mixes: Mapping[str, Mix]) -> Figure:
    """Domain shares of the picks over time, one panel a label, with the pool's as a bar beside."""
    figure, grid = _grid(len(mixes), min(2, len(mixes)), 2.8)
    for axis, (label, mix) in zip(grid, mixes.items(), strict=True):
        colours, end = list(mix.colours.values()), float(mix.shares.index[-1])
        mix.shares.plot.area(ax=axis, color=colours, lw=0, legend=False, title=_fitted(label))
        axis.bar(1.065 * end, mix.pool, 0.07 * end, mix.pool.cumsum() - mix.pool, color=colours)
        axis.text(1.065 * end, 1.015, "pool", ha="center", va="bottom")
        axis.set(xlim=(mix.shares.index[0], 1.1 * end), ylim=(0, 1))
        axis.set(xlabel="model updates", ylabel="share of the picks")
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def _accuracies(rows: Sequence[Row], strokes: Mapping[str, Stroke]) -> Figure:
    """Test accuracy of each domain with its interval, one line a label."""
    names = list(dict.fromkeys(name for row in rows for name in row.domain_accuracies))
    answered = [row for row in rows if row.domain_accuracies]
    figure, ((axis,),) = sheet(1, 1, len(names) * (0.14 + 0.1 * len(answered)) + 0.2)
    for place, row in enumerate(answered):
        shares = row.domain_accuracies.values()
        mean, low, high = np.array([(share.mean, share.low, share.high) for share in shares]).T
        # One line below the other within the domain's strip.
        aside = 0.7 * ((place + 0.5) / len(answered) - 0.5)
        y = [names.index(name) + aside for name in row.domain_accuracies]
        colour = strokes[row.label].colour
        axis.errorbar(mean, y, xerr=[mean - low, high - mean], fmt="o", color=colour, ms=4)
    axis.set_yticks(range(len(names)), list(map(_fitted, names)))
    axis.set(ylim=(len(names) - 0.5, -0.5), xlim=(0.0, None))
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("right answers to test questions, 95 % interval")
    axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure
