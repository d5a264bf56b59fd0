"""The report page: one HTML file with plotly and its charts in it, which needs nothing else."""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.offline
from plotly import graph_objects
from plotly.subplots import make_subplots

from partitionsel_jax.reporting import charts, curves, tables, wording
from partitionsel_jax.reporting.charts import GREY, INK, SERIES, Chart, Mix, Stroke
from partitionsel_jax.reporting.comparison import Row
from partitionsel_jax.reporting.costs import COST_AXES
from partitionsel_jax.reporting.curves import Curve, Groups
from partitionsel_jax.reporting.runs import Run

# Beyond so many, findings are left to the tables and overlaps to overlap.csv.
_MOST_FINDINGS, _MOST_LABELS = 5, 24
_STYLE = (pathlib.Path(__file__).parent / "page.css").read_text(encoding="utf-8")
# Plotly's own default has a button that uploads a chart.
_CONFIG = {
    **{"displaylogo": False, "displayModeBar": True, "responsive": True},
    **{"showSendToCloud": False, "plotlyServerURL": ""},
}
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)
# Plotly's names of matplotlib's dashes.
_DASHES = {"dashed": "dash", "dotted": "dot"}
_GRID, _CLEAR = "rgba(127,127,127,0.22)", "rgba(0,0,0,0)"
_DEFINITIONS = {
    "Pool, picks": "Every update sees a pool of candidate examples; the method picks some of them, "
    "and the model is updated on the picks.",
    "Final validation loss": "Mean cross-entropy of the response tokens, in nats, on the "
    "validation examples after the last update; mean ± sample standard deviation (n − 1) over "
    "seeds. The test loss is that of the test examples.",
    "Cost to target": "The target is the final validation loss of the baseline run with the same "
    "seed. The cost of a run is where its validation loss, linear between evaluations, is first at "
    "or below the target; the cost of the baseline is measured by the same rule on its own curve. "
    "The ratio of the two is taken seed by seed and averaged over the seeds that reach the target; "
    "below 1 is cheaper than the baseline. A seed that never reaches it is shown with all that it "
    "spent as a lower bound (>): the mean leaves it out and then carries no interval, the median "
    "counts it as more expensive than all that did.",
    "95 % interval": "Student's t-interval of the mean over seeds. It is wide for two or three "
    "seeds, as it should be, and knows of no other source of chance than the seed.",
    "Tokens": "Tokens of candidates, anchors and picks that went through the model, padding left "
    "out.",
    "FLOPs": "Multiplications and additions of the matrix products of features and update on all "
    "devices, counted in the traced step when the run starts. Norms, softmax and the rounds of the "
    "selection are left out.",
    "Seconds": "Training time: the sum of the seconds of the updates, selection included; "
    "compilation and evaluation are left out.",
    "Corrupted picks": "Rows whose training answer was replaced on purpose, as a share of all "
    "picks of all seeds.",
    "Test accuracy": "Share of test questions whose final answer is right by the rule of its task: "
    "a number of the same value or within the task's tolerance, any valid solution where there are "
    "many, else the text of the reference. The 95 % interval goes at either end as far as the "
    "wider of Student's over seeds and Wilson's over the questions of one run.",
    "Utility, certificate": "The value f(S) of the objective that the selection maximises, and "
    "f(S) / f(whole pool), a lower bound on f(S) / f(best set). Utilities compare only between "
    "methods that maximise the same objective.",
    "Effective sample size": "(Σw)² / Σw² of the weights of the picks.",
    "Conflicting pairs": "Share of the pairs of picks whose gradients point against each other "
    "(negative inner product).",
    "Redundancy": "Mean cosine between the gradient features of two picks.",
    "Match with the anchor direction": "Cosine between the weighted sum of the picks' gradient "
    "features and the mean feature of the anchors, examples held out for guiding the selection.",
    "Stages": "Selection and update are timed as programs of their own when a run starts, and the "
    "features are the rest of a whole step. The shares are of that moment, not of the whole run.",
}


def page(
    sets: Sequence[Groups],
    headlines: Sequence[Sequence[Row]],
    drawn: Sequence[Sequence[Chart]],
    strokes: Mapping[str, Stroke],
    caveats: Sequence[str],
) -> str:
    """The whole document: runs, headline and charts of each evaluation set."""
    rows = [row for headline in headlines for row in headline]
    runs = [run for groups in sets for found in groups.values() for run in found]
    findings = wording.findings(rows)
    parts = [
        # First, as every chart calls it as soon as it is read.
        f"<script>{plotly.offline.get_plotlyjs()}</script>",
        f"<h1>{escape(wording.title(rows))}</h1>",
        f'<p class="facts">{escape(wording.facts(runs))}</p>',
        _items("", findings) if len(findings) <= _MOST_FINDINGS else "",
        _items("<h2>Before you rely on it</h2>", caveats),
        "<noscript><p>The charts of this page are drawn by a script, which does not run here; the "
        "PNG and SVG files beside it show the same.</p></noscript>",
    ]
    for number, (groups, headline) in enumerate(zip(sets, headlines, strict=True)):
        if len(sets) > 1:
            parts.append(f"<h2>Evaluation set {number + 1} of {len(sets)}</h2>")
        parts += _tables(groups, headline)
        for chart in drawn[number]:
            figure = _curves(chart, strokes)
            parts.append(_figure(chart.title, chart.caption, figure, f"{chart.name}-{number}"))
        for place, (label, mix) in enumerate(charts.mixes(groups).items()):
            title = f"Domain mix of the picks of {label}"
            caption = (
                "Against updates: mean over seeds, averaged over a window of a twentieth of "
                "the run. The legend has the shares among all candidates of the pools."
            )
            parts.append(_figure(title, caption, _mix(mix), f"domain_mix-{number}-{place}"))
    words = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in _DEFINITIONS.items())
    parts += [f"<h2>Runs</h2>{table(tables.configs(runs).map(str), 'wide')}<h2>Run by run</h2>"]
    parts += [_run(number, run) for number, run in enumerate(runs)]
    parts += [f"<h2>What the words mean</h2><dl>{words}</dl>"]
    return document(wording.title(rows), "\n".join(part for part in parts if part))


def document(title: str, body: str) -> str:
    """A page around a body of HTML, with a title that is plain text."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n"
        f"</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def table(frame: pd.DataFrame, kind: str = "") -> str:
    """A table of text cells, which are escaped."""
    with pd.option_context("display.max_colwidth", None):
        text = frame.to_html(index=False, border=0, justify="unset")
    return f'<div class="table {kind}">{text}</div>'


def _items(heading: str, texts: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"{heading}<ul>{items}</ul>" if texts else ""


def _tables(groups: Groups, rows: Sequence[Row]) -> Iterator[str]:
    """The tables of an evaluation set, each with its heading and a note."""
    yield table(tables.headline(rows))
    if len(costs := tables.costs(rows)):
        yield (
            "<h2>Cost of the baseline's final loss</h2>"
            '<p class="note">Relative to the baseline run with the same seed; below 1 is cheaper. '
            f"&gt; marks a seed that never got there, with all that it spent.</p>"
            f"{table(costs, 'wraps')}"
        )
    if len(accuracies := tables.accuracies(rows)):
        yield f"<h2>Test accuracy by domain</h2>{table(accuracies)}"
    if len(stages := tables.stages(rows)):
        cells = stages.map("{:.3g}".format).rename_axis("seconds of an update").reset_index()
        yield f"<h2>Where the time of an update goes</h2>{table(cells)}"
    matrix = curves.overlap_matrix(groups) if len(groups) <= _MOST_LABELS else pd.DataFrame()
    if matrix.where(~np.eye(len(matrix), dtype=bool)).notna().any(axis=None):
        cells = matrix.map(lambda share: tables.NOTHING if np.isnan(share) else f"{share:.2f}")
        yield (
            "<h2>Overlap between methods</h2>"
            '<p class="note">Mean Jaccard index of the picks of every two methods, over all '
            f"updates and seeds.</p>{table(cells.rename_axis('').reset_index())}"
        )


def _figure(title: str, caption: str, figure: graph_objects.Figure, name: str) -> str:
    """A chart with its heading and caption.

    plotly.io escapes whatever could close its script; its texts show a subset of HTML, so that
    names are escaped where they are put into a figure.
    """
    figure.update_layout(
        template="none",
        paper_bgcolor=_CLEAR,
        plot_bgcolor=_CLEAR,
        font={"color": GREY, "size": 12},
        hoverlabel={"font": {"color": INK}},
        hovermode="x unified",
        # A finger that scrolls the page must not zoom; the tool above the chart turns it on.
        dragmode=False,
        modebar={"bgcolor": _CLEAR, "color": GREY, "activecolor": SERIES[0]},
        margin={"l": 10, "r": 10, "t": 96},
    )
    figure.update_xaxes(gridcolor=_GRID, zeroline=False, automargin=True, exponentformat="SI")
    figure.update_yaxes(gridcolor=_GRID, zeroline=False, automargin=True)
    chart = figure.to_html(_CONFIG, include_plotlyjs=False, full_html=False, div_id=name)
    return (
        f'<figure data-chart="{name}"><h2>{escape(title)}</h2>{chart}'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _curves(chart: Chart, strokes: Mapping[str, Stroke]) -> graph_objects.Figure:
    """A panel below the other, with buttons for the cost axis and a legend that hides labels."""
    count = len(chart.panels)
    height = 420 if count == 1 else 230
    figure = make_subplots(
        rows=count,
        subplot_titles=[escape(panel.title) for panel in chart.panels],
        vertical_spacing=min(60 / (height * count), 1 / max(count - 1, 1)),
    )
    xs: list[dict[str, list]] = []
    named: set[str] = set()
    for row, panel in enumerate(chart.panels, start=1):
        for label, curve in panel.curves.items():
            among = len(panel.curves)
            for x, trace in _traces(label, curve, strokes[label], among, chart.percent):
                is_shown = "name" in trace and label not in named
                figure.add_scatter(**trace, x=x["updates"], showlegend=is_shown, row=row, col=1)
                xs.append(x)
            named.add(label)
        for level in chart.levels:
            figure.add_hline(level, line={"dash": "dash", "width": 1.2, "color": GREY}, row=row)
        ends = curves.limits(panel.curves.values(), chart.levels)
        figure.update_yaxes(title_text=panel.unit, range=ends, row=row)
    if chart.percent:
        figure.update_yaxes(tickformat=".0%", rangemode="tozero", autorange=True, minallowed=0)
    every = [name for name in figure.layout if name.startswith("xaxis")]
    buttons = [
        {
            "label": axis.noun,
            "method": "update",
            "args": [
                {"x": [x.get(name, []) for x in xs]},
                {f"{each}.autorange": True for each in every}
                | {f"{every[-1]}.title.text": axis.axis},
            ],
        }
        for name, axis in COST_AXES.items()
        if any(name in x for x in xs)
    ]
    menu = {"type": "buttons", "direction": "right", "buttons": buttons, "showactive": True}
    place = {"x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": 26}}
    figure.update_layout(
        height=height * count + 160,
        updatemenus=[{**menu, **place, "font": {"color": INK}}],
        legend={"orientation": "h", "y": -60 / (height * count), "yanchor": "top"},
    )
    figure.update_xaxes(rangemode="tozero")
    figure.update_xaxes(title_text=COST_AXES["updates"].axis, row=count)
    return figure


def _traces(
    label: str, curve: Curve, stroke: Stroke, among: int, percent: bool
) -> Iterator[tuple[dict[str, list], dict[str, Any]]]:
    """Band, seeds and mean of one label: x by cost axis, and the rest of plotly's trace."""

    def short(x: Mapping[str, np.ndarray]) -> dict[str, list]:
        return {axis: _short(positions, 7) for axis, positions in x.items()}

    several, mean, half = len(curve.seeds) > 1, curve.mean, curve.half
    shared = {"legendgroup": escape(label), "mode": "lines"}
    if several and len(mean) > 1:
        around = {axis: np.concatenate([x, x[::-1]]) for axis, x in curve.x.items()}
        band = _short(np.concatenate([mean + half, (mean - half)[::-1]]))
        fill = {"fill": "toself", "fillcolor": stroke.colour, "line": {"width": 0}}
        pale = {"opacity": min(0.18, 0.7 / among), "hoverinfo": "skip"}
        yield short(around), {**shared, "y": band, **fill, **pale}
    for x, y, finished in curve.seeds:
        if not finished or (several and among <= charts.MOST_WITH_SEEDS):
            dash = "solid" if finished else "dot"
            line = {"color": stroke.colour, "width": 0.8, "dash": dash}
            trace = {**shared, "y": _short(y), "opacity": 0.5, "hoverinfo": "skip", "line": line}
            yield short(x), trace
    digits = ".1%" if percent else ".4~g"
    trace = {
        **shared,
        "name": escape(label),
        "y": _short(mean),
        "customdata": _short(half) if several else None,
        "hovertemplate": f"%{{y:{digits}}}" + f" ± %{{customdata:{digits}}}" * several,
        "line": {"color": stroke.colour, "dash": _DASHES.get(stroke.dash, stroke.dash)},
    }
    if len(mean) < 3:
        trace |= {"mode": "lines+markers", "error_y": {"array": _short(half)}}
    yield short(curve.x), trace


def _mix(mix: Mix) -> graph_objects.Figure:
    figure = graph_objects.Figure()
    for name, colour in mix.colours.items():
        figure.add_scatter(
            x=mix.shares.index.tolist(),
            y=_short(mix.shares[name].to_numpy(), 3),
            name=f"{escape(name)} (pool {tables.percent(mix.pool[name])})",
            stackgroup="one",
            fillcolor=colour,
            line={"width": 0, "color": colour},
            hovertemplate="%{y:.1%}",
        )
    figure.update_yaxes(range=[0, 1], tickformat=".0%")
    figure.update_layout(height=440, legend={"orientation": "h", "y": -0.12, "yanchor": "top"})
    return figure


def _run(number: int, run: Run) -> str:
    """The records of one run, folded up."""
    records = {"config.json": run.facts, "summary.json": run.summary}
    text = json.dumps(records, indent=2, ensure_ascii=False)
    state = "finished" if run.finished else f"unfinished, at update {run.last_step}"
    return (
        f'<details id="run-{number}"><summary>{escape(run.name)} ({state})</summary>'
        f"<pre>{escape(text)}</pre></details>"
    )


def _short(values: np.ndarray, digits: int = 5) -> list[float | None]:
    """Numbers of so many digits, which make the page small; None where they are not finite."""
    return [float(f"{v:.{digits}g}") if np.isfinite(v) else None for v in values.tolist()]
