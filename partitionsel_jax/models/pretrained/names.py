"""Names of the parameters: here, and in a hub's checkpoints and adapters."""

from collections.abc import Mapping
from typing import NamedTuple

from partitionsel_jax.models.config import DecoderConfig

Path = tuple[str, ...]

_NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
_PROJECTIONS: Mapping[Path, str] = {
    ("attention", "q"): "self_attn.q_proj",
    ("attention", "k"): "self_attn.k_proj",
    ("attention", "v"): "self_attn.v_proj",
    ("attention", "o"): "self_attn.o_proj",
    ("mlp", "gate"): "mlp.gate_proj",
    ("mlp", "up"): "mlp.up_proj",
    ("mlp", "down"): "mlp.down_proj",
}
# A projection's matrices here -> their names in its module.
_MATRICES = {"kernel": "weight", "kernel_a": "a.weight", "kernel_b": "b.weight"}
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
    found = [
        Tensor("model.embed_tokens.weight", ("embedding",), None, False, table),
        Tensor("model.norm.weight", ("norm", "scale"), None, False, width),
    ]
    if not config.tied:
        found.append(Tensor("lm_head.weight", ("head",), None, True, table))
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}."
        for norm, module in _NORMS.items():
            scale = ("layers", norm, "scale")
            found.append(Tensor(f"{prefix}{module}.weight", scale, layer, False, width))
        for path, module in _PROJECTIONS.items():
            full = ("layers", *path)
            for matrix, shape in config.matrices(path[-1]).items():
                name = f"{prefix}{module}.{_MATRICES[matrix]}"
                found.append(Tensor(name, (*full, matrix), layer, True, shape[::-1]))
            if path[-1] in config.biases:
                bias, size = (*full, "bias"), config.projections[path[-1]][1:]
                found.append(Tensor(f"{prefix}{module}.bias", bias, layer, False, size))
    return found


def adapters(config: DecoderConfig, rank: int, targets: tuple[str, ...]) -> list[Tensor]:
    """Every tensor of a PEFT adapter: A as [rank, in], B as [out, rank]."""
    found = []
    for path, module in _PROJECTIONS.items():
        size_in, size_out = config.projections[path[-1]]
        for layer in range(config.layers) if path[-1] in targets else ():
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            for factor, shape in (("A", (rank, size_in)), ("B", (size_out, rank))):
                full = ("layers", *path, f"lora_{factor.lower()}")
                found.append(Tensor(f"{prefix}.lora_{factor}.weight", full, layer, True, shape))
    return found
