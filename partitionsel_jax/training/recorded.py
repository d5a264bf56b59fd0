"""The picks that another run has recorded, read and checked, to be trained on.

Letters of the shape comments: S steps, K selected.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from partitionsel_jax import data, paths
from partitionsel_jax.config.settings import Settings
from partitionsel_jax.distributed import spmd
from partitionsel_jax.json_files import INTEGER, NUMBER, NUMBERS, check_fields, is_a
from partitionsel_jax.step.recorded import Picks
from partitionsel_jax.training import starts, workdir
from partitionsel_jax.training.records import JsonLines

SELECTIONS, METRICS = "selections.jsonl", "metrics.jsonl"
_LOG = logging.getLogger(__name__)

# The fields of `data` that decide which examples there are, and what their ids are.
_EXAMPLES = (
    *("source", "path", "tasks", "columns", "names", "anchors_path"),
    *("train", "validation", "test", "length", "seed", "noise", "train_on", "target_domains"),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Recording:
    """`recording[t]` is what step t trains on: this process's part of its picks, and no anchors.

    Attributes:
      corpus: the rows.
      ids: i64[S, K] of S steps, -1 for empty slots.
      places: i64[S, K], their indices into `corpus.train`.
      weights, gains: f32[S, K].
      costs: what choosing has cost, a step each, as in the other run's metrics.jsonl (`flops`,
        `tokens`, `padding` and the `seconds` of the step); empty where it is not known.
      process, processes: which of how many equal parts of the picks this process reads.
    """

    corpus: data.Corpus
    ids: np.ndarray
    places: np.ndarray
    weights: np.ndarray
    gains: np.ndarray
    costs: Sequence[Mapping[str, Any]] = ()
    process: int = 0
    processes: int = 1

    def __getitem__(self, step: int) -> tuple[Picks, tuple[()]]:
        """The picks of a step, which counts from 0."""
        size = self.ids.shape[1] // self.processes
        part = slice(self.process * size, (self.process + 1) * size)
        rows = self.corpus.train.rows(self.places[step, part])
        picked = self.ids[step, part] >= 0
        return Picks(rows, picked, self.weights[step, part], self.gains[step, part]), ()


def check_chooser(label: str, ours: Settings, chooser: str, theirs: Settings) -> None:
    """Makes sure that a run can train on the selections that another of its plan is to make.

    Args:
      label, ours: the run that trains on them.
      chooser, theirs: the run that selects.

    Raises:
      ValueError: fewer updates or other numbers of rows there, other examples, or a tokenizer that
        gives other ids.
    """
    what = f"{label} trains on the selections of {chooser}"
    if theirs.training.updates < ours.training.updates:
        raise ValueError(
            f"{what}, which makes {theirs.training.updates} updates, and has "
            f"training.updates={ours.training.updates}: give {chooser} as many"
        )
    if theirs.selection.size != ours.selection.size:
        raise ValueError(
            f"{what}, which selects {theirs.selection.size} rows an update, and has "
            f"selection.size={ours.selection.size}: set both to the same"
        )
    for field in _EXAMPLES:
        there, here = getattr(theirs.data, field), getattr(ours.data, field)
        if there != here:
            raise ValueError(
                f"{what}, but data.{field} is {there!r} there and {here!r} here: both need the "
                "same examples"
            )
    if theirs.checkpoint != ours.checkpoint:
        there, here = (starts.tokenizer(each).ids_fingerprint for each in (theirs, ours))
        if there != here:
            raise ValueError(
                f"{what}, but the tokenizers of {theirs.checkpoint or 'bytes'!r} and "
                f"{ours.checkpoint or 'bytes'!r} give other ids: rows that fit one need not fit "
                "the other; choose models of one family"
            )


def check(settings: Settings) -> None:
    """Makes sure that there are picks for every update; reads no data.

    Raises:
      ValueError: no recorded run, one that is too short, or other numbers of picks.
    """
    _rows(settings)


def load(settings: Settings, corpus: data.Corpus, layout: spmd.Layout) -> Recording:
    """The picks of the run in `settings.selection.recorded`.

    Raises:
      ValueError: as `check`, or picks of other examples than the corpus holds.
    """
    rows = _rows(settings)
    summary = paths.absolute(settings.selection.recorded) / "summary.json"
    # There is none of a run that was stopped, or of picks that were published alone.
    origin = workdir.read_summary(summary.parent)["origin"] if summary.exists() else {}
    if origin.get("examples", corpus.fingerprint) != corpus.fingerprint:
        raise ValueError(
            f"{_name(settings)} was trained on other examples than these: give the data settings "
            "(and files) that it was trained with"
        )
    ids_SxK = np.array([row["ids"] for row in rows], np.int64)
    # A slot that was left empty repeats the first pick.
    known_SxK = np.where(ids_SxK >= 0, ids_SxK, ids_SxK[:, :1])
    places_SxK = corpus.train.find(known_SxK)
    for row, ids_K, places_K in zip(rows, ids_SxK, places_SxK, strict=True):
        domains_K = np.where(ids_K >= 0, corpus.train.domains[places_K], -1)
        if domains_K.tolist() != row["domains"]:
            raise ValueError(
                f"{_name(settings)}: the picks of update {row['step']} are of other domains than "
                "the same ids are here; give the data settings that the picks come from"
            )
    return Recording(
        corpus,
        ids_SxK,
        places_SxK,
        np.array([row["weights"] for row in rows], np.float32),
        np.array([row["gains"] for row in rows], np.float32),
        costs_of(settings.selection.recorded, settings.training.updates, _name(settings)),
        layout.process,
        layout.processes,
    )


def costs_of(folder: epath.PathLike, updates: int, name: str) -> list[dict[str, Any]]:
    """The cost of each update of a run, from its metrics.jsonl; empty where it is not known.

    Args:
      folder: of the run.
      updates: how many are read.
      name: what a warning calls it.
    """
    path = paths.absolute(folder) / METRICS
    rows = JsonLines.read(path) if path.exists() else []
    by_step = {row["step"]: row for row in rows}
    costs = [by_step.get(step, {}) for step in range(1, updates + 1)]
    fields = {"flops": NUMBER, "tokens": NUMBER, "padding": NUMBER, "seconds": {"step": NUMBER}}
    try:
        for row in costs:
            check_fields(row, fields, f"{path}")
    except ValueError as error:
        _LOG.warning(
            f"{name}: what choosing these rows has cost is not known ({error}); this run's costs "
            "are its own alone"
        )
        return []
    return costs


def summed(costs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The sum of some costs, in the form of one of them; None of none."""
    if not costs:
        return None
    tokens = sum(cost["tokens"] for cost in costs)
    return {
        "flops": sum(cost["flops"] for cost in costs),
        "tokens": tokens,
        "padding": sum(cost["tokens"] * cost["padding"] for cost in costs) / tokens,
        "seconds": {"step": sum(cost["seconds"]["step"] for cost in costs)},
    }


def charged(record: Mapping[str, Any], cost: Mapping[str, Any]) -> dict[str, Any]:
    """A record of an update that counts what choosing its rows has cost, too.

    Args:
      record: of the update, with its own `flops`, `tokens` and `padding`.
      cost: the chooser's row of metrics.jsonl.

    Returns:
      The same with the sums of both, and `chooser_flops`, `chooser_tokens` and `chooser_seconds`.
    """
    tokens = int(record["tokens"]) + cost["tokens"]
    padded = int(record["tokens"]) * float(record["padding"]) + cost["tokens"] * cost["padding"]
    return {
        **record,
        "flops": record["flops"] + cost["flops"],
        "tokens": tokens,
        "padding": padded / tokens,
        "chooser_flops": cost["flops"],
        "chooser_tokens": cost["tokens"],
        "chooser_seconds": cost["seconds"]["step"],
    }


def _name(settings: Settings) -> str:
    return f"selection.recorded={settings.selection.recorded!r}"


def _rows(settings: Settings) -> list[dict[str, Any]]:
    """The recorded rows of all updates."""
    name, updates = _name(settings), settings.training.updates
    path = paths.absolute(settings.selection.recorded) / SELECTIONS
    if not path.exists():
        raise ValueError(f"{name} has no {SELECTIONS}: name the folder of a run, with config.json")
    rows = JsonLines.read(path)[:updates]
    found = [row["step"] for row in rows]
    if found != list(range(1, updates + 1)):
        unbroken = next((i for i, step in enumerate(found) if step != i + 1), len(found))
        raise ValueError(
            f"{name} does not hold one row for each of the updates 1..{updates}: set "
            f"training.updates to at most {unbroken}, or let that run finish"
        )
    fields = ("ids", "domains", "weights", "gains")
    for row in rows:
        if wrong := [field for field in fields if not is_a(row.get(field), NUMBERS)]:
            raise ValueError(
                f"{path}: update {row['step']} has no list of numbers in {wrong[0]!r}: it was "
                "edited; restore it from a copy"
            )
        lengths = {field: len(row[field]) for field in fields}
        whole = all(is_a(number, INTEGER) for number in (*row["ids"], *row["domains"]))
        if set(lengths.values()) != {settings.selection.size} or not whole or row["ids"][0] < 0:
            raise ValueError(
                f"{name}: update {row['step']} has {lengths} values, and selection.size="
                f"{settings.selection.size}: set it to the number of recorded picks"
            )
    return rows
