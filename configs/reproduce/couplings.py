"""Claim (b): joint selection picks fewer pairs of conflicting gradients than the other couplings.

The paper says so of selection per domain and of selection that ignores domains, without numbers.
Here: conflicting pairs (pairs of picks whose features have a negative product) and redundancy of
every update's picks, a quarter of the pool, for three utilities under three couplings. Methods see
the same pools but train on their own picks, so that their models drift apart: the first updates
compare the rules alone, and `experiments.replay --score` compares them on the same problems.

    python -m experiments.ablate --config=configs/reproduce/couplings.py --workdir=DIR
"""

from configs.reproduce import scales


def get_config(text=None):
    """The ablation; its arguments are those of `scales.start`."""
    config, arguments = scales.start(text)
    (config.selection.size,) = scales.sizes(config, 0.25)
    config.axes.selection = {
        "utility": ("gradient_matching", "taylor", "facility_location"),
        "coupling": ("joint", "independent", "agnostic"),
    }
    if arguments.smoke:
        config.axes.selection = {"coupling": ("joint", "independent")}
    return config
