"""A GGUF file (llama.cpp's format): its tensors, dequantised, and the decoder it describes."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from partitionsel_jax.gguf_reading import open_gguf
from partitionsel_jax.models.config import DecoderConfig, RopeScaling
from partitionsel_jax.models.pretrained.description import QWEN2_BIASES
from partitionsel_jax.models.rotary import slowdown

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")
_SCALING = "rope_freqs.weight"
# Fields of an architecture that change nothing in what is computed, and values of others that do
# not either. What else is said of it, and is not 0, false or empty, is refused.
_HARMLESS = ("vocab_size", "rope.scaling.original_context_length", "rope.scaling.finetuned")
_NEUTRAL = {"attention.causal": True, "tensor_data_layout": "Meta AI original pth"}
# Llama 3's rotary scaling, of which GGUF files hold the outcome alone: (factor, original context).
_LLAMA3 = ((8.0, 8192), (32.0, 8192))


class GGUFFile:
    """The tensors of a GGUF file, each dequantised to float32 when it is read.

    Attributes:
      config: the decoder that the file describes, with default numerics.

    Raises:
      ValueError: a file that is missing, damaged, of an unsupported architecture or tensor type.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        content = open_gguf(self.path)
        self._fields, self._tensors = content.fields, content.tensors
        self._asked: set[str] = set()
        self.architecture = ""
        self.architecture = self.field("general.architecture", str)
        if self.architecture not in ("llama", "qwen2"):
            raise ValueError(
                f"{self.path}: architecture {self.architecture!r} is not supported; llama and "
                "qwen2 are"
            )
        for name, tensor in self._tensors.items():
            if tensor.kind not in TYPES:
                raise ValueError(
                    f"{self.path}: {name} is of type {tensor.kind}, which is not supported; "
                    f"{', '.join(TYPES)} are"
                )
        self.config = self._describe()
        self._check_fields()
        # Rows of q and k, whose pairs of coordinates lie beside each other in Llama's files.
        paired = {"attn_q": self.config.heads, "attn_k": self.config.kv_heads}
        self._paired = paired if self.architecture == "llama" else {}

    def field(self, key: str, kind: type, default: Any = None) -> Any:
        """A field of the metadata; `{arch}` in its name is the architecture.

        Raises:
          ValueError: it is absent and has no default, or is of another kind.
        """
        name = key.format(arch=self.architecture)
        self._asked.add(name)
        value = self._fields.get(name)
        if value is None:
            if default is None:
                raise ValueError(f"{self.path} lacks the field {name!r}")
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ValueError(
                f"{self.path}: {name}={value!r:.80} where a value of type {kind.__name__} is "
                "expected"
            )
        if isinstance(value, float):
            # Stored as float32: 1e-5 is meant where 9.999999747e-06 is read.
            value = float(str(np.float32(value)))
        return value

    @property
    def has_tokenizer(self) -> bool:
        return bool(self.field("tokenizer.ggml.model", str, ""))

    def _describe(self) -> DecoderConfig:
        width = self.field("{arch}.embedding_length", int)
        heads = self.field("{arch}.attention.head_count", int)
        if heads < 1:
            raise ValueError(f"{self.path}: attention.head_count must be at least 1, not {heads}")
        head_dim = self.field("{arch}.attention.key_length", int, width // heads)
        theta = self.field("{arch}.rope.freq_base", float, 10_000.0)
        if (rotated := self.field("{arch}.rope.dimension_count", int, head_dim)) != head_dim:
            raise ValueError(
                f"{self.path}: rope.dimension_count={rotated} of head_dim={head_dim} is not "
                "supported: all of a head must be rotated"
            )
        if (size := self.field("{arch}.attention.value_length", int, head_dim)) != head_dim:
            raise ValueError(
                f"{self.path}: attention.value_length={size} beside head_dim={head_dim} is not "
                "supported: they must be equal"
            )
        try:
            return DecoderConfig(
                vocab_size=self.shape("token_embd.weight")[0],
                layers=self.field("{arch}.block_count", int),
                width=width,
                mlp_width=self.field("{arch}.feed_forward_length", int),
                heads=heads,
                kv_heads=self.field("{arch}.attention.head_count_kv", int, heads),
                head_dim=head_dim,
                rope_theta=theta,
                rope_scaling=self._rope_scaling(theta, head_dim),
                norm_eps=self.field("{arch}.attention.layer_norm_rms_epsilon", float),
                tied="output.weight" not in self._tensors,
                biases=QWEN2_BIASES if self.architecture == "qwen2" else (),
                context=self.field("{arch}.context_length", int, 0),
            )
        except ValueError as error:
            text = str(error)
            raise ValueError(text if str(self.path) in text else f"{self.path}: {text}") from None

    def _check_fields(self) -> None:
        """Refuses what the file says of its architecture and nothing here has asked for."""
        prefix = f"{self.architecture}."
        for name, value in self._fields.items():
            key = name.removeprefix(prefix)
            if key == name or name in self._asked or key in _HARMLESS:
                continue
            used = any(value) if isinstance(value, np.ndarray | list) else bool(value)
            if value != _NEUTRAL[key] if key in _NEUTRAL else used:
                raise ValueError(
                    f"{self.path}: {name!r:.80} says {value!r:.80}, which is not supported"
                )

    def _rope_scaling(self, theta: float, head_dim: int) -> RopeScaling:
        # Files that say a factor and no type mean "linear", and 0 means 1, as llama.cpp reads them.
        kind = self.field("{arch}.rope.scaling.type", str, "linear")
        factors = {
            self.field(f"{{arch}}.rope.{key}", float, 0.0) or 1.0
            for key in ("scaling.factor", "scale_linear")
        } - {1.0}
        if kind not in ("none", "linear"):
            raise ValueError(f"{self.path}: rope scaling {kind!r} is not supported; linear is")
        if len(factors) > 1 or (factors and (kind == "none" or _SCALING in self._tensors)):
            raise ValueError(
                f"{self.path}: its fields and tensors disagree about rope scaling (type {kind}, "
                f"factors {sorted(factors)}, {_SCALING} "
                f"{'there' if _SCALING in self._tensors else 'not there'}); convert it anew"
            )
        if factors:
            return RopeScaling("linear", factors.pop())
        if _SCALING not in self._tensors:
            return RopeScaling()
        if self.shape(_SCALING) == (head_dim // 2,):
            found = self._dequantised(_SCALING, 0, head_dim // 2)
            plain = theta ** -(np.arange(0, head_dim, 2) / head_dim)
            for factor, original in _LLAMA3:
                scaling = RopeScaling("llama3", factor, original=original)
                if np.allclose(found, slowdown(plain, scaling), rtol=1e-3):
                    return scaling
        raise ValueError(
            f"{self.path}: {_SCALING} holds factors of no known rope scaling; Llama 3.1's and "
            "3.2's are supported"
        )

    def names(self) -> Iterator[str]:
        return iter(name for name in self._tensors if name != _SCALING)

    def where(self, name: str) -> str:
        """The file of a tensor, for errors."""
        del name
        return str(self.path)

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._tensors:
            raise ValueError(f"{self.path} lacks the tensor {name!r}")
        return self._tensors[name].shape

    def _dequantised(self, name: str, start: int, stop: int) -> np.ndarray:
        import gguf

        tensor = self._tensors[name]
        kind = gguf.GGMLQuantizationType[tensor.kind]
        values = gguf.quants.dequantize(tensor.data[start:stop], kind)
        return values.astype(np.float32, copy=False).reshape(-1, *self.shape(name)[1:])

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows start .. stop - 1 of a tensor, in float32."""
        heads = next((n for part, n in self._paired.items() if f".{part}." in name), None)
        if heads is None:
            return self._dequantised(name, start, stop)
        return _halved(self._dequantised(name, 0, self.shape(name)[0]), heads)[start:stop]


def _halved(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows ordered (head, pair, member) as (head, member, pair): Llama's layout of halves."""
    split = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)
