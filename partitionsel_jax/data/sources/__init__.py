"""Corpora from files: MetaMathQA, Mol-Instructions, and instructions of one's own.

builder = data.prepare_files(
    "instructions", "rows.jsonl", validation=64, test=32, seed=0, directory=directory,
    columns=Columns(prompt="instruction", input="input", response="output", domain="task"),
)
builder.info.metadata["domains"], builder.info.metadata["report"]
"""

from partitionsel_jax.data.sources.schemas import KINDS, Columns

__all__ = ["KINDS", "Columns"]
