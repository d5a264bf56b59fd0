"""A process that trains for a few seconds, to be killed or stopped: many updates, or slow ones."""

import logging
import sys
import time

from partitionsel_jax import training
from partitionsel_jax.data.pools import Pools
from tests.training.conftest import tiny_config

if __name__ == "__main__":
    log = logging.getLogger("partitionsel_jax")
    log.addHandler(logging.StreamHandler(sys.stdout))
    log.setLevel(logging.INFO)
    config = tiny_config()
    config.data.directory = sys.argv[1]
    if sys.argv[3:] == ["slow"]:
        fast = Pools.__getitem__

        def slow(pools, step):
            time.sleep(0.5)
            return fast(pools, step)

        Pools.__getitem__ = slow
    else:
        config.training.update({"updates": 400, "evaluate_every": 50, "checkpoint_every": 8})
    with training.stopping.listening() as stop:
        training.train_all(config.to_dict(), sys.argv[2], stop)
