"""Claim (k): a small model that selects for a large one pays, and more than the trivial rivals do.

A byte-level target of 1.3M parameters on clean answers and on 15, 30 and 50 % garbled ones; pool 64
to 8, 96 updates. Who chooses:

| method          | chooser                                                                       |
|-----------------|-------------------------------------------------------------------------------|
| `partitionsel`  | the target itself                                                             |
| `cotrained`     | a model of 0.03M (2 layers of width 32) that trains on its own selections     |
| `frozen`        | the same model after twice as many updates on random rows, made first         |
| `frozen-short`  | as `frozen`, 0.6 of the updates with a schedule of their own                  |
| `oracle`        | random rows among those that are not corrupted                                |
| `lowest-loss`   | the target, which takes the rows that it finds easiest                        |
| `filtered-30`   | random, without the 30 % of each domain that the frozen model finds hardest   |
| `filtered-50`   | the same without 50 %                                                         |
| `anchors-too`   | random, with all anchors among the training rows                              |
| `anchors-alone` | random, on nothing but anchors                                                |

`small` and `small-random` are the runs of the small model; what they cost, and the filter's pass
over all rows, is counted in the runs that need them. `random-short` says what a shorter schedule
does alone. Every method, the small model too, chooses its learning rate from one grid.

    python -m experiments.ablate --config=configs/reproduce/proxy.py --workdir=DIR
"""

from ml_collections import ConfigDict

from configs.reproduce import published, scales

SMALL = {"layers": 2, "width": 32, "mlp_width": 64, "heads": 4, "kv_heads": 2, "head_dim": 8}
TARGET = {"layers": 6, "width": 144, "mlp_width": 352, "heads": 6, "kv_heads": 3, "head_dim": 24}
_RATES = (2e-3, 4e-3, 8e-3)


def start(text: str | None, target: dict[str, int]) -> tuple[ConfigDict, ConfigDict]:
    """The config of a target of this shape, its methods the small model's, and the arguments.

    Raises:
      ValueError: another scale than `bytes`, beside what `scales.start` refuses.
    """
    config, arguments = scales.start(text)
    if arguments.scale != "bytes":
        raise ValueError(
            f"scale={arguments.scale}: the small model of this study reads bytes; leave scale out"
        )
    if not arguments.smoke:
        config.model.update(target)
        config.tune.grid = {"optimizer": {"learning_rate": _RATES}} if arguments.tune else {}
    twice = 1 if arguments.smoke else 2 * config.training.updates
    config.methods = {
        "small": {"model": SMALL},
        "small-random": {
            "model": SMALL,
            **published.RANDOM,
            "training": {"updates": twice, "checkpoint_every": twice},
        },
    }
    return config, arguments


def choosers(config: ConfigDict) -> dict[str, dict]:
    """Label -> the fields that it changes, of the methods that every study of a proxy compares."""
    short = 3 * config.training.updates // 5
    shorter = {"training": {"updates": short, "checkpoint_every": short}}
    frozen = {"selection": {"proxy": "@small-random"}}
    return {
        "partitionsel": {},
        "cotrained": {"selection": {"recorded": "@small"}},
        "frozen": frozen,
        "frozen-short": {**frozen, **shorter},
        "random": published.RANDOM,
        "random-short": {**published.RANDOM, **shorter},
    }


def oracle() -> dict[str, dict]:
    """Random rows among those that are not corrupted."""
    return {"selection": {**published.RANDOM["selection"], "oracle": True}}


def on_anchors(train_on: str) -> dict[str, dict]:
    """Random rows, some or all of which are anchors."""
    return {**published.RANDOM, "data": {"train_on": train_on}}


def filtered(share: float) -> dict[str, dict]:
    """Random rows without a share of each domain that the small model finds hardest."""
    return {**published.RANDOM, "data": {"filter": {"model": "@small-random", "share": share}}}


def get_config(text=None):
    """The ablation; its arguments are those of `scales.start`, with scale `bytes` alone."""
    config, arguments = start(text, TARGET)
    config.axes.data = {"noise": {"kind": ("none", "garbled"), "share": (0.15, 0.3, 0.5)}}
    if arguments.smoke:
        del config.methods["small"]
        config.methods.update({"filtered-30": filtered(0.3), "random": published.RANDOM})
        config.axes.data = {"noise": {"kind": ("garbled",), "share": (0.3,)}}
        return config
    config.methods.update(choosers(config))
    config.methods.update(
        {
            "oracle": oracle(),
            "lowest-loss": {"selection": {"utility": "lowest_loss"}},
            "filtered-30": filtered(0.3),
            "filtered-50": filtered(0.5),
            "anchors-too": on_anchors("rows_and_anchors"),
            "anchors-alone": on_anchors("anchors"),
        }
    )
    return config
