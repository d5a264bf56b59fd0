"""PartitionSel against random picks on eight reasoning domains, a third of the answers garbled."""

from configs import common
from configs.tasks import QUICKSTART_TASKS


def get_config(text=None):
    """--config=configs/quickstart.py[:smoke,seeds=3,spoilt=swapped]; see `common.arguments`."""
    arguments = common.arguments(text, smoke=False, seeds=1, spoilt="garbled", share=0.3)
    config = common.default()
    config.seed = 1  # seed 0 chose the tasks and the learning rate
    config.repeats = arguments.seeds
    config.methods.partitionsel = {}
    config.methods.random = {"selection": {"utility": "random", "rule": "greedy", "swaps": 0}}
    config.data.tasks.update(dict(QUICKSTART_TASKS))
    config.data.spoilt.kind = arguments.spoilt
    config.data.spoilt.share = 0.0 if arguments.spoilt == "none" else arguments.share
    if arguments.smoke:
        config.data.update({"train": 100, "validation": 8, "test": 2})
        config.model.update({"layers": 2, "width": 32, "mlp_width": 64, "head_dim": 8})
        config.features.update({"last_layers": 1, "dim": 64})
        config.training.update({"updates": 20, "evaluate_every": 10, "checkpoint_every": 10})
    return config
