"""Pretrained checkpoints: found, described, read, and written again.

model = pretrained.load("smollm2-135m")
model.generate(["What is the capital of France?"], template="chat")
"""

from partitionsel_jax.models.pretrained import adapters, writing
from partitionsel_jax.models.pretrained.checkpoint import Checkpoint, describe
from partitionsel_jax.models.pretrained.loaded import Pretrained, load
from partitionsel_jax.models.pretrained.locating import as_path, fetch, locate, shape_of
from partitionsel_jax.models.pretrained.presets import PRESETS
from partitionsel_jax.models.pretrained.tiny import TINY

__all__ = [
    "PRESETS",
    "TINY",
    "Checkpoint",
    "Pretrained",
    "adapters",
    "as_path",
    "describe",
    "fetch",
    "load",
    "locate",
    "shape_of",
    "writing",
]
