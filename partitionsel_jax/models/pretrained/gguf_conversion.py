"""GGUF files (llama.cpp's format), converted once to a directory in a hub's format.

Everything else reads that directory, which lies in a cache and may be deleted at any time.
"""

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
from partitionsel_jax.models.pretrained.description import QWEN2_BIASES, Fields
from partitionsel_jax.models.pretrained.gguf_header import GGUFTensor
from partitionsel_jax.models.rotary import slowdown

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")
_VERSION = 1  # of the conversion: another one makes all directories anew
_SHARD_BYTES = 1 << 30
# A hub's names -> llama.cpp's.
_OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_MODULES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_SCALING = "rope_freqs.weight"
# Fields of an architecture that are read or change nothing in what is computed, and values of
# others that do not either. Another one that is not 0, false or empty is refused.
_READ = (
    "embedding_length", "attention.head_count", "attention.head_count_kv", "attention.key_length",
    "attention.value_length", "attention.layer_norm_rms_epsilon", "rope.freq_base",
    "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor", "rope.scale_linear",
    "block_count", "feed_forward_length", "context_length", "vocab_size",
    "rope.scaling.original_context_length", "rope.scaling.finetuned",
)  # fmt: skip
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


def _sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def _split(digits: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": _SPLIT % digits}, "behavior": "Isolated"}
    return _sequence(split | {"invert": False}, _BYTES | {"use_regex": False})


# tokenizer.ggml.pre -> what the family's tokenizer.json says, where it is not the default.
_FAMILIES: dict[str, dict[str, Any]] = {
    "gpt-2": {},
    "default": {},
    "smollm": {"pre_tokenizer": _sequence({"type": "Digits", "individual_digits": True}, _WORDS)},
    "llama-bpe": {"pre_tokenizer": _split("{1,3}"), "ignore_merges": True},
    "qwen2": {"pre_tokenizer": _split(""), "normalizer": {"type": "NFC"}},
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
    state = f"{status.st_size}-{status.st_mtime_ns}-{_VERSION}"
    folder = cache_directory() / f"{file.name}-{place}" / state
    if folder.exists():
        return folder
    try:
        with writing.new_directory(folder) as work:
            convert(file, work)
        for other in folder.parent.iterdir():
            if other != folder and not other.name.startswith("."):
                shutil.rmtree(other, ignore_errors=True)
    except OSError as error:
        if not folder.exists():  # which another process may have made in the meantime
            raise ValueError(f"{file} cannot be converted to {folder} ({error})") from None
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
    held = {gguf_name(name): name for name in _hub_names(config.layers, len(tensors))}
    shapes = {held.get(name, name): t.shape for name, t in tensors.items() if name != _SCALING}
    expected = weights.check(config, shapes, lambda name: str(file), str(file))
    if metadata.get("tokenizer.ggml.model"):
        write_tokenizer(fields, folder)
        try:
            data.load_tokenizer(folder)
        except ValueError as error:
            raise ValueError(str(error).replace(str(folder), str(file))) from None
    stored = {tensor.name: tensors[gguf_name(tensor.name)] for tensor in expected}
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
                f"{file}: {gguf_name(name)} holds numbers that are not finite: the file is "
                "damaged; fetch it again"
            )
        return found

    sizes = {
        name: math.prod(tensor.shape) * (4 if tensor.quantised else tensor.data.dtype.itemsize)
        for name, tensor in stored.items()
    }
    writing.save(folder, sizes, values, _SHARD_BYTES)
    content = description.config_json(config, "float32")
    (folder / description.CONFIG).write_text(json.dumps(content, indent=2) + "\n")


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor that a hub's checkpoints call `name`."""
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    _, _, layer, module = name.split(".", 3)
    module, _, kind = module.rpartition(".")
    return f"blk.{layer}.{_MODULES[module]}.{kind}"


def _hub_names(layers: int, most: int) -> list[str]:
    """A hub's name of every tensor that a decoder may have; of no more layers than tensors."""
    return [*_OUTSIDE] + [
        f"model.layers.{layer}.{module}.{kind}"
        for layer in range(min(layers, most))
        for module in _MODULES
        for kind in ("weight", "bias")
    ]


def _dequantised(tensor: GGUFTensor) -> np.ndarray:
    if not tensor.quantised:
        return tensor.data
    import gguf

    kind = gguf.GGMLQuantizationType[tensor.kind]
    values = gguf.quants.dequantize(tensor.data, kind)
    return values.astype(np.float32, copy=False).reshape(tensor.shape)


def _decoder(fields: Fields, tensors: Mapping[str, GGUFTensor]) -> DecoderConfig:
    """The decoder that the metadata describes."""
    where = fields.where
    architecture = fields.get("general.architecture", str)
    if architecture not in ("llama", "qwen2"):
        raise ValueError(
            f"{where}: architecture {architecture!r:.80} is not supported; llama and qwen2 are"
        )
    prefix = f"{architecture}."
    said = {
        name.removeprefix(prefix): value
        for name, value in fields.content.items()
        if name.startswith(prefix)
    }
    for name, value in said.items():
        if name not in _READ and (value != _NEUTRAL[name] if name in _NEUTRAL else value):
            raise ValueError(
                f"{where}: '{prefix}{name:.80}' says {value!r:.80}, which is not supported"
            )
    ours = Fields(said, f"{where}: {architecture}")
    width, heads = ours.get("embedding_length", int), ours.get("attention.head_count", int)
    if heads < 1:
        raise ValueError(f"{where}: attention.head_count must be at least 1, not {heads}")
    head_dim = ours.get("attention.key_length", int, width // heads)
    for name in ("rope.dimension_count", "attention.value_length"):
        if (found := ours.get(name, int, head_dim)) != head_dim:
            raise ValueError(
                f"{where}: {name}={found} beside head_dim={head_dim} is not supported: they must "
                "be equal"
            )
    if "token_embd.weight" not in tensors:
        raise ValueError(f"{where} lacks the tensor 'token_embd.weight'")
    try:
        theta = ours.get("rope.freq_base", float, 10_000.0)
        return DecoderConfig(
            vocab_size=tensors["token_embd.weight"].shape[0],
            layers=ours.get("block_count", int),
            width=width,
            mlp_width=ours.get("feed_forward_length", int),
            heads=heads,
            kv_heads=ours.get("attention.head_count_kv", int, heads),
            head_dim=head_dim,
            rope_theta=theta,
            rope_scaling=_rope_scaling(ours, tensors.get(_SCALING), theta, head_dim),
            norm_eps=ours.get("attention.layer_norm_rms_epsilon", float),
            tied="output.weight" not in tensors,
            biases=QWEN2_BIASES if architecture == "qwen2" else (),
            context=ours.get("context_length", int, 0),
        )
    except ValueError as error:
        raise ValueError(error if where in str(error) else f"{where}: {error}") from None


def _rope_scaling(
    fields: Fields, stored: GGUFTensor | None, theta: float, head_dim: int
) -> RopeScaling:
    # Files that say a factor and no type mean "linear", and 0 means 1, as llama.cpp reads them.
    kind = fields.get("rope.scaling.type", str, "linear")
    names = ("rope.scaling.factor", "rope.scale_linear")
    factors = {fields.get(name, float, 0.0) or 1.0 for name in names} - {1.0}
    if kind not in ("none", "linear"):
        raise ValueError(f"{fields.where}: rope scaling {kind!r} is not supported; linear is")
    if len(factors) > 1 or (factors and (kind == "none" or stored is not None)):
        raise ValueError(
            f"{fields.where}: its fields and tensors disagree about rope scaling (type {kind}, "
            f"factors {sorted(factors)}, {_SCALING} "
            f"{'not ' * (stored is None)}there); convert it anew"
        )
    if factors:
        return RopeScaling("linear", factors.pop())
    if stored is None:
        return RopeScaling()
    if stored.shape == (head_dim // 2,):
        plain = theta ** -(np.arange(0, head_dim, 2) / head_dim)
        for factor, original in _LLAMA3:
            scaling = RopeScaling("llama3", factor, original=original)
            if np.allclose(_dequantised(stored), slowdown(plain, scaling), rtol=1e-3):
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
            "pre_tokenizer": family.get("pre_tokenizer", _WORDS),
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
