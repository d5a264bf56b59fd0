"""Claim (h): the weights that selection finds are worth using in the update.

The published code computes them and trains on uniform ones. Here: uniform, learned (mean 1) and
clipped at 3, with the effective sample size of each.

    python -m experiments.ablate --config=configs/reproduce/weights.py --workdir=DIR
"""

from configs.reproduce import scales


def get_config(text=None):
    """--config=configs/reproduce/weights.py[:smoke,scale=smollm2,seeds=3,tune=False,path=,model=].

    See `scales.start` for the arguments.
    """
    config, arguments = scales.start(text)
    config.methods = {"partitionsel": {}}
    kinds = ("uniform", "learned") if arguments.smoke else ("uniform", "learned", "clipped")
    config.axes.selection = {"weights": kinds}
    return config
