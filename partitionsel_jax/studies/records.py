"""Studies on disk: small CSV files of an ablation's runs, from which all tables are made."""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from etils import epath

from partitionsel_jax.csv_files import from_csv, to_csv
from partitionsel_jax.json_files import INTEGER, NUMBER, check_fields, read_fields
from partitionsel_jax.reporting import comparison
from partitionsel_jax.reporting.runs import Run, read_runs

RUNS, CURVES, TRIALS, ABOUT = "runs.csv", "curves.csv", "trials.csv", "about.json"
# Right answers by domain. The first studies have none: theirs were made by scorers that gave full
# marks to some wrong answers.
ACCURACIES = "accuracies.csv"
# Means over a run's updates.
_MEANS = (
    *("utility", "certificate", "conflicting_pairs", "redundancy", "matching_cosine"),
    "effective_sample_size",
)
NUMBERS = (
    *("learning_rate", "updates", "validation_loss", "test_loss", "corrupted_selected"),
    *_MEANS,
)
# The verdict of a run's guard, in studies that have any: 1 selection pays, -1 it does not, 0 cannot
# be told.
GUARD = "guard"
_SIGNS = {True: 1.0, False: -1.0, None: 0.0}
FACTS = ("config_hash", "commit", "device", "jax")
_TEXTS = ("method", "domain", "point", *FACTS)
ANSWERS = ("run", "domain", "questions", "accuracy")
TRIED = ("point", "learning_rate", "validation_loss", "chosen")
# The fields that are read of a run's config.json, and of a trial in chosen.json.
_READ = {
    "updates": INTEGER,
    "config": {
        "selection": {"pool": INTEGER, "size": INTEGER},
        "optimizer": {"learning_rate": NUMBER},
    },
}
_TRIAL = {"values": dict, "validation_loss?": NUMBER}


@dataclasses.dataclass(frozen=True)
class Study:
    """The runs of one claim at one scale. Frames have the columns of their CSV files.

    Attributes:
      claim: the name of its config.
      runs: number of the run, method, a column for each axis (dotted field; None where a run lacks
        it), seed, `NUMBERS` (nan where there is none), and what made the run, as text.
        `corrupted_selected` is a share; what selection logs at every update is a mean over the run.
        `GUARD` is there if any run has one.
      curves: run, updates, validation_loss, and what had been spent of every cost axis.
      accuracies: run, domain, questions, and the share of right answers.
      trials: point ("METHOD,AXIS=VALUE"), learning_rate, validation_loss (mean over the trials'
        seeds, infinite where one diverged), and whether the point's runs have this rate.
      about: `command` and `hardware`, in words; `pool` and `size`, of the first run's selection.
    """

    claim: str
    runs: pd.DataFrame
    curves: pd.DataFrame
    accuracies: pd.DataFrame
    trials: pd.DataFrame
    about: Mapping[str, str]

    @property
    def axes(self) -> list[str]:
        """The dotted fields that tell points apart, beside the method."""
        return [name for name in self.runs if "." in name]

    @functools.cached_property
    def results(self) -> pd.DataFrame:
        """The runs with their `curve`, and `accuracy`, the share of all test questions (or nan)."""
        right = self.accuracies["accuracy"] * self.accuracies["questions"]
        sums = self.accuracies.assign(right=right).groupby("run")[["right", "questions"]].sum()
        accuracy = (sums["right"] / sums["questions"]).reindex(self.runs["run"]).to_numpy(float)
        points = dict(iter(self.curves.groupby("run")))
        curves = [points[run] for run in self.runs["run"]]
        return self.runs.assign(accuracy=accuracy, curve=curves)


def collect(workdir: epath.PathLike, claim: str) -> Study:
    """Reads the finished runs of an ablation, and what its learning rates were chosen by.

    Args:
      workdir: the ablation's.
      claim: the name of its config.

    Raises:
      ValueError: no run, an unreadable one, or one that is not finished: a study is whole.
    """
    runs = read_runs(workdir)
    if open_runs := [run.name for run in runs if not run.finished]:
        raise ValueError(
            f"{len(open_runs)} of {len(runs)} runs in {os.fspath(workdir)} are not finished, "
            f"{open_runs[0]} among them: call experiments.ablate again with the same workdir, or "
            "see what it says of those that diverge"
        )
    axes = list(dict.fromkeys(axis for run in runs for axis in run.axes))
    rows = [_row(number, run, axes) for number, run in enumerate(runs)]
    if any(run.verdict is not None for run in runs):
        for row, run in zip(rows, runs, strict=True):
            row[GUARD] = None if run.verdict is None else _SIGNS[run.verdict.pays]
    answers = [
        (number, domain, tested["questions_per_domain"][domain], share)
        for number, tested in enumerate(run.tested() for run in runs)
        for domain, share in tested.get("accuracy_per_domain", {}).items()
    ]
    curves = pd.concat([run.curve().assign(run=number) for number, run in enumerate(runs)])
    selection = runs[0].config["selection"]
    return Study(
        claim,
        pd.DataFrame(rows).astype({**dict.fromkeys(axes, object), **dict.fromkeys(NUMBERS, float)}),
        curves[["run", "updates", "validation_loss", "tokens", "flops", "seconds"]],
        pd.DataFrame(answers, columns=ANSWERS),
        pd.DataFrame(_trials(epath.Path(workdir)), columns=TRIED),
        {name: str(selection[name]) for name in ("pool", "size")},
    )


def _row(number: int, run: Run, axes: Sequence[str]) -> dict[str, Any]:
    check_fields(run.facts, _READ, f"{run.name}/config.json")
    check_fields(run.summary, {"validation_loss": NUMBER}, f"{run.name}/summary.json")
    means = {name: run.series(name)[1] for name in _MEANS}
    facts = {**run.facts, "jax": (run.facts.get("versions") or {}).get("jax")}
    return {
        **{"run": number, "method": run.method},
        **{axis: _frozen(run.axes.get(axis)) for axis in axes},
        "seed": run.seed,
        "learning_rate": run.config["optimizer"]["learning_rate"],
        "updates": run.facts["updates"],
        "validation_loss": run.summary["validation_loss"],
        "test_loss": (run.summary.get("test") or {}).get("loss"),
        "corrupted_selected": comparison.corrupted_share([run]),
        **{name: np.mean(found) if len(found) else None for name, found in means.items()},
        **{name: str(facts.get(name)) for name in FACTS},
    }


def _trials(workdir: epath.Path) -> list[tuple[str, float, float, int]]:
    found = []
    for path in sorted(workdir.glob("tuning/*/chosen.json")):
        content = read_fields(path, {"chosen": dict, "trials": list})
        for tried in content["trials"]:
            check_fields(tried, _TRIAL, f"{path}, a trial")
            if (rate := tried["values"].get("optimizer.learning_rate")) is not None:
                # JSON has no infinity.
                loss = np.inf if tried["validation_loss"] is None else tried["validation_loss"]
                is_chosen = int(tried["values"] == content["chosen"])
                found.append((path.parent.name, rate, loss, is_chosen))
    return found


def write(study: Study, folder: epath.Path) -> None:
    """Writes a study's CSV files; what was there is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {RUNS: study.runs, CURVES: study.curves}
    for name, frame in {**files, ACCURACIES: study.accuracies, TRIALS: study.trials}.items():
        cells = [[_text(value, "." in name) for value in frame[name]] for name in frame]
        lines = [list(frame), *zip(*cells, strict=True)]
        (folder / name).write_text(to_csv(lines), encoding="utf-8")
    (folder / ABOUT).write_text(json.dumps(dict(study.about), indent=1) + "\n", encoding="utf-8")


def read(folder: epath.Path) -> Study:
    """A claim's study, as `write` left it.

    Raises:
      ValueError: a file is missing or damaged.
    """
    try:
        runs, curves = _frame(folder / RUNS), _frame(folder / CURVES)
        trials, answers = _frame(folder / TRIALS, TRIED), pd.DataFrame(columns=ANSWERS)
        if (folder / ACCURACIES).exists():
            answers = _frame(folder / ACCURACIES, ANSWERS)
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if set(runs["run"]) != set(curves["run"]) or not set(answers["run"]) <= set(runs["run"]):
            raise ValueError(f"{RUNS}, {CURVES} and {ACCURACIES} are not of the same runs")
        last = curves.groupby("run")["updates"].last().reindex(runs["run"]).to_numpy()
        if (short := runs["run"][last != runs["updates"]]).size:
            raise ValueError(f"{CURVES} does not have the last update of run {short.iloc[0]}")
        if trials.isna().any(axis=None) or answers.isna().any(axis=None):
            raise ValueError(f"{TRIALS} or {ACCURACIES} ends in the middle of a line")
        runs = runs.astype(dict.fromkeys(NUMBERS, float))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{os.fspath(folder)} holds no study that can be read ({error}): collect it again with "
            "python -m experiments.results --workdir=DIR --claim=NAME"
        ) from error
    return Study(folder.name, runs, curves, answers, trials, about)


def _frame(path: epath.Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """A CSV file; axes, which alone have a dot in their names, are JSON."""
    frame = pd.DataFrame(from_csv(path.read_text(encoding="utf-8")), columns=columns)
    for name in frame:
        if "." in name:
            values = [_frozen(json.loads(text)) if text else None for text in frame[name]]
            frame[name] = pd.Series(values, frame.index, object)
        elif name not in _TEXTS:
            frame[name] = pd.to_numeric(frame[name])
    return frame


def _frozen(value: Any) -> Any:
    """A tuple for a list, which JSON makes of it."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _text(value: Any, axis: bool) -> Any:
    """Six digits of a number, which is more than a seed's spread leaves; nothing for nan."""
    if axis:
        return "" if value is None else json.dumps(value)
    return value if not isinstance(value, float) else "" if np.isnan(value) else f"{value:.6g}"
