"""The sentences of a report: title, the facts all runs share, findings, and caveats."""

import collections
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from partitionsel_jax.evaluation import guard
from partitionsel_jax.reporting import labels
from partitionsel_jax.reporting.comparison import Row
from partitionsel_jax.reporting.curves import Groups
from partitionsel_jax.reporting.runs import Run

_MOST_NAMES = 3
_LONGEST_TITLE = 44


def title(rows: Sequence[Row]) -> str:
    """The methods that are compared, as a title."""
    others = [row.label for row in rows if not row.is_baseline]
    baselines = [row.label for row in rows if row.is_baseline]
    return " against ".join(
        joined if len(joined := ", ".join(side)) <= _LONGEST_TITLE else _count(len(side), "variant")
        for side in (others, baselines)
        if side
    )


def facts(runs: Sequence[Run]) -> str:
    """Updates, pool, label noise, domains, seeds and device, as far as config.json tells."""

    def shared(values: Iterable[Any]) -> str:
        """The distinct values, those that are None left out."""
        distinct = list(dict.fromkeys(str(value) for value in values if value is not None))
        return " / ".join(distinct[:_MOST_NAMES] + ["…"] * (len(distinct) > _MOST_NAMES))

    def about(run: Run) -> Iterator[str | None]:
        updates, pool, selected = map(run.facts.get, ("updates", "pool_size", "selected"))
        yield None if updates is None else _count(updates, "model update")
        yield None if None in (pool, selected) else f"pool {pool} → {selected} selected"
        yield _noise(run)
        yield _count(len(run.domains), "domain")

    parts = [shared(values) for values in zip(*map(about, runs), strict=True)]
    seeds = _count(len({run.seed for run in runs}), "seed")
    parts += [seeds, shared(run.facts.get("device") for run in runs)]
    return " · ".join(part for part in parts if part)


def findings(rows: Sequence[Row]) -> list[str]:
    """One sentence for every label that has a baseline, with its number of seeds."""
    return [
        f"{row.label} {_reaches(row)}."
        for row in rows
        if not row.is_baseline and row.baseline is not None and row.updates.pairs
    ]


def caveats(sets: Sequence[Groups], headlines: Sequence[Sequence[Row]]) -> Iterator[str]:
    """Everything a reader must know before trusting the numbers, one sentence each."""
    groups = {label: runs for found in sets for label, runs in found.items()}
    if not any(run.finished for runs in groups.values() for run in runs):
        yield "No run is finished: every number is of a run under way, none is a result."
    if len(sets) > 1:
        names = (f"set {n} has {', '.join(found)}" for n, found in enumerate(sets, start=1))
        yield (
            f"The runs are validated on {len(sets)} different sets of rows. They are kept apart, "
            f"as losses compare within a set only: {'; '.join(names)}."
        )
    for method in dict.fromkeys(runs[0].method for runs in groups.values()):
        apart = [label for label, runs in groups.items() if runs[0].method == method]
        if len(apart) > 1:
            yield (
                f"The runs of {method} differ in more than their seed and are not averaged "
                f"together: {'; '.join(apart)}."
            )
    for found, rows in zip(sets, headlines, strict=True):
        yield from _without_partner(found, rows)
        runs = [run for group in found.values() for run in group if run.last_step]
        without = [run.name for run in runs if not len(run.series("flops")[0])]
        if 0 < len(without) < len(runs):
            yield f"Not drawn against FLOPs, which they did not log: {', '.join(without)}."
    yield from chosen_for(groups)
    yield from _guarded(groups)
    for label, group in groups.items():
        if len(group) == 1:
            yield f"{label} ran with one seed: its numbers carry no spread."
        for run in group:
            yield from _of_run(run, label)


def serving(groups: Groups) -> Iterator[str]:
    """The runs that are there for others and stand in no table; see `labels.serving`."""
    for label, runs in groups.items():
        losses = [loss for run in runs for loss in run.evaluations()[1][-1:]]
        ended = f" It ends at a validation loss of {np.mean(losses):.4f}." if losses else ""
        yield f"{label}, a model of another shape, selects for others and is not compared.{ended}"


def chosen_for(groups: Groups) -> Iterator[str]:
    """Who pays for whose selections, and what is saved where one run selects for several."""
    own: dict[str, list[float]] = {}
    charged: dict[str, dict[str, float]] = {}
    for label, runs in groups.items():
        theirs, whole = (
            sum(row.get(name) or 0.0 for run in runs for row in run.rows)
            for name in ("chooser_flops", "flops")
        )
        if not theirs:
            continue
        chooser = runs[0].facts.get("chooser", "").rpartition("/")[0] or "another run"
        share = f"{100 * theirs / whole:.3g} % of its FLOPs, and its tokens and seconds as well,"
        if runs[0].section("selection").get("recorded"):
            yield f"{label} trains on rows that {chooser} has selected: {share} are that run's."
        else:
            yield f"{label} needs {chooser}: {share} were spent before its first update."
        charged.setdefault(chooser, {})[label] = theirs
        own.setdefault(chooser, []).append(whole)
    for chooser, shares in charged.items():
        if len(shares) > 1 and chooser != "another run":
            saved = (sum(shares.values()) - max(shares.values())) / sum(own[chooser])
            yield (
                f"{chooser} selects for {', '.join(shares)}, and each is charged all of it: "
                f"trained side by side they need it once, which saves {100 * saved:.3g} % of their "
                "FLOPs."
            )


def _guarded(groups: Groups) -> Iterator[str]:
    """The verdicts of guards, over the seeds of a label."""
    for label, runs in groups.items():
        verdicts = [run.verdict for run in runs if run.verdict is not None]
        if len(verdicts) == 1:
            yield f"{label}: {verdicts[0].sentence}."
        elif verdicts:
            counted = collections.Counter(guard.SAID[verdict.pays] for verdict in verdicts)
            said = ", ".join(f"{said} ({count})" for said, count in counted.most_common())
            yield (
                f"{label}: by the guards of {len(verdicts)} seeds, {said}; the twins' difference "
                "at equal FLOPs is "
                + ", ".join(f"{verdict.difference:.3f}" for verdict in verdicts)
                + " nats per token, above 0 where selection is better."
            )


def _of_run(run: Run, label: str) -> Iterator[str]:
    if not run.finished:
        of = f" of {run.facts['updates']}" if run.facts.get("updates") else ""
        yield (
            f"{run.name} ({label}) is unfinished: its rows end at update {run.last_step}{of}. It "
            "has no part in means and ratios while another seed of its label is finished."
        )
    if (run.summary.get("test") or {}).get("accuracy") is not None and not run.tested():
        yield (
            f"{run.name} ({label}) has a test accuracy by scorers that gave full marks to "
            "some wrong answers: it is left out. Train again to have one."
        )
    if run.damaged:
        lines = _count(run.damaged, "damaged line")
        yield f"{run.name} ({label}): {lines} of metrics.jsonl skipped."


def _without_partner(groups: Groups, rows: Sequence[Row]) -> Iterator[str]:
    firsts = [runs[0] for runs in groups.values()]
    if any(not labels.comparable(run, firsts[0]) for run in firsts):
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
    """A row's finding: the costs at which it reaches the target, and how many seeds do."""
    target, cost = f"{row.baseline}'s final validation loss", row.updates
    seeds = _count(cost.pairs, "seed")
    if cost.ratio is None:
        return f"does not reach {target} ({seeds})"
    named = (("updates", "updates"), ("flops", "FLOPs"), ("seconds", "training time"))
    *first, last = [
        f"{ratio.mean:.2f}× the {noun}"
        for name, noun in named
        if (ratio := row.costs[name].ratio) is not None
    ]
    said = f"{', '.join(first)} and {last}" if first else last
    if cost.reached < cost.pairs:
        seeds = f"{cost.reached} of {seeds}; the others do not reach it"
    return f"reaches {target} in {said} ({seeds})"


def _noise(run: Run) -> str | None:
    noise = run.section("data").get("noise") or {}
    if not isinstance(noise.get("share"), int | float):
        return None
    if not noise["share"] > 0:
        return "clean answers"
    return f"{100 * noise['share']:.3g} % of the training answers {noise.get('kind', 'corrupted')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
