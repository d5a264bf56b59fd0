"""Claim (i): what the solver is worth: greedy picks, the paper's random greedy, and swaps.

The paper's Algorithm 2 is residual random greedy, for its guarantee; greedy picks and swaps within
domains reach a higher utility. Here: utility and certificate of every update, and what training
makes of the difference.

    python -m experiments.ablate --config=configs/reproduce/rules.py --workdir=DIR
"""

from configs.reproduce import published, scales


def get_config(text=None):
    """The ablation; its arguments are those of `scales.start`."""
    config, arguments = scales.start(text)
    config.methods = {
        "greedy": {},
        "residual-random": {"selection": {"rule": "residual_random"}},
        "swaps": {"selection": {"swaps": 3}},
        "random": published.RANDOM,
    }
    if arguments.smoke:
        config.methods = {name: config.methods[name] for name in ("greedy", "swaps")}
    return config
