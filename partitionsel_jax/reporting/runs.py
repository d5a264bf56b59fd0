"""Training runs read back from disk: config.json, metrics.jsonl and summary.json of each."""

import dataclasses
import functools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from etils import epath

from partitionsel_jax.evaluation import guard
from partitionsel_jax.file_errors import reading
from partitionsel_jax.json_files import (
    INTEGER,
    NUMBER,
    NUMBERS,
    TEXTS,
    check_fields,
    is_a,
    read_fields,
)
from partitionsel_jax.reporting import labels
from partitionsel_jax.reporting.costs import COST_AXES

Series = tuple[np.ndarray, np.ndarray]

SCALARS = (
    *("loss", "pool_loss", "validation_loss", "utility", "certificate", "effective_sample_size"),
    *("conflicting_pairs", "matching_cosine", "conflicting_weight", "redundancy"),
    *("top_k_overlap", "corrupted_selected", "corrupted_pool", "dropped", "anchors_dropped"),
    *("gradient_norm", "learning_rate", "tokens", "padding", "flops", "validation_accuracy"),
    *guard.LOSSES,
)
PER_DOMAIN = ("validation_loss_per_domain", "selected", "pool", "budgets")
# The stages of a step.
STAGES = ("features", "selection", "update")
# Columns and the config section of earlier versions, and what replaced them.
_RENAMED = {
    "picks": "selected",
    "spoilt_picks": "corrupted_selected",
    "spoilt_pool": "corrupted_pool",
}
_OLD_NOISE, _NOISE = "spoilt", "noise"
# The fields that are read of config.json, of summary.json, and of a line of metrics.jsonl.
_FACTS = {
    **{"config": dict, "config_hash": str, "method": str, "seed": INTEGER, "domains": TEXTS},
    **{"updates?": INTEGER, "pool_size?": INTEGER, "selected?": INTEGER},
    **{"axes?": dict, "versions?": dict},
}
_TEST = {"accuracy?": NUMBER, "loss?": NUMBER}
_SUMMARY = {
    **{"validation_loss?": NUMBER, "test?": _TEST, "test_before?": _TEST},
    "seconds?": {f"{stage}_share?": NUMBER for stage in STAGES},
    "guard?": {"difference?": NUMBER, "spread?": NUMBER, "evaluations": INTEGER, "cost": NUMBER},
}
_ROW = {
    **{"step": INTEGER, "seconds?": {"step?": NUMBER}},
    **{f"{name}?": NUMBER for name in SCALARS},
    **{f"{name}?": list for name in PER_DOMAIN},
}
_REMEDY = "rerun its run, or move it out of the workdir"
# More updates than any run has: arrays that are as long would fill the memory.
_MOST_UPDATES = 10**8


@dataclasses.dataclass(frozen=True)
class Run:
    """One run directory, as it was logged.

    Attributes:
      name: path of the run below the workdir, "." when the workdir itself is the run; among
        several workdirs, preceded by the workdir's name.
      directory: its folder.
      label: its name in charts and tables; runs that share a label differ in their seed only.
      method, seed, domains, config: as config.json has them.
      facts: all of config.json (config_hash, versions, ...).
      rows: the readable rows of metrics.jsonl, ordered by step, one per step; `seconds` are those
        of the step alone.
      damaged: lines of metrics.jsonl that were skipped.
      summary: summary.json; empty as long as the run is unfinished.
    """

    name: str
    directory: epath.Path
    label: str
    method: str
    seed: int
    domains: tuple[str, ...]
    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    damaged: int
    summary: Mapping[str, Any]
    _columns: dict[str, Series] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def axes(self) -> Mapping[str, Any]:
        """Fields that an ablation has set for this run ("section.field" -> value); else empty."""
        return self.facts.get("axes") or {}

    @property
    def finished(self) -> bool:
        return bool(self.summary)

    @property
    def last_step(self) -> int:
        return self.rows[-1]["step"] if self.rows else 0

    @property
    def shares(self) -> Mapping[str, float]:
        """Measured shares of features, selection and update in a step's time; empty if unknown."""
        # Such a method computes neither features nor losses: the update is the whole step.
        if self.finished and self.section("selection").get("utility") in ("random", "full"):
            return {"features": 0.0, "selection": 0.0, "update": 1.0}
        seconds = self.summary.get("seconds") or {}
        shares = {s: value for s in STAGES if (value := seconds.get(f"{s}_share")) is not None}
        return shares if len(shares) == len(STAGES) else {}

    def section(self, name: str) -> Mapping[str, Any]:
        """A section of the config; empty where there is none."""
        found = self.config.get(name)
        return found if isinstance(found, Mapping) else {}

    def series(self, column: str) -> Series:
        """The steps that logged a column, and the values.

        Args:
          column: one of SCALARS or PER_DOMAIN, or "seconds".

        Returns:
          Steps i64[S] and values f64[S], or f64[S, P] for a column of PER_DOMAIN.
        """
        if column not in self._columns:
            logged = [(row["step"], v) for row in self.rows if (v := row.get(column)) is not None]
            values = np.array([value for _, value in logged], np.float64)
            if column in PER_DOMAIN:
                values = values.reshape(len(logged), len(self.domains))
            self._columns[column] = np.array([step for step, _ in logged], np.int64), values
        return self._columns[column]

    def evaluations(self) -> Series:
        """Steps i64[E] and validation losses f64[E], closed by the summary's final loss."""
        steps, losses = self.series("validation_loss")
        final, updates = self.summary.get("validation_loss"), self.facts.get("updates")
        # The last row may be among the damaged ones; the summary then still knows where it ended.
        if final is not None and updates is not None and (not len(steps) or steps[-1] < updates):
            steps, losses = np.append(steps, updates), np.append(losses, final)
        return steps, losses

    def curve(self) -> pd.DataFrame:
        """The evaluations with what had been spent at each: cost axes and `validation_loss`."""
        steps, losses = self.evaluations()
        spent = {axis: self.spent_at(steps, axis) for axis in COST_AXES}
        return pd.DataFrame({**spent, "updates": steps, "validation_loss": losses})

    def tested(self, when: str = "test") -> Mapping[str, Any]:
        """The summary's account of the test questions; empty without an accuracy to trust.

        Runs that do not record their number of questions were scored by reasoning-gym's own
        scorers, some of which give full marks to wrong answers.

        Args:
          when: "test" for the trained model, "test_before" for the one that training began with.
        """
        test = self.summary.get(when) or {}
        known = test.get("accuracy") is not None and test.get("questions_per_domain")
        return test if known else {}

    @property
    def verdict(self) -> guard.Verdict | None:
        """The verdict of a finished run's guard; None without one."""
        found = self.summary.get("guard")
        if not found:
            return None
        numbers = {name: math.nan if found[name] is None else found[name] for name in found}
        return guard.Verdict(**numbers | {"pays": found["pays"]})

    def test_accuracies(self) -> Series:
        """Steps i64[E] and shares of right answers to the test questions, f64[E].

        They are answered after the last update, and before the first by a pretrained model.
        """
        tests = {0: self.tested("test_before"), self.last_step: self.tested()}
        known = {step: test["accuracy"] for step, test in tests.items() if test}
        return np.array(list(known), np.int64), np.array(list(known.values()), np.float64)

    def spent_at(self, steps: np.ndarray, cost_axis: str = "updates") -> np.ndarray:
        """The amount that a run had spent up to and including each step, f64[S].

        Seconds are of training alone: compilation and evaluation are not in them. Tokens are those
        of candidates, anchors and picks that went through the model, without padding. A step
        whose row was damaged counts as the run's median step; a run that did not log a cost axis
        gives nan.

        Args:
          steps: i64[S].
          cost_axis: one of COST_AXES.
        """
        if cost_axis == "updates":
            return steps.astype(np.float64)
        logged, spent = self.series(cost_axis)
        if cost_axis == "tokens":
            padded, padding = self.series("padding")
            logged, at, at_padding = np.intersect1d(logged, padded, return_indices=True)
            spent = spent[at] * (1 - padding[at_padding])
        if not len(logged):
            return np.full(len(steps), np.nan)
        last = max(int(logged[-1]), int(np.max(steps, initial=0)))
        per_step = np.full(1 + last, np.median(spent))
        per_step[0] = 0.0
        per_step[logged] = spent
        return np.cumsum(per_step)[steps]

    @functools.cached_property
    def picks(self) -> Mapping[int, frozenset[int]]:
        """The ids of the picks of each update, as far as selections.jsonl can be read."""
        path = self.directory / "selections.jsonl"
        rows = map(_parsed, path.read_bytes().splitlines() if path.exists() else ())
        return {
            row["step"]: frozenset(number for number in row["ids"] if number >= 0)
            for row in rows
            if is_a(row.get("step"), INTEGER) and is_a(row.get("ids"), NUMBERS)
        }


def read_runs(workdirs: epath.PathLike | Sequence[epath.PathLike]) -> list[Run]:
    """Reads the run in a workdir, or all runs in the tree below it; or those of several workdirs.

    A run is a directory that holds config.json and metrics.jsonl. Damaged lines of metrics.jsonl
    are skipped and counted; a step that was logged twice keeps its last row. A run that is found
    in two workdirs, one inside the other, is read once. Trials of a tuning are left out.

    Args:
      workdirs: local directories or buckets.

    Returns:
      The runs in path order, labelled so that runs sharing a label may be averaged.

    Raises:
      ValueError: there is no run in one of them, or a config.json or summary.json cannot be read.
    """
    several = not isinstance(workdirs, str | os.PathLike)
    roots = [epath.Path(root) for root in (workdirs if several else (workdirs,))]
    if not roots:
        raise ValueError("expected at least one workdir, got none; name the folder of some runs")
    names = {root: root.name for root in roots}
    if len(set(names.values())) < len(names):
        names = {root: os.fspath(root) for root in roots}
    found: dict[str, Run] = {}
    for root in roots:
        directories = list(_run_directories(root))
        if not directories:
            raise ValueError(
                f"no run in {root}: expected a directory with config.json and metrics.jsonl, there "
                "or below; pass the --workdir of a training run, or a directory that holds several"
            )
        for directory in directories:
            name = os.fspath(directory.relative_to(root))
            if len(names) > 1:
                name = names[root] if name == "." else f"{names[root]}/{name}"
            if os.fspath(directory.resolve()) not in found:
                found[os.fspath(directory.resolve())] = _read_run(directory, name)
    runs = [run for run in found.values() if not run.facts.get("trial")]
    if not runs:
        raise ValueError(
            f"{len(found)} runs in {', '.join(names.values())} have tuned something, and none is "
            "there to report: wait until experiments.ablate has made the others"
        )
    names_of = labels.distinct([run.facts for run in runs])
    return [dataclasses.replace(run, label=name) for run, name in zip(runs, names_of, strict=True)]


def _run_directories(directory: epath.Path) -> Iterator[epath.Path]:
    if not directory.is_dir():
        return
    if (directory / "config.json").exists() and (directory / "metrics.jsonl").exists():
        yield directory
        return
    for child in sorted(directory.iterdir()):
        yield from _run_directories(child)


def _read_run(directory: epath.Path, name: str) -> Run:
    path = directory / "config.json"
    facts = read_fields(path, _FACTS, _REMEDY)
    if not 0 <= (facts.get("updates") or 0) <= _MOST_UPDATES:
        raise ValueError(
            f"{path}: expected a number of updates, got {facts['updates']}: the file was edited; "
            "rerun or remove its run"
        )
    data = facts["config"].get("data")
    if isinstance(data, dict) and _OLD_NOISE in data:
        data[_NOISE] = data.pop(_OLD_NOISE)
    if facts.get("axes"):
        old, new = f"data.{_OLD_NOISE}.", f"data.{_NOISE}."
        facts["axes"] = {field.replace(old, new): v for field, v in facts["axes"].items()}
    # Bytes, because a line cut in the middle of a character must not cost the others.
    with reading(directory / "metrics.jsonl"):
        lines = (directory / "metrics.jsonl").read_bytes().splitlines()
    rows: list[Any] = [_row(line, len(facts["domains"])) for line in lines if line.strip()]
    by_step = {row["step"]: row for row in rows if row}
    path = directory / "summary.json"
    return Run(
        name=name,
        directory=directory,
        label=facts["method"],
        **{field: facts[field] for field in ("method", "seed", "config")},
        domains=tuple(facts["domains"]),
        facts=facts,
        rows=[by_step[step] for step in sorted(by_step)],
        damaged=rows.count(None),
        summary=read_fields(path, _SUMMARY, _REMEDY) if path.exists() else {},
    )


def _parsed(line: bytes) -> dict[str, Any]:
    """The object in a line, its fields by their names of today; empty if it is damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return (
        {str(_RENAMED.get(name, name)): row[name] for name in row} if isinstance(row, dict) else {}
    )


def _row(line: bytes, domains: int) -> dict[str, Any] | None:
    """A line of metrics.jsonl; None if it is damaged."""
    row = _parsed(line)
    try:
        check_fields(row, _ROW, "")
    except ValueError:
        return None
    vectors = [row[name] for name in PER_DOMAIN if row.get(name) is not None]
    known = [value for vector in vectors for value in vector if value is not None]
    if not 0 <= row["step"] <= _MOST_UPDATES or not is_a(known, NUMBERS):
        return None
    if any(len(vector) != domains for vector in vectors):
        return None
    return row | {"seconds": (row.get("seconds") or {}).get("step")}
