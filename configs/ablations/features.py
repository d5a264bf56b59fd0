"""Features of a candidate's gradient: sketch family and dimension, and layers in scope.

Claim: none yet; this is the table that claims are to come from.

    python -m experiments.ablate --config=configs/ablations/features.py --workdir=DIR
"""

from configs import common, self_selection


def get_config(text=None):
    """--config=configs/ablations/features.py[:smoke,seeds=5,tune].

    `smoke` shrinks everything to a minute; `seeds` is the number of repeats; `tune` chooses every
    point's learning rate first.
    """
    arguments = common.arguments(text, smoke=False, seeds=3, tune=False)
    config = self_selection.get_config("smoke" if arguments.smoke else "")
    config.repeats = 1 if arguments.smoke else arguments.seeds
    config.methods = {"random": {"selection": {"utility": "random"}}}
    config.methods.two_sided = {"features": {"path": "factored", "family": "two_sided"}}
    if not arguments.smoke:
        config.methods.srht = {"features": {"path": "reference", "family": "srht"}}
        config.methods.gaussian = {"features": {"path": "reference", "family": "gaussian"}}
        config.axes.features = {"dim": (64, 256, 1024), "last_layers": (1, 2, 0)}
    else:
        config.axes.features = {"dim": (16, 64)}
    if arguments.tune:
        common.tune_learning_rate(config, seeds=(0,) if arguments.smoke else (0, 1))
    return config
