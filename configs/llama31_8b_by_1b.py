"""Llama-3.1-8B learns to write molecules by the examples that Llama-3.2-1B selects.

Claim, to be tested: the proxy makes selection cheap enough for its gain to be kept. For bytes
(`configs/quickstart.py`, one seed) it takes 0.72 of random's FLOPs where answers are garbled, and
nothing is to be expected of clean ones; this is Mol-Instructions, where answers are right. It has
been run as `smoke` only.

    python -m experiments.fetch --model=llama3.1-8b
    python -m experiments.fetch --model=llama3.2-1b
    python -m experiments.train --config=configs/llama31_8b_by_1b.py:path=DIR --workdir=DIR

On paper, by `python -m experiments.pods --config=configs/llama31_8b_by_1b.py --pool=512
--devices=h100-1,h100-8,v5e-16`: seconds of an update, relative to one on random rows, with the
proxy frozen, with `trains`, and without it at the same sharing; what a device holds, and the
frozen proxy's part of it. bfloat16, rows of 512 tokens.

| devices | update, s    | proxy trains, s | selects itself, s | memory, GB  | proxy |
|---------|--------------|-----------------|-------------------|-------------|-------|
| 1 H100  | 2.0 (1.18×)  | 2.2 (1.34×)     | 3.4 (2.0×)        | 21.8        | 2.51  |
| 8 H100  | 0.26 (1.21×) | 0.29 (1.36×)    | 0.44 (2.1×)       | 21.3        | 2.51  |
| 16 v5e  | 1.08 (1.16×) | 1.23 (1.31×)    | 1.7 (1.8×)        | 6.9 (split) | 0.20  |

A frozen proxy computes the same features for a row whenever it comes, so that anchors do not age.
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
