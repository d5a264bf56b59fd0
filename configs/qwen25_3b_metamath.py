"""Qwen2.5-3B learns mathematics from MetaMathQA, with the paper's settings (arXiv 2606.07954).

    python -m experiments.fetch --model=qwen2.5-3b
    python -m experiments.train --config=configs/qwen25_3b_metamath.py:path=FILE --workdir=DIR
    python -m experiments.evaluate --workdir=DIR --benchmarks=gsm8k,math,svamp

FILE is MetaMathQA-395K.json as published; without it, it comes from the Hugging Face hub
(meta-math/MetaMathQA). It has not been run at this size yet.
"""

from configs import pretrained


def get_config(text=None):
    """--config=configs/qwen25_3b_metamath.py[:path=FILE,compare,seeds=3,model=qwen2.5-0.5b,smoke].

    `compare` trains on random picks as well; `seeds` is the number of repeats; `model` is a preset,
    a path or owner/name; `smoke` is a minute with a tiny random model on a few rows.
    """
    return pretrained.published_corpus(
        text,
        source="metamathqa",
        model="qwen2.5-3b",
        tiny="tiny-qwen2.5",
        sample="metamathqa.json",
    )
