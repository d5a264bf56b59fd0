"""Claim (j): what selection costs, and how cheap it can be made.

30 % of the answers are garbled, so that there is something to gain. Random picks have the scale's
updates, or 0.4 of them; everything else has 0.4 of them, each with a learning rate and a schedule of
its own, so that what ends no higher than random picks has reached their loss at the cost of a whole
run. The goal, set before any run: 0.4 of the updates, 0.8 of the operations and of the seconds.

PartitionSel as the scale has it, and step by step what `configs/frugal.py` is made of: features of
the last layer; anchors kept for 8 updates, under pools of their own; pools kept with them; more
anchors and a larger pool; Adam's geometry. At scale `bytes` the problem is that of
`configs/self_selection.py`.

    python -m experiments.ablate --config=configs/reproduce/cost.py --workdir=DIR
    python -m experiments.ablate --config=configs/reproduce/cost.py:scale=smollm2,seeds=3 --workdir=DIR
"""  # noqa: E501 - commands are lines

from configs import frugal
from configs.reproduce import published, scales


def get_config(text=None):
    """The ablation; its arguments are those of `scales.start`."""
    config, arguments = scales.start(text, whole=True)
    config.data.noise.update({"kind": "garbled", "share": 0.3})
    shared = frugal.selection(config, more_anchors=False)
    whole_preset = frugal.selection(config, more_anchors=not arguments.smoke)
    kept = frugal.KEPT_ANCHORS
    chosen = {
        "partitionsel": {},
        "last-layer": {"features": frugal.LAST_LAYER},
        "old-anchors": {"features": kept},
        "shared-pool": {"features": kept, "selection": shared},
        "more-anchors": {"features": kept, "selection": whole_preset},
        "frugal": {"features": frugal.FEATURES, "selection": whole_preset},
        "random-short": published.RANDOM,
    }
    whole = config.training.updates
    short = {"updates": 2 * whole // 5, "checkpoint_every": 2 * whole // 5}
    config.methods = {name: {**fields, "training": short} for name, fields in chosen.items()}
    config.methods.random = published.RANDOM
    if arguments.scale == "bytes":
        frugal.narrow(config)
    if arguments.smoke:
        config.methods = {name: config.methods[name] for name in ("frugal", "random")}
    return config
