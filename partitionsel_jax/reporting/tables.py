"""Tables: cells of the headline and of the costs, the headline as text, and the CSV files."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from partitionsel_jax.csv_files import to_csv
from partitionsel_jax.reporting import labels, overlaps
from partitionsel_jax.reporting.accuracies import Accuracy
from partitionsel_jax.reporting.comparison import Row, Spread, ToTarget
from partitionsel_jax.reporting.costs import CURRENCIES, CostAxis
from partitionsel_jax.reporting.runs import PER_DOMAIN, SCALARS, STAGES, Run
from partitionsel_jax.text_table import aligned

HEADINGS = (
    "method",
    "seeds",
    "final validation loss",
    "updates to target",
    "seconds to target",
    "corrupted picks",
    "test loss",
    "test accuracy (95 %)",
    "seconds / update",
)
NOTHING = "–"
# Of the accuracies by domain, beyond which they do not fit on a screen.
_MOST_COLUMNS = 6
_SPENT = ("tokens", "flops", "seconds")


def cells(row: Row) -> tuple[str, ...]:
    """A headline row as text, one cell for each of HEADINGS."""
    state = f" ({row.unfinished} unfinished)" if row.unfinished else ""
    return (
        row.label + (" (baseline)" if row.is_baseline else ""),
        ", ".join(map(str, row.seeds)) + state,
        _spread(row.validation_loss, ".4f"),
        _ratio(row, row.updates),
        _ratio(row, row.seconds),
        NOTHING if row.corrupted_share is None else f"{100 * row.corrupted_share:.1f} %",
        _spread(row.test_loss, ".4f"),
        NOTHING if row.accuracy is None else str(row.accuracy),
        NOTHING if row.seconds_per_update is None else f"{row.seconds_per_update:.3g}",
    )


def as_text(sets: Sequence[Sequence[Row]]) -> str:
    """The headline as aligned plain text, a table for each evaluation set.

    Below it stand the accuracies by domain, as long as there are few methods.
    """
    tables = []
    for rows in sets:
        text = aligned([HEADINGS, *(cells(row) for row in rows)])
        by_domain = accuracy_lines(rows)
        if by_domain and len(by_domain[0]) <= _MOST_COLUMNS:
            text += "\n\n" + aligned(by_domain)
        tables.append(text)
    if len(tables) == 1:
        return tables[0]
    return "\n\n".join(
        f"evaluation set {number} of {len(tables)}\n{text}"
        for number, text in enumerate(tables, start=1)
    )


def accuracy_lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Test accuracies, a line a domain and a column a method; empty with fewer than two domains."""
    answered = [row for row in rows if row.domain_accuracies]
    questions = {
        name: accuracy.questions
        for row in answered
        for name, accuracy in row.domain_accuracies.items()
    }
    if len(questions) < 2:
        return []
    return [
        ("test accuracy (95 %)", "questions", *(row.label for row in answered)),
        *(
            (name, str(count), *(str(row.domain_accuracies.get(name, NOTHING)) for row in answered))
            for name, count in questions.items()
        ),
    ]


COST_HEADINGS = (
    "method",
    "cost in",
    "at the target",
    "ratio (mean)",
    "95 % interval",
    "median",
    "reached by",
    "seed by seed",
)


def cost_lines(row: Row) -> list[tuple[str, ...]]:
    """What reaching the target took, a line for each cost_axis, under COST_HEADINGS."""
    return [
        _cost_line(row, cost_axis, row.costs[name])
        for name, cost_axis in CURRENCIES.items()
        if row.costs[name].pairs and not row.is_baseline
    ]


def _cost_line(row: Row, cost_axis: CostAxis, cost: ToTarget) -> tuple[str, ...]:
    size, unit = cost_axis.unit(cost.at or 0.0)
    times = " ×" if unit.startswith("10") else ""
    at = NOTHING
    if cost.at is not None:
        shown = cost.at / size
        at = f"{shown:,.0f}" if shown >= 100 else f"{shown:.3g}"
        at = f"{at}{times} {unit}".strip()
    median = "not reached" if cost.median is None else f"{cost.median:.2f}×"
    ratio = NOTHING if cost.ratio is None else f"{cost.ratio.mean:.2f}×"
    seeds = (f"{p.seed}: {'' if p.reached else '> '}{p.ratio:.2f}×" for p in cost.seeds)
    return (
        row.label,
        cost_axis.noun,
        at,
        ratio,
        _interval(cost),
        median,
        f"{cost.reached} of {cost.pairs}",
        ", ".join(seeds),
    )


def _interval(cost: ToTarget) -> str:
    """That of the mean ratio; none where seeds are missing from it, as it would hide them."""
    bounds = cost.interval
    return NOTHING if bounds is None else f"{bounds[0]:.2f} – {bounds[1]:.2f}"


def summary_csv(sets: Sequence[Sequence[Row]]) -> str:
    """The headline as numbers, one line a label; an empty field was not logged or has no value.

    Final losses compare within an evaluation set only. The bounds are those of 95 % intervals.
    """
    header = [
        "evaluation_set label method baseline seeds unfinished",
        "validation_loss_mean validation_loss_std target_loss",
        *(
            f"{name}_ratio_mean {name}_ratio_std {name}_ratio_low {name}_ratio_high "
            f"{name}_ratio_median {name}_to_target"
            for name in CURRENCIES
        ),
        "seeds_reached seeds_paired",
        "corrupted_share test_loss_mean test_loss_std",
        "test_accuracy_mean test_accuracy_std test_accuracy_low test_accuracy_high test_questions",
        "seconds_per_update",
        *(f"{stage}_share" for stage in STAGES),
    ]
    lines = [
        (
            *(number, row.label, row.method, row.baseline),
            *(" ".join(map(str, row.seeds)), row.unfinished),
            *(*_numbers(row.validation_loss), row.target),
            *(value for name in CURRENCIES for value in _cost_numbers(row.costs[name])),
            *(row.updates.reached, row.updates.pairs),
            *(row.corrupted_share, *_numbers(row.test_loss), *_accuracy_numbers(row.accuracy)),
            row.seconds_per_update,
            *(row.shares.get(stage) for stage in STAGES),
        )
        for number, rows in enumerate(sets, start=1)
        for row in rows
    ]
    return to_csv([" ".join(header).split(), *lines])


def _cost_numbers(cost: ToTarget) -> tuple[float | None, ...]:
    low, high = cost.interval or (None, None)
    return (*_numbers(cost.ratio), low, high, cost.median, cost.at)


def to_target_csv(rows: Sequence[Row]) -> str:
    """What reaching the baseline's final loss took, one line a label, cost_axis and seed.

    Where `reached` is False the seed never got there: its cost is all that it spent, its ratio a
    lower bound.
    """
    header = ("label", "baseline", "cost_axis", "seed", "cost", "baseline_cost", "ratio", "reached")
    lines = [
        (row.label, row.baseline, name, p.seed, p.cost, p.baseline, p.ratio, p.reached)
        for row in rows
        if not row.is_baseline
        for name, cost in row.costs.items()
        for p in cost.seeds
    ]
    return to_csv([header, *lines])


def configs_csv(runs: Sequence[Run]) -> str:
    """Every run with its config: the hash, and every field that is not the same in all of them."""
    configs = [dict(labels.flatten(run.config)) for run in runs]
    fields = [*labels.differing(configs)]
    header = ("run", "label", "method", "seed", "config_hash", "finished", *fields)
    lines = [
        (
            *(run.name, run.label, run.method, run.seed, run.facts["config_hash"], run.finished),
            *(json.dumps(config[field]) if field in config else None for field in fields),
        )
        for run, config in zip(runs, configs, strict=True)
    ]
    return to_csv([header, *lines])


def overlap_csv(sets: Sequence[Mapping[str, Sequence[Run]]]) -> str:
    """Overlap of picks over time, one line a run, step and run of the first label it meets."""
    lines: list[tuple] = []
    for groups in sets:
        read, other = overlaps.reader(groups), overlaps.reference(groups)
        for runs in groups.values():
            for run in runs:
                steps, shares = read(run)
                for step, share in zip(steps.tolist(), shares.tolist(), strict=True):
                    lines.append((run.name, run.label, other, run.seed, step, round(share, 6)))
    return to_csv([("run", "label", "other_label", "seed", "step", "jaccard"), *lines])


def curves_csv(runs: Sequence[Run]) -> str:
    """Every logged number of every run in long format: one line a run, step, metric and domain.

    `tokens`, `flops` and `seconds` are what was spent up to that step, empty where it was not
    logged; `domain` is empty for a number of the whole batch.
    """
    identity = ("run", "label", "method", "seed")
    header = (*identity, "step", *_SPENT, "metric", "domain", "value")
    return to_csv([header, *(line for run in runs for line in _points(run))])


def _points(run: Run) -> Iterator[tuple]:
    identity = (run.name, run.label, run.method, run.seed)
    every = np.arange(1 + max((row["step"] for row in run.rows), default=0))
    spent = [_rounded(run.spent_at(every, name)) for name in _SPENT]
    until = list(zip(*spent, strict=True))
    for metric in SCALARS:
        steps, values = run.series(metric)
        for step, value in zip(steps.tolist(), values.tolist(), strict=True):
            yield (*identity, step, *until[step], metric, "", value)
    for metric in PER_DOMAIN:
        steps, values = run.series(metric)
        for step, vector in zip(steps.tolist(), values.tolist(), strict=True):
            for domain, value in zip(run.domains, vector, strict=True):
                yield (*identity, step, *until[step], metric, domain, value)


def _rounded(spent: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else round(value, 6) for value in spent.tolist()]


def _numbers(spread: Spread | None) -> tuple[float | None, float | None]:
    return (spread.mean, spread.std) if spread else (None, None)


def _accuracy_numbers(accuracy: Accuracy | None) -> tuple[float | None, ...]:
    return (None,) * 5 if accuracy is None else dataclasses.astuple(accuracy)


def _spread(spread: Spread | None, style: str) -> str:
    if spread is None:
        return NOTHING
    around = "" if spread.std is None else f" ± {spread.std:{style}}"
    return f"{spread.mean:{style}}{around}"


def _ratio(row: Row, cost: ToTarget) -> str:
    if row.is_baseline:
        return "1" if row.updates.pairs else NOTHING
    if not cost.pairs:
        return NOTHING
    if cost.ratio is None:
        return "not reached"
    around = "" if cost.ratio.std is None else f" ± {cost.ratio.std:.2f}"
    text = f"{cost.ratio.mean:.2f}×{around}"
    return text if cost.reached == cost.pairs else f"{text} ({cost.reached} of {cost.pairs} seeds)"
