"""The tokenizer of a checkpoint directory in a hub's format.

`transformers` reads such directories, too, and is not used for it: it gives every token that a
config names and the vocabulary lacks an id past the embedding's rows, switches one shared tokenizer
to and fro between content and markup, and takes seconds to import. What it stands on, the package
`tokenizers`, does the work here as well.
"""

import os
from typing import Any

from etils import epath

from partitionsel_jax.data.tokenizers.byte_level import ByteTokenizer
from partitionsel_jax.data.tokenizers.subword import SubwordTokenizer
from partitionsel_jax.file_errors import reading
from partitionsel_jax.json_files import read_object, read_text


def load_tokenizer(directory: str | os.PathLike[str]) -> ByteTokenizer | SubwordTokenizer:
    """Loads the tokenizer of a checkpoint.

    Args:
      directory: with tokenizer.json and tokenizer_config.json; special_tokens_map.json,
        chat_template.jinja and generation_config.json are read where they are there. Of the
        byte-level tokenizer, tokenizer_config.json names the class, and there is no more.

    Raises:
      ValueError: a file that is missing, damaged or of an unsupported kind, or that names tokens
        which the vocabulary does not have, by file.
    """
    with reading(directory):
        folder = epath.Path(directory)
        if not folder.is_dir():
            raise ValueError(
                f"expected a directory with a tokenizer.json, got {os.fspath(directory)!r}, which "
                f"{'is no directory' if folder.exists() else 'does not exist'}"
                f"{'; models.load reads GGUF files' * (folder.suffix == '.gguf')}"
            )
        path = folder / "tokenizer.json"
        if not path.exists():
            named = _optional(folder / "tokenizer_config.json").get("tokenizer_class")
            if named == ByteTokenizer.__name__:
                return ByteTokenizer()
            other = folder / "tokenizer.model"
            reason = f"{other} is a SentencePiece model, which is not supported; " * other.exists()
            raise ValueError(
                f"{path} is missing; {reason}save the tokenizer as a tokenizer.json, or fetch the "
                "checkpoint again"
            )
        return _read(folder)


def _read(folder: epath.Path) -> SubwordTokenizer:
    path, where = folder / "tokenizer.json", folder / "tokenizer_config.json"
    read_object(path)
    config, names = _optional(where), _optional(folder / "special_tokens_map.json")
    tokens = {
        name: _text(config.get(name), where) or _text(names.get(name), where)
        for name in ("bos_token", "eos_token", "pad_token")
    }
    if (eos_token := tokens.pop("eos_token")) is None:
        raise ValueError(f"{where} names no eos_token, which has to close every response")
    # transformers 5 has another name for them, and allows names of their own.
    more = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
    more = list(more.values()) if isinstance(more, dict) else more
    _check(isinstance(more, list), "a list of special tokens", more, where)
    template = config.get("chat_template")
    if (file := folder / "chat_template.jinja").exists():
        template = read_text(file)
    elif isinstance(template, list):  # of several, the one named "default"
        named = [entry for entry in template if isinstance(entry, dict)]
        template = next((e.get("template") for e in named if e.get("name") == "default"), None)
    _check(isinstance(template, str | None), "chat_template to be text", template, where)
    begins = config.get("add_bos_token")
    _check(
        isinstance(begins, bool | None), "add_bos_token to be true, false or null", begins, where
    )
    generation = folder / "generation_config.json"
    found = _optional(generation).get("eos_token_id")
    stops = () if found is None else tuple(found) if isinstance(found, list) else (found,)
    are_ids = all(type(i) is int and i >= 0 for i in stops)
    _check(are_ids, "eos_token_id to be token ids", found, generation)
    return SubwordTokenizer(
        read_text(path),
        eos_token,
        **tokens,
        begins_rows=begins,
        special_tokens=[text for token in more if (text := _text(token, where))],
        chat_template=template,
        further_stops=stops,
        origin=str(path),
    )


def _optional(path: epath.Path) -> dict[str, Any]:
    """Reads the JSON object of a file; empty without the file."""
    return read_object(path) if path.exists() else {}


def _text(token: Any, path: epath.Path) -> str | None:
    """Returns the text of a token: a string, an object with a "content", or null."""
    text = token.get("content") if isinstance(token, dict) else token
    _check(isinstance(text, str | None), "a token's text", token, path)
    return text


def _check(is_right: bool, expected: str, value: Any, path: epath.Path) -> None:
    if not is_right:
        raise ValueError(f"{path}: expected {expected}, got {value!r:.80}")
