"""The tables of the report page, and its page for each run."""

import json
import math
from collections.abc import Mapping, Sequence
from html import escape

from partitionsel_jax.reporting import labels, overlaps, page_data, selection_charts, tables, theme
from partitionsel_jax.reporting.accuracies import Accuracy
from partitionsel_jax.reporting.comparison import Row
from partitionsel_jax.reporting.html import table
from partitionsel_jax.reporting.page_data import Sets
from partitionsel_jax.reporting.runs import STAGES, Run
from partitionsel_jax.reporting.tables import NOTHING

Places = Mapping[str, int]
# Fields of the table of configs, and labels of that of overlaps, beyond which it is unreadable.
_MOST_FIELDS, _MOST_LABELS = 8, 24
# Rows of a table that stand above the charts unasked for.
_MOST_OPEN = 16
_DEFINITIONS = {
    "Pool, picks": "Every update sees a pool of candidate examples; the method picks some of them, "
    "and the model is updated on the picks.",
    "Final validation loss": "Mean cross-entropy of the response tokens, in nats, on the "
    "validation examples after the last update; mean ± sample standard deviation (n − 1) over "
    "seeds.",
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
    "Test loss": "Mean cross-entropy of the response tokens, in nats, on the test examples after "
    "the last update.",
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
GLOSSARY = (
    "<h2>What the words mean</h2><dl>"
    + "".join(f"<dt>{word}</dt><dd>{meaning}</dd>" for word, meaning in _DEFINITIONS.items())
    + "</dl>"
)


def key(stroke: theme.Stroke) -> str:
    """A label's stroke as a small picture."""
    dash = " ".join(f"{2 * length:g}" for length in stroke.dash[1])
    style = f"stroke:{theme.variable(stroke.colour)};stroke-width:2.4"
    return (
        '<svg class="key" width="26" height="8" viewBox="0 0 26 8" aria-hidden="true">'
        f'<line x1="0" y1="4" x2="26" y2="4" style="{style}" stroke-dasharray="{dash}"/></svg>'
    )


def headline(rows: Sequence[Row], places: Places, strokes: Mapping[str, theme.Stroke]) -> str:
    """The headline numbers of an evaluation set."""
    lines = []
    for row in rows:
        first, *others = (escape(cell) for cell in tables.cells(row))
        lines.append([key(strokes[row.label]) + first, *others])
    return table(tables.HEADINGS, lines, [_of_label(row.label, places) for row in rows])


def accuracies(rows: Sequence[Row], strokes: Mapping[str, theme.Stroke]) -> str:
    """Test accuracy by domain, with its interval drawn; empty with fewer than two domains."""
    if not (lines := tables.accuracy_lines(rows)):
        return ""
    answered = [row for row in rows if row.domain_accuracies]
    widest = max(share.high for row in answered for share in row.domain_accuracies.values())
    body = []
    for name, count, *_ in lines[1:]:
        cells = [escape(name), count]
        for row in answered:
            share = row.domain_accuracies.get(name)
            drawn = _interval(share, widest, strokes[row.label]) if share else ""
            cells.append(escape(str(share or NOTHING)) + drawn)
        body.append(cells)
    head = [escape(cell) for cell in lines[0]]
    return (
        "<h2>Test accuracy by domain</h2>"
        f'<p class="note">Every bar begins at 0 and could go to {100 * widest:.0f} %.</p>'
        f'<div class="wraps">{table(head, body)}</div>'
    )


def _interval(share: Accuracy, widest: float, stroke: theme.Stroke) -> str:
    """A share as a point in its interval, on a line from 0 to the widest end."""
    low, high, mean = (100 * end / widest for end in (share.low, share.high, share.mean))
    return (
        f'<div class="interval" style="color:{theme.variable(stroke.colour)}">'
        f'<i style="left:{low:.1f}%;width:{high - low:.1f}%"></i><b style="left:{mean:.1f}%"></b>'
        "</div>"
    )


def costs(rows: Sequence[Row], places: Places) -> str:
    """What reaching the baseline's final loss takes; empty where nothing is compared."""
    lines = [(row.label, line) for row in rows for line in tables.cost_lines(row)]
    if not lines:
        return ""
    cells = [[escape(cell) for cell in line] for _, line in lines]
    attributes = [_of_label(label, places) for label, _ in lines]
    is_open = " open" if len(lines) <= _MOST_OPEN else ""
    return (
        "<h2>Cost of the baseline's final loss</h2>"
        '<p class="note">Relative to the baseline run with the same seed; below 1 is cheaper. '
        "&gt; marks a seed that never got there, with all that it spent.</p>"
        f"<details{is_open}><summary>{len(lines)} rows</summary>"
        f'<div class="wraps">{table(tables.COST_HEADINGS, cells, attributes)}</div></details>'
    )


def overlap(sets: Sets) -> str:
    """Mean overlap of every two labels, for each evaluation set that has several."""
    parts = []
    for groups in sets:
        if not 1 < len(groups) <= _MOST_LABELS:
            continue
        found = overlaps.matrix(groups)
        lines = []
        for label, shares in zip(groups, found.tolist(), strict=True):
            cells = [_share_cell(share) for share in shares]
            lines.append(f"<tr><td>{escape(label)}</td>{''.join(cells)}</tr>")
        if all(math.isnan(share) for line, row in enumerate(found) for share in row[:line]):
            continue
        head = "".join(f"<th>{escape(label)}</th>" for label in groups)
        parts.append(
            '<div class="table heat"><table><thead><tr><th></th>'
            f"{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
        )
    if not parts:
        return ""
    note = "Mean Jaccard index of the picks of every two methods, over all updates and seeds."
    return f'<h2>Overlap between methods</h2><p class="note">{note}</p>{"".join(parts)}'


def _share_cell(share: float) -> str:
    if math.isnan(share):
        return f"<td>{NOTHING}</td>"
    return f'<td style="--share:{share:.3f}">{share:.2f}</td>'


def stages(rows: Sequence[Row], places: Places) -> str:
    """Shares of the stages in a step's time; empty where no step was measured."""
    measured = [row for row in rows if row.shares]
    if not measured:
        return ""
    colours = {
        stage: theme.variable(colour) for stage, colour in selection_charts.STAGE_COLOURS.items()
    }
    lines = []
    for row in measured:
        bar = "".join(
            f'<span style="width:{100 * share:.2f}%;background:{colours[stage]}"></span>'
            for stage, share in row.shares.items()
        )
        percents = [f"{100 * row.shares[stage]:.1f} %" for stage in STAGES]
        seconds = NOTHING if row.seconds_per_update is None else f"{row.seconds_per_update:.3g}"
        lines.append(
            [escape(row.label), *percents, seconds, f'<div class="shares" role="img">{bar}</div>']
        )
    headings = [
        "method",
        *(
            f'<span class="swatch" style="background:{colours[stage]}"></span>{stage}'
            for stage in STAGES
        ),
        "seconds / update",
        "",
    ]
    attributes = [_of_label(row.label, places) for row in measured]
    return f"<h2>Where the time of an update goes</h2>{table(headings, lines, attributes)}"


def configs(sets: Sets, places: Places) -> str:
    """Every config with its hash, its seeds, and the fields in which the configs differ."""
    groups = {label: runs for found in sets for label, runs in found.items()}
    flat = {label: dict(labels.flatten(runs[0].config)) for label, runs in groups.items()}
    fields = labels.differing(list(flat.values()))
    shown = fields[:_MOST_FIELDS]
    lines = [
        [
            escape(label),
            f"<code>{escape(str(runs[0].facts['config_hash']))}</code>",
            ", ".join(str(run.seed) for run in runs),
            *(escape(_value(flat[label], field)) for field in shown),
        ]
        for label, runs in groups.items()
    ]
    headings = ["label", "config hash", "seeds", *map(escape, shown)]
    more = len(fields) - len(shown)
    note = f'<p class="note">{more} more fields differ: see configs.csv.</p>' if more > 0 else ""
    shared = {
        field: value for field, value in next(iter(flat.values())).items() if field not in fields
    }
    attributes = [_of_label(label, places) for label in groups]
    return (
        f'<div class="wide">{table(headings, lines, attributes)}</div>{note}'
        f"{_fields('Fields that all of them share', shared)}"
    )


def _value(config: Mapping[str, object], field: str) -> str:
    return json.dumps(config[field]) if field in config else NOTHING


def runs(sets: Sets) -> str:
    """All runs, each with a link to its page."""
    headings = ("run", "label", "seed", "state", "config hash", "final loss", "device", "commit")
    found = page_data.ordered(sets)
    lines = []
    for number, run in enumerate(found):
        losses = run.evaluations()[1]
        lines.append(
            [
                f'<a href="#run-{number}">{escape(run.name)}</a>',
                escape(run.label),
                str(run.seed),
                escape(_state(run)),
                f"<code>{escape(str(run.facts['config_hash']))}</code>",
                f"{losses[-1]:.4f}" if len(losses) else NOTHING,
                escape(str(run.facts.get("device") or NOTHING)),
                escape(str(run.facts.get("commit") or NOTHING)[:12]),
            ]
        )
    return table(headings, lines, [f'data-run="{number}"' for number in range(len(found))])


def run_pages(sets: Sets) -> str:
    """A page for each run, shown instead of the overview when its address is asked for."""
    return "\n".join(_run_page(number, run) for number, run in enumerate(page_data.ordered(sets)))


def _run_page(number: int, run: Run) -> str:
    versions = run.facts.get("versions") or {}
    test = run.summary.get("test") or {}
    seconds = run.summary.get("seconds") or {}
    losses = run.evaluations()[1]
    facts = {
        "label": run.label,
        "seed": run.seed,
        "state": _state(run),
        "config hash": run.facts["config_hash"],
        "final validation loss": f"{losses[-1]:.4f}" if len(losses) else NOTHING,
        "test accuracy": _percent(test.get("accuracy")),
        "seconds": ", ".join(
            f"{name} {seconds[name]:.3g}"
            for name in ("train", "evaluation", "compile")
            if isinstance(seconds.get(name), int | float)
        ),
        "share of the step": ", ".join(f"{k} {100 * v:.1f} %" for k, v in run.shares.items()),
        **{field: json.dumps(value) for field, value in run.axes.items()},
        "device": run.facts.get("device"),
        "commit": run.facts.get("commit"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    lines = [[escape(name), escape(str(value))] for name, value in facts.items() if value]
    return (
        f'<section class="run" id="run-{number}" data-run="{number}">'
        f'<p><a href="#">← all runs</a></p><h1>{escape(run.name)}</h1>'
        f'<div class="wraps">{table(("", ""), lines)}</div>'
        '<figure><div class="panels"></div><figcaption>Training loss and diagnostics are averaged '
        "over a window of a twentieth of the run.</figcaption></figure>"
        f"{_fields('Config', dict(labels.flatten(run.config)))}</section>"
    )


def _state(run: Run) -> str:
    state = "finished" if run.finished else f"unfinished, at update {run.last_step}"
    return state + (f", {run.damaged} damaged" if run.damaged else "")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _of_label(label: str, places: Places) -> str:
    return f'data-label="{places[label]}"'


def _fields(name: str, config: Mapping[str, object]) -> str:
    lines = "\n".join(f"{field} = {json.dumps(value)}" for field, value in config.items())
    return (
        f"<details><summary>{escape(name)}</summary>"
        f"<pre>{escape(lines or 'nothing')}</pre></details>"
    )
