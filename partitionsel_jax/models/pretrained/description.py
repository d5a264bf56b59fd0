"""A decoder's shape from a hub's config.json, and back."""

import functools
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from partitionsel_jax import json_files
from partitionsel_jax.models.config import DecoderConfig, RopeScaling

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
# In front of the model_type of a model whose matrices are factors, which no other library reads.
LOW_RANK = "low_rank_"
QWEN2_BIASES = ("q", "k", "v")
_ATTENTION = ("q", "k", "v", "o")
_MLP = ("gate", "up", "down")
_REQUIRED = object()
_LARGEST = 1 << 53  # of integers that float64 holds

# Fields of config.json, and what they are called here.
_FIELDS: Mapping[str, tuple[str, type]] = {
    "vocab_size": ("vocab_size", int),
    "num_hidden_layers": ("layers", int),
    "hidden_size": ("width", int),
    "intermediate_size": ("mlp_width", int),
    "num_attention_heads": ("heads", int),
    "num_key_value_heads": ("kv_heads", int),
    "head_dim": ("head_dim", int),
    "rms_norm_eps": ("norm_eps", float),
    "tie_word_embeddings": ("tied", bool),
    "max_position_embeddings": ("context", int),
    "matrix_rank": ("rank", int),
}
# Others that are read, and those that change nothing in what is computed.
_KNOWN = (
    "attention_bias", "layer_types", "mlp_bias", "model_type", "rope_parameters",
    "rope_scaling", "rope_theta", "sliding_window",
    "_attn_implementation", "_name_or_path", "architectures", "bos_token_id", "dtype",
    "eos_token_id", "initializer_range", "is_llama_config", "max_window_layers", "pad_token_id",
    "pretraining_tp", "torch_dtype", "transformers.js_config", "transformers_version",
    "unsloth_fixed", "unsloth_version", "use_cache",
)  # fmt: skip
# Fields by which relatives of Llama and Qwen2 compute something else, and the values beside null at
# which they do not.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    name: values
    for names, values in (
        ("attention_multiplier attn_logit_softcapping clip_qkv final_logit_softcapping", ()),
        ("logit_softcapping query_pre_attn_scalar scale_depth", ()),
        ("add_cross_attention alibi is_encoder_decoder lm_head_bias qk_layernorm", (False,)),
        ("qk_norm rope_interleaved use_mrope use_parallel_residual use_qk_norm", (False,)),
        ("use_sliding_window", (False,)),
        ("is_causal use_rope", (True,)),
        ("embedding_multiplier logit_scale logits_scaling partial_rotary_factor", (1,)),
        ("residual_multiplier rotary_pct scale_emb", (1,)),
        ("num_experts num_local_experts", (0, 1)),
        ("compression_config quantization quantization_config", ({},)),
        ("hidden_act hidden_activation", ("silu",)),
        ("no_rope_layers", ([],)),
    )
    for name in names.split()
}
# Rope type -> the fields that it is computed from, and what they are called here.
_ROPE: Mapping[str, Mapping[str, tuple[str, type]]] = {
    "default": {},
    "linear": {"factor": ("factor", float)},
    "llama3": {
        "factor": ("factor", float),
        "low_freq_factor": ("low", float),
        "high_freq_factor": ("high", float),
        "original_max_position_embeddings": ("original", int),
    },
}
_ROPE_HARMLESS = ("rope_type", "type", "rope_theta", "original_max_position_embeddings")

_LOG = logging.getLogger(__name__)


def check_local(directory: str | os.PathLike[str]) -> Path:
    """A folder on this machine, as a path.

    Raises:
      ValueError: it is in a bucket.
    """
    if "://" in os.fspath(directory):
        raise ValueError(
            f"{os.fspath(directory)} is no local directory, and models are read from this machine: "
            "copy it here first"
        )
    return Path(directory).expanduser()


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Raises:
      ValueError: it is missing, cut short, or something else, by name.
    """
    try:
        return json_files.read_object(path)
    except OSError as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"is no file ({error})"
        raise ValueError(f"{path} {reason}; is the checkpoint complete?") from None


class Fields:
    """A JSON object's fields, with errors that name the file and the field."""

    def __init__(self, content: Mapping[str, Any], where: str):
        self.content, self.where = content, where

    def get(self, name: str, kind: type, default: Any = _REQUIRED) -> Any:
        """The field's value, which must be of a kind; its default where it is absent or null."""
        value = self.content.get(name)
        if value is None:
            if default is _REQUIRED:
                raise ValueError(f"{self.where} lacks {name!r}")
            return default
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole and abs(value) > _LARGEST:
            raise ValueError(f"{self.where}: {name} is an integer of {len(str(value))} digits")
        if kind is float and whole:
            value = float(value)
        if not isinstance(value, kind) or (kind is int and not whole):
            raise ValueError(
                f"{self.where}: {name}={value!r:.80} where a value of type "
                f"{kind.__name__} is expected"
            )
        return value


def decoder_config(content: Mapping[str, Any], where: str) -> DecoderConfig:
    """The decoder that a config.json describes, with default numerics.

    Both generations of key names are read: `rope_theta` and `rope_scaling` of transformers 4,
    `rope_parameters` of transformers 5.

    Args:
      content: of the file.
      where: the file's name, for errors.

    Raises:
      ValueError: an architecture, activation, rope type or quantisation that is not supported, or
        a field that is missing or makes no sense.
    """
    fields = Fields(content, where)
    kind = fields.get("model_type", str).removeprefix(LOW_RANK)
    if kind not in ("llama", "qwen2"):
        raise ValueError(
            f"{where}: model_type={kind!r:.80} is not supported; llama (Llama, SmolLM2) and qwen2 "
            "(Qwen2, Qwen2.5) are"
        )
    _check_fields(fields, kind)
    heads = fields.get("num_attention_heads", int)
    width = fields.get("hidden_size", int)
    if heads < 1:
        raise ValueError(f"{where}: num_attention_heads must be at least 1, not {heads}")
    biases: tuple[str, ...] = QWEN2_BIASES
    if kind == "llama":
        biases = _ATTENTION * fields.get("attention_bias", bool, False)
        biases += _MLP * fields.get("mlp_bias", bool, False)
    defaults = {
        "num_key_value_heads": heads,
        "head_dim": width // heads,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "max_position_embeddings": 0,
        "matrix_rank": 0,
    }
    try:
        theta, scaling = _rope(fields)
        sizes: dict[str, Any] = {
            ours: fields.get(name, kind, defaults.get(name, _REQUIRED))
            for name, (ours, kind) in _FIELDS.items()
        }
        return DecoderConfig(**sizes, rope_theta=theta, rope_scaling=scaling, biases=biases)
    except ValueError as error:
        raise ValueError(error if where in str(error) else f"{where}: {error}") from None


def _check_fields(fields: Fields, kind: str) -> None:
    """Refuses what changes the computation, and reports what is not known at all."""
    content = fields.content
    changing = [
        name
        for name, value in content.items()
        if name in _NEUTRAL and value is not None and value not in _NEUTRAL[name]
    ]
    if any(entry != "full_attention" for entry in fields.get("layer_types", list, [])):
        changing.append("layer_types")
    # Qwen2 has a switch for it. A window that no row exceeds changes nothing.
    window = fields.get("sliding_window", int, 0) if kind == "llama" else 0
    if window and not 0 < fields.get("max_position_embeddings", int, 0) <= window:
        changing.append("sliding_window")
    for name in changing:
        raise ValueError(
            f"{fields.where}: {name}={content[name]!r:.80} is not supported; use a checkpoint "
            "without it"
        )
    known = {*_KNOWN, *_FIELDS, *_NEUTRAL}
    if unknown := sorted(name for name, value in content.items() if value and name not in known):
        report_once(f"{fields.where}: unknown fields, which are not read: {', '.join(unknown)}")


@functools.cache
def report_once(text: str) -> None:
    """Logs a warning once, however often a file is read."""
    _LOG.warning("%s", text)


def _rope(fields: Fields) -> tuple[float, RopeScaling]:
    """The base of the rotary frequencies, and their scaling, which may be said in two places."""
    names = ("rope_parameters", "rope_scaling")
    sections = [
        Fields(content, f"{fields.where}: {name}")
        for name in names
        if (content := fields.get(name, dict, None))
    ]
    scalings = [_rope_scaling(section) for section in sections]
    bases = [part.get("rope_theta", float, None) for part in (*sections, fields)]
    bases = [base for base in bases if base is not None]
    if len(set(scalings)) > 1 or len(set(bases)) > 1:
        said = {name: fields.content.get(name) for name in ("rope_theta", *names)}
        text = ", ".join(f"{name}={value!r:.120}" for name, value in said.items() if value)
        raise ValueError(
            f"{fields.where}: {text} disagree; keep what the model was trained with, and delete "
            "the others"
        )
    return bases[0] if bases else 10_000.0, scalings[0] if scalings else RopeScaling()


def _rope_scaling(section: Fields) -> RopeScaling:
    """The scaling that one section describes."""
    kinds = {section.get(name, str, None) for name in ("rope_type", "type")} - {None}
    kind = kinds.pop() if kinds else "default"
    if kinds or kind not in _ROPE:
        raise ValueError(
            f"{section.where}: rope type {' and '.join(map(repr, sorted({kind, *kinds})))} is not "
            "supported; default, linear and llama3 are"
        )
    for name, value in section.content.items():
        known = name in (*_ROPE[kind], *_ROPE_HARMLESS)
        if not known and value not in (None, 1):
            raise ValueError(
                f"{section.where}: {name}={value!r:.80} is not known of rope type {kind!r}"
            )
    if kind == "default":
        return RopeScaling()
    return RopeScaling(
        kind, **{ours: section.get(name, kind_of) for name, (ours, kind_of) in _ROPE[kind].items()}
    )


def config_json(config: DecoderConfig, dtype: str) -> dict[str, Any]:
    """The config.json of a decoder, by the names that every version of transformers reads.

    Args:
      config: the decoder.
      dtype: of the weights beside it.

    Raises:
      ValueError: biases that neither Llama nor Qwen2 has.
    """
    biases, scaling = set(config.biases), config.rope_scaling
    scaled = {
        name: getattr(scaling, ours) for name, (ours, _) in _ROPE.get(scaling.kind, {}).items()
    }
    content: dict[str, Any] = {
        **{name: getattr(config, ours) for name, (ours, _) in _FIELDS.items()},
        "hidden_act": "silu",
        "rope_theta": config.rope_theta,
        "rope_scaling": {"rope_type": scaling.kind, **scaled} if scaled else None,
        "torch_dtype": dtype,
        "use_cache": True,
    }
    if not config.context:
        del content["max_position_embeddings"]
    if not config.rank:
        del content["matrix_rank"]
    if biases == set(QWEN2_BIASES):
        return _named("qwen2", "Qwen2ForCausalLM", config) | content
    in_attention, in_mlp = biases >= set(_ATTENTION), biases >= set(_MLP)
    if biases != set(_ATTENTION * in_attention + _MLP * in_mlp):
        raise ValueError(
            f"model.biases={sorted(biases)} is neither Llama's (all of {_ATTENTION} or none, all "
            f"of {_MLP} or none) nor Qwen2's {QWEN2_BIASES}: no config.json can say so"
        )
    content |= {"attention_bias": in_attention, "mlp_bias": in_mlp}
    return _named("llama", "LlamaForCausalLM", config) | content


def _named(kind: str, architecture: str, config: DecoderConfig) -> dict[str, Any]:
    """The names by which libraries look a model's code up."""
    if config.rank:
        kind, architecture = f"{LOW_RANK}{kind}", f"LowRank{architecture}"
    return {"model_type": kind, "architectures": [architecture]}
