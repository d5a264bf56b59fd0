"""A recorded selection used again: trained on once more, or compared with what others would pick.

Letters of the shape comments: K selected.
"""

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from partitionsel_jax import data, paths
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.config.axes import changed
from partitionsel_jax.config.checks import near
from partitionsel_jax.config.essentials import flatten
from partitionsel_jax.config.settings import Settings
from partitionsel_jax.data.rows import Rows
from partitionsel_jax.distributed import spmd, stopping
from partitionsel_jax.file_errors import reading
from partitionsel_jax.step.state import Others, TrainState, fingerprint
from partitionsel_jax.step.step import Step
from partitionsel_jax.training import loop, records, starts, workdir
from partitionsel_jax.training import setup as run_setup
from partitionsel_jax.training.plan import PlannedRun
from partitionsel_jax.training.records import NonFiniteUpdate, describe_failure, is_sound
from partitionsel_jax.training.setup import Setup

_LOG = logging.getLogger(__name__)

# Fields that make up the problem itself, so that with others there is none that was recorded.
_OF_THE_PROBLEM = ("anchor_balance", "anchors", "recorded", "pool", "updates_per_pool")
# What a row of scores holds of a step's record, beside the picks.
_MEASURES = (
    *("utility", "certificate", "conflicting_pairs", "matching_cosine", "redundancy"),
    *("budgets", "selected", "corrupted_selected", "overlap"),
)


def train_again(
    folder: epath.PathLike, root: epath.PathLike, stop: stopping.NoStop = stopping.NO_STOP
) -> dict[str, Any]:
    """Trains a recorded run's model on exactly its picks and weights, selecting nothing.

    The picks come from the run's selections.jsonl, all else from its config.json. On devices of the
    same number and kind, and with the same versions, the parameters come out as they did, bit for
    bit. The new run is one like any other: it can be stopped, continued, reported and evaluated.

    Args:
      folder: of the run.
      root: where the new run goes.
      stop: as of `train`.

    Returns:
      The summary, and under "same" whether the parameters are those that the run ended with (None
      where it left nothing to compare with).

    Raises:
      ValueError: no such run, or one without a row for each of its updates, or another corpus.
    """
    folder = paths.absolute(folder)
    about, config = _recorded(folder)
    run = PlannedRun(f"{about['method']}-replayed", about["seed"], "", config)
    summary = loop.train(run, root, stop)
    return summary | {"same": _same(folder, summary["parameters_fingerprint"])}


def score(
    folder: epath.PathLike,
    root: epath.PathLike,
    utilities: Sequence[str],
    changes: Mapping[str, Any],
    every: int = 1,
) -> dict[str, dict[str, float]]:
    """Says what other utilities would have picked from the pools that a recorded run saw.

    The run is trained again on its picks, in memory, so that each pool is looked at with the
    parameters that the run had then. What utility U would have picked is written to `root/U.jsonl`,
    a row for each step in the form of selections.jsonl.

    Args:
      folder: of the run.
      root: where to write.
      utilities: keys of `selection.UTILITIES`.
      changes: other values of `selection` and `features` fields, by their dotted names; what is not
        changed is as the run had it.
      every: steps from one that is scored to the next.

    Returns:
      utility -> the means of what its rows hold: `overlap`, the share of the recorded picks among
      its own; and what metrics.jsonl holds for a run's own picks.

    Raises:
      ValueError: no such run, or a change that makes no sense; a run whose steps share pools or
        anchors, or whose budgets follow a curriculum, and a utility that remembers, since those
        problems are no function of the parameters alone.
    """
    if every < 1:
        raise ValueError(f"expected every step or every few, got every={every}")
    if not utilities:
        raise ValueError("expected at least one utility to score, got none")
    folder, root = paths.absolute(folder), paths.absolute(root)
    _, config = _recorded(folder)
    settings = run_settings.parse(config)
    layout = run_setup.choose_layout(settings)
    # All are refused before any data is read.
    others = {name: _other(config, name, changes) for name in utilities}
    scorers = {name: _scorer(other, layout) for name, other in others.items()}
    setup = run_setup.prepare(settings)
    pools = run_setup.draw_pools(settings, setup.corpus, layout)
    root.mkdir(parents=True, exist_ok=True)
    last, scored = _score_all(setup, pools, scorers, root, every)
    if _same(folder, last) is False:
        _LOG.warning(
            "the parameters came out otherwise than in %s, so that these are not quite its "
            "problems: other devices or versions round differently",
            folder,
        )
    return {name: _means(rows) for name, rows in scored.items()}


def _scorer(settings: Settings, layout: spmd.Layout) -> tuple[spmd.Program, Others]:
    """One utility's program, and the other models that it may read."""
    step = Step.create(settings, len(layout.devices))
    program = layout.map(functools.partial(_pick, step), (*Step.KINDS, "replicated"))
    proxy = starts.whole_proxy(settings)
    return program, layout.place(Others(starts.load_reference(settings), proxy))


def _pick(
    step: Step,
    state: TrainState,
    frozen: Any,
    pool: Rows,
    anchors: Rows,
    seed: jax.Array,
    others: Others,
    recorded_K: jax.Array,
) -> dict[str, jax.Array]:
    """Selects as a step would; counts what of it a run picked too, whose ids are `recorded_K`."""
    key = jax.random.fold_in(step.key(seed, "selection"), state.step)
    candidates, _, _ = step.candidates(state, frozen, pool, anchors, others)
    result, record = step.select(candidates, key)
    picked_K, labels = result.indices >= 0, candidates.info
    ids_K = jnp.where(picked_K, labels.id[result.indices], -1)
    shared = picked_K & jnp.isin(ids_K, recorded_K)
    corrupted_K = picked_K & labels.corrupted[result.indices]
    return record | {
        "ids": ids_K,
        "domains": jnp.where(picked_K, labels.domain[result.indices], -1),
        "corrupted": corrupted_K,
        "corrupted_selected": corrupted_K.sum(),
        "overlap": shared.sum() / jnp.maximum((recorded_K >= 0).sum(), 1),
    }


def _score_all(
    setup: Setup,
    pools: data.Pools,
    scorers: Mapping[str, tuple[spmd.Program, Any]],
    root: epath.Path,
    every: int,
) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """The fingerprint of the last parameters, and the rows of each utility."""
    state, frozen = run_setup.initialise(setup)
    shares = setup.others.anchor_shares
    updates = setup.settings.training.updates
    progress = records.Progress("scoring", updates, setup.settings.selection.pool)
    files = {name: records.JsonLines(root / f"{name}.jsonl", upto=-1, first=1) for name in scorers}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in scorers}
    spent = loop.Seconds()
    for step in range(updates):
        picks, nothing = setup.pools[step]
        if step % every == 0:
            pool, anchors = map(setup.layout.rows, pools[step])
            ids_K = np.where(picks.picked, picks.rows.id, -1)
            for name, (program, others) in scorers.items():
                others = others._replace(anchor_shares=shares)
                inputs = (state, frozen, pool, anchors, setup.seed, others, ids_K)
                row = _row(step + 1, jax.device_get(program(*inputs)))
                files[name].append(row)
                found[name].append(row)
        rows = map(setup.layout.rows, (picks, nothing))
        state, record = setup.training_step(state, frozen, *rows, setup.seed, setup.others)
        record = jax.device_get(record)
        if not is_sound(record):
            raise NonFiniteUpdate(f"update {step + 1} is not finite: {describe_failure(record)}")
        progress.update(step + 1, float(record["loss"]), spent.lap())
    for file in files.values():
        file.close()
    return int(fingerprint(state.parameters)), found


def _row(step: int, record: Mapping[str, Any]) -> dict[str, Any]:
    fields = ("ids", "domains", "corrupted", "weights", "gains", *_MEASURES)
    return records.plain({"step": step} | {name: record[name] for name in fields if name in record})


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over the rows of what is a number in all of them."""
    return {
        name: float(np.mean([row[name] for row in rows]))
        for name in _MEASURES
        if rows and all(isinstance(row.get(name), (int, float)) for row in rows)
    }


def _recorded(folder: epath.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's config.json, and its configuration with its own picks in the selection's place."""
    path = folder / "config.json"
    if not path.exists():
        raise ValueError(
            f"{folder} is not the folder of a run, as it lacks config.json: name the folder that "
            f"holds it beside selections.jsonl{workdir.hint(folder, 'config.json')}"
        )
    about = workdir.read_config(folder)
    with reading(path):
        run_settings.parse(about["config"])
        config = changed(starts.of_folder(about, folder), {"selection.recorded": str(folder)})
    run_settings.parse(config)
    return {"method": about["method"], "seed": about["seed"]}, config


def _other(config: Mapping[str, Any], utility: str, changes: Mapping[str, Any]) -> Settings:
    """The settings of a utility that looks at a run's problems."""
    known = [
        field
        for field in flatten(config)
        if field.startswith("features.")
        or (field.startswith("selection.") and field.partition(".")[2] not in _OF_THE_PROBLEM)
    ]
    for field in changes:
        if field not in known:
            raise ValueError(
                f"{field} cannot be changed, as it is no field of how a recorded problem is "
                f"solved{near(field, known)}; known: {', '.join(known)}"
            )
    config = changed(config, {"selection.recorded": "", **changes, "selection.utility": utility})
    settings = run_settings.parse(starts.complete(config))
    starts.check_scorers(settings)
    for field, value in (
        ("selection.updates_per_pool", settings.selection.updates_per_pool),
        ("features.anchors_every", settings.features.anchors_every),
    ):
        if value != 1:
            raise ValueError(
                f"the run has {field}={value}, so that its steps share parts of their problems, "
                f"which its parameters do not give back: score a run with {field}=1"
            )
    if settings.selection.proxy_trains:
        raise ValueError(
            "the run's proxy learnt with it, and its parameters at each step are not recorded: "
            "score a run whose proxy stays as it is"
        )
    if settings.selection.budgets == "curriculum":
        raise ValueError(
            "budgets that follow a curriculum depend on all steps before, which are not recorded: "
            "change selection.budgets, e.g. to 'proportional'"
        )
    if settings.selection.remembers:
        raise ValueError(
            f"selection.utility={utility!r} remembers what it selected before, which a recorded "
            "problem does not say: change selection.remembered to 0"
        )
    return settings


def _same(folder: epath.Path, parameters: int) -> bool | None:
    """True if a run ended with parameters of this fingerprint; None where it does not say."""
    summary = folder / "summary.json"
    if not summary.exists():
        return None
    there = workdir.read_summary(folder).get("parameters_fingerprint")
    return None if there is None else there == parameters
