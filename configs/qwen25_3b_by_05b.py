"""Qwen2.5-3B learns mathematics from MetaMathQA by the examples that Qwen2.5-0.5B selects.

Claim, to be tested: the proxy makes selection cheap enough for its gain to be kept. For bytes
(`configs/quickstart.py`, one seed) it takes 0.72 of random's FLOPs where answers are garbled, and
nothing is to be expected of clean ones; this is MetaMathQA, where most answers are right. It has
been run as `smoke` only.

    python -m experiments.fetch --model=qwen2.5-3b
    python -m experiments.fetch --model=qwen2.5-0.5b
    python -m experiments.train --config=configs/qwen25_3b_by_05b.py:path=FILE --workdir=DIR

On paper, by `python -m experiments.pods --config=configs/qwen25_3b_by_05b.py --pool=512
--devices=h100-1,h100-8,v5e-16`: seconds of an update, relative to one on random rows, with the
proxy frozen, with `trains`, and without it at the same sharing; what a device holds, and the
frozen proxy's part of it. bfloat16, rows of 512 tokens.

| devices | update, s     | proxy trains, s | selects itself, s | memory, GB | proxy |
|---------|---------------|-----------------|-------------------|------------|-------|
| 1 H100  | 0.80 (1.17×)  | 0.90 (1.32×)    | 1.36 (2.0×)       | 9.2        | 1.02  |
| 8 H100  | 0.104 (1.21×) | 0.117 (1.36×)   | 0.18 (2.1×)       | 8.7        | 1.02  |
| 16 v5e  | 0.27 (1.23×)  | 0.30 (1.38×)    | 0.50 (2.3×)       | 8.7        | 1.02  |

A frozen proxy computes the same features for a row whenever it comes, so that anchors do not age.
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
