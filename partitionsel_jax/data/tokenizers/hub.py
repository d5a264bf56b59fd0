"""Tokenizers of checkpoint directories in a hub's format."""

from typing import Any

from etils import epath

from partitionsel_jax.data.tokenizers.post_processing import puts_in_front
from partitionsel_jax.data.tokenizers.subword import SubwordTokenizer
from partitionsel_jax.json_files import read_object, read_text


def read_directory(directory: epath.Path) -> SubwordTokenizer:
    """The tokenizer of a checkpoint directory; see `load_tokenizer`.

    Raises:
      ValueError: a file that is missing, damaged, or not what is expected, by name.
    """
    path = directory / "tokenizer.json"
    if not path.exists():
        other = directory / "tokenizer.model"
        reason = f"{other} is a SentencePiece model, which is not supported; " * other.exists()
        raise ValueError(
            f"{path} is missing; {reason}save the tokenizer as a tokenizer.json, or fetch the "
            "checkpoint again"
        )
    definition = read_text(path)
    content = read_object(path, definition)
    config_path = directory / "tokenizer_config.json"
    config = _optional(config_path)
    names = _optional(directory / "special_tokens_map.json")
    tokens = {
        name: _text(config.get(name), config_path) or _text(names.get(name), config_path)
        for name in ("bos_token", "eos_token", "pad_token")
    }
    eos_token = tokens.pop("eos_token")
    if eos_token is None:
        raise ValueError(f"{config_path} names no eos_token, which has to close every response")
    begins_rows = config.get("add_bos_token")
    if begins_rows is None:
        begins_rows = puts_in_front(content.get("post_processor"), tokens["bos_token"])
    if not isinstance(begins_rows, bool):
        raise ValueError(
            f"{config_path}: expected add_bos_token to be true, false or null, got "
            f"{begins_rows!r:.80}"
        )
    # transformers 5 has another name for them, and allows names of their own.
    more = config.get("additional_special_tokens") or config.get("extra_special_tokens") or ()
    more = list(more.values()) if isinstance(more, dict) else more
    if not isinstance(more, list | tuple):
        raise ValueError(f"{config_path}: expected a list of special tokens, got {more!r:.80}")
    return SubwordTokenizer(
        definition,
        eos_token,
        **tokens,
        begins_rows=begins_rows,
        special_tokens=[text for token in more if (text := _text(token, config_path))],
        chat_template=_chat_template(directory / "chat_template.jinja", config, config_path),
        further_stops=_stops(directory / "generation_config.json"),
        origin=str(path),
    )


def _optional(path: epath.Path) -> dict[str, Any]:
    """The JSON object of a file; empty without the file."""
    return read_object(path) if path.exists() else {}


def _text(token: Any, path: epath.Path) -> str | None:
    """The text of a token: a string, an object with a "content", or null."""
    text = token.get("content") if isinstance(token, dict) else token
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{path}: expected a token's text, got {token!r:.80}")
    return text


def _chat_template(path: epath.Path, config: dict[str, Any], config_path: epath.Path) -> str | None:
    """The template in a file of its own, or the config's; of several, the one named "default"."""
    if path.exists():
        return read_text(path)
    found = config.get("chat_template")
    if isinstance(found, list):
        named = [entry for entry in found if isinstance(entry, dict)]
        found = next((e.get("template") for e in named if e.get("name") == "default"), None)
    if found is not None and not isinstance(found, str):
        raise ValueError(f"{config_path}: expected chat_template to be text, got {found!r:.80}")
    return found


def _stops(path: epath.Path) -> tuple[int, ...]:
    """The tokens at which generation_config.json ends an answer."""
    found = _optional(path).get("eos_token_id")
    ids = () if found is None else tuple(found) if isinstance(found, list) else (found,)
    if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
        raise ValueError(f"{path}: expected eos_token_id to be token ids, got {found!r:.80}")
    return ids
