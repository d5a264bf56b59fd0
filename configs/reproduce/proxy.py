"""Claim (k): a small model that selects for a larger one pays where answers are garbled.

A byte-level target of 1.3M parameters on clean answers and on 15, 30 and 50 % garbled ones; pool 64
to 8, 96 updates. Who chooses:

| method         | chooser                                                                     |
|----------------|-----------------------------------------------------------------------------|
| `partitionsel` | the target itself                                                           |
| `cotrained`    | a model of 0.03M (2 layers of width 32) that trains on its own selections   |
| `frozen`       | the same model after as many updates on random rows, made first             |
| `frozen-short` | as `frozen`, 0.6 of the updates with a schedule of their own                |
| `oracle`       | random rows among those that are not corrupted                              |

`small` and `small-random` are the runs of the small model; what they cost is counted in the runs
that need them. `random-short` says what a shorter schedule does alone. Every method, the small
model too, chooses its learning rate from one grid. Gradients are those of the last layer, whoever
chooses; a frozen model shares 64 anchors between 8 updates, as its gradients of them do not change,
and others take 16 fresh ones.

    python -m experiments.ablate --config=configs/reproduce/proxy.py --workdir=DIR
"""

from ml_collections import ConfigDict

from configs.quickstart import FROZEN, SMALL, TARGET
from configs.reproduce import published, scales

_RATES = (2e-3, 4e-3, 8e-3)


def start(
    text: str | None, target: dict[str, int], rates: tuple[float, ...] = _RATES
) -> tuple[ConfigDict, ConfigDict]:
    """The config of a target of this shape, its methods the small model's, and the arguments.

    Raises:
      ValueError: another scale than `bytes`, beside what `scales.start` refuses.
    """
    config, arguments = scales.start(text)
    if arguments.scale != "bytes":
        raise ValueError(
            f"scale={arguments.scale}: the small model of this study reads bytes; leave scale out"
        )
    if arguments.smoke:
        config.data.validation = 16
    else:
        config.model.update(target)
        config.training.evaluate_every = 8
        config.tune.grid = {"optimizer": {"learning_rate": rates}} if arguments.tune else {}
    config.features.last_layers = 1
    config.methods = {
        "small": {"model": SMALL},
        "small-random": {"model": SMALL, **published.RANDOM},
    }
    return config, arguments


def choosers(config: ConfigDict) -> dict[str, dict]:
    """Label -> the fields that it changes, of the methods that every study of a proxy compares."""
    short = 3 * config.training.updates // 5
    shorter = {"training": {"updates": short, "checkpoint_every": short}}
    frozen = by_frozen()
    return {
        "partitionsel": {},
        "cotrained": {"selection": {"recorded": "@small"}},
        "frozen": frozen,
        "frozen-short": {**frozen, **shorter},
        "random": published.RANDOM,
        "random-short": {**published.RANDOM, **shorter},
    }


def by_frozen(**selection: object) -> dict[str, dict]:
    """The small model selects after its updates on random rows, and stays as it is."""
    proxy = {**FROZEN["selection"], "proxy": "@small-random", **selection}
    return {**FROZEN, "selection": proxy}


def oracle() -> dict[str, dict]:
    """Random rows among those that are not corrupted."""
    return {"selection": {**published.RANDOM["selection"], "oracle": True}}


def get_config(text=None):
    """The ablation; its arguments are those of `scales.start`, with scale `bytes` alone."""
    config, arguments = start(text, TARGET)
    config.axes.data = {"noise": {"kind": ("none", "garbled"), "share": (0.15, 0.3, 0.5)}}
    config.methods.update({**choosers(config), "oracle": oracle()})
    if arguments.smoke:
        kept = ("small-random", "frozen", "random")
        config.methods = {name: config.methods[name] for name in kept}
        config.axes.data = {"noise": {"kind": ("garbled",), "share": (0.3,)}}
    return config
