"""Claim (j): what selection costs, and how cheap it can be made.

PartitionSel as published against what saves work: features of the last layer alone, anchors
computed every 8 updates, several updates from one pool, a smaller pool, and all of them. 30 % of
the answers are garbled, so that there is something to gain. Read the result against operations and
seconds; updates alone hide the cost.

    python -m experiments.ablate --config=configs/reproduce/cost.py --workdir=DIR
    python -m experiments.ablate --config=configs/reproduce/cost.py:scale=smollm2,seeds=3 --workdir=DIR
"""  # noqa: E501 - commands are lines

from configs.reproduce import published, scales


def get_config(text=None):
    """--config=configs/reproduce/cost.py[:smoke,scale=smollm2,seeds=3,tune=False,path=,model=].

    See `scales.start` for the arguments.
    """
    config, arguments = scales.start(text)
    config.data.spoilt.update({"kind": "garbled", "share": 0.3})
    half = {"pool": 2 * config.selection.size}
    config.methods = {
        "partitionsel": {},
        "last-layer": {"features": {"last_layers": 1}},
        "anchors-kept": {"features": {"anchors_every": 8}},
        "pool-shared": {"selection": {"updates_per_pool": 4}},
        "small-pool": {"selection": half},
        "cheapest": {
            "features": {"last_layers": 1, "anchors_every": 8},
            "selection": half,
        },
        "random": published.RANDOM,
    }
    if arguments.smoke:
        config.methods = {name: config.methods[name] for name in ("partitionsel", "cheapest")}
    return config
