"""Data: sources, templates, tokenizers, corrupted rows, and the pools that every step sees.

builder = data.prepare(tasks, train=2000, validation=64, test=32, seed=0, directory=directory)
tokenizer = data.ByteTokenizer()  # or data.load_tokenizer("DIR")
corpus = data.load(builder, tokenizer, length=112, seed=0, template="plain")
pools = data.Pools(corpus, pool_size=64, anchor_size=32, seed=0)
pool, anchors = pools[t]
"""

import importlib
from typing import TYPE_CHECKING, Any

from partitionsel_jax.data.corpus import Corpus, Example, Source, joined, load
from partitionsel_jax.data.label_noise import KINDS, corrupt
from partitionsel_jax.data.own_anchors import OwnAnchors, read_anchors
from partitionsel_jax.data.pools import MIXES, ByStep, Pools, domain_shares, prefetch
from partitionsel_jax.data.rows import Rows, encode_batch, encode_prompt
from partitionsel_jax.data.scoring import score, takes_reference_only
from partitionsel_jax.data.sources import KINDS as FILE_KINDS
from partitionsel_jax.data.sources import Columns
from partitionsel_jax.data.sources.splitting import SPLITS
from partitionsel_jax.data.templates import (
    TEMPLATES,
    Template,
    check_template,
    final_answer,
    response_text,
)
from partitionsel_jax.data.tokenizers import (
    ByteTokenizer,
    SubwordTokenizer,
    Tokenizer,
    load_tokenizer,
)

if TYPE_CHECKING:
    from partitionsel_jax.data.reasoning import prepare
    from partitionsel_jax.data.sources.builders import prepare_files

__all__ = [
    "FILE_KINDS",
    "KINDS",
    "MIXES",
    "SPLITS",
    "TEMPLATES",
    "ByStep",
    "ByteTokenizer",
    "Columns",
    "Corpus",
    "Example",
    "OwnAnchors",
    "Pools",
    "Rows",
    "Source",
    "SubwordTokenizer",
    "Template",
    "Tokenizer",
    "check_template",
    "corrupt",
    "domain_shares",
    "encode_batch",
    "encode_prompt",
    "final_answer",
    "joined",
    "load",
    "load_tokenizer",
    "prefetch",
    "prepare",
    "prepare_files",
    "read_anchors",
    "response_text",
    "score",
    "takes_reference_only",
]

_LAZY = {"prepare": "reasoning", "prepare_files": "sources.builders"}


def __getattr__(name: str) -> Any:
    """Imports names on first use whose module imports TFDS, which takes most of a second."""
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
