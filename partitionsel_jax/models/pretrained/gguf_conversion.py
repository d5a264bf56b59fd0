"""GGUF files (llama.cpp's format), converted once to a directory in a hub's format.

Everything else reads that directory, which lies in a cache and may be deleted at any time.
"""

import dataclasses
import hashlib
import json
import logging
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from partitionsel_jax import data
from partitionsel_jax.models.config import DecoderConfig, RopeScaling
from partitionsel_jax.models.pretrained import description, gguf_header, weights, writing
from partitionsel_jax.models.pretrained.description import Fields
from partitionsel_jax.models.pretrained.gguf_header import GGUFTensor

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")
_VERSION = 2  # of the conversion: another one makes all directories anew
_SHARD_BYTES = 1 << 30
# llama.cpp's names -> a hub's, outside the layers and within one.
OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
MODULES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_SCALING = "rope_freqs.weight"
# llama.cpp's fields of an architecture -> those of config.json.
_CONFIG = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "rope.freq_base": "rope_theta",
    "context_length": "max_position_embeddings",
}
_REQUIRED = [*_CONFIG][:5]
_EQUAL = ("rope.dimension_count", "attention.value_length")  # to the head's dimension
_FACTORS = ("rope.scaling.factor", "rope.scale_linear")
# Fields that change nothing in what is computed, and values of others that do not either. Another
# one that is not 0, false or empty is refused.
_HARMLESS = ("vocab_size", "rope.scaling.original_context_length", "rope.scaling.finetuned")
_NEUTRAL = {"attention.causal": True, "tensor_data_layout": "Meta AI original pth"}
# Llama 3's rotary scaling, of which GGUF files hold the outcome alone: (factor, original context).
_LLAMA3 = ((8.0, 8192), (32.0, 8192))

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # kinds of tokens
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
_WORDS = _BYTES | {"use_regex": True}  # GPT-2's own split
# The split of Llama 3 (numbers in threes) and of Qwen2 (digit by digit).
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(digits: str) -> list[dict[str, Any]]:
    split = {"type": "Split", "pattern": {"Regex": _SPLIT % digits}, "behavior": "Isolated"}
    return [split | {"invert": False}, _BYTES | {"use_regex": False}]


# tokenizer.ggml.pre -> what the family's tokenizer.json says, where it is not GPT-2's.
_FAMILIES: dict[str, dict[str, Any]] = {
    "gpt-2": {},
    "default": {},
    "smollm": {"split": [{"type": "Digits", "individual_digits": True}, _WORDS]},
    "llama-bpe": {"split": _split("{1,3}"), "ignore_merges": True},
    "qwen2": {"split": _split(""), "normalizer": {"type": "NFC"}},
}

_LOG = logging.getLogger(__name__)


def cache_directory() -> Path:
    """Where the conversions lie."""
    return Path("~/.cache/partitionsel_jax/converted").expanduser()


def directory_of(file: Path) -> Path:
    """The conversion of a GGUF file, made anew where the file has changed.

    Raises:
      ValueError: a file that is missing, damaged or of a kind that is not supported, by field or
        tensor; or a cache that cannot be written.
    """
    if not file.is_file():
        raise ValueError(f"{file} is missing, or no file")
    status = file.stat()
    place = hashlib.sha256(str(file.resolve()).encode(errors="surrogateescape")).hexdigest()[:8]
    cache, prefix = cache_directory(), f"{file.name}-{place}-"
    folder = cache / f"{prefix}{status.st_size}-{status.st_mtime_ns}-{_VERSION}"
    if folder.exists():
        return folder
    try:
        with writing.new_directory(folder) as work:
            convert(file, work)
    except (OSError, ValueError) as error:
        if folder.exists():  # another process has made it in the meantime
            return folder
        if isinstance(error, ValueError):
            raise
        raise ValueError(f"{file} cannot be converted to {folder} ({error})") from None
    for other in cache.iterdir():
        if other.name.startswith(prefix) and other != folder:
            shutil.rmtree(other, ignore_errors=True)
    return folder


def convert(file: Path, folder: Path) -> None:
    """Writes config.json, the weights, and the tokenizer's files if the GGUF file has one.

    Matrices of quantised kinds are dequantised to float32, all others keep their dtype.

    Raises:
      ValueError: as `directory_of`; nothing large is written before all is known to fit.
    """
    metadata, tensors = gguf_header.read(file)
    fields = Fields(metadata, str(file))
    for name, tensor in tensors.items():
        if tensor.kind not in TYPES:
            raise ValueError(
                f"{file}: {name} is of type {tensor.kind}, which is not supported; "
                f"{', '.join(TYPES)} are"
            )
    config = _decoder(fields, tensors)
    stored = {_hub_name(name): tensor for name, tensor in tensors.items() if name != _SCALING}
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    expected = weights.check_model(config, shapes, lambda name: str(file), file)
    if metadata.get("tokenizer.ggml.model"):
        write_tokenizer(fields, folder)
        try:
            data.load_tokenizer(folder)
        except ValueError as error:
            raise ValueError(str(error).replace(str(folder), str(file))) from None
    _LOG.info("converting %s to a hub's format", file)
    # Rows of q and k, whose pairs of coordinates lie beside each other in Llama's files.
    llama = metadata["general.architecture"] == "llama"
    paired = {"q_proj": config.heads, "k_proj": config.kv_heads} if llama else {}

    def values(name: str) -> np.ndarray:
        found = _dequantised(stored[name])
        if heads := paired.get(name.split(".")[-2]):
            # From the order (head, pair, member) to (head, member, pair): Llama's halves.
            split = found.reshape(heads, -1, 2, *found.shape[1:])
            found = split.swapaxes(1, 2).reshape(found.shape)
        if not np.isfinite(found).all():
            raise ValueError(
                f"{file}: {name} holds numbers that are not finite: the file is damaged; fetch it "
                "again"
            )
        return found

    sizes = {}
    for name in (tensor.name for tensor in expected):
        width = 4 if stored[name].quantised else stored[name].data.dtype.itemsize
        sizes[name] = math.prod(stored[name].shape) * width
    writing.save(folder, sizes, values, _SHARD_BYTES)
    content = description.config_json(config, "float32")
    (folder / description.CONFIG).write_text(json.dumps(content, indent=2) + "\n")


def _hub_name(name: str) -> str:
    """The name that a hub's checkpoints give to a tensor; its own where they have none."""
    match name.split("."):
        case ["blk", layer, module, kind] if module in MODULES:
            return f"model.layers.{layer}.{MODULES[module]}.{kind}"
    return OUTSIDE.get(name, name)


def _dequantised(tensor: GGUFTensor) -> np.ndarray:
    if not tensor.quantised:
        return tensor.data
    import gguf

    kind = gguf.GGMLQuantizationType[tensor.kind]
    values = gguf.quants.dequantize(tensor.data, kind)
    return values.astype(np.float32, copy=False).reshape(tensor.shape)


def _decoder(fields: Fields, tensors: Mapping[str, GGUFTensor]) -> DecoderConfig:
    """The decoder that the metadata describes, by way of the config.json that says the same."""
    where, architecture = fields.where, fields.get("general.architecture", str)
    prefix = f"{architecture}."
    said = {
        name.removeprefix(prefix): value
        for name, value in fields.content.items()
        if name.startswith(prefix)
    }
    read = (*_CONFIG, *_EQUAL, *_FACTORS, *_HARMLESS, "rope.scaling.type")
    for name, value in said.items():
        if name not in read and (value != _NEUTRAL[name] if name in _NEUTRAL else value):
            raise ValueError(
                f"{where}: '{prefix}{name:.80}' says {value!r:.80}, which is not supported"
            )
    if missing := [prefix + name for name in _REQUIRED if said.get(name) is None]:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    if "token_embd.weight" not in tensors:
        raise ValueError(f"{where} lacks the tensor 'token_embd.weight'")
    content = {ours: said[name] for name, ours in _CONFIG.items() if name in said}
    content |= {
        "model_type": architecture,
        "vocab_size": tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in tensors,
    }
    config = description.decoder_config(content, where)
    for name in _EQUAL:
        if said.get(name, config.head_dim) != config.head_dim:
            raise ValueError(
                f"{where}: {name}={said[name]!r:.80} beside head_dim={config.head_dim} is not "
                "supported: they must be equal"
            )
    scaling = _rope_scaling(Fields(said, where), tensors.get(_SCALING), config)
    return dataclasses.replace(config, rope_scaling=scaling)


def _rope_scaling(fields: Fields, stored: GGUFTensor | None, config: DecoderConfig) -> RopeScaling:
    # Files that say a factor and no type mean "linear", and 0 means 1, as llama.cpp reads them.
    kind = fields.get("rope.scaling.type", str, "linear")
    factors = {fields.get(name, float, 0.0) or 1.0 for name in _FACTORS} - {1.0}
    if kind not in ("none", "linear"):
        raise ValueError(f"{fields.where}: rope scaling {kind!r:.80} is not supported; linear is")
    if len(factors) > 1 or (factors and (kind == "none" or stored is not None)):
        raise ValueError(
            f"{fields.where}: its fields and tensors disagree about rope scaling (type {kind}, "
            f"factors {sorted(factors)}, {_SCALING} "
            f"{'not ' * (stored is None)}there); convert it anew"
        )
    if stored is None:
        return RopeScaling("linear", factors.pop()) if factors else RopeScaling()
    if stored.shape == (config.head_dim // 2,):
        for factor, original in _LLAMA3:
            scaling = RopeScaling("llama3", factor, original=original)
            slowed = dataclasses.replace(config, rope_scaling=scaling).frequencies()
            if np.allclose(_dequantised(stored), config.frequencies() / slowed, rtol=1e-3):
                return scaling
    raise ValueError(
        f"{fields.where}: {_SCALING} holds factors of no known rope scaling; Llama 3.1's and "
        "3.2's are supported"
    )


def write_tokenizer(fields: Fields, folder: Path) -> None:
    """Writes the files of the tokenizer that the metadata describes, a byte-level BPE.

    Raises:
      ValueError: a tokenizer of another kind, or an unknown way of splitting text, by its value.
    """
    where = fields.where
    for name, known in (("model", ["gpt2"]), ("pre", _FAMILIES)):
        found = fields.get(f"tokenizer.ggml.{name}", str, None)
        if found not in known:
            raise ValueError(
                f"{where}: tokenizer.ggml.{name}={found!r:.80} is not supported (expected "
                f"{', '.join(known)}); use the checkpoint's tokenizer.json instead"
            )
    family = _FAMILIES[found]
    tokens, merges = (_listed(fields, name, str) for name in ("tokens", "merges"))
    kinds = _listed(fields, "token_type", int, [_NORMAL] * len(tokens))
    if len(kinds) != len(tokens):
        raise ValueError(f"{where}: expected {len(tokens)} token types, got {len(kinds)}")

    def token(name: str) -> str | None:
        number = fields.get(f"tokenizer.ggml.{name}_token_id", int, None)
        if number is not None and not 0 <= number < len(tokens):
            raise ValueError(
                f"{where}: tokenizer.ggml.{name}_token_id={number} is not one of the "
                f"{len(tokens)} tokens"
            )
        return None if number is None else tokens[number]

    if token("eos") is None:
        raise ValueError(f"{where} lacks tokenizer.ggml.eos_token_id, which has to close responses")
    numbered = list(zip(range(len(tokens)), tokens, kinds, strict=True))
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    files = {
        "tokenizer.json": {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {"id": number, "content": text, "special": kind == _CONTROL, **flags}
                for number, text, kind in numbered
                if kind in (_CONTROL, _USER_DEFINED)
            ],
            "normalizer": family.get("normalizer"),
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": family["split"]}
            if family
            else _WORDS,
            "post_processor": None,
            "decoder": _WORDS,
            "model": {
                "type": "BPE",
                # What is unused only fills the embedding up.
                "vocab": {text: number for number, text, kind in numbered if kind != _UNUSED},
                "merges": merges,
                "ignore_merges": family.get("ignore_merges", False),
            },
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": fields.get("tokenizer.ggml.add_bos_token", bool, found == "llama-bpe"),
            "bos_token": token("bos"),
            "eos_token": token("eos"),
            "pad_token": token("padding"),
            "chat_template": fields.get("tokenizer.chat_template", str, None),
        },
        "generation_config.json": {
            "eos_token_id": fields.get("tokenizer.ggml.eot_token_id", int, None)
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))


def _listed(fields: Fields, name: str, kind: type, default: list[Any] | None = None) -> list[Any]:
    """A list of the tokenizer's, whose values are of one kind."""
    name = f"tokenizer.ggml.{name}"
    found = fields.get(name, list, default)
    if found is None:
        raise ValueError(f"{fields.where} lacks {name}; is it a vocabulary file?")
    if not all(isinstance(item, kind) for item in found):
        raise ValueError(f"{fields.where}: expected {name} to hold values of type {kind.__name__}")
    return found
