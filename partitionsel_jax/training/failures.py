"""Keeps an update that was not sound on disk, and makes it again."""

import dataclasses
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from partitionsel_jax import paths
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.data.rows import Rows
from partitionsel_jax.distributed import processes
from partitionsel_jax.file_errors import reading
from partitionsel_jax.json_files import INTEGER, read_fields
from partitionsel_jax.step import halting
from partitionsel_jax.step.state import TrainState
from partitionsel_jax.step.step import Step
from partitionsel_jax.training import programs as run_programs
from partitionsel_jax.training import records, starts, workdir
from partitionsel_jax.training import setup as run_setup
from partitionsel_jax.training.checkpoints import Checkpoints
from partitionsel_jax.training.setup import Setup

_ABOUT, _ROWS, _STATE = "failure.json", "rows.npz", "state"


def dump(
    folder: epath.Path, setup: Setup, step: int, state: TrainState, rows: tuple[Rows, Rows]
) -> epath.Path:
    """Writes what `replay` needs to `failure/STEP/` in a run's folder; all processes call it.

    Args:
      folder: of the run.
      setup: the run's.
      step: number of the update, from 1.
      state: what the step left, halted.
      rows: this process's part of the pool and of the anchors.
    """
    place = folder / "failure" / str(step)
    if processes.is_first() and place.exists():
        place.rmtree()  # of the same update, before a restart
    processes.wait()
    checkpoints = Checkpoints(place / _STATE, keep=1)
    checkpoints.save(halting.before(state), {})
    checkpoints.finish()
    checkpoints.close()
    if jax.process_count() > 1:
        rows = multihost_utils.process_allgather(rows, tiled=True)
    if processes.is_first():
        named = zip(("pool", "anchors"), rows, strict=True)
        arrays: dict[str, Any] = {
            f"{name}_{field}": np.asarray(value)
            for name, part in named
            for field, value in part._asdict().items()
        }
        with (place / _ROWS).open("wb") as file:
            np.savez(file, **arrays)
        about = workdir.read_config(folder) | {
            "update": step,
            "devices": len(setup.layout.devices),
        }
        # Last: with it the dump is whole.
        records.write_json(place / _ABOUT, about)
    processes.wait()
    return place


def replay(folder: epath.PathLike) -> dict[str, Any]:
    """Makes an update again that stopped a run, from what is in WORKDIR/failure/STEP.

    It is the same bit for bit on as many devices of the same kind. Where there are fewer, it runs
    on one.

    Returns:
      The record of the update: NumPy arrays by name, see `Step.choose` and `Step.update`.

    Raises:
      ValueError: no such folder, or weights that are not there any more.
    """
    folder = paths.absolute(folder)
    if not (folder / _ABOUT).exists():
        raise ValueError(f"{folder} is no failed update: name WORKDIR/failure/NUMBER of a run")
    about = read_fields(folder / _ABOUT, {"config": dict, "devices": INTEGER})
    settings = run_settings.parse(about["config"])
    devices = about["devices"] if about["devices"] <= len(jax.devices()) else 1
    training = dataclasses.replace(settings.training, devices=devices)
    settings = dataclasses.replace(settings, training=training)
    layout = run_setup.choose_layout(settings)
    step = Step.create(settings, devices)
    state, frozen = layout.place(step.initial(settings.seed, starts.weights(settings)))
    restored = Checkpoints(folder / _STATE, keep=1).restore(state)
    if restored is None:
        raise ValueError(f"{folder / _STATE} holds no state: restore it from a copy")
    reference = layout.place(starts.load_reference(settings))
    with reading(folder / _ROWS), (folder / _ROWS).open("rb") as file, np.load(file) as arrays:
        pool, anchors = (
            layout.rows(Rows(*(arrays[f"{name}_{field}"] for field in Rows._fields)))
            for name in ("pool", "anchors")
        )
    program = run_programs.training_step(step, layout)
    _, record = program(restored[0], frozen, pool, anchors, np.int32(settings.seed), reference)
    record = jax.device_get(record)
    return record | {"dropped_ids": record["dropped_ids"][record["dropped_ids"] >= 0]}
