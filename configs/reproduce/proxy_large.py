"""Claim (l): the larger the target, the cheaper a small model's selections.

As `proxy`, with a target of 3.0M parameters: clean answers, 30 % garbled and 30 % swapped ones, in
which a small model sees nothing wrong. The goal, set before any run: at 30 % garbled, the frozen
model reaches random's final validation loss in at most 0.45 of the updates and 0.55 of the
operations and of the seconds, its own training counted, and the interval of each lies below 0.8.
`guarded` is `frozen` with a guard that says whether it pays.

    python -m experiments.ablate --config=configs/reproduce/proxy_large.py --workdir=DIR
"""

from configs.reproduce import proxy

TARGET = {"layers": 8, "width": 192, "mlp_width": 448, "heads": 8, "kv_heads": 4, "head_dim": 24}
# Half of the smaller target's.
_RATES = (1e-3, 2e-3, 4e-3)


def get_config(text=None):
    """The ablation; its arguments are those of `proxy`."""
    config, arguments = proxy.start(text, TARGET, _RATES)
    kinds = ("garbled",) if arguments.smoke else ("garbled", "none", "swapped")
    config.axes.data = {"noise": {"kind": kinds, "share": (0.3,)}}
    choosers = proxy.choosers(config)
    del config.methods["small"], choosers["cotrained"]
    config.methods.update({**choosers, "guarded": proxy.by_frozen(guard=True)})
    if arguments.smoke:
        kept = ("small-random", "guarded", "random")
        config.methods = {name: config.methods[name] for name in kept}
    return config
