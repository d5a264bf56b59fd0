"""Tables: the headline, costs and accuracies as text cells, and the CSV files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from partitionsel_jax.csv_files import to_csv
from partitionsel_jax.reporting import curves, labels
from partitionsel_jax.reporting.comparison import Row, Spread, ToTarget
from partitionsel_jax.reporting.costs import COST_AXES
from partitionsel_jax.reporting.curves import Groups
from partitionsel_jax.reporting.runs import PER_DOMAIN, SCALARS, STAGES, Run
from partitionsel_jax.text_table import aligned

NOTHING = "–"
# Columns of the accuracies by domain, beyond which they do not fit on a screen.
_MOST_COLUMNS = 6
_SPENT = ("tokens", "flops", "seconds")
_ACCURACY = {f"test_accuracy_{end}": end for end in ("mean", "std", "low", "high")}
_ACCURACY["test_questions"] = "questions"


def headline(rows: Sequence[Row]) -> pd.DataFrame:
    """The headline rows of an evaluation set as text."""
    return pd.DataFrame(
        {
            "method": row.label + (" (baseline)" if row.is_baseline else ""),
            "seeds": ", ".join(map(str, row.seeds))
            + (f" ({row.unfinished} unfinished)" if row.unfinished else ""),
            "final validation loss": _spread(row.validation_loss),
            "updates to target": _ratio(row, row.updates),
            "seconds to target": _ratio(row, row.seconds),
            "corrupted picks": percent(row.corrupted_share),
            "test loss": _spread(row.test_loss),
            "test accuracy (95 %)": str(row.accuracy or NOTHING),
            "seconds / update": NOTHING
            if row.seconds_per_update is None
            else f"{row.seconds_per_update:.3g}",
        }
        for row in rows
    )


def accuracies(rows: Sequence[Row]) -> pd.DataFrame:
    """Test accuracies, a line a domain and a column a method; empty with fewer than two domains."""
    answered = [row for row in rows if row.domain_accuracies]
    questions = {d: a.questions for row in answered for d, a in row.domain_accuracies.items()}
    if len(questions) < 2:
        return pd.DataFrame()
    columns = {"test accuracy (95 %)": list(questions), "questions": map(str, questions.values())}
    for row in answered:
        columns[row.label] = [str(row.domain_accuracies.get(d, NOTHING)) for d in questions]
    return pd.DataFrame(columns)


def costs(rows: Sequence[Row]) -> pd.DataFrame:
    """The cost of reaching the target, a line for each method and cost axis."""
    return pd.DataFrame(
        {
            "method": row.label,
            "cost in": axis.noun,
            "at the target": _amount(cost.at, axis.unit(cost.at or 0.0)),
            "ratio (mean)": NOTHING if cost.ratio is None else f"{cost.ratio.mean:.2f}×",
            "95 % interval": f"{cost.interval[0]:.2f} – {cost.interval[1]:.2f}"
            if cost.interval
            else NOTHING,
            "median": "not reached" if cost.median is None else f"{cost.median:.2f}×",
            "reached by": f"{cost.reached} of {cost.pairs}",
            "seed by seed": ", ".join(
                f"{p.seed}: {'' if p.reached else '> '}{p.ratio:.2f}×" for p in cost.seeds
            ),
        }
        for row in rows
        if not row.is_baseline
        for name, axis in COST_AXES.items()
        if (cost := row.costs[name]).pairs
    )


def stages(rows: Sequence[Row]) -> pd.DataFrame:
    """Seconds of an update by stage, a line a label whose step was measured."""
    measured = [row for row in rows if row.shares and row.seconds_per_update is not None]
    return pd.DataFrame(
        [[row.shares[s] * (row.seconds_per_update or 0.0) for s in STAGES] for row in measured],
        [row.label for row in measured],
        list(STAGES),
    )


def as_text(sets: Sequence[Sequence[Row]]) -> str:
    """The headline as aligned plain text, a table for each evaluation set.

    Below it stand the accuracies by domain, as long as there are few methods.
    """
    tables = []
    for rows in sets:
        frames = [headline(rows)]
        if 0 < len((by_domain := accuracies(rows)).columns) <= _MOST_COLUMNS:
            frames.append(by_domain)
        tables.append("\n\n".join(map(text, frames)))
    if len(tables) == 1:
        return tables[0]
    return "\n\n".join(
        f"evaluation set {number} of {len(tables)}\n{table}"
        for number, table in enumerate(tables, start=1)
    )


def text(frame: pd.DataFrame) -> str:
    """A table of text cells as aligned plain text."""
    return aligned([list(frame.columns), *frame.itertuples(index=False, name=None)])


def percent(share: float | None) -> str:
    """A share in percent, with one decimal."""
    return NOTHING if share is None else f"{100 * share:.1f} %"


def summary_csv(sets: Sequence[Sequence[Row]]) -> str:
    """The headline as numbers, one line a label; an empty field was not logged or has no value.

    Final losses compare within an evaluation set only. The bounds are those of 95 % intervals.
    """
    return _csv(
        {
            "evaluation_set": number,
            **{"label": row.label, "method": row.method, "baseline": row.baseline},
            **{"seeds": " ".join(map(str, row.seeds)), "unfinished": row.unfinished},
            **_numbers("validation_loss", row.validation_loss),
            "target_loss": row.target,
            **{k: v for name in COST_AXES for k, v in _cost_numbers(name, row.costs[name]).items()},
            **{"seeds_reached": row.updates.reached, "seeds_paired": row.updates.pairs},
            "corrupted_share": row.corrupted_share,
            **_numbers("test_loss", row.test_loss),
            **{name: getattr(row.accuracy, field, None) for name, field in _ACCURACY.items()},
            "seconds_per_update": row.seconds_per_update,
            **{f"{stage}_share": row.shares.get(stage) for stage in STAGES},
        }
        for number, rows in enumerate(sets, start=1)
        for row in rows
    )


def _cost_numbers(name: str, cost: ToTarget) -> dict[str, float | None]:
    low, high = cost.interval or (None, None)
    ends = {f"{name}_ratio_low": low, f"{name}_ratio_high": high}
    middle = {f"{name}_ratio_median": cost.median, f"{name}_to_target": cost.at}
    return _numbers(f"{name}_ratio", cost.ratio) | ends | middle


def to_target_csv(rows: Sequence[Row]) -> str:
    """The cost of the baseline's final loss, one line a label, cost axis and seed.

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
    """The table of `configs` as a CSV file."""
    frame = configs(runs)
    return to_csv([list(frame), *frame.itertuples(index=False, name=None)])


def configs(runs: Sequence[Run]) -> pd.DataFrame:
    """Every run with the hash of its config, and every field that is not the same in all."""
    flat = [dict(labels.flatten(run.config)) for run in runs]
    fields = labels.differing(flat)
    return pd.DataFrame(
        {
            **{"run": run.name, "label": run.label, "method": run.method, "seed": run.seed},
            **{"config_hash": run.facts["config_hash"], "finished": run.finished},
            **{f: json.dumps(config[f]) if f in config else "" for f in fields},
        }
        for run, config in zip(runs, flat, strict=True)
    )


def overlap_csv(sets: Sequence[Groups]) -> str:
    """Overlap of picks over time, one line a run, step and run of the first label it meets."""
    lines: list[tuple] = [("run", "label", "other_label", "seed", "step", "jaccard")]
    for groups in sets:
        read, other = curves.overlap_with_first(groups), next(iter(groups))
        for run in (run for runs in groups.values() for run in runs):
            for step, share in zip(*(part.tolist() for part in read(run)), strict=True):
                lines.append((run.name, run.label, other, run.seed, step, round(share, 6)))
    return to_csv(lines)


def curves_csv(runs: Sequence[Run]) -> str:
    """Every logged number of every run in long format: one line a run, step, metric and domain.

    `tokens`, `flops` and `seconds` are what was spent up to that step, empty where it was not
    logged; `domain` is empty for a number of the whole batch.
    """
    header = ("run", "label", "method", "seed", "step", *_SPENT, "metric", "domain", "value")
    return to_csv([header, *(line for run in runs for line in _points(run))])


def _points(run: Run) -> Iterator[tuple]:
    identity = (run.name, run.label, run.method, run.seed)
    every = np.arange(1 + run.last_step)
    spent = [
        [
            None if np.isnan(value) else round(value, 6)
            for value in run.spent_at(every, name).tolist()
        ]
        for name in _SPENT
    ]
    until = list(zip(*spent, strict=True))
    for metric in (*SCALARS, *PER_DOMAIN):
        domains = run.domains if metric in PER_DOMAIN else ("",)
        steps, values = run.series(metric)
        for step, vector in zip(
            steps.tolist(), values.reshape(-1, len(domains)).tolist(), strict=True
        ):
            for domain, value in zip(domains, vector, strict=True):
                yield (*identity, step, *until[step], metric, domain, value)


def _csv(records: Iterator[Mapping[str, Any]]) -> str:
    """Records with equal keys as a CSV file."""
    found = list(records)
    return to_csv([list(found[0]), *(list(record.values()) for record in found)])


def _numbers(name: str, spread: Spread | None) -> dict[str, float | None]:
    mean, std = (spread.mean, spread.std) if spread else (None, None)
    return {f"{name}_mean": mean, f"{name}_std": std}


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return NOTHING
    return f"{spread.mean:.4f}" + ("" if spread.std is None else f" ± {spread.std:.4f}")


def _amount(value: float | None, unit: tuple[float, str]) -> str:
    if value is None:
        return NOTHING
    shown = value / unit[0]
    times = " ×" if unit[1].startswith("10") else ""
    return f"{f'{shown:,.0f}' if shown >= 100 else f'{shown:.3g}'}{times} {unit[1]}".strip()


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
