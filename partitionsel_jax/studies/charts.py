"""The charts of RESULTS.md and of the README."""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from partitionsel_jax.reporting import curves
from partitionsel_jax.reporting.charts import GREY, INK, SERIES
from partitionsel_jax.reporting.costs import COST_AXES
from partitionsel_jax.reporting.images import STYLE, sheet
from partitionsel_jax.studies import claims, tables
from partitionsel_jax.studies.claims import (
    FROZEN,
    HOUSE,
    NOISE_NAMES,
    PRESET,
    RANDOM,
    by_method,
)
from partitionsel_jax.studies.records import Study
from partitionsel_jax.studies.tables import Group, select

_AXIS = "validation loss (nats per token)"


def of_study(study: Study) -> Iterator[tuple[str, str, bytes]]:
    """The charts of a study: name of the file, title, PNG."""
    facts = f"mean over seeds {tables.seeds(study.runs)}, 95 % intervals"
    runs = study.results
    with matplotlib.rc_context(STYLE):
        if study.claim == "noise":
            facts = f"{study.about['size']} of {study.about['pool']} candidates; {facts}"
            problems: Any = {
                "Clean": {"kind": "none"},
                "30 % garbled": {"kind": "garbled", "share": 0.3},
            }
            rows = {
                name: {method: select(runs, method, **axes) for method in (HOUSE, RANDOM)}
                for name, axes in problems.items()
            }
            if all(len(group) for groups in rows.values() for group in groups.values()):
                title = "Validation loss of PartitionSel and of random picks"
                figure = _learning_curves(rows, ("updates", "flops"))
                yield "main", title, _png(figure, title, facts)
            title = "Final validation loss against the share of corrupted answers"
            yield "noise", title, _png(_against_share(study), title, facts)
        if study.claim == "methods":
            title = "Final validation loss, less that of random picks"
            yield "methods", title, _png(_differences(study), title, f"clean data; {facts}")
        if study.claim in claims.AT_BYTES:
            shown = ("oracle", FROZEN, "cotrained", HOUSE, RANDOM)
            rows = {
                problem: {name: groups[name] for name in shown if name in groups}
                for problem, groups in claims.problems(study).items()
            }
            if all(FROZEN in groups and RANDOM in groups for groups in rows.values()):
                title = "Validation loss by who selects, and what it cost"
                figure = _learning_curves(rows, ("updates", "flops", "seconds"))
                yield study.claim, title, _png(figure, title, facts)
        if study.claim == "cost":
            rows = {name: select(runs, name) for name in (PRESET, HOUSE, "random-short", RANDOM)}
            if all(map(len, rows.values())):
                title = "Validation loss, and what it cost"
                figure = _learning_curves({"30 % garbled": rows}, ("updates", "flops", "seconds"))
                yield "cost", title, _png(figure, title, facts)


def _png(figure: Figure, title: str, facts: str) -> bytes:
    lines, labels = figure.axes[0].get_legend_handles_labels()
    if labels:
        figure.legend(lines, labels, loc="outside lower center", ncols=len(labels))
    figure.suptitle(f"{title}\n{facts}", x=0.01, ha="left")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200)
    return buffer.getvalue()


def _line(panel: Axes, x: np.ndarray, mean: np.ndarray, half: np.ndarray, style: dict) -> None:
    panel.fill_between(x, mean - half, mean + half, color=style["color"], alpha=0.15, lw=0)
    panel.plot(x, mean, **style)


def _styles(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """The look of every name's line."""
    ours = zip((name for name in names if name != RANDOM), SERIES, strict=False)
    return {RANDOM: {"color": GREY}} | {name: {"color": colour} for name, colour in ours}


def _learning_curves(rows: Mapping[str, Mapping[str, Group]], cost_axes: Sequence[str]) -> Figure:
    """A row of panels for every problem: validation loss against each cost axis."""
    figure, panels = sheet(len(rows), len(cost_axes), 2.3)
    for (problem, groups), line in zip(rows.items(), panels, strict=True):
        styles = _styles(list(groups))
        losses = {name: _stacked(group, "validation_loss") for name, group in groups.items()}
        bands = {name: (y.mean(0), curves.half_width(y)) for name, y in losses.items()}
        low = min((mean - half).min() for mean, half in bands.values())
        # The steep beginning would hide the rest.
        top = max((mean + half)[2:].max() for mean, half in bands.values())
        for axis, panel in zip((COST_AXES[name] for name in cost_axes), line, strict=True):
            spent = {name: _stacked(group, axis.name).mean(0) for name, group in groups.items()}
            divisor, unit = axis.unit(max(x[-1] for x in spent.values()))
            for name, x in spent.items():
                _line(panel, x / divisor, *bands[name], {**styles[name], "label": name})
            panel.axhline(losses[RANDOM][:, -1].mean(), color=GREY, lw=1.0, ls="--")
            panel.set(ylim=(low - 0.05 * (top - low), top + 0.05 * (top - low)), ylabel=_AXIS)
            panel.set_title(f"{problem}, {axis.title}")
            panel.set_xlabel(f"{axis.axis} ({unit})" if unit else axis.axis)
    return figure


def _stacked(group: Group, column: str) -> np.ndarray:
    """f64[seeds, E], a column of the runs' curves."""
    return np.stack([curve[column] for curve in group["curve"]])


def _differences(study: Study) -> Figure:
    """A panel for every size: each method's final loss less random's, with its interval."""
    sizes = sorted({size for size in study.results["selection.size"] if size is not None})
    figure, panels = sheet(1, len(sizes), 3.2)
    for size, panel in zip(sizes, panels[0], strict=True):
        groups = by_method(select(study.results, size=size))
        random = groups.pop(RANDOM)
        ends = [(name, tables.final(group, random)) for name, group in groups.items()]
        ordered = sorted(((name, end) for name, end in ends if end), key=lambda one: -one[1].mean)
        panel.axvline(0.0, color=GREY, lw=1.0)
        for place, (name, one) in enumerate(ordered):
            colour = SERIES[0] if name == HOUSE else INK
            panel.plot([one.low, one.high], [place, place], color=colour, lw=1.4)
            panel.plot([one.mean], [place], "o", color=colour, ms=4.5)
        panel.set_yticks(range(len(ordered)), [name for name, _ in ordered])
        panel.grid(axis="y", visible=False)
        panel.set_title(f"{size} picks of {study.about['pool']}")
        panel.set_xlabel(f"loss less {RANDOM}'s (left is better)")
    return figure


def _against_share(study: Study) -> Figure:
    """Final loss against the share of corrupted answers, a panel for each kind."""
    figure, panels = sheet(1, 2, 2.9)
    runs = study.results
    names = list(by_method(runs))
    shares = sorted({share for share in runs["data.noise.share"] if share is not None})
    for panel, kind in zip(panels[0], ("garbled", "swapped"), strict=True):
        for name in names:
            groups = [select(runs, name, kind="none")]
            groups += [select(runs, name, kind=kind, share=share) for share in shares]
            means = [tables.mean(group["validation_loss"]) for group in groups]
            if all(means):
                mean, half = np.array([(m.mean, m.half or 0.0) for m in means if m]).T
                style = {**_styles(names)[name], "label": name, "marker": "o", "ms": 3.5}
                _line(panel, 100 * np.array([0.0, *shares]), mean, half, style)
        panel.set(title=NOISE_NAMES[kind], ylabel=_AXIS, xlabel="corrupted training answers (%)")
    return figure
