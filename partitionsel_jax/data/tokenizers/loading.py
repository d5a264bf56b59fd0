"""Where a checkpoint's tokenizer comes from."""

import os

from etils import epath

from partitionsel_jax.data.tokenizers.gguf_file import read_gguf
from partitionsel_jax.data.tokenizers.hub import read_directory
from partitionsel_jax.data.tokenizers.subword import SubwordTokenizer
from partitionsel_jax.file_errors import reading


def load_tokenizer(path: str | os.PathLike[str]) -> SubwordTokenizer:
    """The tokenizer of a checkpoint.

    Args:
      path: a directory in a hub's format (tokenizer.json and tokenizer_config.json; where they are
        there, special_tokens_map.json, chat_template.jinja and generation_config.json), or a GGUF
        file with byte-level BPE.

    Raises:
      ValueError: a file that is missing, damaged or of an unsupported kind, or that names tokens
        which the vocabulary does not have, by file.
    """
    with reading(path):
        found = epath.Path(path)
        if found.is_dir():
            return read_directory(found)
        if found.suffix == ".gguf":
            return read_gguf(found)
        raise ValueError(
            f"expected a directory with a tokenizer.json, or a .gguf file, got "
            f"{os.fspath(path)!r}, which {'is neither' if found.exists() else 'does not exist'}"
        )
