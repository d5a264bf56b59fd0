"""Claim (m): where two domains of eight are wanted, a small model selects for them.

The target of `proxy` on clean answers. Pools are of all eight domains, as many rows of each;
anchors, validation and test rows are of two. Budgets follow the anchors' domains, so that random
picks have the same; those of `random-pool` follow the pool's.

    python -m experiments.ablate --config=configs/reproduce/proxy_targets.py --workdir=DIR
"""

from configs.reproduce import proxy, proxy_rivals, published
from configs.tasks import QUICKSTART_TASKS

WANTED = tuple(dict(QUICKSTART_TASKS))[:2]


def get_config(text=None):
    """The ablation; its arguments are those of `proxy`."""
    config, arguments = proxy.start(text, proxy.TARGET)
    config.data.target_domains = WANTED
    config.selection.update({"budgets": "anchors", "anchor_balance": False})
    random = published.RANDOM["selection"]
    rivals = {
        "random-pool": {"selection": {**random, "budgets": "proportional"}},
        "anchors-too": proxy_rivals.on_anchors("rows_and_anchors"),
        "anchors-alone": proxy_rivals.on_anchors("anchors"),
    }
    config.methods.update({**proxy.choosers(config), **rivals})
    if arguments.smoke:
        config.selection.anchors = 16  # all that two domains have there
        kept = ("small", "cotrained", "random", "random-pool")
        config.methods = {name: config.methods[name] for name in kept}
    return config
