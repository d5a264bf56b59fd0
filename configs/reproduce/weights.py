"""Claim (h): the weights that selection finds are worth using in the update.

The published code computes them and trains on uniform ones. Here: uniform and learned (mean 1),
with the effective sample size of each.

    python -m experiments.ablate --config=configs/reproduce/weights.py --workdir=DIR
"""

from configs.reproduce import scales


def get_config(text=None):
    """The ablation; its arguments are those of `scales.start`."""
    config, _ = scales.start(text)
    config.methods = {"partitionsel": {}}
    config.axes.selection = {"weights": ("uniform", "learned")}
    return config
