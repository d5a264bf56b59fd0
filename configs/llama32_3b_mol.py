"""Llama-3.2-3B with the paper's settings for Mol-Instructions (arXiv 2606.07954).

The data is not Mol-Instructions yet, for which this project has no reader: four domains of
reasoning-gym stand in for its four kinds of task. Model, adapters, features, selection and
optimizer are the paper's.

    python -m experiments.fetch --model=llama3.2-3b
    python -m experiments.train --config=configs/llama32_3b_mol.py --workdir=DIR
"""

from configs import common, pretrained
from configs.tasks import MATHEMATICS_TASKS


def get_config(text=None):
    """--config=configs/llama32_3b_mol.py[:smoke,seeds=3,model=llama3.2-1b].

    `seeds` is the number of repeats; `model` is a preset, a path or owner/name; `smoke` is a minute
    with a tiny random model of the same family.
    """
    arguments = common.arguments(text, smoke=False, seeds=1, model="llama3.2-3b")
    config = common.default()
    config.repeats = arguments.seeds
    pretrained.start_from(config, arguments.model)
    pretrained.published_settings(config)
    config.data.template = "alpaca"
    config.data.tasks.update(dict(MATHEMATICS_TASKS))
    if arguments.smoke:
        pretrained.smoke(config, "tiny-llama3.2")
        config.data.length = 320  # the tiny model\'s tokens are bytes
    return config
