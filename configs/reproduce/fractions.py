"""Claim (c): PartitionSel's advantage over random picks holds at every fraction of the pool.

The paper shows 12.5 and 25 % (Mol-Instructions) and 50 % (MetaMathQA). Here: 6.25 to 75 % on clean
data, with the learning rate chosen at each.

    python -m experiments.ablate --config=configs/reproduce/fractions.py --workdir=DIR
"""

from configs.reproduce import published, scales


def get_config(text=None):
    """The ablation; its arguments are those of `scales.start`."""
    config, arguments = scales.start(text)
    config.methods = {"partitionsel": {}, "random": published.RANDOM}
    fractions = (0.25, 0.5) if arguments.smoke else (0.0625, 0.125, 0.25, 0.5, 0.75)
    config.axes.selection = {"size": scales.sizes(config, *fractions)}
    return config
