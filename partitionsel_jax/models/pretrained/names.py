"""Names of the parameters: here, and in a hub's checkpoints and adapters."""

from collections.abc import Mapping
from typing import NamedTuple

from partitionsel_jax.models.config import DecoderConfig

Path = tuple[str, ...]

_NORMS: Mapping[Path, str] = {
    ("attention_norm",): "input_layernorm",
    ("mlp_norm",): "post_attention_layernorm",
}
_PROJECTIONS: Mapping[Path, str] = {
    ("attention", "q"): "self_attn.q_proj",
    ("attention", "k"): "self_attn.k_proj",
    ("attention", "v"): "self_attn.v_proj",
    ("attention", "o"): "self_attn.o_proj",
    ("mlp", "gate"): "mlp.gate_proj",
    ("mlp", "up"): "mlp.up_proj",
    ("mlp", "down"): "mlp.down_proj",
}
# A projection's module in adapter_config.json -> its name here.
MODULES = {module.split(".")[1]: path[-1] for path, module in _PROJECTIONS.items()}


class Tensor(NamedTuple):
    """One tensor of a checkpoint, and where it belongs.

    Attributes:
      name: in the checkpoint.
      path: of the parameter.
      layer: its place along the parameter's first axis; None where that is no layer axis.
      transposed: the checkpoint holds [out, in] where the parameter is [in, out].
      shape: in the checkpoint.
    """

    name: str
    path: Path
    layer: int | None
    transposed: bool
    shape: tuple[int, ...]


def tensors(config: DecoderConfig) -> list[Tensor]:
    """Every tensor of a decoder's checkpoint, the large ones outside the layers first."""
    table, width = (config.vocab_size, config.width), (config.width,)
    shapes = _kernel_shapes(config)
    found = [
        Tensor("model.embed_tokens.weight", ("embedding",), None, False, table),
        Tensor("model.norm.weight", ("norm", "scale"), None, False, width),
    ]
    if not config.tied:
        found.append(Tensor("lm_head.weight", ("head",), None, True, table))
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}."
        for path, module in _NORMS.items():
            scale = ("layers", *path, "scale")
            found.append(Tensor(f"{prefix}{module}.weight", scale, layer, False, width))
        for path, module in _PROJECTIONS.items():
            full, shape = ("layers", *path), shapes[path[-1]][::-1]
            found.append(Tensor(f"{prefix}{module}.weight", (*full, "kernel"), layer, True, shape))
            if path[-1] in config.biases:
                bias = (*full, "bias")
                found.append(Tensor(f"{prefix}{module}.bias", bias, layer, False, shape[:1]))
    return found


def adapters(config: DecoderConfig, rank: int, targets: tuple[str, ...]) -> list[Tensor]:
    """Every tensor of a PEFT adapter: A as [rank, in], B as [out, rank]."""
    found, shapes = [], _kernel_shapes(config)
    for path, module in _PROJECTIONS.items():
        size_in, size_out = shapes[path[-1]]
        for layer in range(config.layers) if path[-1] in targets else ():
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            for factor, leaf, shape in (
                ("lora_A", "lora_a", (rank, size_in)),
                ("lora_B", "lora_b", (size_out, rank)),
            ):
                full = ("layers", *path, leaf)
                found.append(Tensor(f"{prefix}.{factor}.weight", full, layer, True, shape))
    return found


def _kernel_shapes(config: DecoderConfig) -> dict[str, tuple[int, int]]:
    """(in, out) of every projection."""
    width, mlp_width = config.width, config.mlp_width
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    return {
        "q": (width, queries),
        "k": (width, keys),
        "v": (width, keys),
        "o": (queries, width),
        "gate": (width, mlp_width),
        "up": (width, mlp_width),
        "down": (mlp_width, width),
    }
