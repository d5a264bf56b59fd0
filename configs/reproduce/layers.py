"""Claim (g): gradients of the last layers are enough.

The published code takes the last 3 of 36. Features from the last 1, 2, 4 ... layers, up to all.

    python -m experiments.ablate --config=configs/reproduce/layers.py --workdir=DIR
"""

from configs.reproduce import published, scales

_LAYERS = {
    "bytes": (1, 2, 4),
    "smollm2": (1, 3, 10, 30),
    "metamath": (1, 3, 12, 36),
    "molecules": (1, 3, 9, 28),
}


def get_config(text=None):
    """The ablation; its arguments are those of `scales.start`."""
    config, arguments = scales.start(text)
    config.methods = {"partitionsel": {}, "random": published.RANDOM}
    config.axes.features = {"last_layers": (1, 2) if arguments.smoke else _LAYERS[arguments.scale]}
    return config
