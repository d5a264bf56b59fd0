"""Llama-3.1-8B learns to write molecules by the examples that Llama-3.2-1B selects.

    python -m experiments.fetch --model=llama3.1-8b
    python -m experiments.fetch --model=llama3.2-1b
    python -m experiments.train --config=configs/llama31_8b_by_1b.py:path=DIR --workdir=DIR

PODS

It has not been run at this size yet.
"""

from configs import pretrained


def get_config(text=None):
    """--config=configs/llama31_8b_by_1b.py[:path=DIR,compare,trains,seeds=3,smoke].

    `trains` lets the proxy make every update too; `compare` trains on random picks as well; `seeds`
    is the number of repeats; `model` and `proxy` are presets, paths or owner/name, of one
    tokenizer; `smoke` is a minute with tiny random models on a few rows.
    """
    return pretrained.published_corpus(
        text,
        source="mol_instructions",
        model="llama3.1-8b",
        proxy="llama3.2-1b",
        tiny="tiny-llama3.2",
        sample="mol_instructions",
    )
