"""Qwen2.5-3B with the paper's settings for MetaMathQA (arXiv 2606.07954).

The data is not MetaMathQA yet, for which this project has no reader: four mathematical domains of
reasoning-gym stand in for it. Model, adapters, features, selection and optimizer are the paper's.

    python -m experiments.fetch --model=qwen2.5-3b
    python -m experiments.train --config=configs/qwen25_3b_metamath.py --workdir=DIR
"""

from configs import pretrained


def get_config(text=None):
    """--config=configs/qwen25_3b_metamath.py[:smoke,seeds=3,model=qwen2.5-0.5b].

    `seeds` is the number of repeats; `model` is a preset, a path or owner/name; `smoke` is a minute
    with a tiny random model of the same family.
    """
    return pretrained.stand_in(text, model="qwen2.5-3b", tiny="tiny-qwen2.5")
