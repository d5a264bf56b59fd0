"""A process that trains for a few seconds and saves often, to be killed: see test_kill.py."""

import sys

from partitionsel_jax import training
from tests.training.conftest import tiny_config

if __name__ == "__main__":
    config = tiny_config()
    config.data.directory = sys.argv[1]
    config.training.update({"updates": 120, "evaluate_every": 20, "checkpoint_every": 6})
    (run,) = training.expand(config.to_dict())
    training.train(run, sys.argv[2])
