"""Claim (e): budgets per domain help where the pool's domains are not those that count.

The pool is drawn uniformly, or with half as many rows of every further domain (imbalanced); anchors
and validation have as many rows of each, so that the validation mix differs from the pool's.
PartitionSel with budgets that follow the pool, uniform ones, and the curriculum; without domains
(GradMatch); and random picks with either budget.

    python -m experiments.ablate --config=configs/reproduce/domains.py --workdir=DIR

MetaMathQA's and Mol-Instructions' domains are as many as weights are needed for: scales `metamath`
(8) and `molecules` (4) take theirs.
"""

from configs.reproduce import published, scales

_DOMAINS = {"bytes": 8, "smollm2": 8, "metamath": 8, "molecules": 4}


def get_config(text=None):
    """The ablation; its arguments are those of `scales.start`."""
    config, arguments = scales.start(text)
    config.methods = {
        "partitionsel": {},
        "partitionsel-uniform": {"selection": {"budgets": "uniform"}},
        "partitionsel-curriculum": {"selection": {"budgets": "curriculum"}},
        "gradmatch": published.GRADMATCH,
        "random": published.RANDOM,
        "random-uniform": {"selection": {**published.RANDOM["selection"], "budgets": "uniform"}},
    }
    count = _DOMAINS[arguments.scale]
    config.data.mix = "weighted"
    halved = tuple(2.0 ** (count - 1 - place) for place in range(count))
    config.axes.data = {"weights": ((1.0,) * count, halved)}
    if arguments.smoke:
        config.methods = {
            name: config.methods[name] for name in ("partitionsel", "partitionsel-uniform")
        }
        config.axes.data = {"weights": (halved,)}
    return config
