"""Language models as pure functions of a parameter tree."""

from partitionsel_jax.models.decoder import Decoder, DecoderConfig, Model
from partitionsel_jax.models.generation import greedy
from partitionsel_jax.models.lora import PROJECTIONS, LoRAConfig, is_adapter
from partitionsel_jax.models.losses import response_loss

__all__ = [
    "PROJECTIONS",
    "Decoder",
    "DecoderConfig",
    "LoRAConfig",
    "Model",
    "greedy",
    "is_adapter",
    "response_loss",
]
