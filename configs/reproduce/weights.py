"""Claim (h): the weights that selection finds are worth using in the update.

The published code computes them and trains on uniform ones. Here: uniform and learned (mean 1),
with the effective sample size of each. Clipped ones are no arm of their own: with 8 picks hardly
any weight exceeds 3, the default cap, and 4 of 5 seeds trained as with learned ones.

    python -m experiments.ablate --config=configs/reproduce/weights.py --workdir=DIR
"""

from configs.reproduce import scales


def get_config(text=None):
    """--config=configs/reproduce/weights.py[:smoke,scale=smollm2,seeds=3,tune=False,path=,model=].

    See `scales.start` for the arguments.
    """
    config, _ = scales.start(text)
    config.methods = {"partitionsel": {}}
    config.axes.selection = {"weights": ("uniform", "learned")}
    return config
