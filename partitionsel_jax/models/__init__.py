"""Language models as pure functions of a parameter tree."""

from partitionsel_jax.models.cache import Cache
from partitionsel_jax.models.config import ARCHITECTURE, DecoderConfig, RopeScaling
from partitionsel_jax.models.decoder import Decoder
from partitionsel_jax.models.dropout import dropping
from partitionsel_jax.models.generation import Continuation, Sampling, continuation, generate
from partitionsel_jax.models.lora import PROJECTIONS, LoRAConfig, is_adapter, merge
from partitionsel_jax.models.losses import (
    Chunks,
    head_losses,
    mean_over_response,
    response_loss,
    shift,
)
from partitionsel_jax.models.model import Model
from partitionsel_jax.models.pretrained import PRESETS, Pretrained, load
from partitionsel_jax.models.shards import Gathering, split_axis
from partitionsel_jax.models.taps import NO_TAP, Tap

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
    "mean_over_response",
    "merge",
    "response_loss",
    "shift",
    "split_axis",
]
