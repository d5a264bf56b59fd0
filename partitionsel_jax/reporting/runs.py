"""Training runs read back from disk: config.json, metrics.jsonl and summary.json of each."""

import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from partitionsel_jax.file_errors import reading
from partitionsel_jax.json_files import INTEGER, NUMBER, NUMBERS, TEXTS, check_fields, is_a
from partitionsel_jax.reporting import labels

SCALARS = (
    "loss",
    "pool_loss",
    "validation_loss",
    "utility",
    "certificate",
    "effective_sample_size",
    "conflicting_pairs",
    "matching_cosine",
    "conflicting_weight",
    "redundancy",
    "top_k_overlap",
    "corrupted_selected",
    "corrupted_pool",
    "dropped",
    "anchors_dropped",
    "gradient_norm",
    "learning_rate",
    "tokens",
    "padding",
    "flops",
    "validation_accuracy",
)
# The stages of a step.
STAGES = ("features", "selection", "update")
PER_DOMAIN = ("validation_loss_per_domain", "selected", "pool", "budgets")
# Columns and the config section of earlier versions, and what replaced them.
_RENAMED = {
    "picks": "selected",
    "spoilt_picks": "corrupted_selected",
    "spoilt_pool": "corrupted_pool",
}
_OLD_NOISE, _NOISE = "spoilt", "noise"
# The fields of config.json and of summary.json that are read.
_FACTS = {
    **{"config": dict, "config_hash": str, "method": str, "seed": INTEGER, "domains": TEXTS},
    **{"updates?": INTEGER, "pool_size?": INTEGER, "selected?": INTEGER},
    **{"axes?": dict, "versions?": dict},
}
_TEST = {"accuracy?": NUMBER, "loss?": NUMBER}
_SUMMARY = {
    **{"validation_loss?": NUMBER, "test?": _TEST, "test_before?": _TEST},
    "seconds?": {f"{stage}_share?": NUMBER for stage in STAGES},
}
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
      facts: config.json as written (config, config_hash, method, seed, domains, versions, ...).
      rows: the readable rows of metrics.jsonl, ordered by step, one per step; `seconds` are those
        of the step alone.
      damaged: lines of metrics.jsonl that were skipped.
      summary: summary.json; empty as long as the run is unfinished.
    """

    name: str
    directory: epath.Path
    label: str
    facts: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    damaged: int
    summary: Mapping[str, Any]

    @property
    def method(self) -> str:
        return self.facts["method"]

    @property
    def seed(self) -> int:
        return self.facts["seed"]

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(self.facts["domains"])

    @property
    def config(self) -> Mapping[str, Any]:
        return self.facts["config"]

    @property
    def axes(self) -> Mapping[str, Any]:
        """Fields that an ablation has set for this run ("section.field" -> value); else empty."""
        return self.facts.get("axes") or {}

    @property
    def shares(self) -> Mapping[str, float]:
        """Measured shares of features, selection and update in a step's time; empty if unknown."""
        seconds = self.summary.get("seconds") or {}
        # Such a method computes neither features nor losses: the update is the whole step.
        selection = self.config.get("selection")
        utility = selection.get("utility") if isinstance(selection, Mapping) else None
        if self.finished and utility in ("random", "full"):
            return {"features": 0.0, "selection": 0.0, "update": 1.0}
        if any(seconds.get(f"{stage}_share") is None for stage in STAGES):
            return {}
        return {stage: seconds[f"{stage}_share"] for stage in STAGES}

    @property
    def finished(self) -> bool:
        return bool(self.summary)

    @property
    def last_step(self) -> int:
        return self.rows[-1]["step"] if self.rows else 0

    @functools.cached_property
    def _columns(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {}

    def series(self, column: str) -> tuple[np.ndarray, np.ndarray]:
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

    def evaluations(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps i64[E] and validation losses f64[E], closed by the summary's final loss."""
        steps, losses = self.series("validation_loss")
        final, updates = self.summary.get("validation_loss"), self.facts.get("updates")
        # The last row may be among the damaged ones; the summary then still knows where it ended.
        if final is not None and updates is not None and (not len(steps) or steps[-1] < updates):
            steps, losses = np.append(steps, updates), np.append(losses, final)
        return steps, losses

    def test_accuracies(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps i64[E] and shares of right answers to the test questions, f64[E].

        They are answered after the last update, and before the first by a pretrained model.
        """
        tests = {0: self.tested("test_before"), self.last_step: self.tested()}
        known = {step: test["accuracy"] for step, test in tests.items() if test}
        return np.array(list(known), np.int64), np.array(list(known.values()), np.float64)

    def tested(self, when: str = "test") -> Mapping[str, Any]:
        """The summary's account of the test questions; empty without an accuracy to trust.

        Runs that do not record their number of questions were scored by reasoning-gym's own
        scorers, some of which give full marks to wrong answers.

        Args:
          when: "test" for the trained model, "test_before" for the one that training began with.
        """
        test = self.summary.get(when)
        if not isinstance(test, Mapping) or test.get("accuracy") is None:
            return {}
        return test if test.get("questions_per_domain") else {}

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
        logged, spent = self.spent(cost_axis)
        if not len(logged):
            return np.full(len(steps), np.nan)
        last = max(int(logged[-1]), int(np.max(steps, initial=0)))
        per_step = np.full(1 + last, np.median(spent))
        per_step[0] = 0.0
        per_step[logged] = spent
        return np.cumsum(per_step)[steps]

    def spent(self, cost_axis: str) -> tuple[np.ndarray, np.ndarray]:
        """The steps that logged a cost axis other than updates, and the amount of each."""
        if cost_axis != "tokens":
            return self.series(cost_axis)
        steps, tokens = self.series("tokens")
        padded, padding = self.series("padding")
        steps, at, at_padding = np.intersect1d(steps, padded, return_indices=True)
        return steps, tokens[at] * (1 - padding[at_padding])

    @functools.cached_property
    def picks(self) -> Mapping[int, frozenset[int]]:
        """The ids of the picks of each update, as far as selections.jsonl can be read."""
        path = self.directory / "selections.jsonl"
        found: dict[int, frozenset[int]] = {}
        for line in path.read_bytes().splitlines() if path.exists() else ():
            row = _parsed(line)
            if not isinstance(row, dict) or type(row.get("step")) is not int:
                continue
            if is_a(row.get("ids"), NUMBERS):
                found[row["step"]] = frozenset(number for number in row["ids"] if number >= 0)
        return found


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
    facts = _read_object(directory / "config.json", _FACTS)
    updates = facts.get("updates")
    if not 0 <= (updates or 0) <= _MOST_UPDATES:
        raise ValueError(
            f"{directory / 'config.json'}: expected a number of updates, got {updates}: the file "
            "was edited; rerun or remove its run"
        )
    data = facts["config"].get("data")
    if isinstance(data, dict) and _OLD_NOISE in data:
        data[_NOISE] = data.pop(_OLD_NOISE)
    if facts.get("axes"):
        old, new = f"data.{_OLD_NOISE}.", f"data.{_NOISE}."
        facts["axes"] = {field.replace(old, new): v for field, v in facts["axes"].items()}
    rows, damaged = _read_rows(directory / "metrics.jsonl", len(facts["domains"]))
    summary = directory / "summary.json"
    return Run(
        name=name,
        directory=directory,
        label=facts["method"],
        facts=facts,
        rows=rows,
        damaged=damaged,
        summary=_read_object(summary, _SUMMARY) if summary.exists() else {},
    )


def _read_object(path: epath.Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    with reading(path):
        try:
            content = json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} is not JSON ({error}); rerun or remove its run") from error
    check_fields(content, fields, os.fspath(path), "rerun its run, or move it out of the workdir")
    return content


def _read_rows(path: epath.Path, num_domains: int) -> tuple[list[dict[str, Any]], int]:
    by_step, damaged = {}, 0
    # Bytes, because a line cut in the middle of a character must not cost the others.
    with reading(path):
        lines = path.read_bytes().splitlines()
    for line in lines:
        if not line.strip():
            continue
        row = _parsed(line)
        if _is_row(row, num_domains):
            by_step[row["step"]] = row | {"seconds": (row.get("seconds") or {}).get("step")}
        else:
            damaged += 1
    return [by_step[step] for step in sorted(by_step)], damaged


def _parsed(line: bytes) -> Any:
    """The value of a line; None if it is damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return {_RENAMED.get(k, k): v for k, v in row.items()} if isinstance(row, dict) else row


def _is_row(row: Any, num_domains: int) -> bool:
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return False
    if not 0 <= row["step"] <= _MOST_UPDATES:
        return False
    vectors = [row[name] for name in PER_DOMAIN if row.get(name) is not None]
    numbers = [row[name] for name in SCALARS if row.get(name) is not None]
    if any(not isinstance(vector, list) or len(vector) != num_domains for vector in vectors):
        return False
    seconds = row.get("seconds") or {}
    if not isinstance(seconds, dict):
        return False
    numbers += [value for vector in vectors for value in vector if value is not None]
    numbers += [seconds["step"]] if seconds.get("step") is not None else []
    return all(is_a(number, NUMBER) for number in numbers)
