"""Keeps the state before an update that was not sound, and makes the update again."""

import dataclasses
from typing import Any

import jax
from etils import epath

from partitionsel_jax import paths
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.distributed import processes
from partitionsel_jax.json_files import INTEGER, read_fields
from partitionsel_jax.step.state import TrainState, before
from partitionsel_jax.training import records, starts, workdir
from partitionsel_jax.training import setup as run_setup
from partitionsel_jax.training.checkpoints import Checkpoints
from partitionsel_jax.training.setup import Setup

_ABOUT, _STATE = "failure.json", "state"


def dump(folder: epath.Path, setup: Setup, step: int, state: TrainState) -> epath.Path:
    """Writes what `replay` needs to `failure/STEP/` in a run's folder; all processes call it.

    Args:
      folder: of the run.
      setup: the run's.
      step: number of the update, from 1.
      state: what the step left, halted.
    """
    place = folder / "failure" / str(step)
    if processes.is_first() and place.exists():
        place.rmtree()  # of the same update, before a restart
    processes.wait()
    checkpoints = Checkpoints(place / _STATE, keep=1)
    checkpoints.save(before(state), {})
    checkpoints.finish()
    checkpoints.close()
    if processes.is_first():
        more = {
            "update": step,
            "devices": len(setup.layout.devices),
            "examples": setup.corpus.fingerprint,
        }
        # Last: with it the dump is whole.
        records.write_json(place / _ABOUT, workdir.read_config(folder) | more)
    processes.wait()
    return place


def replay(folder: epath.PathLike) -> dict[str, Any]:
    """Makes an update again that stopped a run, from what is in WORKDIR/failure/STEP.

    Its rows are drawn again, since the seed and the step number say which they are. It is the same
    bit for bit on as many devices of the same kind. Where there are fewer, it runs on one.

    Returns:
      The record of the update: NumPy arrays by name, as the step gives it.

    Raises:
      ValueError: no such folder, or weights or examples that are not there any more.
    """
    folder = paths.absolute(folder)
    if not (folder / _ABOUT).exists():
        raise ValueError(f"{folder} is no failed update: name WORKDIR/failure/NUMBER of a run")
    fields = {"config": dict, "devices": INTEGER, "update": INTEGER, "examples": str}
    about = read_fields(folder / _ABOUT, fields)
    # In the run's folder, failure/STEP.
    settings = run_settings.parse(starts.of_folder(about, folder.parent.parent))
    devices = about["devices"] if about["devices"] <= len(jax.devices()) else 1
    training = dataclasses.replace(settings.training, devices=devices)
    setup = run_setup.prepare(dataclasses.replace(settings, training=training))
    if setup.corpus.fingerprint != about["examples"]:
        raise ValueError(
            f"{folder} is of other examples than those in config.data.path now: restore them"
        )
    state, frozen = run_setup.initialise(setup)
    restored = Checkpoints(folder / _STATE, keep=1).restore(state)
    if restored is None:
        raise ValueError(f"{folder / _STATE} holds no state: restore it from a copy")
    rows = map(setup.layout.rows, setup.pools[about["update"] - 1])
    _, record = setup.training_step(restored[0], frozen, *rows, setup.seed, setup.others)
    record = jax.device_get(record)
    return record | {"dropped_ids": record["dropped_ids"][record["dropped_ids"] >= 0]}
