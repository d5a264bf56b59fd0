"""Training runs read back from disk: config.json, metrics.jsonl and summary.json of each."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

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
    "spoilt_picks",
    "spoilt_pool",
    "dropped",
    "anchors_dropped",
    "gradient_norm",
    "learning_rate",
)
PER_DOMAIN = ("validation_loss_per_domain", "picks", "pool", "budgets")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run directory, as it was logged.

    Attributes:
      name: path of the run below the workdir, "." when the workdir itself is the run.
      label: what charts and tables call it; runs that share a label differ in their seed only.
      facts: config.json as written (config, config_hash, method, seed, domains, versions, ...).
      rows: the readable rows of metrics.jsonl, ordered by step, one per step.
      damaged: lines of metrics.jsonl that were skipped.
      summary: summary.json; empty as long as the run is unfinished.
    """

    name: str
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
    def finished(self) -> bool:
        return bool(self.summary)

    @property
    def last_step(self) -> int:
        return self.rows[-1]["step"] if self.rows else 0

    def series(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """The steps that logged a column, and what they logged.

        Args:
          column: one of SCALARS or PER_DOMAIN.

        Returns:
          Steps i64[S] and values f64[S], or f64[S, P] for a column of PER_DOMAIN.
        """
        logged = [(row["step"], row[column]) for row in self.rows if row.get(column) is not None]
        steps = np.array([step for step, _ in logged], np.int64)
        values = np.array([value for _, value in logged], np.float64)
        if column in PER_DOMAIN:
            values = values.reshape(len(logged), len(self.domains))
        return steps, values

    def evaluations(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps i64[E] and validation losses f64[E], closed by the summary's final loss."""
        steps, losses = self.series("validation_loss")
        final, updates = self.summary.get("validation_loss"), self.facts.get("updates")
        # The last row may be among the damaged ones; the summary then still knows where it ended.
        if final is not None and updates is not None and (not len(steps) or steps[-1] < updates):
            steps, losses = np.append(steps, updates), np.append(losses, final)
        return steps, losses

    def seconds_at(self, steps: np.ndarray) -> np.ndarray:
        """Training seconds spent up to and including each step, f64[S].

        Compilation and evaluation are not in it. A step whose row was damaged counts as the run's
        median step; a run that logged no times gives nan.
        """
        spent = {
            row["step"]: row["seconds"]["step"]
            for row in self.rows
            if (row.get("seconds") or {}).get("step") is not None
        }
        if not spent:
            return np.full(len(steps), np.nan)
        last = max(max(spent), int(np.max(steps, initial=0)))
        per_step = np.full(last + 1, np.median(list(spent.values())))
        per_step[0] = 0.0
        per_step[list(spent)] = list(spent.values())
        return np.cumsum(per_step)[steps]


def read_runs(workdir: epath.PathLike) -> list[Run]:
    """Reads the run in a workdir, or all runs in the tree below it.

    A run is a directory that holds config.json and metrics.jsonl. Damaged lines of metrics.jsonl
    are skipped and counted; a step that was logged twice keeps its last row.

    Args:
      workdir: a local directory or a bucket.

    Returns:
      The runs in path order, labelled so that runs sharing a label may be averaged.

    Raises:
      ValueError: there is no run, or a config.json or summary.json cannot be read.
    """
    root = epath.Path(workdir)
    found = [_read_run(directory, root) for directory in _run_directories(root)]
    if not found:
        raise ValueError(
            f"no run in {root}: expected a directory with config.json and metrics.jsonl, there or "
            "below; pass the --workdir of a training run, or a directory that holds several"
        )
    names = labels.distinct([run.facts for run in found])
    return [dataclasses.replace(run, label=name) for run, name in zip(found, names, strict=True)]


def _run_directories(directory: epath.Path) -> Iterator[epath.Path]:
    if not directory.is_dir():
        return
    if (directory / "config.json").exists() and (directory / "metrics.jsonl").exists():
        yield directory
        return
    for child in sorted(directory.iterdir()):
        yield from _run_directories(child)


def _read_run(directory: epath.Path, root: epath.Path) -> Run:
    facts = _read_object(directory / "config.json")
    missing = [
        key
        for key in ("config", "config_hash", "method", "seed", "domains")
        if facts.get(key) is None
    ]
    if missing:
        raise ValueError(
            f"{directory / 'config.json'} lacks {', '.join(missing)}: not written by a training "
            "run; move the directory out of the workdir"
        )
    rows, damaged = _read_rows(directory / "metrics.jsonl", len(facts["domains"]))
    summary = directory / "summary.json"
    return Run(
        name=str(directory.relative_to(root)),
        label=facts["method"],
        facts=facts,
        rows=rows,
        damaged=damaged,
        summary=_read_object(summary) if summary.exists() else {},
    )


def _read_object(path: epath.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); rerun or remove its run") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object; rerun or remove its run")
    return content


def _read_rows(path: epath.Path, num_domains: int) -> tuple[list[dict[str, Any]], int]:
    by_step, damaged = {}, 0
    # Bytes, because a line cut in the middle of a character must not spoil the others.
    for line in path.read_bytes().splitlines():
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if _is_row(row, num_domains):
            by_step[row["step"]] = row
        else:
            damaged += 1
    return [by_step[step] for step in sorted(by_step)], damaged


def _is_row(row: Any, num_domains: int) -> bool:
    if not isinstance(row, dict) or type(row.get("step")) is not int or row["step"] < 0:
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
    return all(type(number) in (int, float) for number in numbers)
