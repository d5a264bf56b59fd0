"""Tokenizers of GGUF files (llama.cpp's format), from their metadata."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from partitionsel_jax.data.tokenizers.subword import SubwordTokenizer
from partitionsel_jax.gguf_reading import open_gguf

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5

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


def read_gguf(path: Path) -> SubwordTokenizer:
    """The tokenizer that a GGUF file's metadata describes; see `load_tokenizer`.

    Raises:
      ValueError: a file that is missing or damaged, a tokenizer that is no byte-level BPE, or an
        unknown way of splitting text, by file and value.
    """
    metadata = _Metadata(path)
    metadata.choice("model", ["gpt2"])
    pre = metadata.choice("pre", _FAMILIES)
    tokens = metadata.array("tokens", str)
    kinds = metadata.array("token_type", int, [_NORMAL] * len(tokens))
    if len(kinds) != len(tokens):
        raise ValueError(f"{path}: expected {len(tokens)} token types, got {len(kinds)}")
    definition = _definition(tokens, kinds, metadata.array("merges", str), _FAMILIES[pre])

    def token(name: str) -> str | None:
        number = metadata.value(name, int)
        if number is not None and not 0 <= number < len(tokens):
            raise ValueError(
                f"{path}: tokenizer.ggml.{name}={number} is not one of the {len(tokens)} tokens"
            )
        return None if number is None else tokens[number]

    eos_token = token("eos_token_id")
    if eos_token is None:
        raise ValueError(f"{path} lacks tokenizer.ggml.eos_token_id, which has to close responses")
    turn_end = metadata.value("eot_token_id", int)
    return SubwordTokenizer(
        json.dumps(definition),
        eos_token,
        bos_token=token("bos_token_id"),
        begins_rows=metadata.value("add_bos_token", bool, pre == "llama-bpe"),
        pad_token=token("padding_token_id"),
        chat_template=metadata.value("chat_template", str, prefix="tokenizer."),
        further_stops=() if turn_end is None else (turn_end,),
        origin=str(path),
    )


def _definition(
    tokens: list[str], kinds: list[int], merges: list[str], family: dict[str, Any]
) -> dict[str, Any]:
    """The tokenizer.json of a byte-level BPE."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": token, "special": kind == _CONTROL, **flags}
            for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind in (_CONTROL, _USER_DEFINED)
        ],
        "normalizer": family.get("normalizer"),
        "pre_tokenizer": family.get("pre_tokenizer", _WORDS),
        "post_processor": None,
        "decoder": _WORDS,
        "model": {
            "type": "BPE",
            # What is unused only fills the embedding up.
            "vocab": {
                token: number
                for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
                if kind != _UNUSED
            },
            "merges": merges,
            "ignore_merges": family.get("ignore_merges", False),
        },
    }


class _Metadata:
    """The fields of a GGUF file that describe its tokenizer, each checked when it is read."""

    def __init__(self, path: Path):
        self._path = path
        self._fields = open_gguf(path).fields

    def value(self, name: str, kind: type, default: Any = None, prefix="tokenizer.ggml.") -> Any:
        """A field's value, or the default where it is absent."""
        found = self._fields.get(prefix + name)
        if found is None:
            return default
        found = found.tolist() if isinstance(found, np.ndarray) else found
        if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
            raise ValueError(
                f"{self._path}: {prefix}{name}={found!r:.80}, expected a value of type "
                f"{kind.__name__}"
            )
        return found

    def array(self, name: str, kind: type, default: list[Any] | None = None) -> list[Any]:
        """A list of values of one kind."""
        found = self.value(name, list, default)
        if found is None:
            raise ValueError(f"{self._path} lacks tokenizer.ggml.{name}; is it a vocabulary file?")
        if not all(isinstance(item, kind) for item in found):
            raise ValueError(
                f"{self._path}: expected tokenizer.ggml.{name} to hold values of type "
                f"{kind.__name__}"
            )
        return found

    def choice(self, name: str, known: Any) -> str:
        """A text that must be one of those known."""
        found = self.value(name, str)
        if found not in known:
            raise ValueError(
                f"{self._path}: tokenizer.ggml.{name}={found!r:.80} is not supported (expected "
                f"{', '.join(known)}); use the checkpoint's tokenizer.json instead"
            )
        return found
