"""The report page: one HTML file that needs nothing else, for desk and phone, light and dark."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from html import escape

from partitionsel_jax.reporting import labels, tables, theme, wording
from partitionsel_jax.reporting.comparison import Row
from partitionsel_jax.reporting.runs import Run

_STYLE = """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:60rem;margin:0 auto;padding:2rem 1rem 4rem}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .3rem}
h2{font-size:1.2rem;margin:2.6rem 0 .6rem}
p,ul,dl,figure{margin:.6rem 0}
ul{padding-left:1.2rem}
h1,p,li,dd,td:first-child{overflow-wrap:anywhere}
.facts,figcaption{color:var(--muted)}
.findings{font-size:1.1rem;list-style:none;padding:0}
figcaption{font-size:.9rem;max-width:46rem}
figure svg{display:block;width:100%;height:auto}
figure svg *{stroke-linejoin:round;stroke-linecap:butt}
.phone{display:none}
.table{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:.4rem .7rem .4rem 0;text-align:left;vertical-align:top;white-space:nowrap;
border-bottom:1px solid var(--grid)}
th{color:var(--muted);font-weight:600;white-space:normal;vertical-align:bottom}
.runs td:last-child{white-space:normal;min-width:14rem}
td:first-child{white-space:normal;min-width:9rem}
.findings li{margin:.3rem 0}
.swatch{display:inline-block;width:.7rem;height:.7rem;border-radius:2px;margin-right:.45rem}
code,pre{font:.85em/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre{overflow-x:auto;margin:.4rem 0 1rem}
dt{font-weight:600;margin-top:.7rem}
dd{margin:0}
@media(max-width:40rem){.desk{display:none}.phone{display:block}main{padding-top:1.2rem}
h1{font-size:1.35rem}}
"""
_DEFINITIONS = {
    "Pool, picks": "Every update sees a pool of candidate examples; the method picks some of them, "
    "and the model is updated on the picks.",
    "Final validation loss": "Mean cross-entropy of the response tokens, in nats, on the "
    "validation examples after the last update; mean ± sample standard deviation (n − 1) over "
    "seeds.",
    "Updates to target, seconds to target": "The target is the final validation loss of the "
    "baseline run with the same seed. The cost of a run is where its validation loss, linear "
    "between evaluations, is first at or below the target; the cost of the baseline is measured "
    "by the same rule on its own curve. The number is the ratio of the two, seed by seed, "
    "averaged over the seeds that reach the target. Below 1 is cheaper than the baseline.",
    "Seconds": "Training time: the sum of the seconds of the updates, selection included; "
    "compilation and evaluation are left out.",
    "Spoilt picks": "Rows whose training answer was replaced on purpose, as a share of all picks "
    "of all seeds.",
    "Test accuracy": "Share of test questions that the trained model answers correctly.",
    "Utility, certificate": "The value f(S) of the objective that the selection maximises, and "
    "f(S) / f(whole pool), a lower bound on f(S) / f(best set). Utilities compare only between "
    "methods that maximise the same objective.",
    "Effective sample size": "(Σw)² / Σw² of the weights of the picks.",
    "Conflicting pairs": "Share of the pairs of picks whose gradients point against each other "
    "(negative inner product).",
    "Match with the anchor direction": "Cosine between the weighted sum of the picks' gradient "
    "features and the mean feature of the anchors, examples held out for guiding the selection.",
}


@dataclasses.dataclass(frozen=True)
class Section:
    """A chart of the page: heading, both drawings of it as SVG elements, caption in plain text."""

    heading: str
    desk: str
    phone: str
    caption: str


def page(
    groups: Mapping[str, Sequence[Run]],
    rows: Sequence[Row],
    strokes: Mapping[str, theme.Stroke],
    sections: Sequence[Section],
) -> str:
    """The whole document.

    Args:
      groups: the runs of each label.
      rows: the headline.
      strokes: the stroke of each label, for the swatches of the headline table.
      sections: the charts, in order.
    """
    runs = [run for group in groups.values() for run in group]
    title = escape(wording.title(rows))
    findings = "".join(f"<li>{escape(text)}</li>" for text in wording.findings(rows))
    caveats = "".join(f"<li>{escape(text)}</li>" for text in wording.caveats(groups, rows))
    parts = [
        f"<h1>{title}</h1>",
        f'<p class="facts">{escape(wording.facts(runs))}</p>',
        f'<ul class="findings">{findings}</ul>' if findings else "",
        _headline(rows, strokes),
        f"<h2>Before you rely on it</h2><ul>{caveats}</ul>" if caveats else "",
        *(_section(section) for section in sections),
        f"<h2>Runs</h2>{_runs_table(groups)}",
        f"<h2>Configs</h2>{_configs(groups)}",
        "<h2>What the words mean</h2><dl>",
        *(f"<dt>{word}</dt><dd>{meaning}</dd>" for word, meaning in _DEFINITIONS.items()),
        "</dl>",
    ]
    return document(title, "\n".join(part for part in parts if part))


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
        f"<title>{title}</title>\n<style>{_colours()}{_STYLE}{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _colours() -> str:
    light, dark = (
        "".join(f"--{name}:{pair[index]};" for name, pair in theme.PALETTE.items())
        for index in (0, 1)
    )
    return f":root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"


def _headline(rows: Sequence[Row], strokes: Mapping[str, theme.Stroke]) -> str:
    variables = {pair[0]: f"var(--{name})" for name, pair in theme.PALETTE.items()}
    lines = []
    for row in rows:
        colour = variables[strokes[row.label].colour]
        first, *others = (escape(cell) for cell in tables.cells(row))
        swatch = f'<span class="swatch" style="background:{colour}"></span>'
        lines.append([swatch + first, *others])
    return table(tables.HEADINGS, lines)


def _section(section: Section) -> str:
    return (
        f"<h2>{escape(section.heading)}</h2>\n<figure>\n"
        f'<div class="desk">{section.desk}</div>\n<div class="phone">{section.phone}</div>\n'
        f"<figcaption>{escape(section.caption)}</figcaption>\n</figure>"
    )


def _runs_table(groups: Mapping[str, Sequence[Run]]) -> str:
    headings = ("run", "label", "seed", "state", "config hash", "device", "commit", "versions")
    lines = []
    for label, runs in groups.items():
        for run in runs:
            state = "finished" if run.finished else f"unfinished, at update {run.last_step}"
            versions = run.facts.get("versions") or {}
            cells = (
                run.name,
                label,
                run.seed,
                state + (f", {run.damaged} damaged" if run.damaged else ""),
                run.facts["config_hash"],
                run.facts.get("device") or tables.NOTHING,
                (run.facts.get("commit") or tables.NOTHING)[:12],
                ", ".join(f"{name} {version}" for name, version in versions.items()),
            )
            lines.append([escape(str(cell)) for cell in cells])
    return f'<div class="runs">{table(headings, lines)}</div>'


def _configs(groups: Mapping[str, Sequence[Run]]) -> str:
    """The config of each label; the fields of the later ones only where they differ."""
    flat = {label: dict(labels.flatten(runs[0].config)) for label, runs in groups.items()}
    shared = {
        key: value
        for key, value in next(iter(flat.values())).items()
        if all(key in config and config[key] == value for config in flat.values())
    }
    blocks = [_fields("Shared by all runs", shared)] if len(flat) > 1 else []
    for label, config in flat.items():
        own = {key: value for key, value in config.items() if len(flat) == 1 or key not in shared}
        blocks.append(_fields(label, own))
    return "\n".join(blocks)


def _fields(name: str, config: Mapping[str, object]) -> str:
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in config.items())
    return (
        f"<details><summary>{escape(name)}</summary>"
        f"<pre>{escape(lines or 'nothing')}</pre></details>"
    )


def table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table from cells that are HTML already."""
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" for line in lines)
    return (
        f'<div class="table"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )
