"""Choosers that take a forward pass alone, at equal operations (FLOPs).

python -m experiments.train --config=configs/ablations/forward_only.py:seeds=2 --workdir=DIR
"""

from configs import common, quickstart

# Updates that cost as much as 384 on random picks, the choosing counted; "random_short" makes as
# many as "uds".
UPDATES = {"random": 384, "loss": 105, "uds": 101, "partitionsel": 46, "random_short": 101}
UTILITIES = {"loss": "loss", "uds": "uds", "partitionsel": "gradient_matching"}


def get_config(text=None):
    """--config=configs/ablations/forward_only.py[:smoke,seeds=2,noise=swapped,share=0.15].

    The arguments are the quickstart's.
    """
    arguments = common.arguments(text, smoke=False, seeds=1, noise="garbled", share=0.3)
    config = quickstart.get_config(text)
    config.methods = {}
    for name, updates in UPDATES.items():
        # A schedule of each method's own: all rates end at 0 where the operations do.
        training = {} if arguments.smoke else {"training": {"updates": updates}}
        selection = {"selection": {"utility": UTILITIES.get(name, "random")}}
        config.methods[name] = selection | training
    return config
