"""Tiny random models of each family, written in a hub's format: what smoke runs stand on."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from partitionsel_jax.models.config import DecoderConfig, RopeScaling
from partitionsel_jax.models.decoder import Model
from partitionsel_jax.models.pretrained import writing
from partitionsel_jax.models.pretrained.description import CONFIG

_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_HEADERS = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}"
    "<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_SHAPE: dict[str, Any] = {
    "vocab_size": 264,  # 256 bytes and a few special tokens
    "layers": 2,
    "width": 32,
    "mlp_width": 64,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 8,
    "context": 2048,
}
# What selects for the others.
_SMALLER: dict[str, Any] = {"layers": 1, "width": 16, "mlp_width": 32, "heads": 2, "kv_heads": 1}
_FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "qwen2.5": {"rope_theta": 1e6, "norm_eps": 1e-6, "biases": ("q", "k", "v")},
    "llama3.2": {"rope_theta": 5e5, "rope_scaling": RopeScaling("llama3", 32.0)},
}
TINY: Mapping[str, DecoderConfig] = {
    f"{size}-{family}": DecoderConfig(**shape, **fields)
    for size, shape in (("tiny", _SHAPE), ("tinier", _SHAPE | _SMALLER))
    for family, fields in _FAMILIES.items()
}
# Family -> the special tokens, and what tokenizer_config.json says.
_TOKENIZERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "qwen2.5": (
        "<|endoftext|> <|im_start|> <|im_end|>",
        {
            "add_bos_token": False,
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "chat_template": _CHATML,
        },
    ),
    "llama3.2": (
        "<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|>",
        {
            "add_bos_token": True,
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|eot_id|>",
            "chat_template": _HEADERS,
        },
    ),
}


def write(name: str, directory: Path) -> Path:
    """Writes a tiny model, the same every time, in shards and with a byte-level tokenizer.

    Args:
      name: one of `TINY`.
      directory: where to; an earlier one is kept.
    """
    parameters = Model(TINY[name]).init(jax.random.key(0))
    try:
        with writing.new_directory(directory) as folder:
            writing.checkpoint(folder, TINY[name], parameters, "float32", shard_bytes=40_000)
            _write_tokenizer(folder, name)
    except (OSError, ValueError):
        # Another process may have written it in the meantime.
        if not (directory / CONFIG).exists():
            raise
    return directory


def _write_tokenizer(folder: Path, name: str) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    special, config = _TOKENIZERS[name.partition("-")[2]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: place for place, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in special.split()])
    tokenizer.save(os.fspath(folder / "tokenizer.json"))
    content = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(content, indent=2) + "\n")
