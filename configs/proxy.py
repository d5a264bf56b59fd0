"""The ways in which a small model can select for a large one, on the quickstart's problem.

| method     | who selects                                                              |
|------------|--------------------------------------------------------------------------|
| `frozen`   | a model of 0.03M, after as many updates on random rows: the quickstart's |
| `learning` | the same model, which goes on learning from the rows that it selects     |
| `recorded` | a new model of that shape, which selected for itself in a run of its own |
| `guarded`  | as `frozen`, and two copies of it say whether selection pays             |
| `self`     | the model itself, by the gradients of its last layer                     |
| `random`   | nobody                                                                   |

    python -m experiments.train --config=configs/proxy.py --workdir=DIR

On seed 0, 160 updates (the pilot by which the quickstart's settings were chosen, docs/pilots.md): a
frozen model with pools of 32 ends at a validation loss of 1.485 (test 1.556), random rows at 1.617
(1.684), random rows without the garbled ones at 1.426 (1.526). With pools of 64 it ends at 1.543
(1.637): fewer picks are garbled, and they are less like the rows that are wanted.
"""

from configs import quickstart, self_selection
from configs.common import RANDOM
from configs.quickstart import FROZEN, SMALL


def get_config(text=None):
    """--config=configs/proxy.py[:smoke,seeds=3,noise=swapped,share=0.15]: the quickstart's."""
    config = quickstart.get_config(text)
    selection = FROZEN["selection"]
    methods = {
        "small": config.methods.small,
        "small-self": {"model": SMALL},
        "frozen": FROZEN,
        "recorded": {"selection": {"recorded": "@small-self"}},
        "learning": {
            "selection": {**selection, "anchors": 32, "proxy_trains": True},
            "features": {"last_layers": 1},
        },
        "guarded": {**FROZEN, "selection": {**selection, "guard": True}},
        "self": {"features": {"last_layers": 1}},
        "random": RANDOM,
    }
    short = ("small", "small-self", "frozen", "recorded")
    kept = short if self_selection.arguments(text).smoke else methods
    config.methods = {name: methods[name] for name in kept}
    return config
