"""Llama-3.2-3B with the paper's settings for Mol-Instructions (arXiv 2606.07954).

The data is not Mol-Instructions yet, for which this project has no reader: four domains of
reasoning-gym stand in for its four kinds of task. Model, adapters, features, selection and
optimizer are the paper's.

    python -m experiments.fetch --model=llama3.2-3b
    python -m experiments.train --config=configs/llama32_3b_mol.py --workdir=DIR
"""

from configs import pretrained


def get_config(text=None):
    """--config=configs/llama32_3b_mol.py[:smoke,seeds=3,model=llama3.2-1b].

    `seeds` is the number of repeats; `model` is a preset, a path or owner/name; `smoke` is a minute
    with a tiny random model of the same family.
    """
    return pretrained.stand_in(text, model="llama3.2-3b", tiny="tiny-llama3.2")
