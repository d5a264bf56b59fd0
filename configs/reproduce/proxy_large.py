"""Claim (l): the larger the target, the cheaper a small model's selections.

As `proxy`, with a target of 3.0M parameters: clean answers, 30 % garbled and 30 % swapped ones, in
which a small model sees nothing wrong. The goal, set before any run: at 30 % garbled, the frozen
model reaches random's final validation loss in at most 0.45 of the updates and 0.55 of the
operations and of the seconds, its own training counted, and the interval of each lies below 0.8.

    python -m experiments.ablate --config=configs/reproduce/proxy_large.py --workdir=DIR
"""

from configs.reproduce import proxy, published

TARGET = {"layers": 8, "width": 192, "mlp_width": 448, "heads": 8, "kv_heads": 4, "head_dim": 24}


def get_config(text=None):
    """The ablation; its arguments are those of `proxy`."""
    config, arguments = proxy.start(text, TARGET)
    kinds = ("garbled",) if arguments.smoke else ("none", "garbled", "swapped")
    config.axes.data = {"noise": {"kind": kinds, "share": (0.3,)}}
    if arguments.smoke:
        del config.methods["small"]
        config.methods.update({"frozen": proxy.choosers(config)["frozen"]})
        config.methods.update({"random": published.RANDOM})
        return config
    config.methods.update(proxy.choosers(config))
    config.methods.oracle = proxy.oracle()
    return config
