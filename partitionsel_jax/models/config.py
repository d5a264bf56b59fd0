"""The shape and numerics of a decoder and of its adapters, as checked, frozen values."""

import dataclasses
import math
from typing import Literal

import jax.numpy as jnp
import numpy as np

from partitionsel_jax.models.losses import Chunks

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
REMAT = ("none", "layer", "dots")
ATTENTION = ("xla", "cudnn")
ROPE_SCALING = ("none", "linear", "llama3")
# In the order in which their parameters are drawn.
PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")
# Fields of `DecoderConfig` that a pretrained checkpoint decides; the others are the user's.
ARCHITECTURE = (
    "vocab_size", "layers", "width", "mlp_width", "heads", "kv_heads", "head_dim", "rope_theta",
    "rope_scaling", "norm_eps", "tied", "biases", "context", "rank",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adapters (LoRA, arXiv 2106.09685): which projections carry one, and how large.

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
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"lora.alpha must be > 0, not {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout must lie in [0, 1), not {self.dropout}")
        if self.dropout and not self.rank:
            raise ValueError(
                f"lora.dropout={self.dropout} concerns adapters, and lora.rank=0 means none: set "
                "lora.rank"
            )
        _check_projections("lora.targets", self.targets)
        if self.rank and not self.targets:
            raise ValueError("lora.rank is set but lora.targets is empty: name a projection")

    @property
    def scale(self) -> float:
        """alpha / rank; 0 without adapters."""
        return self.alpha / self.rank if self.rank else 0.0


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are slowed down for contexts longer than the model first saw.

    Args:
      kind: "none"; "linear" (every frequency divided by `factor`, arXiv 2306.15595); or "llama3"
        (only the slow ones, the Llama 3.1 rule).
      factor: what frequencies are divided by.
      low, high, original: for "llama3": waves that fit fewer than `low` times into `original`
        tokens are slowed down in full, those that fit more than `high` times not at all, and
        those between in part.

    Raises:
      ValueError: an unknown kind, a factor below 1, or bounds that are not 0 < low < high.
    """

    kind: str = "none"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192

    def __post_init__(self):
        name = "model.rope_scaling"
        if self.kind not in ROPE_SCALING:
            raise ValueError(f"{name}.kind must be one of {list(ROPE_SCALING)}, not {self.kind!r}")
        if not 1 <= self.factor < math.inf:
            raise ValueError(f"{name}.factor must be at least 1, not {self.factor}")
        if not 0 < self.low < self.high:
            raise ValueError(
                f"{name} needs 0 < low < high, not low={self.low} and high={self.high}"
            )
        if self.original < 1:
            raise ValueError(f"{name}.original must be at least 1 token, not {self.original}")


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Shape and numerics of a decoder.

    Args:
      vocab_size: rows of the embedding.
      layers, width, mlp_width: depth, residual width D, inner width of the SwiGLU.
      heads, kv_heads, head_dim: query heads, key/value heads (a divisor of `heads`), their size.
      rope_theta, rope_scaling: base of the rotary frequencies, and how they are slowed down.
      norm_eps: epsilon of RMSNorm.
      tied: the output head is the embedding's transpose.
      biases: the projections that have one; Qwen2 has ("q", "k", "v").
      context: most tokens of a row; 0 for no limit.
      dtype: "float32" or "bfloat16", of activations and matrix products; the norms, the rotary
        angles and the logits are float32 always.
      param_dtype: the same choice, for the stored parameters.
      remat: what the backward pass computes anew: "none"; "layer", all within a layer; "dots",
        all but the products with weights.
      attention: "xla", or "cudnn" for its flash attention, which needs an NVIDIA GPU and bfloat16.
      chunk_vocab, chunk_tokens: the largest block of logits that is held; see `losses.Chunks`.
      rank: width between the two factors that stand for each projection's matrix, where they are
        smaller than it; 0 for whole matrices.

    Raises:
      ValueError: a size below 1, a theta or epsilon that is not positive, heads that kv_heads does
        not divide, an odd head_dim, an unknown dtype, projection, attention or remat policy, or a
        rank at which no factors are smaller than their matrix.
    """

    vocab_size: int
    layers: int
    width: int
    mlp_width: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling = RopeScaling()
    norm_eps: float = 1e-5
    tied: bool = True
    biases: tuple[str, ...] = ()
    context: int = 0
    dtype: str = "float32"
    param_dtype: str = "float32"
    remat: str = "none"
    attention: Literal["xla", "cudnn"] = "xla"
    chunk_vocab: int = Chunks().vocab
    chunk_tokens: int = Chunks().tokens
    rank: int = dataclasses.field(default=0, metadata={"later": True})

    def __post_init__(self):
        def check(name: str, fits: bool, expected: str) -> None:
            if not fits:
                raise ValueError(f"model.{name} must be {expected}, not {getattr(self, name)!r}")

        sizes = ("vocab_size", "layers", "width", "mlp_width", "heads", "kv_heads", "head_dim")
        for name in (*sizes, "chunk_vocab"):
            check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("chunk_tokens", "context", "rank"):
            check(name, getattr(self, name) >= 0, "at least 0")
        for name in ("rope_theta", "norm_eps"):
            check(name, 0 < getattr(self, name) < math.inf, "> 0")
        kv_heads = f"a multiple of model.kv_heads={self.kv_heads}"
        check("heads", self.heads % self.kv_heads == 0, kv_heads)
        check("head_dim", self.head_dim % 2 == 0, "even for rotary")
        choices = {"dtype": DTYPES, "param_dtype": DTYPES, "remat": REMAT, "attention": ATTENTION}
        for name, known in choices.items():
            check(name, getattr(self, name) in tuple(known), f"one of {list(known)}")
        _check_projections("model.biases", self.biases)
        if self.attention == "cudnn" and self.dtype != "bfloat16":
            raise ValueError(
                f"model.attention='cudnn' computes in bfloat16 only, and model.dtype is "
                f"{self.dtype!r}: set model.dtype='bfloat16', or model.attention='xla'"
            )
        if self.rank and all(len(self.matrices(name)) == 1 for name in PROJECTIONS):
            shapes = self.projections.values()
            largest = max((rows * columns - 1) // (rows + columns) for rows, columns in shapes)
            raise ValueError(
                f"model.rank={self.rank} makes no matrix of this model smaller: use {largest} at "
                "most, or 0 for whole matrices"
            )

    @property
    def chunks(self) -> Chunks:
        """The largest block of logits."""
        return Chunks(self.chunk_vocab, self.chunk_tokens)

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """Name of each projection -> its (in, out)."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q": (self.width, queries),
            "k": (self.width, keys),
            "v": (self.width, keys),
            "o": (queries, self.width),
            "gate": (self.width, self.mlp_width),
            "up": (self.width, self.mlp_width),
            "down": (self.mlp_width, self.width),
        }

    def matrices(self, projection: str) -> dict[str, tuple[int, int]]:
        """Name of each matrix that a projection multiplies with, in their order -> (in, out)."""
        size_in, size_out = self.projections[projection]
        if not 0 < self.rank * (size_in + size_out) < size_in * size_out:
            return {"kernel": (size_in, size_out)}
        return {"kernel_a": (size_in, self.rank), "kernel_b": (self.rank, size_out)}

    @property
    def multiplications(self) -> int:
        """Multiplications with weights of one token on its way through, the head included."""
        shapes = [shape for name in PROJECTIONS for shape in self.matrices(name).values()]
        layer = sum(size_in * size_out for size_in, size_out in shapes)
        return self.layers * layer + self.width * self.vocab_size

    def frequencies(self) -> np.ndarray:
        """f64[E/2], radians per token of each pair of a head's coordinates (RoFormer)."""
        plain = self.rope_theta ** -(np.arange(0, self.head_dim, 2) / self.head_dim)
        scaling = self.rope_scaling
        if scaling.kind == "none":
            return plain
        if scaling.kind == "linear":
            return plain / scaling.factor
        waves = scaling.original * plain / (2 * np.pi)  # that fit into the original context
        kept = np.clip((waves - scaling.low) / (scaling.high - scaling.low), 0.0, 1.0)
        slowdown = 1 / (kept + (1 - kept) / scaling.factor)
        return plain / slowdown


def _check_projections(field: str, given: tuple[str, ...]) -> None:
    if unknown := [name for name in given if name not in PROJECTIONS]:
        raise ValueError(
            f"{field} {unknown} are not projections of the decoder; choose from {list(PROJECTIONS)}"
        )
