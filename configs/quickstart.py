"""A model of 0.03M parameters selects for one of 3.0M, against random rows; 30 % garbled answers.

Claim: TODO
"""

from configs import self_selection

SMALL = {"layers": 2, "width": 32, "mlp_width": 64, "heads": 4, "kv_heads": 2, "head_dim": 8}
TARGET = {"layers": 8, "width": 192, "mlp_width": 448, "heads": 8, "kv_heads": 4, "head_dim": 24}
RANDOM = {"selection": {"utility": "random", "swaps": 0}}
# An anchor has the same features at any time in a model that stays as it is.
FROZEN = {
    "selection": {"proxy": "@small", "anchors": 64},
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
    else:
        config.model.update(TARGET)
        config.training.update({"updates": 128, "evaluate_every": 8, "checkpoint_every": 128})
    config.optimizer.learning_rate = 2e-3
    config.methods = {
        "small": {"model": SMALL, "optimizer": {"learning_rate": 8e-3}, **RANDOM},
        "partitionsel": FROZEN,
        "random": RANDOM,
    }
    return config
