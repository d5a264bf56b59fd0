"""The charts of RESULTS.md and of the README."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from partitionsel_jax.reporting import canvas, curves, theme
from partitionsel_jax.reporting.canvas import Heading
from partitionsel_jax.reporting.costs import COST_AXES
from partitionsel_jax.studies import claims, measures
from partitionsel_jax.studies.claims import HOUSE, RANDOM
from partitionsel_jax.studies.measures import Group
from partitionsel_jax.studies.records import Study

_LOSS = measures.number("validation_loss")
_AXIS = "validation loss (nats per token)"


def curve(group: Group, cost_axis: str) -> curves.Curve:
    """Validation loss of some runs, against what they spent."""
    x = np.stack([run.curve[cost_axis] for run in group])
    y = np.stack([run.curve["validation_loss"] for run in group])
    mean, half = y.mean(0), curves.half_width(y)
    seeds = tuple((a, b, True) for a, b in zip(x, y, strict=True))
    return curves.Curve(x.mean(0), mean, mean - half, mean + half, seeds)


def learning_curves(
    rows: Mapping[str, Mapping[str, Group]], title: str, subtitle: str, cost_axes: Sequence[str]
) -> Figure:
    """A row of panels for every problem: validation loss against each cost_axis.

    Args:
      rows: problem -> name -> runs; the same names everywhere, random picks last.
      title, subtitle: of the sheet.
      cost_axes: see `reporting.costs`.
    """
    names = next(iter(rows.values()))
    strokes = theme.strokes({name: name == RANDOM for name in names})
    heading = Heading(title, subtitle, strokes)
    figure, axes = canvas.panels(len(rows) * len(cost_axes), heading, len(cost_axes), height=2.0)
    panels = iter(axes)
    for problem, groups in rows.items():
        heights = None
        for cost_axis in (COST_AXES[name] for name in cost_axes):
            panel = next(panels)
            drawn = {name: curve(group, cost_axis.name) for name, group in groups.items()}
            divisor, unit = cost_axis.unit(curves.last_x(drawn.values()))
            canvas.draw_curves(panel, drawn, strokes, divisor)
            # The same losses in every panel of a row, so the same heights.
            heights = heights or panel.get_ylim()
            panel.set_ylim(heights)
            panel.set_title(f"{problem}, {cost_axis.title}")
            panel.set_xlabel(f"{cost_axis.axis} ({unit})" if unit else cost_axis.axis)
            panel.set_ylabel(_AXIS)
            target = measures.mean(groups[RANDOM], _LOSS)
            if target is not None:
                panel.axhline(
                    target.mean, color=strokes[RANDOM].colour, lw=1.0, ls=theme.TARGET_DASH
                )
    return figure


def differences(rows: Mapping[str, Mapping[str, Group]], title: str, subtitle: str) -> Figure:
    """A panel for every problem: each group's final loss less random's, with its interval."""
    most = max(map(len, rows.values()))
    figure, axes = canvas.panels(
        len(rows), Heading(title, subtitle, {}), len(rows), height=0.24 * most + 0.3, left=1.05
    )
    for panel, (problem, groups) in zip(axes, rows.items(), strict=True):
        found = {
            name: measures.difference(group, groups[RANDOM], _LOSS)
            for name, group in groups.items()
            if name != RANDOM
        }
        ordered = sorted(
            ((name, one) for name, one in found.items() if one), key=lambda pair: -pair[1].mean
        )
        panel.axvline(0.0, color=theme.PALETTE["baseline"][0], lw=1.0)
        for place, (name, one) in enumerate(ordered):
            colour = theme.PALETTE["blue" if name == HOUSE else "ink"][0]
            panel.plot([one.low, one.high], [place, place], color=colour, lw=1.4)
            panel.plot([one.mean], [place], "o", color=colour, ms=4.5)
        panel.set_yticks(range(len(ordered)), [name for name, _ in ordered])
        panel.grid(axis="y", visible=False)
        panel.set_title(problem)
        panel.set_xlabel(f"loss less {RANDOM}'s (left is better)")
        panel.locator_params(axis="x", nbins=4)
    return figure


def against_share(study: Study, title: str, subtitle: str) -> Figure:
    """Final loss against the share of corrupted answers, a panel for each kind."""
    names = claims.by_method(study.results)
    strokes = theme.strokes({name: name == RANDOM for name in names})
    kinds = ("garbled", "swapped")
    figure, axes = canvas.panels(len(kinds), Heading(title, subtitle, strokes), 2, height=2.6)
    shares = sorted({r.axes["data.noise.share"] for r in study.results if len(r.axes) > 1})
    for panel, kind in zip(axes, kinds, strict=True):
        for name in names:
            groups = [measures.select(study.results, name, kind="none")]
            groups += [measures.select(study.results, name, kind=kind, share=s) for s in shares]
            means = [measures.mean(group, _LOSS) for group in groups]
            if None in means:
                continue
            y, half = (
                np.array(values)
                for values in zip(*((m.mean, m.half or 0.0) for m in means if m), strict=True)
            )
            x = 100 * np.array([0.0, *shares])
            panel.fill_between(x, y - half, y + half, color=strokes[name].colour, alpha=0.15, lw=0)
            panel.plot(x, y, "o-", color=strokes[name].colour, ms=3.5)
        panel.set_title(f"{kind} answers")
        panel.set_xlabel("corrupted training answers (%)")
        panel.set_ylabel(_AXIS)
    return figure
