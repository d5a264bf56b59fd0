"""A process that trains for a few seconds and saves often, to be killed: see test_kill.py."""

import logging
import sys

from partitionsel_jax import training
from tests.training.conftest import tiny_config

if __name__ == "__main__":
    log = logging.getLogger("partitionsel_jax")
    log.addHandler(logging.StreamHandler(sys.stdout))
    log.setLevel(logging.INFO)
    config = tiny_config()
    config.data.directory = sys.argv[1]
    config.training.update({"updates": 400, "evaluate_every": 50, "checkpoint_every": 8})
    training.train_all(config.to_dict(), sys.argv[2])
