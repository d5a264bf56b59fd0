"""The report page: one HTML file that needs nothing else, for desk and phone, light and dark."""

import functools
import pathlib
from collections.abc import Collection, Mapping, Sequence
from html import escape

from partitionsel_jax.reporting import page_data, page_tables, theme, wording
from partitionsel_jax.reporting.comparison import Row
from partitionsel_jax.reporting.costs import CURRENCIES
from partitionsel_jax.reporting.page_data import Sets

_BANDS = "Line: mean over seeds; band: 95 % t-interval of the mean; thin lines: single seeds."
_MOST_FINDINGS = 5
_ONE_SEED = "One seed each, so no band."
_SMOOTHED = "Averaged over a window of a twentieth of the run."
# Name, heading, caption, whether its panel is as wide as the page.
_CHARTS = (
    (
        "validation_loss",
        "Validation loss",
        f"{_BANDS} Dashed: final loss of the baseline. Training time leaves out compilation and "
        "evaluation. Where the first 5 % of a run would flatten the rest, they lie above the "
        "frame.",
        True,
    ),
    (
        "accuracy",
        "Accuracy",
        "Share of right answers. Test questions are answered after the last update (and before "
        "the first by a pretrained model); validation questions on the way, where "
        "evaluation.answers_every asks for it. Bars and bands: 95 % t-interval over seeds; "
        "single points that would lie on each other stand side by side.",
        False,
    ),
    (
        "validation_loss_per_domain",
        "Validation loss per domain",
        f"{_BANDS} Every panel has its own scale.",
        False,
    ),
    (
        "training_loss",
        "Training loss of the picks",
        f"{_BANDS} {_SMOOTHED} The picks differ between methods, so it does not compare them.",
        True,
    ),
    (
        "selection_diagnostics",
        "Utility, certificate and diagnostics",
        f"{_BANDS} {_SMOOTHED} Utilities compare only between methods with the same objective; "
        "methods that compute none are left out.",
        False,
    ),
    (
        "domain_mix",
        "Domain mix of the picks",
        f"Share of each domain among the picks, mean over seeds. {_SMOOTHED} The bar on the right "
        "shows the mix of all candidates in the pools.",
        False,
    ),
    (
        "corrupted_share",
        "Corrupted rows among the picks",
        f"{_BANDS} {_SMOOTHED} Dashed: share of corrupted rows in the candidate pool, what picking "
        "at random would give.",
        True,
    ),
    (
        "overlap",
        "Overlap of the picks with those of the first method",
        f"Jaccard index |A ∩ B| / |A ∪ B| of the picks from the same pool, seed by seed. {_BANDS} "
        f"{_SMOOTHED} Dashed: what two independent picks at random would give.",
        True,
    ),
)


@functools.cache
def _asset(name: str) -> str:
    return (pathlib.Path(__file__).parent / name).read_text(encoding="utf-8")


def page(
    sets: Sets,
    headlines: Sequence[Sequence[Row]],
    strokes: Mapping[str, theme.Stroke],
    caveats: Sequence[str],
    drawn: Collection[str],
) -> str:
    """The whole document.

    Args:
      sets: the runs of each label, for each evaluation set.
      headlines: the rows of each evaluation set.
      strokes: the stroke of each label.
      caveats: one sentence each.
      drawn: names of the charts that show something.
    """
    rows = [row for headline in headlines for row in headline]
    runs = page_data.ordered(sets)
    title = escape(wording.title(rows))
    reached = wording.findings(rows)
    # Of many methods, the tables say it better.
    shown = reached if len(reached) <= _MOST_FINDINGS else []
    findings = "".join(f"<li>{escape(text)}</li>" for text in shown)
    said = "".join(f"<li>{escape(text)}</li>" for text in caveats)
    banded = any(len(group) > 1 for groups in sets for group in groups.values())
    places = {label: place for place, label in enumerate(_labels(sets))}
    overview = [
        f"<h1>{title}</h1>",
        f'<p class="facts">{escape(wording.facts(runs))}</p>',
        f'<ul class="findings">{findings}</ul>' if findings else "",
        *(_of_set(n, headlines, places, strokes) for n in range(len(headlines))),
        f"<h2>Before you rely on it</h2><ul>{said}</ul>" if said else "",
        _controls(sets, strokes),
        '<p class="unscripted note">The charts of this page are drawn by a script, which does not '
        "run here; the same charts are the PNG and SVG files beside it.</p>",
        *(_chart(*chart, banded) for chart in _CHARTS if chart[0] in {*drawn, "training_loss"}),
        page_tables.overlap(sets),
        page_tables.stages(rows, places),
        f"<h2>Configs</h2>{page_tables.configs(sets, places)}",
        f"<h2>Runs</h2>{page_tables.runs(sets)}",
        page_tables.GLOSSARY,
    ]
    details = page_tables.run_pages(sets)
    data = page_data.embedded(sets, rows, strokes)
    body = (
        f'<div class="overview">{_joined(overview)}</div>\n{details}\n'
        f'<script type="application/json" id="data">{data}</script>\n'
        f"<script>\n{_asset('page.js')}</script>"
    )
    return document(title, body)


def document(title: str, body: str, style: str = "") -> str:
    """A page around a body.

    Args:
      title, body: HTML.
      style: CSS beside the report's own.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>{_colours()}{_asset('page.css')}{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _colours() -> str:
    light, dark = (
        "".join(f"--{name}:{pair[index]};" for name, pair in theme.PALETTE.items())
        for index in (0, 1)
    )
    return f":root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"


def _joined(parts: Sequence[str]) -> str:
    return "\n".join(part for part in parts if part)


def _labels(sets: Sets) -> list[str]:
    return [label for groups in sets for label in groups]


def _of_set(
    number: int,
    headlines: Sequence[Sequence[Row]],
    places: Mapping[str, int],
    strokes: Mapping[str, theme.Stroke],
) -> str:
    """Headline and costs of an evaluation set."""
    rows = headlines[number]
    several = f"<h2>Evaluation set {number + 1} of {len(headlines)}</h2>"
    return _joined(
        [
            several if len(headlines) > 1 else "",
            page_tables.headline(rows, places, strokes),
            page_tables.costs(rows, places),
            page_tables.accuracies(rows, strokes),
        ]
    )


def _chart(name: str, heading: str, caption: str, tall: bool, banded: bool) -> str:
    caption = caption if banded else caption.replace(_BANDS, _ONE_SEED)
    return (
        f"<h2>{escape(heading)}</h2>\n"
        f'<figure data-chart="{name}"{" class=tall" if tall else ""}>'
        '<div class="legend"></div><div class="panels"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _controls(sets: Sets, strokes: Mapping[str, theme.Stroke]) -> str:
    """What the charts are drawn against, and which runs they and the tables show."""
    logged = {
        name: any(
            run.last_step and (name == "updates" or len(run.spent(name)[0]))
            for run in page_data.ordered(sets)
        )
        for name in CURRENCIES
    }
    against = "".join(
        f'<label><input type="radio" name="cost_axis" value="{name}"'
        f"{' checked' if name == 'updates' else ''}{'' if logged[name] else ' disabled'}>"
        f"{escape(cost_axis.axis)}</label>"
        for name, cost_axis in CURRENCIES.items()
    )
    values: dict[str, dict[str, None]] = {}
    for number, groups in enumerate(sets, start=1):
        for runs in groups.values():
            for run in runs:
                for facet, value in page_data.facets(run, number).items():
                    values.setdefault(facet, {})[value] = None
    fields = [
        _facet(facet, list(found), strokes)
        for facet, found in values.items()
        if len(found) > 1 and not (facet == "method" and len(found) == len(values["label"]))
    ]
    return (
        '<details class="filters" open><summary>Axis and filters</summary>'
        f"<fieldset><legend>charts against</legend>{against}</fieldset>{''.join(fields)}"
        '<p class="note"><span id="shown"></span> · <button id="reset">show all</button> · '
        "Numbers in tables are over all seeds.</p></details>"
    )


def _facet(facet: str, values: Sequence[str], strokes: Mapping[str, theme.Stroke]) -> str:
    """One filter. Of evaluation sets one is shown at a time, as losses do not compare."""
    exclusive = facet == "evaluation set"
    # By size where all are numbers: seeds, and most fields of an ablation.
    try:
        ordered = sorted(values, key=float)
    except ValueError:
        ordered = list(values)
    name = escape(facet, quote=True)
    inputs = []
    for place, value in enumerate(ordered):
        kind = 'type="radio" name="set"' if exclusive else 'type="checkbox"'
        checked = "" if exclusive and place else " checked"
        key = page_tables.key(strokes[value]) if facet == "label" else ""
        inputs.append(
            f'<label><input {kind} data-facet="{name}" value="{escape(value, quote=True)}"'
            f"{checked}>{key}{escape(value)}</label>"
        )
    several = not exclusive and len(values) > 3
    switch = f'<button data-only="{name}">none / all</button>' if several else ""
    return f"<fieldset><legend>{name}</legend>{''.join(inputs)}{switch}</fieldset>"
