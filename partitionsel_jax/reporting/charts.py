"""The charts of a report, as curves and numbers, and their drawing as image files."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import ScaledTranslation

from partitionsel_jax.reporting import canvas, curves, tables, theme, wording
from partitionsel_jax.reporting.canvas import Heading
from partitionsel_jax.reporting.comparison import Row
from partitionsel_jax.reporting.costs import COST_AXES
from partitionsel_jax.reporting.curves import Curve, Groups, Series
from partitionsel_jax.reporting.runs import Run
from partitionsel_jax.reporting.theme import Stroke

_BANDS = "Line: mean over seeds; band: 95 % t-interval of the mean; thin lines: single seeds."
_SMOOTHED = "Averaged over a window of a twentieth of the run."
_UNIT = "nats per token"
_DASHED = Stroke(theme.PALETTE["baseline"][0], theme.TARGET_DASH)
# The names of the image files.
NAMES = (
    *("validation_loss", "accuracy", "validation_loss_per_domain", "training_loss"),
    *("selection_diagnostics", "corrupted_share", "overlap"),
    *("domain_mix", "accuracy_per_domain", "stage_shares"),
)
# Column -> panel title, axis label.
DIAGNOSTICS = {
    "utility": ("Utility of the selection", "utility f(S)"),
    "certificate": ("Optimality certificate", "f(S) / f(whole pool)"),
    "effective_sample_size": ("Effective sample size", "examples"),
    "conflicting_pairs": ("Conflicting pairs", "share of pairs"),
    "matching_cosine": ("Match with the anchor direction", "cosine"),
    "conflicting_weight": ("Conflicting pairs by weight", "share of pair weight"),
    "redundancy": ("Redundancy of the picks", "mean pairwise cosine"),
    "top_k_overlap": ("Overlap with alignment top-k", "share of picks"),
}


@dataclasses.dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
      title: above it.
      unit: the text at its y axis.
      curves: cost axis -> label -> curve, of labels that have values.
    """

    title: str
    unit: str
    curves: Mapping[str, Mapping[str, Curve]]


@dataclasses.dataclass(frozen=True)
class Chart:
    """Curves over a run.

    Attributes:
      name: the name of its image files.
      title, caption: above and below it.
      panels: the panels that some run has values for.
      levels: heights of dashed lines, and the legend's text for them.
      percent: True for shares, whose axis begins at 0 and reads in percent.
      by_cost: True if the image draws the first panel against every cost axis.
    """

    name: str
    title: str
    caption: str
    panels: Sequence[Panel]
    levels: tuple[Sequence[float], str] = ((), "")
    percent: bool = False
    by_cost: bool = False


@dataclasses.dataclass(frozen=True)
class Mix:
    """Domains of one label's candidates and picks.

    Attributes:
      shares: smoothed share of each domain (column) among the picks of each update (index).
      pool: share of each domain among all candidates of all pools.
      colours: the colour of each domain.
    """

    shares: pd.DataFrame
    pool: pd.Series
    colours: Mapping[str, str]


def of_curves(groups: Groups, rows: Sequence[Row] = ()) -> list[Chart]:
    """The charts of an evaluation set that have something to show.

    Args:
      groups: the runs of each label.
      rows: the headline rows of the same labels, for their targets.
    """
    runs = [run for found in groups.values() for run in found]
    domains = dict.fromkeys(name for run in runs for name in run.domains)
    targets = {row.label: row.target for row in rows if row.is_baseline and row.target is not None}
    named = next(iter(targets)) if len(targets) == 1 else "the baseline"
    chance = curves.overlap_by_chance(runs)
    corrupted = sorted({share for found in groups.values() if (share := _corrupted_pool(found))})
    panel = functools.partial(_panel, groups)
    charts = [
        Chart(
            "validation_loss",
            "Validation loss",
            f"{_BANDS} Dashed: final loss of the baseline. Training time leaves out compilation "
            "and evaluation. The first 5 % of a run lie above the frame where they would flatten "
            "the rest.",
            [panel("", _UNIT, Run.evaluations)],
            (list(targets.values()) if len(rows) > 1 else (), f"final loss of {named}"),
            by_cost=True,
        ),
        Chart(
            "accuracy",
            "Accuracy",
            "Share of right answers. Test questions are answered after the last update (and "
            "before the first by a pretrained model); validation questions on the way, where "
            "evaluation.answers_every asks for it. Bars and bands: 95 % t-interval over seeds.",
            [
                panel(
                    "On the validation questions", "right answers", _column("validation_accuracy")
                ),
                panel("On the test questions", "right answers", Run.test_accuracies),
            ],
            percent=True,
            by_cost=True,
        ),
        Chart(
            "validation_loss_per_domain",
            "Validation loss per domain",
            f"{_BANDS} Every panel has its own scale.",
            [panel(name, _UNIT, functools.partial(_domain_loss, domain=name)) for name in domains],
        ),
        Chart(
            "training_loss",
            "Training loss of the picks",
            f"{_BANDS} {_SMOOTHED} The picks differ between methods, so it does not compare them.",
            [panel("", _UNIT, _column("loss", curves.smoothed))],
        ),
        Chart(
            "selection_diagnostics",
            "Utility, certificate and diagnostics",
            f"{_BANDS} {_SMOOTHED} Utilities compare only between methods with the same "
            "objective; methods that compute none are left out.",
            [panel(*text, _column(name, curves.smoothed)) for name, text in DIAGNOSTICS.items()],
        ),
        Chart(
            "corrupted_share",
            "Corrupted rows among the picks",
            f"{_BANDS} {_SMOOTHED} Dashed: share of corrupted rows in the candidate pool, the "
            "expected share of random picks.",
            [panel("", "share of the picks", _corrupted_selected)] if corrupted else [],
            (corrupted, "candidate pool"),
            percent=True,
        ),
        Chart(
            "overlap",
            f"Overlap of the picks with those of {next(iter(groups))}",
            "Jaccard index |A ∩ B| / |A ∪ B| of the picks from the same pool, seed by seed. "
            f"{_BANDS} {_SMOOTHED} Dashed: the expected overlap of two independent random picks.",
            [panel("", "|A ∩ B| / |A ∪ B|", _overlap(groups))],
            ([chance] if chance else [], "picks at random"),
            percent=True,
        ),
    ]
    shown = (
        dataclasses.replace(chart, panels=[p for p in chart.panels if p.curves["updates"]])
        for chart in charts
    )
    return [chart for chart in shown if chart.panels]


def mixes(groups: Groups) -> dict[str, Mix]:
    """The domain mix of every label that logged its picks."""
    names = list(dict.fromkeys(name for runs in groups.values() for name in runs[0].domains))
    colours = {name: theme.fill(place, len(names)) for place, name in enumerate(names)}
    found = {}
    for label, runs in groups.items():
        domains = list(runs[0].domains)
        counts = curves.over_seeds(runs, _column("selected"))
        pool = sum(run.series("pool")[1].sum(0) for run in runs)
        if len(counts.x) > 1 and np.sum(pool):
            # Seeds have equal numbers of picks: shares of the mean are shares of all picks.
            picks = pd.DataFrame(curves.moving_sum(counts.mean), counts.x, domains)
            shares = picks.div(picks.sum(axis=1).clip(lower=1e-9), axis=0)
            found[label] = Mix(
                shares[curves.drawn_steps(counts.x)],
                pd.Series(pool / np.sum(pool), domains),
                {name: colours[name] for name in domains},
            )
    return found


def images(
    groups: Groups, rows: Sequence[Row], charts: Sequence[Chart], strokes: Mapping[str, Stroke]
) -> Iterator[tuple[str, Figure]]:
    """The image of every chart of an evaluation set that shows something, by its file's name.

    Call it under theme.RC.

    Args:
      groups, rows: runs and headline rows of the labels.
      charts: as `of_curves` gives them.
      strokes: the stroke of each label.
    """
    facts = wording.facts([run for runs in groups.values() for run in runs])
    own = {label: strokes[label] for label in groups}
    for chart in charts:
        yield chart.name, _curves(chart, Heading(chart.title, facts, own))
    if found := mixes(groups):
        colours = {name: c for mix in found.values() for name, c in mix.colours.items()}
        strokes = {name: Stroke(colour, (0, ())) for name, colour in colours.items()}
        yield "domain_mix", _mixes(found, Heading("Domain mix of the picks", facts, strokes))
    if len(tables.accuracies(rows)):
        heading = Heading("Test accuracy per domain", facts, own)
        yield "accuracy_per_domain", _accuracies(rows, heading)
    if len(shares := tables.stages(rows)):
        strokes = {stage: Stroke(colour, (0, ())) for stage, colour in theme.STAGES.items()}
        heading = Heading("Where the time of an update goes", facts, strokes)
        figure, (axis,) = canvas.panels(1, heading, 1, height=0.3 * len(shares) + 0.1, left=2.6)
        names = shares.index.map(lambda label: canvas.fitted(label, 2.4))
        shares.set_axis(names).plot.barh(stacked=True, ax=axis, color=theme.STAGES, legend=False)
        axis.set(xlabel="seconds of an update", ylabel="")
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
        yield "stage_shares", figure


def _curves(chart: Chart, heading: Heading) -> Figure:
    """The image of a chart of curves: its panels, or the first one against every cost axis."""
    panels = [(panel, "updates") for panel in chart.panels]
    if chart.by_cost:
        first = chart.panels[0]
        panels = [(first, name) for name, drawn in first.curves.items() if drawn]
    levels, level = chart.levels
    strokes = {**heading.strokes, **({level: _DASHED} if levels else {})}
    columns, height = {1: (1, 2.8), 2: (2, 2.6), 4: (2, 2.6)}.get(len(panels), (3, 1.8))
    legend = dataclasses.replace(heading, strokes=strokes)
    figure, axes = canvas.panels(len(panels), legend, columns, height)
    for axis, (panel, name) in zip(axes, panels, strict=True):
        drawn = panel.curves[name]
        divisor, unit = COST_AXES[name].unit(curves.last_x(drawn.values()))
        canvas.draw_curves(axis, drawn, heading.strokes, divisor)
        for place, (label, curve) in enumerate(drawn.items()):
            if len(curve.x) == 1:
                colour, half = heading.strokes[label].colour, curve.high - curve.mean
                # Points that would lie on each other stand side by side, so many inches apart.
                aside = axis.transData + ScaledTranslation(-0.09 * place, 0, figure.dpi_scale_trans)
                axis.errorbar(
                    *(curve.x / divisor, curve.mean, half),
                    fmt="o",
                    ms=5,
                    color=colour,
                    transform=aside,
                )
        for at in levels:
            axis.axhline(at, color=_DASHED.colour, lw=1.1, ls=_DASHED.dash)
        if chart.percent:
            axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            ends = [1.05 * float(curve.high[0]) for curve in drawn.values() if len(curve.x) == 1]
            axis.set_ylim(0, max([axis.get_ylim()[1], *ends, *(1.25 * at for at in levels)]))
        if chart.by_cost:  # the same quantity in every panel, so the same heights
            axis.set_ylim(axes[0].get_ylim())
        title = COST_AXES[name].title if chart.by_cost else panel.title
        axis.set_title(canvas.fitted(title, canvas.WIDTH / columns - 1), loc="left")
        axis.set_xlabel(f"{COST_AXES[name].axis} ({unit})" if unit else COST_AXES[name].axis)
        axis.set_ylabel(panel.unit)
    return figure


def _mixes(found: Mapping[str, Mix], heading: Heading) -> Figure:
    """Domain shares of the picks over time, one panel a label, with the pool's as a bar beside."""
    figure, axes = canvas.panels(len(found), heading, columns=2, height=2.3)
    for axis, (label, mix) in zip(axes, found.items(), strict=True):
        start, end = float(mix.shares.index[0]), float(mix.shares.index[-1])
        colours = list(mix.colours.values())
        axis.stackplot(mix.shares.index, mix.shares.to_numpy().T, colors=colours, lw=0)
        axis.bar(1.065 * end, mix.pool, 0.07 * end, mix.pool.cumsum() - mix.pool, color=colours)
        axis.text(1.065 * end, 1.015, "pool", ha="center", va="bottom")
        axis.set(xlim=(start, 1.1 * end), ylim=(0, 1), xlabel="model updates")
        axis.set_title(canvas.fitted(label, canvas.WIDTH / 2 - 1.2), loc="left")
        axis.set_ylabel("share of the picks")
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def _accuracies(rows: Sequence[Row], heading: Heading) -> Figure:
    """Test accuracy of each domain with its interval, one line a label."""
    names = list(dict.fromkeys(name for row in rows for name in row.domain_accuracies))
    answered = [row for row in rows if row.domain_accuracies]
    height = len(names) * (0.14 + 0.1 * len(answered)) + 0.2
    figure, (axis,) = canvas.panels(1, heading, columns=1, height=height, left=2.0)
    for place, row in enumerate(answered):
        shares = row.domain_accuracies.values()
        mean, low, high = np.array([(share.mean, share.low, share.high) for share in shares]).T
        # One line below the other within the domain's strip.
        aside = 0.7 * ((place + 0.5) / len(answered) - 0.5)
        y = [names.index(name) + aside for name in row.domain_accuracies]
        colour = heading.strokes[row.label].colour
        axis.errorbar(mean, y, xerr=[mean - low, high - mean], fmt="o", color=colour, ms=4)
    axis.set_yticks(range(len(names)), [canvas.fitted(name, 1.8) for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    axis.set_xlim(left=0.0)
    axis.set_xlabel("right answers to test questions, 95 % interval")
    axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure


def _panel(groups: Groups, title: str, unit: str, read: Callable[[Run], Series]) -> Panel:
    series = {run.name: read(run) for runs in groups.values() for run in runs}
    found: dict[str, dict[str, Curve]] = {axis: {} for axis in COST_AXES}
    for axis, drawn in found.items():
        for label, runs in groups.items():
            curve = curves.over_seeds(runs, lambda run: series[run.name], axis)
            if any(len(x) for x, _, _ in curve.seeds):
                drawn[label] = curve
    return Panel(title, unit, found)


def _column(
    name: str, change: Callable[[Series], Series] = lambda series: series
) -> Callable[[Run], Series]:
    return lambda run: change(run.series(name))


def _domain_loss(run: Run, domain: str) -> Series:
    steps, losses = run.series("validation_loss_per_domain")
    return (steps, losses[:, run.domains.index(domain)]) if domain in run.domains else curves.EMPTY


def _corrupted_selected(run: Run) -> Series:
    steps, picks = run.series("selected")
    return curves.share(run.series("corrupted_selected"), (steps, picks.sum(1)))


def _corrupted_pool(runs: Sequence[Run]) -> float:
    """Share of corrupted rows among all candidates, in whole percent; 0 where none was logged."""
    corrupted, pool = (
        sum(float(run.series(name)[1].sum()) for run in runs) for name in ("corrupted_pool", "pool")
    )
    return round(corrupted / pool, 2) if pool else 0.0


def _overlap(groups: Groups) -> Callable[[Run], Series]:
    read = curves.overlap_with_first(groups)
    return lambda run: curves.smoothed(read(run))
