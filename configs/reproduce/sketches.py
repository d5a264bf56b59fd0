"""Claim (f): how small a sketch may be, and whether its family matters.

Sketch dimension by family: the two-sided sketch of the factored path, and the families that project
whole gradients, which `vmap(grad)` computes (`features.path` "reference").

    python -m experiments.ablate --config=configs/reproduce/sketches.py --workdir=DIR
"""

from configs.reproduce import scales

_WHOLE = ("gaussian", "rademacher", "sparse", "srht", "fft")


def get_config(text=None):
    """The ablation; its arguments are those of `scales.start`."""
    config, arguments = scales.start(text)
    config.methods = {"two_sided": {"features": {"path": "factored", "family": "two_sided"}}}
    for family in _WHOLE[:1] if arguments.smoke else _WHOLE:
        config.methods[family] = {"features": {"path": "reference", "family": family}}
    config.axes.features = {"dim": (64,) if arguments.smoke else (64, 256, 1024, 4096)}
    return config
