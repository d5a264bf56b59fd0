"""Tables: the headline's cells, its text form, and the two CSV files."""

import csv
import io
from collections.abc import Iterator, Sequence

import numpy as np

from partitionsel_jax.reporting.comparison import Row, Spread, ToTarget
from partitionsel_jax.reporting.runs import PER_DOMAIN, SCALARS, Run
from partitionsel_jax.text_table import aligned

HEADINGS = (
    "method",
    "seeds",
    "final validation loss",
    "updates to target",
    "seconds to target",
    "spoilt picks",
    "test accuracy",
    "seconds / update",
)
NOTHING = "–"


def cells(row: Row) -> tuple[str, ...]:
    """A headline row as text, one cell for each of HEADINGS."""
    state = f" ({row.unfinished} unfinished)" if row.unfinished else ""
    return (
        row.label + (" (baseline)" if row.is_baseline else ""),
        ", ".join(map(str, row.seeds)) + state,
        _spread(row.validation_loss, ".4f"),
        _ratio(row, row.updates),
        _ratio(row, row.seconds),
        NOTHING if row.spoilt_share is None else f"{100 * row.spoilt_share:.1f} %",
        _percent(row.accuracy),
        NOTHING if row.seconds_per_update is None else f"{row.seconds_per_update:.3g}",
    )


def as_text(rows: Sequence[Row]) -> str:
    """The headline as an aligned plain-text table."""
    return aligned([HEADINGS, *(cells(row) for row in rows)])


def summary_csv(rows: Sequence[Row]) -> str:
    """The headline as numbers, one line a label; an empty field was not logged or has no value."""
    header = [
        "label method baseline seeds unfinished",
        "validation_loss_mean validation_loss_std target_loss",
        "updates_ratio_mean updates_ratio_std updates_to_target",
        "seconds_ratio_mean seconds_ratio_std seconds_to_target",
        "seeds_reached seeds_paired",
        "spoilt_share test_accuracy_mean test_accuracy_std seconds_per_update",
    ]
    lines = [
        (
            *(row.label, row.method, row.baseline, " ".join(map(str, row.seeds)), row.unfinished),
            *(*_numbers(row.validation_loss), row.target),
            *(*_numbers(row.updates.ratio), row.updates.at),
            *(*_numbers(row.seconds.ratio), row.seconds.at),
            *(row.updates.reached, row.updates.pairs),
            *(row.spoilt_share, *_numbers(row.accuracy), row.seconds_per_update),
        )
        for row in rows
    ]
    return _csv([" ".join(header).split(), *lines])


def curves_csv(runs: Sequence[Run]) -> str:
    """Every logged number of every run in long format: one line a run, step, metric and domain.

    `seconds` is the training time up to that step; `domain` is empty for a number of the whole
    batch.
    """
    header = ("run", "label", "method", "seed", "step", "seconds", "metric", "domain", "value")
    return _csv([header, *(line for run in runs for line in _points(run))])


def _points(run: Run) -> Iterator[tuple]:
    identity = (run.name, run.label, run.method, run.seed)
    for metric in SCALARS:
        steps, values = run.series(metric)
        spent = np.round(run.seconds_at(steps), 6).tolist()
        for step, seconds, value in zip(steps.tolist(), spent, values.tolist(), strict=True):
            yield (*identity, step, seconds, metric, "", value)
    for metric in PER_DOMAIN:
        steps, values = run.series(metric)
        spent = np.round(run.seconds_at(steps), 6).tolist()
        for step, seconds, vector in zip(steps.tolist(), spent, values.tolist(), strict=True):
            for domain, value in zip(run.domains, vector, strict=True):
                yield (*identity, step, seconds, metric, domain, value)


def _csv(lines) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()


def _numbers(spread: Spread | None) -> tuple[float | None, float | None]:
    return (spread.mean, spread.std) if spread else (None, None)


def _spread(spread: Spread | None, style: str) -> str:
    if spread is None:
        return NOTHING
    around = "" if spread.std is None else f" ± {spread.std:{style}}"
    return f"{spread.mean:{style}}{around}"


def _percent(spread: Spread | None) -> str:
    if spread is None:
        return NOTHING
    return _spread(Spread(100 * spread.mean, _scaled(spread.std), spread.count), ".1f") + " %"


def _scaled(std: float | None) -> float | None:
    return None if std is None else 100 * std


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
