"""A decoder's shape from a hub's config.json, and back."""

import json
import os
from collections.abc import Mapping
from typing import Any

from partitionsel_jax.models.config import DecoderConfig, RopeScaling

QWEN2_BIASES = ("q", "k", "v")
_ATTENTION = ("q", "k", "v", "o")
_MLP = ("gate", "up", "down")
_REQUIRED = object()


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
      ValueError: it is missing, cut short, or something else, by name.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"is no file ({error})"
        raise ValueError(f"{path} {reason}; is the checkpoint complete?") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no valid JSON ({error}); fetch it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


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
        if kind is float and whole:
            value = float(value)
        if not isinstance(value, kind) or (kind is int and not whole):
            raise ValueError(
                f"{self.where}: {name}={value!r} where a value of type {kind.__name__} is expected"
            )
        return value

    def section(self, name: str) -> "Fields | None":
        value = self.get(name, dict, None)
        return None if value is None else Fields(value, f"{self.where}: {name}")


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
    kind = fields.get("model_type", str)
    if kind not in ("llama", "qwen2"):
        raise ValueError(
            f"{where}: model_type={kind!r} is not supported; llama (Llama, SmolLM2) and qwen2 "
            "(Qwen2, Qwen2.5) are"
        )
    if (activation := fields.get("hidden_act", str, "silu")) != "silu":
        raise ValueError(f"{where}: hidden_act={activation!r} is not supported; 'silu' is")
    for name, unused in (
        ("quantization_config", {}),
        ("use_sliding_window", False),
        ("partial_rotary_factor", 1.0),
    ):
        if content.get(name) not in (None, unused):
            raise ValueError(
                f"{where}: {name}={content[name]!r} is not supported; use a checkpoint without it"
            )
    heads = fields.get("num_attention_heads", int)
    width = fields.get("hidden_size", int)
    if heads < 1:
        raise ValueError(f"{where}: num_attention_heads must be at least 1, not {heads}")
    biases: tuple[str, ...] = QWEN2_BIASES if kind == "qwen2" else ()
    if kind == "llama" and fields.get("attention_bias", bool, False):
        biases += _ATTENTION
    if kind == "llama" and fields.get("mlp_bias", bool, False):
        biases += _MLP
    try:
        theta, scaling = _rope(fields)
        return DecoderConfig(
            vocab_size=fields.get("vocab_size", int),
            layers=fields.get("num_hidden_layers", int),
            width=width,
            mlp_width=fields.get("intermediate_size", int),
            heads=heads,
            kv_heads=fields.get("num_key_value_heads", int, heads),
            head_dim=fields.get("head_dim", int, width // heads),
            rope_theta=theta,
            rope_scaling=scaling,
            norm_eps=fields.get("rms_norm_eps", float, 1e-6),
            tied=fields.get("tie_word_embeddings", bool, False),
            biases=biases,
            context=fields.get("max_position_embeddings", int, 0),
        )
    except ValueError as error:
        raise ValueError(error if where in str(error) else f"{where}: {error}") from None


def _rope(fields: Fields) -> tuple[float, RopeScaling]:
    """The base of the rotary frequencies, and their scaling."""
    newer, older = fields.section("rope_parameters"), fields.section("rope_scaling")
    theta = (newer or fields).get("rope_theta", float, None)
    if theta is None:
        theta = fields.get("rope_theta", float, 10_000.0)
    chosen = newer or older
    if chosen is None:
        return theta, RopeScaling()
    kind = chosen.get("rope_type", str, None) or chosen.get("type", str, "default")
    if chosen.get("partial_rotary_factor", float, 1.0) != 1.0:
        raise ValueError(f"{chosen.where}: a partial_rotary_factor is not supported")
    if kind == "default":
        return theta, RopeScaling()
    if kind == "linear":
        return theta, RopeScaling("linear", chosen.get("factor", float))
    if kind == "llama3":
        return theta, RopeScaling(
            "llama3",
            chosen.get("factor", float),
            chosen.get("low_freq_factor", float),
            chosen.get("high_freq_factor", float),
            chosen.get("original_max_position_embeddings", int),
        )
    raise ValueError(
        f"{chosen.where}: rope type {kind!r} is not supported; default, linear and llama3 are"
    )


def config_json(config: DecoderConfig, dtype: str) -> dict[str, Any]:
    """The config.json of a decoder, by the names that every version of transformers reads.

    Args:
      config: the decoder.
      dtype: of the weights beside it.

    Raises:
      ValueError: biases that neither Llama nor Qwen2 has.
    """
    biases = set(config.biases)
    content: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": _scaling_json(config.rope_scaling),
        "tie_word_embeddings": config.tied,
        "torch_dtype": dtype,
        "use_cache": True,
    }
    if config.context:
        content["max_position_embeddings"] = config.context
    if biases == set(QWEN2_BIASES):
        return {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], **content}
    in_attention, in_mlp = biases >= set(_ATTENTION), biases >= set(_MLP)
    if biases != set(_ATTENTION * in_attention + _MLP * in_mlp):
        raise ValueError(
            f"model.biases={sorted(biases)} is neither Llama's (all of {_ATTENTION} or none, all "
            f"of {_MLP} or none) nor Qwen2's {QWEN2_BIASES}: no config.json can say so"
        )
    content |= {"attention_bias": in_attention, "mlp_bias": in_mlp}
    return {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **content}


def _scaling_json(scaling: RopeScaling) -> dict[str, Any] | None:
    if scaling.kind == "none":
        return None
    content: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        content |= {
            "low_freq_factor": scaling.low,
            "high_freq_factor": scaling.high,
            "original_max_position_embeddings": scaling.original,
        }
    return content
