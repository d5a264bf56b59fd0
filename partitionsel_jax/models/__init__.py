"""Language models as pure functions of a parameter tree."""

from partitionsel_jax.models.decoder import Decoder, DecoderConfig, Model
from partitionsel_jax.models.generation import greedy
from partitionsel_jax.models.lora import PROJECTIONS, LoRAConfig, is_adapter
from partitionsel_jax.models.losses import (
    Chunks,
    head_losses,
    mean_over_response,
    response_loss,
    response_losses,
    shift,
)

__all__ = [
    "PROJECTIONS",
    "Chunks",
    "Decoder",
    "DecoderConfig",
    "LoRAConfig",
    "Model",
    "greedy",
    "head_losses",
    "is_adapter",
    "mean_over_response",
    "response_loss",
    "response_losses",
    "shift",
]
