"""A pretrained checkpoint on disk: what it holds, before and while it is read."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from partitionsel_jax import data
from partitionsel_jax.models.config import DTYPES, DecoderConfig
from partitionsel_jax.models.pretrained import description, importing, names
from partitionsel_jax.models.pretrained.gguf_file import GGUFFile
from partitionsel_jax.models.pretrained.safetensors_files import SafetensorsFiles

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint whose tensors are all there and have the shapes that its config gives them.

    Attributes:
      path: the directory, or the GGUF file.
      config: the decoder's, with default numerics.
      tensors: what it holds, and where that belongs.
      source: what reads them.
    """

    path: Path
    config: DecoderConfig
    tensors: Sequence[names.Tensor] = dataclasses.field(repr=False)
    source: importing.Tensors = dataclasses.field(repr=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Checkpoint":
        """Opens a directory in a hub's format, or a GGUF file; weights are not read yet.

        Nothing that a checkpoint holds is executed: JSON, arrays and a sandboxed chat template.

        Raises:
          ValueError: anything that is missing, damaged, unknown or does not fit, by file and
            tensor.
        """
        path = Path(path)
        config = describe(path)
        source: importing.Tensors = SafetensorsFiles(path) if path.is_dir() else _gguf(path)
        expected = names.tensors(config, gguf=not path.is_dir())
        # Some checkpoints repeat the embedding as the head that is tied to it.
        importing.check(expected, source, ignored=("lm_head.weight",) if config.tied else ())
        return cls(path, config, expected, source)

    def parameters(self, dtype: str) -> dict[str, Any]:
        """Reads all weights onto the default device; see `importing.read`.

        Args:
          dtype: "float32" or "bfloat16", of the parameters.
        """
        return importing.read(self.tensors, self.source, DTYPES[dtype])

    @property
    def has_tokenizer(self) -> bool:
        """Whether it comes with one: weights alone are enough for logits."""
        if isinstance(self.source, GGUFFile):
            return self.source.has_tokenizer
        return (self.path / TOKENIZER).exists()

    @functools.cached_property
    def tokenizer(self) -> data.SubwordTokenizer:
        """The checkpoint's own tokenizer.

        Raises:
          ValueError: there is none, or it has ids past the embedding's rows.
        """
        tokenizer = _tokenizer(self.path, *_state(self.path))
        if tokenizer.vocab_size > self.config.vocab_size:
            raise ValueError(
                f"{self.path}: the tokenizer has {tokenizer.vocab_size} ids and the embedding "
                f"{self.config.vocab_size} rows; one of them belongs to another model"
            )
        if (last := max(tokenizer.stop_ids)) >= self.config.vocab_size:
            raise ValueError(
                f"{self.path}: generation_config.json ends answers at token {last}, and the "
                f"embedding has {self.config.vocab_size} rows; correct it"
            )
        return tokenizer


def describe(path: str | os.PathLike[str]) -> DecoderConfig:
    """The decoder of a checkpoint directory or GGUF file, with default numerics."""
    path = Path(path)
    if path.is_dir():
        file = path / CONFIG
        return description.decoder_config(description.read_json(file), str(file))
    return _gguf(path).config


def _gguf(path: Path) -> GGUFFile:
    if path.suffix != ".gguf" or not path.is_file():
        raise ValueError(f"{path}: expected a checkpoint directory or a .gguf file")
    return GGUFFile(path)


def _state(path: Path) -> tuple[int, ...]:
    """What changes when a file does, or one of the small ones in a directory."""
    files = sorted(path.glob("*.json")) + sorted(path.glob("*.jinja")) if path.is_dir() else [path]
    return tuple(n for file in files for n in (file.stat().st_mtime_ns, file.stat().st_size))


@functools.lru_cache(maxsize=4)
def _tokenizer(path: Path, *state: int) -> data.SubwordTokenizer:
    """Remembered while its files stay as they are, since large vocabularies take seconds."""
    del state
    return data.load_tokenizer(path)
