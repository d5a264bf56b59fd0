"""SmolLM2-1.7B learns mathematics from MetaMathQA by the examples that SmolLM2-135M selects.

    python -m experiments.fetch --model=smollm2-1.7b
    python -m experiments.fetch --model=smollm2-135m
    python -m experiments.train --config=configs/smollm2_17b_by_135m.py:path=FILE --workdir=DIR

PODS

It has not been run at this size yet.
"""

from configs import pretrained


def get_config(text=None):
    """--config=configs/smollm2_17b_by_135m.py[:path=FILE,compare,trains,seeds=3,smoke].

    `trains` lets the proxy make every update too; `compare` trains on random picks as well; `seeds`
    is the number of repeats; `model` and `proxy` are presets, paths or owner/name, of one
    tokenizer; `smoke` is a minute with tiny random models on a few rows.
    """
    return pretrained.published_corpus(
        text,
        source="metamathqa",
        model="smollm2-1.7b",
        proxy="smollm2-135m",
        tiny="tiny-llama3.2",
        sample="metamathqa.json",
    )
