"""How the picks are shared out between domains, on clean answers and where some are garbled.

Claim: none yet; this is the table that claims are to come from.

    python -m experiments.ablate --config=configs/ablations/budgets.py --workdir=DIR
"""

from configs import common, self_selection

# Methods rather than an axis, since some differ in more than the scheme's name.
SCHEMES = {
    "proportional": {"budgets": "proportional"},
    "uniform": {"budgets": "uniform"},
    "temperature": {"budgets": "temperature", "temperature": 0.5},
    "curriculum": {"budgets": "curriculum"},
    "agnostic": {"coupling": "agnostic"},
    "random": {"utility": "random"},
}


def get_config(text=None):
    """--config=configs/ablations/budgets.py[:smoke,seeds=5,tune].

    `smoke` shrinks everything to a minute; `seeds` is the number of repeats; `tune` chooses every
    point's learning rate first.
    """
    arguments = common.arguments(text, smoke=False, seeds=3, tune=False)
    config = self_selection.get_config("smoke" if arguments.smoke else "")
    config.repeats = 1 if arguments.smoke else arguments.seeds
    names = ("uniform", "random") if arguments.smoke else SCHEMES
    config.methods = {name: {"selection": SCHEMES[name]} for name in names}
    # Shares of the domains in a pool: even ones leave budgets little to do.
    config.data.mix = "weighted"
    config.axes.data = {
        "weights": ((8, 7, 6, 5, 4, 3, 2, 1), (1, 1, 1, 1, 1, 1, 1, 1)),
    }
    if not arguments.smoke:
        config.axes.data.noise = {"share": (0.0, 0.3)}
    if arguments.tune:
        common.tune_learning_rate(config, seeds=(0,) if arguments.smoke else (0, 1))
    return config
