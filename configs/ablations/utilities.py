"""Which utility, under which coupling: everything else equal, every method's learning rate tuned.

Every utility that there is, on the problem of `self_selection`. The published ones are put to
the test in `configs/reproduce/methods.py`, and the outcome is in RESULTS.md.

Command, on two CPU cores; `tune` first chooses each method's learning rate by the validation loss
of seeds 0 and 1, over the same grid:

    python -m experiments.ablate --config=configs/ablations/utilities.py --workdir=DIR
    python -m experiments.ablate --config=configs/ablations/utilities.py:tune --workdir=DIR
"""

from configs import common, self_selection

# What the methods are called where they were published: joint `gradient_matching` is PartitionSel,
# independent IWD, agnostic GradMatch; agnostic `taylor` is GREATS, independent ID.
UTILITIES = (
    *("gradient_matching", "taylor", "facility_location", "anchor_coverage"),
    *("fair_transport", "alignment", "grad_norm", "loss", "random"),
)


def get_config(text=None):
    """--config=configs/ablations/utilities.py[:smoke,seeds=5,tune,noise=swapped,share=0.15].

    `smoke` shrinks everything to a minute; `seeds` is the number of repeats; `tune` chooses every
    method's learning rate first; `noise` and `share` are that config's.
    """
    arguments = common.arguments(text, smoke=False, seeds=3, tune=False, noise="garbled", share=0.3)
    asked = f"noise={arguments.noise},share={arguments.share}"
    config = self_selection.get_config(asked + (",smoke" if arguments.smoke else ""))
    config.repeats = arguments.seeds
    utilities = ("gradient_matching", "random") if arguments.smoke else UTILITIES
    config.methods = {utility: {"selection": {"utility": utility}} for utility in utilities}
    if "grad_norm" in utilities:
        # Norms are only estimated by the sketches of the factored path.
        config.methods.grad_norm.features = {"path": "reference", "family": "srht"}
    couplings = ("joint", "agnostic") if arguments.smoke else ("joint", "independent", "agnostic")
    config.axes.selection = {"coupling": couplings}
    if arguments.smoke:
        config.repeats = 1
    if arguments.tune:
        common.tune_learning_rate(config, seeds=(0,) if arguments.smoke else (0, 1))
    return config
