"""Choosers that take a forward pass alone, at equal operations (FLOPs), 30 % garbled.

Claim: none of them pays here. The highest losses are those of garbled rows, and so are the largest
distances from what was selected before.

    python -m experiments.train --config=configs/ablations/forward_only.py:seeds=2 --workdir=DIR

| at 858 · 10^9 operations | updates | validation loss | garbled picks | operations / update |
|--------------------------|---------|-----------------|---------------|---------------------|
| random                   | 384     | 1.500 ± 0.022   | 30.1 %        | 1                   |
| partitionsel             | 46      | 1.807 ± 0.003   | 6.1 %         | 8.3                 |
| uds                      | 101     | 2.252 ± 0.053   | 44.7 %        | 3.8                 |
| loss                     | 105     | 3.496 ± 0.036   | 83.9 %        | 3.7                 |
| random, as many as uds   | 101     | 1.791 ± 0.030   | 30.7 %        | 1                   |

Mean ± standard deviation over seeds 4 and 5 on two CPU cores, jax 0.10.2, the default learning rate
for all. An update on uds takes as many seconds as one on the highest losses. Of seed 4 alone, 101
updates: without a memory (selection.remembered=0) 2.093 and 32.7 % garbled, with ten times the
weight of distances (selection.diversity=10) 2.195 and 45.3 %; as it is 2.215 and 41.7 %, and random
1.812 and 31.9 %.
"""

from configs import self_selection

# Updates that cost as much as 384 on random picks, the choosing counted; "random_short" makes as
# many as "uds".
UPDATES = {"random": 384, "loss": 105, "uds": 101, "partitionsel": 46, "random_short": 101}
UTILITIES = {"loss": "loss", "uds": "uds", "partitionsel": "gradient_matching"}


def get_config(text=None):
    """--config=configs/ablations/forward_only.py[:smoke,seeds=2,noise=swapped,share=0.15].

    The arguments are those of `self_selection`.
    """
    arguments = self_selection.arguments(text)
    config = self_selection.get_config(text)
    config.methods = {}
    for name, updates in UPDATES.items():
        # A schedule of each method's own: all rates end at 0 where the operations do.
        training = {} if arguments.smoke else {"training": {"updates": updates}}
        selection = {"selection": {"utility": UTILITIES.get(name, "random")}}
        config.methods[name] = selection | training
    return config
