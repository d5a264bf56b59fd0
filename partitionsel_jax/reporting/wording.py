"""What a report says in words: title, the facts all runs share, findings, and caveats."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from partitionsel_jax.reporting import accuracies, comparison
from partitionsel_jax.reporting.comparison import Row, ToTarget
from partitionsel_jax.reporting.runs import Run

Groups = Mapping[str, Sequence[Run]]
_MOST_NAMES = 3
_LONGEST_TITLE = 88


def title(rows: Sequence[Row]) -> str:
    """The methods that are compared, as a title."""
    others = [row.label for row in rows if not row.is_baseline]
    baselines = [row.label for row in rows if row.is_baseline]
    names = [
        joined if len(joined := ", ".join(side)) <= _LONGEST_TITLE // 2 else f"{len(side)} variants"
        for side in (others, baselines)
        if side
    ]
    return " against ".join(names)


def facts(runs: Sequence[Run]) -> str:
    """Updates, pool, corrupted answers, domains, seeds and device, as far as config.json tells."""
    parts = [
        _values([_updates(run) for run in runs]),
        _values([_pool(run) for run in runs]),
        _values([_corrupted(run.config) for run in runs]),
        _values([_count(len(run.domains), "domain") for run in runs]),
        _count(len({run.seed for run in runs}), "seed"),
        _values([run.facts.get("device") for run in runs]),
    ]
    return " · ".join(part for part in parts if part)


def findings(rows: Sequence[Row]) -> list[str]:
    """One sentence for every label that has a baseline, with its number of seeds."""
    return [
        f"{row.label} {_reaches(row)}."
        for row in rows
        if not row.is_baseline and row.baseline is not None and row.updates.pairs
    ]


def headline_title(rows: Sequence[Row]) -> str:
    """The finding as a title where there is a single one that fits, else the quantity's name."""
    said = findings(rows)
    others = [row for row in rows if not row.is_baseline]
    if len(others) != 1 or not said:
        return "Validation loss"
    row, cost = others[0], others[0].updates
    target = f"{row.baseline}'s final validation loss"
    if cost.ratio is None:
        text = f"{row.label} does not reach {target}"
    else:
        text = f"{row.label} reaches {target} in {cost.ratio.mean:.2f}× the updates"
    if 0 < cost.reached < cost.pairs:
        text += f" ({cost.reached} of {cost.pairs} seeds)"
    return text if len(text) <= _LONGEST_TITLE else "Validation loss"


def caveats(sets: Sequence[Groups], headlines: Sequence[Sequence[Row]]) -> list[str]:
    """Everything a reader must know before trusting the numbers, one sentence each.

    Args:
      sets: the runs of each label, for each evaluation set.
      headlines: the rows of each evaluation set.
    """
    groups = {label: runs for found in sets for label, runs in found.items()}
    said = []
    if not any(run.finished for runs in groups.values() for run in runs):
        said.append("No run is finished: every number is of a run under way, none is a result.")
    if len(sets) > 1:
        said.append(
            f"The runs are validated on {len(sets)} different sets of rows. They are kept apart, "
            "as losses compare within a set only: " + "; ".join(_set_names(sets)) + "."
        )
    said += _kept_apart(groups)
    for found, rows in zip(sets, headlines, strict=True):
        said += _without_partner(found, rows)
        said += _without_flops(found)
    for label, runs in groups.items():
        if len(runs) == 1:
            said.append(f"{label} ran with one seed: its numbers carry no spread.")
        for run in runs:
            if not run.finished:
                of = f" of {run.facts['updates']}" if run.facts.get("updates") else ""
                said.append(
                    f"{run.name} ({label}) is unfinished: its rows end at update "
                    f"{run.last_step}{of}. It has no part in means and ratios while another seed "
                    "of its label is finished."
                )
            if accuracies.is_outdated(run):
                said.append(
                    f"{run.name} ({label}) has a test accuracy by scorers that gave full marks to "
                    "some wrong answers: it is left out. Train again to have one."
                )
            if run.damaged:
                lines = _count(run.damaged, "damaged line")
                said.append(f"{run.name} ({label}): {lines} of metrics.jsonl skipped.")
    return said


def _set_names(sets: Sequence[Groups]) -> Iterator[str]:
    for number, groups in enumerate(sets, start=1):
        yield f"set {number} has {', '.join(groups)}"


def _without_flops(groups: Groups) -> Iterator[str]:
    """Runs of an older version, beside others that counted their operations."""
    runs = [run for found in groups.values() for run in found if run.last_step]
    without = [run.name for run in runs if not len(run.series("flops")[0])]
    if 0 < len(without) < len(runs):
        yield f"Not drawn against FLOPs, which they did not log: {', '.join(without)}."


def _kept_apart(groups: Groups) -> Iterator[str]:
    for method in dict.fromkeys(runs[0].method for runs in groups.values()):
        apart = [label for label, runs in groups.items() if runs[0].method == method]
        if len(apart) > 1:
            yield (
                f"The runs of {method} differ in more than their seed and are not averaged "
                f"together: {'; '.join(apart)}."
            )


def _without_partner(groups: Groups, rows: Sequence[Row]) -> Iterator[str]:
    firsts = [runs[0] for runs in groups.values()]
    if any(not comparison.comparable(run, firsts[0]) for run in firsts):
        yield (
            "The labels do not all train on the same data. Ratios are taken against the baseline "
            "on the same data."
        )
    for row in rows:
        if row.is_baseline or len(rows) == 1:
            continue
        if row.baseline is None:
            yield f"{row.label} has no baseline on the same data: no ratios."
            continue
        paired = {run.seed for run in groups[row.baseline] if run.finished}
        alone = [run.seed for run in groups[row.label] if run.finished and run.seed not in paired]
        if alone:
            yield (
                f"{row.label}: no finished {row.baseline} run has seed "
                f"{', '.join(map(str, alone))}; left out of the ratios."
            )


def _reaches(row: Row) -> str:
    target = f"{row.baseline}'s final validation loss"
    seeds = _count(row.updates.pairs, "seed")
    if row.updates.ratio is None:
        return f"does not reach {target} ({seeds})"
    named = (("updates", "updates"), ("flops", "FLOPs"), ("seconds", "training time"))
    times = [
        f"{cost.ratio.mean:.2f}× the {noun}"
        for name, noun in named
        for cost in (row.costs[name],)
        if cost.ratio is not None
    ]
    *first, last = times
    said = f"{', '.join(first)} and {last}" if first else last
    return f"reaches {target} in {said} ({_of_seeds(row.updates)})"


def _of_seeds(cost: ToTarget) -> str:
    if cost.reached == cost.pairs:
        return _count(cost.pairs, "seed")
    return f"{cost.reached} of {_count(cost.pairs, 'seed')}; the others do not reach it"


def _updates(run: Run) -> str | None:
    updates = run.facts.get("updates")
    return None if updates is None else _count(updates, "model update")


def _pool(run: Run) -> str | None:
    pool, selected = run.facts.get("pool_size"), run.facts.get("selected")
    return None if pool is None or selected is None else f"pool {pool} → {selected} selected"


def _corrupted(config: Mapping[str, Any]) -> str | None:
    data = config.get("data")
    corrupted = data.get("noise") if isinstance(data, Mapping) else None
    if not isinstance(corrupted, Mapping) or not isinstance(corrupted.get("share"), int | float):
        return None
    kind = corrupted.get("kind") or "corrupted"
    share = f"{100 * corrupted['share']:.3g} % of the training answers {kind}"
    return share if corrupted["share"] > 0 else "clean answers"


def _values(values: Sequence[Any]) -> str:
    """The distinct values, those that are None left out."""
    distinct = list(dict.fromkeys(str(value) for value in values if value is not None))
    if len(distinct) > _MOST_NAMES:
        distinct = [*distinct[:_MOST_NAMES], "…"]
    return " / ".join(distinct)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
