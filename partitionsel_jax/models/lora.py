"""Low-rank adapters (LoRA, arXiv 2106.09685) on any linear map of the decoder."""

import dataclasses

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

    Raises:
      ValueError: negative rank, an alpha that is not positive, or a target that is no projection
        of the decoder.
    """

    rank: int = 0
    alpha: float = 16.0
    targets: tuple[str, ...] = PROJECTIONS

    def __post_init__(self):
        if self.rank < 0:
            raise ValueError(f"lora.rank must be 0 (no adapters) or more, not {self.rank}")
        if not self.alpha > 0:
            raise ValueError(f"lora.alpha must be > 0, not {self.alpha}")
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
    """Whether a parameter's path in the tree names an adapter factor."""
    return path[-1] in ("lora_a", "lora_b")
