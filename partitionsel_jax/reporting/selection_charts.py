"""Charts of what was selected: domain mix, corrupted rows, and the selection's diagnostics."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from partitionsel_jax.reporting import canvas, comparison, curves, overlaps, theme
from partitionsel_jax.reporting.canvas import Heading
from partitionsel_jax.reporting.runs import STAGES, Run

Groups = Mapping[str, Sequence[Run]]
_INK, _MUTED = (theme.PALETTE[name][0] for name in ("ink", "muted"))
_SAME_SHARE = 0.02
# Inches: the widest name of a domain, and from one name to the next.
_WIDEST_NAME, _LINE = 1.5, 0.165
STAGE_COLOURS = {
    stage: theme.PALETTE[name][0]
    for stage, name in zip(STAGES, ("blue", "amber", "green"), strict=True)
}
# Column, panel title, axis label.
DIAGNOSTICS = (
    ("utility", "Utility of the selection", "utility f(S)"),
    ("certificate", "Optimality certificate", "f(S) / f(whole pool)"),
    ("effective_sample_size", "Effective sample size", "examples"),
    ("conflicting_pairs", "Conflicting pairs", "share of pairs"),
    ("matching_cosine", "Match with the anchor direction", "cosine"),
    ("conflicting_weight", "Conflicting pairs by weight", "share of pair weight"),
    ("redundancy", "Redundancy of the picks", "mean pairwise cosine"),
    ("top_k_overlap", "Overlap with alignment top-k", "share of picks"),
)


def domain_mix(groups: Groups, heading: Heading) -> Figure | None:
    """Domain shares of the picks over time, one panel a label, with the pool's beside it.

    Args:
      groups: the runs of each label.
      heading: title and subtitle; its strokes are not used.

    Returns:
      The chart, or None when no run logged its picks.
    """
    mixes = {label: mix for label, runs in groups.items() if (mix := _mix(runs)) is not None}
    if not mixes:
        return None
    names = list(dict.fromkeys(name for label in mixes for name in groups[label][0].domains))
    shown = {name: canvas.fitted(name, _WIDEST_NAME) for name in names}
    right = 0.2 + max(canvas.text_width(text) for text in shown.values())
    height = max(2.3, _LINE * len(names))
    figure, axes = canvas.panels(len(mixes), heading, columns=2, height=height, right=right)
    for panel, (label, (steps, picks, pool)) in zip(axes, mixes.items(), strict=True):
        domains = groups[label][0].domains
        fills = [theme.fill(names.index(name), len(names)) for name in domains]
        panel.stackplot(steps, picks.T, colors=fills, lw=0.4, ec=theme.PALETTE["paper"][0])
        end = float(steps[-1])
        left, width = 1.03 * end, 0.07 * end
        middles = np.cumsum(pool) - pool / 2
        panel.bar(left, pool, width, np.cumsum(pool) - pool, color=fills, align="edge")
        panel.text(left + width / 2, 1.015, "pool", ha="center", va="bottom", color=_MUTED)
        panel.set(xlim=(steps[0], left + width), ylim=(0, 1), xlabel="model updates")
        panel.set_xticks([tick for tick in panel.get_xticks() if steps[0] <= tick <= end])
        panel.set_xlim(steps[0], left + width)
        panel.set_title(canvas.fitted(label, 0.85 * canvas.width_of(panel)), loc="left")
        panel.set_ylabel("share of the picks")
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
        panel.spines["bottom"].set_bounds(steps[0], end)
        for y, name in zip(spaced(middles, gap=_LINE / height), domains, strict=True):
            panel.text(left + 1.35 * width, y, shown[name], va="center", size=8.5)
    return figure


def corrupted_share(groups: Groups, heading: Heading) -> Figure | None:
    """Share of corrupted rows among the picks over time, the pool's dashed; None without any."""
    if not any(run.series("corrupted_pool")[1].any() for runs in groups.values() for run in runs):
        return None
    dashed = {"candidate pool": theme.Stroke(_INK, theme.TARGET_DASH)}
    legend = dataclasses.replace(heading, strokes={**heading.strokes, **dashed})
    figure, (panel,) = canvas.panels(1, legend, columns=1, height=2.7)
    drawn = {label: curves.over_seeds(runs, corrupted_selected) for label, runs in groups.items()}
    canvas.draw_curves(panel, drawn, heading.strokes)
    pools = {label: curves.over_seeds(runs, _corrupted_pool) for label, runs in groups.items()}
    pools = {label: pool for label, pool in pools.items() if len(pool.x)}
    levels = [float(np.mean(pool.mean)) for pool in pools.values()]
    # Methods that are compared see the same pools: one line stands for all of them.
    one_line = max(levels, default=0) - min(levels, default=0) < _SAME_SHARE
    for label in list(pools)[:1] if one_line else pools:
        colour = _INK if one_line else heading.strokes[label].colour
        panel.plot(pools[label].x, pools[label].mean, color=colour, lw=1.4, ls=theme.TARGET_DASH)
    panel.set_ylim(0, max(panel.get_ylim()[1], 1.25 * max(levels, default=0)))
    panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panel.set_xlabel("model updates")
    panel.set_ylabel("corrupted share of the picks")
    return figure


def diagnostics(groups: Groups, heading: Heading) -> Figure | None:
    """Utility, certificate and whatever other diagnostics were logged, smoothed over time."""
    logged = [spec for spec in DIAGNOSTICS if any(_has(runs, spec[0]) for runs in groups.values())]
    if not logged:
        return None
    columns = 2 if len(logged) in (2, 4) else 3
    figure, axes = canvas.panels(len(logged), heading, columns, height=1.8)
    for panel, (column, title, unit) in zip(axes, logged, strict=True):
        drawn = {
            label: curves.over_seeds(runs, functools.partial(_smoothed, column=column))
            for label, runs in groups.items()
            if _has(runs, column)
        }
        canvas.draw_curves(panel, drawn, heading.strokes)
        panel.set_title(title, loc="left")
        panel.set_ylabel(unit)
        panel.set_xlabel("model updates")
    return figure


def overlap(groups: Groups, heading: Heading) -> Figure | None:
    """Overlap of each label's picks with the first label's over time; None without a partner."""
    read = overlaps.reader(groups)
    drawn = {
        label: curves.over_seeds(runs, lambda run: curves.smoothed(read(run)))
        for label, runs in groups.items()
    }
    drawn = {label: curve for label, curve in drawn.items() if len(curve.x)}
    if not drawn:
        return None
    level = overlaps.chance([run for runs in groups.values() for run in runs])
    dashed = {"picks at random": theme.Stroke(_MUTED, theme.TARGET_DASH)}
    strokes = {label: heading.strokes[label] for label in drawn}
    legend = dataclasses.replace(heading, strokes=strokes | (dashed if level else {}))
    figure, (panel,) = canvas.panels(1, legend, columns=1, height=2.7)
    canvas.draw_curves(panel, drawn, heading.strokes)
    if level:
        panel.axhline(level, color=_MUTED, lw=1.1, ls=theme.TARGET_DASH)
    panel.set_ylim(0, max(panel.get_ylim()[1], 1.5 * (level or 0)))
    panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panel.set_xlabel("model updates")
    panel.set_ylabel("|A ∩ B| / |A ∪ B|")
    return figure


def stage_shares(rows: Sequence[comparison.Row], heading: Heading) -> Figure | None:
    """Seconds of an update by stage, one bar a label; None where no step was measured."""
    measured = [row for row in rows if row.shares and row.seconds_per_update is not None]
    if not measured:
        return None
    strokes = {stage: theme.Stroke(colour, (0, ())) for stage, colour in STAGE_COLOURS.items()}
    legend = dataclasses.replace(heading, strokes=strokes)
    height = 0.3 * len(measured) + 0.1
    figure, (panel,) = canvas.panels(1, legend, columns=1, height=height, left=2.6)
    for place, row in enumerate(measured):
        left = 0.0
        for stage, colour in STAGE_COLOURS.items():
            width = row.shares[stage] * (row.seconds_per_update or 0.0)
            panel.barh(place, width, left=left, height=0.7, color=colour)
            left += width
    panel.set_yticks(range(len(measured)), [canvas.fitted(row.label, 2.4) for row in measured])
    panel.set_ylim(len(measured) - 0.45, -0.55)
    panel.grid(axis="y", visible=False)
    panel.set_xlabel("seconds of an update")
    return figure


def spaced(positions: np.ndarray, gap: float) -> np.ndarray:
    """Positions moved as little as needed to lie at least `gap` apart, in their order.

    Args:
      positions: f64[n] ascending.
      gap: least distance between neighbours.

    Returns:
      f64[n]; isotonic regression of the positions with the gaps taken out, by pooling neighbours.
    """
    offsets = gap * np.arange(len(positions))
    blocks: list[list[float]] = []
    for value in positions - offsets:
        blocks.append([value])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    levels = [np.mean(block) for block in blocks for _ in block]
    return np.array(levels, np.float64) + offsets


def smoothed_mix(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Steps i64[S] and smoothed domain shares of a run's picks, f64[S, P]."""
    steps, counts = run.series("selected")
    return _shares(steps, counts)


def pool_mix(runs: Sequence[Run]) -> np.ndarray:
    """Domain shares f64[P] of all candidates of all pools; empty where none was logged."""
    pool = np.asarray(sum(run.series("pool")[1].sum(0) for run in runs))
    return pool / pool.sum() if pool.sum() else np.empty(0)


def corrupted_level(runs: Sequence[Run]) -> float | None:
    """Share of corrupted rows among all candidates; None where there is none."""
    corrupted = sum(float(run.series("corrupted_pool")[1].sum()) for run in runs)
    pool = sum(float(run.series("pool")[1].sum()) for run in runs)
    return corrupted / pool if corrupted and pool else None


def _mix(runs: Sequence[Run]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Steps [S], smoothed domain shares of the picks [S, P] and of the whole pool [P]."""
    counts = curves.over_seeds(runs, lambda run: run.series("selected"))
    pool = pool_mix(runs)
    if len(counts.x) < 2 or not len(pool):
        return None
    # Seeds with equal numbers of picks: the mean's shares are the shares of all picks together.
    return *_shares(counts.x, counts.mean), pool


def _shares(steps: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sums = curves.moving_sum(counts, curves.window(len(steps)))
    shown = curves.drawn_steps(steps)
    return steps[shown], (sums / np.maximum(sums.sum(1, keepdims=True), 1e-9))[shown]


def _smoothed(run: Run, column: str) -> curves.Series:
    return curves.smoothed(run.series(column))


def corrupted_selected(run: Run) -> curves.Series:
    steps, picks = run.series("selected")
    return curves.share(run.series("corrupted_selected"), (steps, picks.sum(1)))


def _corrupted_pool(run: Run) -> curves.Series:
    steps, pool = run.series("pool")
    return curves.share(run.series("corrupted_pool"), (steps, pool.sum(1)))


def _has(runs: Sequence[Run], column: str) -> bool:
    return any(np.isfinite(run.series(column)[1]).any() for run in runs)
