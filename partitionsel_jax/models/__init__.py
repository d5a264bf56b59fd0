"""Language models as pure functions of a parameter tree."""

from partitionsel_jax.models.config import (
    ARCHITECTURE,
    PROJECTIONS,
    DecoderConfig,
    LoRAConfig,
    RopeScaling,
)
from partitionsel_jax.models.decoder import Cache, Decoder, Model
from partitionsel_jax.models.generation import Continuation, Sampling, continuation, generate
from partitionsel_jax.models.losses import Chunks, head_losses, response_loss
from partitionsel_jax.models.parameters import Gathering, is_adapter, merge, split_axis
from partitionsel_jax.models.pretrained import PRESETS, Pretrained, load
from partitionsel_jax.models.taps import NO_TAP, Tap, dropping

__all__ = [
    "ARCHITECTURE",
    "NO_TAP",
    "PRESETS",
    "PROJECTIONS",
    "Cache",
    "Chunks",
    "Continuation",
    "Decoder",
    "DecoderConfig",
    "Gathering",
    "LoRAConfig",
    "Model",
    "Pretrained",
    "RopeScaling",
    "Sampling",
    "Tap",
    "continuation",
    "dropping",
    "generate",
    "head_losses",
    "is_adapter",
    "load",
    "merge",
    "response_loss",
    "split_axis",
]
