"""A model of 0.03M parameters selects for one of 1.3M, against random rows; 30 % garbled answers.

Claim: selection reaches random's final validation loss in fewer updates, operations and seconds,
those of the small model's training included.

Command, and what to expect of it (two CPU cores, jax 0.10.2), three minutes:

    python -m experiments.train --config=configs/quickstart.py --workdir=DIR

|                       | partitionsel | random |
|-----------------------|--------------|--------|
| final validation loss | 1.538        | 1.656  |
| test loss             | 1.657        | 1.694  |
| updates to target     | 0.64         | 1      |
| FLOPs to target       | 0.72         | 1      |
| seconds to target     | 0.84         | 1      |
| garbled picks         | 6.9 %        | 30.3 % |

Seed 4 alone, which no setting was chosen by: one seed carries no spread. The settings were chosen
by seeds 0 and 1 (docs/pilots.md). configs/proxy.py has other ways for a small model to select, and
configs/self_selection.py is the same problem without one.
"""

from typing import Any

from configs import self_selection
from configs.common import RANDOM

SMALL = {"layers": 2, "width": 32, "mlp_width": 64, "heads": 4, "kv_heads": 2, "head_dim": 8}
TARGET = {"layers": 6, "width": 144, "mlp_width": 352, "heads": 6, "kv_heads": 3, "head_dim": 24}
# An anchor has the same features at any time in a model that stays as it is. Pools are small, since
# a model that does not learn prefers the same kind of row all along.
FROZEN: dict[str, dict[str, Any]] = {
    "selection": {"proxy": "@small", "pool": 32, "anchors": 64},
    "features": {"last_layers": 1, "anchors_every": 8},
}


def get_config(text=None):
    """--config=configs/quickstart.py[:smoke,seeds=3,noise=swapped,share=0.15].

    `smoke` shrinks everything to a minute; `seeds` is the number of repeats; `noise` is garbled,
    swapped or none; `share` is the corrupted share.
    """
    config = self_selection.get_config(text)
    if self_selection.arguments(text).smoke:
        config.model.update({"layers": 3, "width": 48})
        config.data.validation = 16
    else:
        config.model.update(TARGET)
        config.training.update({"updates": 144, "evaluate_every": 12, "checkpoint_every": 144})
    config.optimizer.learning_rate = 2e-3
    config.methods = {
        "small": {
            "model": SMALL,
            "optimizer": {"learning_rate": 8e-3},
            "evaluation": {"test": False},
            **RANDOM,
        },
        "partitionsel": FROZEN,
        "random": RANDOM,
    }
    return config
