"""SmolLM2-1.7B learns mathematics from MetaMathQA by the examples that SmolLM2-135M selects.

Claim, to be tested: the proxy makes selection cheap enough for its gain to be kept. For bytes
(`configs/quickstart.py`, one seed) it takes 0.72 of random's FLOPs where answers are garbled, and
nothing is to be expected of clean ones; this is MetaMathQA, where most answers are right. It has
been run as `smoke` only.

    python -m experiments.fetch --model=smollm2-1.7b
    python -m experiments.fetch --model=smollm2-135m
    python -m experiments.train --config=configs/smollm2_17b_by_135m.py:path=FILE --workdir=DIR

On paper, by `python -m experiments.pods --config=configs/smollm2_17b_by_135m.py --pool=512
--devices=h100-1,h100-8,v5e-16`: seconds of an update, relative to one on random rows, with the
proxy frozen, with `trains`, and without it at the same sharing; what a device holds, and the
frozen proxy's part of it. bfloat16, rows of 512 tokens.

| devices | update, s     | proxy trains, s | selects itself, s | memory, GB | proxy |
|---------|---------------|-----------------|-------------------|------------|-------|
| 1 H100  | 0.43 (1.09×)  | 0.47 (1.18×)    | 0.81 (2.0×)       | 5.5        | 0.29  |
| 8 H100  | 0.056 (1.13×) | 0.061 (1.21×)   | 0.108 (2.2×)      | 4.7        | 0.29  |
| 16 v5e  | 0.14 (1.13×)  | 0.15 (1.21×)    | 0.30 (2.3×)       | 4.5        | 0.29  |

A frozen proxy computes the same features for a row whenever it comes, so that anchors do not age.
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
