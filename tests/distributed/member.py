"""A process that trains, alone or with others: see launching.py.

    python -m tests.distributed.member train|step CORPORA WORKDIR CHANGES FAULTS

`train` trains a whole run. `step` makes its updates and nothing else, which compiles in a third of
the time, and every process writes what it saw of them. CHANGES are fields of the tiny configuration
as JSON, {"section.field": value}, and FAULTS what goes wrong in this process, see `FAULTS`. Where
and with whom it runs is said by the environment, as by a launcher.
"""

import json
import logging
import sys
import time
from pathlib import Path

from partitionsel_jax import distributed, training
from partitionsel_jax.data.pools import Pools
from partitionsel_jax.training.checkpoints import Checkpoints
from tests.tiny_runs import tiny_config


def read_slowly(seconds):
    """Every pool takes so long to read."""
    whole = Pools.__getitem__

    def read(pools, step):
        time.sleep(seconds)
        return whole(pools, step)

    Pools.__getitem__ = read


def misread(steps):
    """This process cannot read the checkpoints after these updates."""
    whole = Checkpoints._read

    def read(self, step, like):
        if step in steps:
            raise ValueError("the disk of this process is broken")
        return whole(self, step, like)

    Checkpoints._read = read


def leave_unsaved(steps):
    """This process fails to write its part of the states after these updates."""
    whole = Checkpoints.save

    def save(self, state, *rest):
        if int(state.step) not in steps:
            return whole(self, state, *rest)
        self._settle()
        self._saving, self._failure = int(state.step), "No space left on device"

    Checkpoints.save = save


FAULTS = {"read_slowly": read_slowly, "misread": misread, "leave_unsaved": leave_unsaved}


def step(config, folder):
    """Writes the picks and the loss of every update to FOLDER/PROCESS.json."""
    import jax

    from partitionsel_jax.config import settings
    from partitionsel_jax.training import setup

    parsed = settings.parse(config.to_dict())
    made = setup.prepare(parsed)
    state, frozen = setup.initialise(made)
    seen = []
    for number in range(parsed.training.updates):
        pool, anchors = map(made.layout.rows, made.pools[number])
        state, record = made.training_step(state, frozen, pool, anchors, made.seed, made.others)
        record = jax.device_get({name: record[name] for name in ("ids", "loss")})
        seen.append([record["ids"].tolist(), float(record["loss"])])
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / f"{jax.process_index()}.json").write_text(json.dumps(seen))


def main(mode, corpora, workdir, changes, faults):
    log = logging.getLogger("partitionsel_jax")
    log.addHandler(logging.StreamHandler(sys.stdout))
    log.setLevel(logging.INFO)
    log.propagate = False
    config = tiny_config()
    config.data.directory = corpora
    config.update_from_flattened_dict({"training.devices": 0} | json.loads(changes))
    for name, value in json.loads(faults).items():
        FAULTS[name](value)
    rendezvous = distributed.clusters.find()
    if rendezvous is not None:
        distributed.processes.join(rendezvous, patience=30)
    with distributed.processes.ending_together():
        if mode == "step":
            step(config, workdir)
        else:
            with distributed.stopping.listening() as stop:
                training.train_all(config.to_dict(), workdir, stop)


if __name__ == "__main__":
    main(*sys.argv[1:])
