"""Corpora from files: MetaMathQA, Mol-Instructions, and instructions of one's own.

builder = prepare_files(
    "instructions", "rows.jsonl", validation=64, test=32, seed=0, directory=directory,
    columns=Columns(prompt="instruction", input="input", response="output", domain="task"),
)
builder.info.metadata["domains"], builder.info.metadata["report"]
"""

import importlib
from typing import TYPE_CHECKING, Any

from partitionsel_jax.data.sources.schemas import KINDS, Columns

if TYPE_CHECKING:
    from partitionsel_jax.data.sources.builders import prepare_files

__all__ = ["KINDS", "Columns", "prepare_files"]


def __getattr__(name: str) -> Any:
    """`prepare_files`, whose module imports TFDS, on first use."""
    if name == "prepare_files":
        return importlib.import_module(f"{__name__}.builders").prepare_files
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
