"""What a study leaves of its runs: small CSV files, from which every table and chart is made."""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath

from partitionsel_jax.csv_files import from_csv, to_csv
from partitionsel_jax.json_files import INTEGER, NUMBER, check_fields, read_fields
from partitionsel_jax.reporting import runs as reported
from partitionsel_jax.reporting.comparison import corrupted_share
from partitionsel_jax.reporting.costs import COST_AXES
from partitionsel_jax.reporting.runs import Run

RUNS, CURVES, TRIALS, ABOUT = "runs.csv", "curves.csv", "trials.csv", "about.json"
# Right answers by domain. The first studies have none: theirs were made by scorers that gave full
# marks to some wrong answers.
ACCURACIES = "accuracies.csv"
# Means over a run's updates.
_MEANS = (
    "utility",
    "certificate",
    "conflicting_pairs",
    "redundancy",
    "matching_cosine",
    "effective_sample_size",
)
# Of a whole run.
NUMBERS = (
    "learning_rate",
    "updates",
    "validation_loss",
    "test_loss",
    "corrupted_selected",
    *_MEANS,
)
# What is counted or measured at every evaluation, beside the update itself.
SPENT = tuple(name for name in COST_AXES if name != "updates")
_CURVE = ("updates", "validation_loss", *SPENT)
# Of what made a run, as text.
_FACTS = ("config_hash", "commit", "device", "jax")
# What is read of a run's config.json, and of a trial in chosen.json.
_READ = {
    "updates": INTEGER,
    "config": {
        "selection": {"pool": INTEGER, "size": INTEGER},
        "optimizer": {"learning_rate": NUMBER},
    },
}
_TRIAL = {"values": dict, "validation_loss?": NUMBER}


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
      method: its label in the config.
      axes: dotted field -> value, what else told its point of the ablation apart.
      seed: of the run.
      numbers: by name: the final validation loss and so on; nan where there is none.
        `corrupted_selected` is a share; those that selection logs at every update are means
        over the run.
      accuracies: domain -> (share of right answers, questions); empty where none was asked.
      curve: f64[E] by name: `updates`, `validation_loss`, and what had been spent: see `SPENT`.
      about: config_hash, commit, device and jax, as text.
    """

    method: str
    axes: Mapping[str, Any]
    seed: int
    numbers: Mapping[str, float]
    accuracies: Mapping[str, tuple[float, int]]
    curve: Mapping[str, np.ndarray]
    about: Mapping[str, str]

    @property
    def accuracy(self) -> float:
        """Share of right answers to all test questions; nan where none was asked."""
        asked = sum(questions for _, questions in self.accuracies.values())
        right = sum(share * questions for share, questions in self.accuracies.values())
        return right / asked if asked else float("nan")

    def evaluations(self) -> tuple[np.ndarray, np.ndarray]:
        """Updates f64[E] and validation losses f64[E]."""
        return self.curve["updates"], self.curve["validation_loss"]

    def spent_at(self, steps: np.ndarray, cost_axis: str = "updates") -> np.ndarray:
        """What had been spent at some of the evaluations, f64[S]."""
        return self.curve[cost_axis][np.searchsorted(self.curve["updates"], steps)]

    def total(self, cost_axis: str) -> float:
        """What the whole run spent."""
        return float(self.curve[cost_axis][-1])


@dataclasses.dataclass(frozen=True)
class Trial:
    """What one value of the learning rate came to where it was to be chosen.

    Attributes:
      point: the point's name, "METHOD,AXIS=VALUE".
      learning_rate: that was tried.
      validation_loss: final, mean over the trials' seeds; infinite where one diverged.
      chosen: whether the point's runs have it.
    """

    point: str
    learning_rate: float
    validation_loss: float
    chosen: bool


@dataclasses.dataclass(frozen=True)
class Study:
    """The runs of one claim at one scale.

    Attributes:
      claim: the name of its config.
      results: one a run.
      trials: of the learning rates.
      about: `command` and `hardware`, in words; `pool` and `size`, of the first run's selection.
    """

    claim: str
    results: tuple[Result, ...]
    trials: tuple[Trial, ...]
    about: Mapping[str, str]


def collect(workdir: epath.PathLike, claim: str, about: Mapping[str, str]) -> Study:
    """Reads the finished runs of an ablation, and what its learning rates were chosen by.

    Args:
      workdir: the ablation's.
      claim: the name of its config.
      about: what else is to be kept of it, as text.

    Raises:
      ValueError: no run, an unreadable one, or one that is not finished: a study is whole.
    """
    runs = reported.read_runs(workdir)
    if open_runs := [run.name for run in runs if not run.finished]:
        raise ValueError(
            f"{len(open_runs)} of {len(runs)} runs in {os.fspath(workdir)} are not finished, "
            f"{open_runs[0]} among them: call experiments.ablate again with the same workdir, or "
            "see what it says of those that diverge"
        )
    trials = []
    for path in sorted(epath.Path(workdir).glob("tuning/*/chosen.json")):
        content = read_fields(path, {"chosen": dict, "trials": list})
        for tried in content["trials"]:
            check_fields(tried, _TRIAL, f"{path}, a trial")
            rate = tried["values"].get("optimizer.learning_rate")
            if rate is not None:
                chosen = tried["values"] == content["chosen"]
                # JSON has no infinity.
                loss = tried["validation_loss"]
                loss = float("inf") if loss is None else loss
                trials.append(Trial(path.parent.name, rate, loss, chosen))
    for run in runs:
        check_fields(run.facts, _READ, f"{run.name}/config.json")
        check_fields(run.summary, {"validation_loss": NUMBER}, f"{run.name}/summary.json")
    selection = runs[0].config["selection"]
    sizes = {"pool": str(selection["pool"]), "size": str(selection["size"])}
    return Study(claim, tuple(map(_result, runs)), tuple(trials), {**about, **sizes})


def _result(run: Run) -> Result:
    steps, losses = run.evaluations()
    test = run.summary.get("test") or {}
    corrupted = corrupted_share([run])
    tested = run.tested()
    means = {name: run.series(name)[1] for name in _MEANS}
    numbers = {
        "learning_rate": run.config["optimizer"]["learning_rate"],
        "updates": run.facts["updates"],
        "validation_loss": run.summary["validation_loss"],
        "test_loss": test.get("loss"),
        "corrupted_selected": corrupted,
        **{name: float(np.mean(values)) if len(values) else None for name, values in means.items()},
    }
    return Result(
        method=run.method,
        axes={name: _frozen(value) for name, value in run.axes.items()},
        seed=run.seed,
        numbers={name: np.nan if value is None else value for name, value in numbers.items()},
        accuracies={
            name: (share, tested["questions_per_domain"][name])
            for name, share in tested.get("accuracy_per_domain", {}).items()
        },
        curve={
            "updates": steps.astype(np.float64),
            "validation_loss": losses,
            **{name: run.spent_at(steps, name) for name in SPENT},
        },
        about={
            "config_hash": run.facts["config_hash"],
            "commit": str(run.facts.get("commit")),
            "device": str(run.facts.get("device")),
            "jax": str((run.facts.get("versions") or {}).get("jax")),
        },
    )


def write(study: Study, folder: epath.Path) -> None:
    """Writes a study's CSV files; what was there is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    results = study.results
    axes = list(dict.fromkeys(axis for result in results for axis in result.axes))
    rows: list[list[Any]] = [["run", "method", *axes, "seed", *NUMBERS, *_FACTS]]
    points: list[list[Any]] = [["run", *_CURVE]]
    answers: list[list[Any]] = [["run", "domain", "questions", "accuracy"]]
    for number, result in enumerate(results):
        values = [json.dumps(result.axes[axis]) if axis in result.axes else "" for axis in axes]
        numbers = [_text(result.numbers[name]) for name in NUMBERS]
        texts = [result.about[name] for name in _FACTS]
        rows.append([number, result.method, *values, result.seed, *numbers, *texts])
        for point in zip(*(result.curve[name] for name in _CURVE), strict=True):
            points.append([number, *map(_text, point)])
        for domain, (share, questions) in result.accuracies.items():
            answers.append([number, domain, questions, _text(share)])
    tried: list[list[Any]] = [["point", "learning_rate", "validation_loss", "chosen"]]
    for trial in study.trials:
        loss = _text(trial.validation_loss)
        tried.append([trial.point, trial.learning_rate, loss, int(trial.chosen)])
    files = ((RUNS, rows), (CURVES, points), (ACCURACIES, answers), (TRIALS, tried))
    for name, lines in files:
        (folder / name).write_text(to_csv(lines), encoding="utf-8")
    (folder / ABOUT).write_text(json.dumps(dict(study.about), indent=1) + "\n", encoding="utf-8")


def read(folder: epath.Path) -> Study:
    """A claim's study, as `write` left it.

    Raises:
      ValueError: a file is missing or damaged.
    """
    try:
        rows = _rows(folder / RUNS)
        points: dict[str, list[dict[str, str]]] = {}
        for row in _rows(folder / CURVES):
            points.setdefault(row["run"], []).append(row)
        if points.keys() != {row["run"] for row in rows}:
            raise ValueError(f"{RUNS} and {CURVES} are not of the same runs")
        answers: dict[str, dict[str, tuple[float, int]]] = {}
        for row in _rows(folder / ACCURACIES) if (folder / ACCURACIES).exists() else ():
            share = float(row["accuracy"]), int(row["questions"])
            answers.setdefault(row["run"], {})[row["domain"]] = share
        if not answers.keys() <= points.keys():
            raise ValueError(f"{RUNS} and {ACCURACIES} are not of the same runs")
        results = tuple(
            _parsed(row, points[row["run"]], answers.get(row["run"], {})) for row in rows
        )
        trials = tuple(
            Trial(
                row["point"],
                float(row["learning_rate"]),
                float(row["validation_loss"]),
                row["chosen"] == "1",
            )
            for row in _rows(folder / TRIALS)
        )
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{os.fspath(folder)} holds no study that can be read ({error}): collect it again with "
            "python -m experiments.results --workdir=DIR --claim=NAME"
        ) from error
    return Study(folder.name, results, trials, about)


def _rows(path: epath.Path) -> list[dict[str, str]]:
    return from_csv(path.read_text(encoding="utf-8"))


def _parsed(
    row: Mapping[str, str],
    points: Iterable[Mapping[str, str]],
    accuracies: Mapping[str, tuple[float, int]],
) -> Result:
    # Fields of a config have a dot in their names, and nothing else has.
    axes = {name: _frozen(json.loads(text)) for name, text in row.items() if "." in name and text}
    values = np.array([[_number(point[name]) for name in _CURVE] for point in points])
    if values[-1, 0] != _number(row["updates"]):
        raise ValueError(f"{CURVES} does not have the last update of run {row['run']}")
    return Result(
        method=row["method"],
        axes=axes,
        seed=int(row["seed"]),
        numbers={name: _number(row[name]) for name in NUMBERS},
        accuracies=accuracies,
        curve=dict(zip(_CURVE, values.T, strict=True)),
        about={name: row[name] for name in _FACTS},
    )


def _frozen(value: Any) -> Any:
    """What JSON makes of a tuple, as the tuple."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _text(value: float) -> str:
    """Six digits, which is more than a seed's spread leaves; nothing for nan."""
    return "" if np.isnan(value) else f"{value:.6g}"


def _number(text: str) -> float:
    return float(text) if text else float("nan")
