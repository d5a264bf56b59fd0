"""What the parameters are called: here, in a hub's checkpoints, and in GGUF files."""

import dataclasses
from collections.abc import Mapping

from partitionsel_jax.models.config import DecoderConfig

Path = tuple[str, ...]

# A part of the decoder, without the kind of parameter: (name in a hub's checkpoint, in GGUF).
_IN_LAYER: Mapping[Path, tuple[str, str]] = {
    ("attention_norm",): ("input_layernorm", "attn_norm"),
    ("attention", "q"): ("self_attn.q_proj", "attn_q"),
    ("attention", "k"): ("self_attn.k_proj", "attn_k"),
    ("attention", "v"): ("self_attn.v_proj", "attn_v"),
    ("attention", "o"): ("self_attn.o_proj", "attn_output"),
    ("mlp_norm",): ("post_attention_layernorm", "ffn_norm"),
    ("mlp", "gate"): ("mlp.gate_proj", "ffn_gate"),
    ("mlp", "up"): ("mlp.up_proj", "ffn_up"),
    ("mlp", "down"): ("mlp.down_proj", "ffn_down"),
}
_OUTSIDE: Mapping[Path, tuple[str, str]] = {
    ("embedding",): ("model.embed_tokens.weight", "token_embd.weight"),
    ("norm", "scale"): ("model.norm.weight", "output_norm.weight"),
    ("head",): ("lm_head.weight", "output.weight"),
}
# Tensors of old checkpoints that only repeat what the config says.
REDUNDANT = ("rotary_emb.inv_freq",)


@dataclasses.dataclass(frozen=True)
class Tensor:
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


def projection(path: Path) -> str | None:
    """The projection that a part's path names, "q" .. "down"; None for norms."""
    return path[-1] if path[0] in ("attention", "mlp") else None


def projection_module(name: str) -> str:
    """A hub's name of a projection's module, e.g. "q_proj" for "q"."""
    (found,) = (hub for path, (hub, _) in _IN_LAYER.items() if projection(path) == name)
    return found.rsplit(".", 1)[-1]


def tensors(config: DecoderConfig, *, gguf: bool = False) -> list[Tensor]:
    """Every tensor of a decoder's checkpoint, the large ones outside the layers first."""
    column = 1 if gguf else 0
    shapes = kernel_shapes(config)
    found = [
        Tensor(
            names[column],
            path,
            None,
            path == ("head",),
            (config.width,) if path[0] == "norm" else (config.vocab_size, config.width),
        )
        for path, names in _OUTSIDE.items()
        if path != ("head",) or not config.tied
    ]
    for path, names in _IN_LAYER.items():
        name = projection(path)
        for layer in range(config.layers):
            prefix = f"blk.{layer}" if gguf else f"model.layers.{layer}"
            module = f"{prefix}.{names[column]}"
            full = ("layers", *path)
            if name is None:
                shape: tuple[int, ...] = (config.width,)
                found.append(Tensor(f"{module}.weight", (*full, "scale"), layer, False, shape))
                continue
            shape = shapes[name][::-1]
            found.append(Tensor(f"{module}.weight", (*full, "kernel"), layer, True, shape))
            if name in config.biases:
                found.append(Tensor(f"{module}.bias", (*full, "bias"), layer, False, shape[:1]))
    return found


def adapters(config: DecoderConfig, rank: int, targets: tuple[str, ...]) -> list[Tensor]:
    """Every tensor of a PEFT adapter: A as [rank, in], B as [out, rank]."""
    shapes = kernel_shapes(config)
    found = []
    for path, (hub, _) in _IN_LAYER.items():
        name = projection(path)
        if name not in targets:
            continue
        size_in, size_out = shapes[name]
        for layer in range(config.layers):
            module = f"base_model.model.model.layers.{layer}.{hub}"
            full = ("layers", *path)
            for factor, leaf, shape in (
                ("lora_A", "lora_a", (rank, size_in)),
                ("lora_B", "lora_b", (size_out, rank)),
            ):
                found.append(Tensor(f"{module}.{factor}.weight", (*full, leaf), layer, True, shape))
    return found


def kernel_shapes(config: DecoderConfig) -> dict[str, tuple[int, int]]:
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
