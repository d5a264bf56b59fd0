"""Claim (a): PartitionSel trains better than random picks, the full pool and earlier selection.

The paper (arXiv 2606.07954, 50 % subsets of MetaMathQA, Qwen2.5-3B) reports mean accuracies of
.6363 for PartitionSel, .6263 ID, .6240 GREATS, .6225 IWD, .6119 CoLM and .6014 random, of one seed.
Here: validation loss and accuracy at 12.5, 25 and 50 % of the pool, against updates, operations and
seconds; every method's learning rate is chosen over the same grid by validation loss.

    python -m experiments.ablate --config=configs/reproduce/methods.py --workdir=DIR
    python -m experiments.ablate --config=configs/reproduce/methods.py:scale=smollm2,seeds=3 --workdir=DIR
    python -m experiments.ablate --config=configs/reproduce/methods.py:scale=metamath,path=FILE --workdir=DIR
    python -m experiments.ablate --config=configs/reproduce/methods.py:scale=molecules,path=DIR --workdir=DIR
"""  # noqa: E501 - commands are lines

from configs.reproduce import published, scales


def get_config(text=None):
    """The ablation; its arguments are those of `scales.start`."""
    config, arguments = scales.start(text)
    config.methods = published.methods(config)
    config.axes.selection = {"size": scales.sizes(config, 0.125, 0.25, 0.5)}
    if arguments.smoke:
        config.methods = {name: config.methods[name] for name in ("partitionsel", "random")}
        config.axes.selection = {"size": scales.sizes(config, 0.5)}
    return config
