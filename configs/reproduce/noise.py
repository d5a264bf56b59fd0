"""Claim (d): selection leaves out corrupted answers, and learns as from clean data.

Not in the paper, but what selection by a validation gradient is for. Garbled answers (random
characters) and swapped ones (the answer of another question of the domain) at 0, 15, 30 and 50 % of
the training rows; validation, anchors and test are clean. The goal, set before any run: at 30 %
garbled, PartitionSel reaches random's final validation loss in at most 0.4 of the updates and 0.8
of the operations and seconds.

    python -m experiments.ablate --config=configs/reproduce/noise.py --workdir=DIR
    python -m experiments.ablate --config=configs/reproduce/noise.py:scale=smollm2,seeds=3 --workdir=DIR
"""  # noqa: E501 - commands are lines

from configs.reproduce import published, scales


def get_config(text=None):
    """The ablation; its arguments are those of `scales.start`."""
    config, arguments = scales.start(text)
    config.methods = {
        "partitionsel": {},
        "random": published.RANDOM,
        "loss": {"selection": {"utility": "loss"}},
    }
    # Of clean rows no share is corrupted, so that "none" is one run.
    config.axes.data = {
        "noise": {"kind": ("none", "garbled", "swapped"), "share": (0.15, 0.3, 0.5)}
    }
    if arguments.smoke:
        config.methods = {name: config.methods[name] for name in ("partitionsel", "random")}
        config.axes.data = {"noise": {"kind": ("garbled",), "share": (0.3,)}}
    return config
