"""Tables: the headline, costs and accuracies as text cells, and the CSV files."""

import json
from collections.abc import Iterator, Sequence
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


def headline(rows: Sequence[Row]) -> pd.DataFrame:
    """The headline rows of an evaluation set as text."""
    return pd.DataFrame(
        {
            "method": row.label + (" (baseline)" if row.is_baseline else ""),
            "seeds": ", ".join(map(str, row.seeds))
            + (f" ({row.unfinished} unfinished)" if row.unfinished else ""),
            "final validation loss": _spread(row.validation_loss),
            "updates to target": _ratio(row, row.updates),
            "seconds to target": _ratio(row, row.costs["seconds"]),
            "corrupted picks": percent(row.corrupted_share),
            "test loss": _spread(row.test_loss),
            "test accuracy (95 %)": str(row.accuracy or NOTHING),
            "seconds / update": _known(row.seconds_per_update, "{:.3g}"),
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
            "ratio (mean)": _known(cost.ratio.mean if cost.ratio else None, "{:.2f}×"),
            "95 % interval": "{:.2f} – {:.2f}".format(*cost.interval) if cost.interval else NOTHING,
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


def configs(runs: Sequence[Run]) -> pd.DataFrame:
    """Every run with the hash of its config, and every field that is not the same in all."""
    flat = [labels.fields(run.config) for run in runs]
    apart = labels.differing(flat)
    return pd.DataFrame(
        {
            **{"run": run.name, "label": run.label, "method": run.method, "seed": run.seed},
            **{"config_hash": run.facts["config_hash"], "finished": run.finished},
            **{f: json.dumps(config[f]) if f in config else "" for f in apart},
        }
        for run, config in zip(runs, flat, strict=True)
    )


def as_text(sets: Sequence[Sequence[Row]]) -> str:
    """The headline as aligned plain text, a table for each evaluation set.

    Below it stand the accuracies by domain, as long as there are few methods.
    """
    parts = []
    for number, rows in enumerate(sets, start=1):
        table = text(headline(rows))
        heading = f"evaluation set {number} of {len(sets)}\n" if len(sets) > 1 else ""
        parts.append(heading + table)
        if 0 < len((by_domain := accuracies(rows)).columns) <= _MOST_COLUMNS:
            parts.append(text(by_domain))
    return "\n\n".join(parts)


def text(frame: pd.DataFrame) -> str:
    """A table of text cells as aligned plain text."""
    return aligned([list(frame.columns), *frame.itertuples(index=False, name=None)])


def percent(share: float | None) -> str:
    """A share in percent, with one decimal."""
    return _known(None if share is None else 100 * share, "{:.1f} %")


def csv_files(
    sets: Sequence[Groups], headlines: Sequence[Sequence[Row]], runs: Sequence[Run]
) -> dict[str, str]:
    """The CSV files of a report by their names; an empty field was not logged or has no value.

    * summary.csv: the headline as numbers, one line a label. Final losses compare within an
      evaluation set only. The bounds are those of 95 % intervals.
    * to_target.csv: what every seed spent to reach the target, or in all where it never did.
    * configs.csv: see `configs`.
    * overlap.csv: overlap of picks over time, one line a run, step and run of the first label it
      meets.
    * curves.csv: every logged number of every run, one line a run, step, metric and domain (empty
      for a number of the whole batch); `tokens`, `flops` and `seconds` were spent up to that step.
    """
    identity = ("label", "baseline", "cost_axis", "seed")
    reached: list[tuple] = [(*identity, "cost", "baseline_cost", "ratio", "reached")]
    reached += [
        (row.label, row.baseline, name, p.seed, p.cost, p.baseline, p.ratio, p.reached)
        for headline in headlines
        for row in headline
        if not row.is_baseline
        for name, cost in row.costs.items()
        for p in cost.seeds
    ]
    summary = [_summary(n, row) for n, headline in enumerate(headlines, 1) for row in headline]
    differing = configs(runs)
    return {
        "summary.csv": to_csv([list(summary[0]), *(list(line.values()) for line in summary)]),
        "to_target.csv": to_csv(reached),
        "configs.csv": to_csv([list(differing), *differing.itertuples(index=False, name=None)]),
        "overlap.csv": to_csv(_overlaps(sets)),
        "curves.csv": to_csv(_points(runs)),
    }


def _summary(number: int, row: Row) -> dict[str, Any]:
    return {
        "evaluation_set": number,
        **{"label": row.label, "method": row.method, "baseline": row.baseline},
        **{"seeds": " ".join(map(str, row.seeds)), "unfinished": row.unfinished},
        **_numbers("validation_loss", row.validation_loss, "mean", "std"),
        "target_loss": row.target,
        **{k: v for name in COST_AXES for k, v in _cost_numbers(name, row.costs[name]).items()},
        **{"seeds_reached": row.updates.reached, "seeds_paired": row.updates.pairs},
        "corrupted_share": row.corrupted_share,
        **_numbers("test_loss", row.test_loss, "mean", "std"),
        **_numbers("test_accuracy", row.accuracy, "mean", "std", "low", "high"),
        **_numbers("test", row.accuracy, "questions"),
        "seconds_per_update": row.seconds_per_update,
        **{f"{stage}_share": row.shares.get(stage) for stage in STAGES},
    }


def _cost_numbers(name: str, cost: ToTarget) -> dict[str, float | None]:
    low, high = cost.interval or (None, None)
    return {
        **_numbers(f"{name}_ratio", cost.ratio, "mean", "std"),
        **{f"{name}_ratio_low": low, f"{name}_ratio_high": high},
        **{f"{name}_ratio_median": cost.median, f"{name}_to_target": cost.at},
    }


def _numbers(name: str, found: object, *attributes: str) -> dict[str, Any]:
    return {f"{name}_{attribute}": getattr(found, attribute, None) for attribute in attributes}


def _overlaps(sets: Sequence[Groups]) -> Iterator[tuple]:
    yield ("run", "label", "other_label", "seed", "step", "jaccard")
    for groups in sets:
        read, other = curves.overlap_with_first(groups), next(iter(groups))
        for run in (run for runs in groups.values() for run in runs):
            for step, share in zip(*(part.tolist() for part in read(run)), strict=True):
                yield run.name, run.label, other, run.seed, step, round(share, 6)


def _points(runs: Sequence[Run]) -> Iterator[tuple]:
    yield ("run", "label", "method", "seed", "step", *_SPENT, "metric", "domain", "value")
    for run in runs:
        every = np.arange(1 + run.last_step)
        spent = np.array([run.spent_at(every, name) for name in _SPENT]).T.round(6)
        until = [[None if np.isnan(value) else value for value in row] for row in spent.tolist()]
        for metric in (*SCALARS, *PER_DOMAIN):
            domains = run.domains if metric in PER_DOMAIN else ("",)
            steps, values = run.series(metric)
            vectors = values.reshape(-1, len(domains)).tolist()
            for step, vector in zip(steps.tolist(), vectors, strict=True):
                for domain, value in zip(domains, vector, strict=True):
                    identity = (run.name, run.label, run.method, run.seed, step)
                    yield (*identity, *until[step], metric, domain, value)


def _known(value: float | None, form: str) -> str:
    return NOTHING if value is None else form.format(value)


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
