"""The charts of a report, as curves and numbers; `images` and `page` draw them."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import matplotlib.colors
import numpy as np
import pandas as pd

from partitionsel_jax.evaluation import guard
from partitionsel_jax.reporting import curves
from partitionsel_jax.reporting.comparison import Row
from partitionsel_jax.reporting.curves import Curve, Groups
from partitionsel_jax.reporting.runs import Run, Series

_BANDS = "Line: mean over seeds; band: 95 % t-interval of the mean; thin lines: single seeds."
_SMOOTHED = "Averaged over a window of a twentieth of the run."
_UNIT = "nats per token"
# Column -> panel title, axis label.
_DIAGNOSTICS = {
    "utility": ("Utility of the selection", "utility f(S)"),
    "certificate": ("Optimality certificate", "f(S) / f(whole pool)"),
    "effective_sample_size": ("Effective sample size", "examples"),
    "conflicting_pairs": ("Conflicting pairs", "share of pairs"),
    "matching_cosine": ("Match with the anchor direction", "cosine"),
    "conflicting_weight": ("Conflicting pairs by weight", "share of pair weight"),
    "redundancy": ("Redundancy of the picks", "mean pairwise cosine"),
    "top_k_overlap": ("Overlap with alignment top-k", "share of picks"),
}
INK, GREY = "#1f2429", "#737b84"
# Okabe and Ito, "Color Universal Design" (2008), darkened where their contrast with white would be
# below 3:1.
SERIES = ("#0072b2", "#d55e00", "#00906a", "#c4659a", "#b98400", "#3a9bd6")
_DASHES = ("solid", "dashed", "dotted", "dashdot")
# Fills: the light scheme of Paul Tol, "Colour Schemes", SRON/EPS/TN/09-002 (2021).
_FILLS = (
    *("#77aadd", "#ee8866", "#eedd88", "#44bb99", "#ffaabb"),
    *("#aaaa00", "#99ddff", "#bbcc33", "#dddddd"),
)
# Thin lines of single seeds are drawn for at most so many labels in a panel.
MOST_WITH_SEEDS = 4


@dataclasses.dataclass(frozen=True)
class Stroke:
    """Colour and dash pattern of a line; a label keeps its own in every chart."""

    colour: str
    dash: str = "solid"


@dataclasses.dataclass(frozen=True)
class Panel:
    """One pair of axes, and the curves of the labels that have values."""

    title: str
    unit: str  # the text at its y axis
    curves: Mapping[str, Curve]


@dataclasses.dataclass(frozen=True)
class Chart:
    """Curves over a run, in the panels that some run has values for."""

    name: str  # of its image files
    title: str
    caption: str
    panels: Sequence[Panel]
    levels: Sequence[float] = ()  # heights of dashed lines, which the legend calls `level`
    level: str = ""
    percent: bool = False  # for shares, whose axis begins at 0 and reads in percent
    by_cost: bool = False  # the image draws the first panel against every cost axis


@dataclasses.dataclass(frozen=True)
class Mix:
    """Domains of one label's candidates and picks, and their colours."""

    shares: pd.DataFrame  # smoothed share of each domain (column) in each update's picks (index)
    pool: pd.Series  # share of each domain among all candidates of all pools
    colours: Mapping[str, str]


def strokes(rows: Sequence[Row]) -> dict[str, Stroke]:
    """One stroke a label: grey for baselines, a colour for others; dashes distinguish repeats."""
    compared = any(not row.is_baseline for row in rows)
    given: dict[str, Stroke] = {}
    for colours, names in (
        ((GREY,), [row.label for row in rows if row.is_baseline and compared]),
        (SERIES, [row.label for row in rows if not (row.is_baseline and compared)]),
    ):
        for rank, name in enumerate(dict.fromkeys(names)):
            turn, index = divmod(rank, len(colours))
            given[name] = Stroke(colours[index], _DASHES[turn % len(_DASHES)])
    return given


def of_curves(groups: Groups, rows: Sequence[Row] = ()) -> list[Chart]:
    """The charts of an evaluation set that have something to show; `rows` have the targets."""
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
            list(targets.values()) if len(rows) > 1 else (),
            f"final loss of {named}",
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
                    "On the validation questions",
                    "right answers",
                    lambda run: run.series("validation_accuracy"),
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
            "guard",
            "Guard: small models on selected and on random rows",
            f"{_BANDS} Validation loss of a copy of the proxy that trains on random rows, minus "
            "that of one on selected rows, after equally many updates. Above 0, selection helps; "
            "the verdict compares them at equal FLOPs.",
            [panel("Random minus selected", _UNIT, _twins_apart)],
            [0.0],
            "no difference",
        ),
        Chart(
            "training_loss",
            "Training loss of the picks",
            f"{_BANDS} {_SMOOTHED} The picks differ between methods, so it does not compare them.",
            [panel("", _UNIT, functools.partial(_smoothed, column="loss"))],
        ),
        Chart(
            "selection_diagnostics",
            "Utility, certificate and diagnostics",
            f"{_BANDS} {_SMOOTHED} Utilities compare only between methods with the same "
            "objective; methods that compute none are left out.",
            [
                panel(title, unit, functools.partial(_smoothed, column=column))
                for column, (title, unit) in _DIAGNOSTICS.items()
            ],
        ),
        Chart(
            "corrupted_share",
            "Corrupted rows among the picks",
            f"{_BANDS} {_SMOOTHED} Dashed: share of corrupted rows in the candidate pool, the "
            "expected share of random picks.",
            [panel("", "share of the picks", _corrupted_selected)] if corrupted else [],
            corrupted,
            "candidate pool",
            percent=True,
        ),
        Chart(
            "overlap",
            f"Overlap of the picks with those of {next(iter(groups))}",
            "Jaccard index |A ∩ B| / |A ∪ B| of the picks from the same pool, seed by seed. "
            f"{_BANDS} {_SMOOTHED} Dashed: the expected overlap of two independent random picks.",
            [panel("", "|A ∩ B| / |A ∪ B|", _overlap(groups))],
            [chance] if chance else [],
            "picks at random",
            percent=True,
        ),
    ]
    shown = (
        dataclasses.replace(chart, panels=[panel for panel in chart.panels if panel.curves])
        for chart in charts
    )
    return [chart for chart in shown if chart.panels]


def mixes(groups: Groups) -> dict[str, Mix]:
    """The domain mix of every label that logged its picks."""
    names = list(dict.fromkeys(name for runs in groups.values() for name in runs[0].domains))
    colours = dict(zip(names, _fills(len(names)), strict=True))
    found = {}
    for label, runs in groups.items():
        domains = list(runs[0].domains)
        counts = curves.over_seeds(runs, lambda run: run.series("selected"))
        pool = sum(run.series("pool")[1].sum(0) for run in runs)
        steps = counts.x["updates"]
        if len(steps) > 1 and np.sum(pool):
            # Seeds have equal numbers of picks: shares of the mean are shares of all picks.
            picks = pd.DataFrame(curves.moving_sum(counts.mean), steps, domains)
            shares = picks.div(picks.sum(axis=1).clip(lower=1e-9), axis=0)
            found[label] = Mix(
                shares[curves.drawn_steps(steps)],
                pd.Series(pool / np.sum(pool), domains),
                {name: colours[name] for name in domains},
            )
    return found


def _fills(count: int) -> Sequence[str]:
    """So many fills; beyond the scheme, steps along viridis."""
    if count <= len(_FILLS):
        return _FILLS[:count]
    steps = matplotlib.colormaps["viridis"](np.linspace(0, 1, count))
    return [matplotlib.colors.to_hex(colour) for colour in steps]


def _panel(groups: Groups, title: str, unit: str, read: Callable[[Run], Series]) -> Panel:
    drawn = {label: curves.over_seeds(runs, read) for label, runs in groups.items()}
    shown = {label: c for label, c in drawn.items() if any(len(y) for _, y, _ in c.seeds)}
    return Panel(title, unit, shown)


def _twins_apart(run: Run) -> Series:
    (steps, selected), (_, random) = map(run.series, guard.LOSSES)
    return steps, random - selected


def _smoothed(run: Run, column: str) -> Series:
    return curves.smoothed(run.series(column))


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
