"""Claim (n): a small model that selects by gradients does better than simpler ways to use one.

As `proxy`, at 30 % garbled answers. Who chooses:

| method          | chooser                                                                       |
|-----------------|-------------------------------------------------------------------------------|
| `frozen`        | the small model, by the gradients of its last layer                           |
| `frozen-loss`   | the small model, by the lowest losses                                         |
| `frozen-uds`    | the small model, by its logits (UDS)                                          |
| `lowest-loss`   | the target, which takes the rows that it finds easiest                        |
| `filtered-30`   | random, without the 30 % of each domain that the small model finds hardest    |
| `filtered-50`   | the same without 50 %                                                         |
| `anchors-too`   | random, with all anchors among the training rows                              |
| `anchors-alone` | random, on nothing but anchors                                                |

A filter's pass over all rows is counted in the runs that need it.

    python -m experiments.ablate --config=configs/reproduce/proxy_rivals.py --workdir=DIR
"""

from configs.reproduce import proxy, published


def on_anchors(train_on: str) -> dict[str, dict]:
    """Random rows, some or all of which are anchors."""
    return {**published.RANDOM, "data": {"train_on": train_on}}


def filtered(share: float) -> dict[str, dict]:
    """Random rows without a share of each domain that the small model finds hardest."""
    return {**published.RANDOM, "data": {"filter": {"model": "@small-random", "share": share}}}


def get_config(text=None):
    """The ablation; its arguments are those of `proxy`."""
    config, arguments = proxy.start(text, proxy.TARGET)
    del config.methods["small"]
    config.data.noise.update({"kind": "garbled", "share": 0.3})
    config.methods.update(
        {
            "frozen": proxy.by_frozen(),
            "frozen-loss": proxy.by_frozen(utility="lowest_loss"),
            "frozen-uds": proxy.by_frozen(utility="uds"),
            "lowest-loss": {"selection": {"utility": "lowest_loss"}},
            "filtered-30": filtered(0.3),
            "filtered-50": filtered(0.5),
            "anchors-too": on_anchors("rows_and_anchors"),
            "anchors-alone": on_anchors("anchors"),
            "random": published.RANDOM,
        }
    )
    if arguments.smoke:
        kept = ("small-random", "filtered-30", "random")
        config.methods = {name: config.methods[name] for name in kept}
    return config
