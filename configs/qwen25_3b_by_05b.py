"""Qwen2.5-3B learns mathematics from MetaMathQA by the examples that Qwen2.5-0.5B selects.

    python -m experiments.fetch --model=qwen2.5-3b
    python -m experiments.fetch --model=qwen2.5-0.5b
    python -m experiments.train --config=configs/qwen25_3b_by_05b.py:path=FILE --workdir=DIR

PODS

It has not been run at this size yet.
"""

from configs import pretrained


def get_config(text=None):
    """--config=configs/qwen25_3b_by_05b.py[:path=FILE,compare,trains,seeds=3,smoke].

    `trains` lets the proxy make every update too; `compare` trains on random picks as well; `seeds`
    is the number of repeats; `model` and `proxy` are presets, paths or owner/name, of one
    tokenizer; `smoke` is a minute with tiny random models on a few rows.
    """
    return pretrained.published_corpus(
        text,
        source="metamathqa",
        model="qwen2.5-3b",
        proxy="qwen2.5-0.5b",
        tiny="tiny-qwen2.5",
        sample="metamathqa.json",
    )
