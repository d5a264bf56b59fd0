"""The golden checkpoints, and checkpoints written as llama.cpp's converter writes them."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from partitionsel_jax.models.pretrained import Checkpoint, names
from partitionsel_jax.models.pretrained.gguf_conversion import MODULES, OUTSIDE

GOLDEN = Path(__file__).parent / "golden"
# What a config.json says at least.
LLAMA = {
    "model_type": "llama",
    "vocab_size": 96,
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_attention_heads": 4,
}
VARIANTS = sorted(path.name for path in (GOLDEN / "checkpoints").iterdir())


def _paired(rows, heads):
    """(head, member, pair) as (head, pair, member): how llama.cpp stores q and k of Llama."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def gguf_name(name):
    """llama.cpp's name of a tensor that a hub's checkpoints call `name`."""
    if name in OUTSIDE.values():
        return next(theirs for theirs, ours in OUTSIDE.items() if ours == name)
    _, _, layer, module = name.split(".", 3)
    module, _, kind = module.rpartition(".")
    return f"blk.{layer}.{next(t for t, ours in MODULES.items() if ours == module)}.{kind}"


def write_gguf(path, directory, quantization="F32", rope_freqs=None, fields=None, **changed):
    """A hub's checkpoint as llama.cpp's converter writes it.

    Args:
      path: the file.
      directory: the checkpoint.
      quantization: a type of `gguf.GGMLQuantizationType`, for matrices.
      rope_freqs: f32[E/2] to store beside the weights.
      fields: further metadata of the architecture.
      changed: metadata to be written differently: name with "_" for "." -> value.
    """
    import gguf

    checkpoint = Checkpoint.open(directory)
    config = checkpoint.config
    kind = "qwen2" if config.biases == ("q", "k", "v") else "llama"
    writer = gguf.GGUFWriter(path, changed.get("architecture", kind))
    writer.add_block_count(config.layers)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_context_length(config.context)
    if "scale_linear" in changed:
        writer.add_float32(f"{kind}.rope.scale_linear", changed["scale_linear"])
    writer.add_rope_dimension_count(changed.get("rotated", config.head_dim))
    if "scaling" in changed:
        writer.add_rope_scaling_type(gguf.RopeScalingType(changed["scaling"]))
        writer.add_rope_scaling_factor(changed["factor"])
    for name, value in (fields or {}).items():
        add = {bool: writer.add_bool, float: writer.add_float32, str: writer.add_string}
        add.get(type(value), writer.add_uint32)(f"{kind}.{name}", value)
    for tensor in checkpoint.tensors:
        theirs = gguf_name(tensor.name)
        values = checkpoint.source.read(tensor.name, 0, tensor.shape[0]).astype(np.float32)
        heads = {"attn_q": config.heads, "attn_k": config.kv_heads}
        for part, count in heads.items():
            if kind == "llama" and f".{part}." in theirs:
                values = _paired(values, count)
        stored = gguf.GGMLQuantizationType[quantization if values.ndim == 2 else "F32"]
        packed = gguf.quants.quantize(values, stored)
        writer.add_tensor(theirs, packed, raw_dtype=stored)
    if rope_freqs is not None:
        writer.add_tensor("rope_freqs.weight", np.asarray(rope_freqs, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_adapter(folder, config, base):
    """An adapter of ones on q and v, as PEFT writes it: rank 4, alpha 8."""
    folder.mkdir()
    tensors = names.adapters(config, 4, ("q", "v"))
    ones = {tensor.name: np.ones(tensor.shape, np.float32) for tensor in tensors}
    save_file(ones, folder / "adapter_model.safetensors")
    content = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
        "rank_pattern": {},
        "use_dora": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps(content))
