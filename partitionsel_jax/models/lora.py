"""Low-rank adapters (LoRA, arXiv 2106.09685) on any linear map of the decoder."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Which projections carry an adapter, and how large it is.

    An adapted map computes x W + (alpha / rank) (x A) B with A gaussian and B zero, so that a fresh
    adapter changes nothing. Only A and B are trained.

    Args:
      rank: inner dimension of A [in, rank] and B [rank, out]; 0 means no adapters.
      alpha: the numerator of the scale.
      targets: names out of `PROJECTIONS`.
      dropout: share of A's inputs that a training update sets to 0, the others scaled up.

    Raises:
      ValueError: negative rank, an alpha that is not positive, a dropout outside [0, 1), or a
        target that is no projection of the decoder.
    """

    rank: int = 0
    alpha: float = 16.0
    targets: tuple[str, ...] = PROJECTIONS
    dropout: float = 0.0

    def __post_init__(self):
        if self.rank < 0:
            raise ValueError(f"lora.rank must be 0 (no adapters) or more, not {self.rank}")
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"lora.alpha must be > 0, not {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout must lie in [0, 1), not {self.dropout}")
        if self.dropout and not self.rank:
            raise ValueError(
                f"lora.dropout={self.dropout} concerns adapters, and lora.rank=0 means none: set "
                "lora.rank"
            )
        unknown = [name for name in self.targets if name not in PROJECTIONS]
        if unknown:
            raise ValueError(
                f"lora.targets {unknown} are not projections of the decoder; "
                f"choose from {list(PROJECTIONS)}"
            )
        if self.rank and not self.targets:
            raise ValueError("lora.rank is set but lora.targets is empty: name a projection")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank if self.rank else 0.0

    def adapts(self, projection: str) -> bool:
        return self.rank > 0 and projection in self.targets


def is_adapter(path: tuple[str, ...]) -> bool:
    """True if a parameter's path in the tree names an adapter factor."""
    return path[-1] in ("lora_a", "lora_b")


def merge(parameters: dict[str, Any], lora: LoRAConfig, dtype: Any = None) -> dict[str, Any]:
    """The parameters of the same model without adapters: W + (alpha / rank) A B for W.

    The sum is taken in float32 and rounded once, to `dtype` (W's own if None), as is all else.
    """

    def merged(part: dict[str, Any]) -> dict[str, Any]:
        if "lora_a" in part:
            kernel = part["kernel"]
            change = jnp.matmul(part["lora_a"], part["lora_b"], precision="highest")
            kernel = kernel.astype(jnp.float32) + lora.scale * change
            part = {"kernel": kernel.astype(dtype or part["kernel"].dtype)} | {
                name: leaf for name, leaf in part.items() if name == "bias"
            }
        return {
            name: merged(leaf) if isinstance(leaf, dict) else leaf.astype(dtype or leaf.dtype)
            for name, leaf in part.items()
        }

    return jax.jit(merged)(parameters)
