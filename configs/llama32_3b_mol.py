"""Llama-3.2-3B learns to write molecules from Mol-Instructions, by the paper's settings.

    python -m experiments.fetch --model=llama3.2-3b
    python -m experiments.train --config=configs/llama32_3b_mol.py:path=DIR --workdir=DIR
    python -m experiments.evaluate --workdir=DIR --benchmarks=mol_forward,mol_retrosynthesis

The path is the directory Molecule-oriented_Instructions as published, or its zip archive; without
it, it comes from the Hugging Face hub (zjunlp/Mol-Instructions). It has not been run at this size
yet. The settings are those of arXiv 2606.07954.
"""

from configs import pretrained


def get_config(text=None):
    """--config=configs/llama32_3b_mol.py[:path=DIR,compare,seeds=3,model=llama3.2-1b,smoke].

    `compare` trains on random picks as well; `seeds` is the number of repeats; `model` is a preset,
    a path or owner/name; `smoke` is a minute with a tiny random model on a few rows.
    """
    return pretrained.published_corpus(
        text,
        source="mol_instructions",
        model="llama3.2-3b",
        tiny="tiny-llama3.2",
        sample="mol_instructions",
    )
