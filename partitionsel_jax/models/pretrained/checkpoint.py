"""A pretrained checkpoint on disk: what it holds, before and while it is read."""

import dataclasses
import functools
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from partitionsel_jax import data
from partitionsel_jax.file_errors import reading
from partitionsel_jax.models.config import DTYPES, DecoderConfig
from partitionsel_jax.models.pretrained import description, gguf_conversion, weights
from partitionsel_jax.models.pretrained.description import ADAPTER_CONFIG, CONFIG
from partitionsel_jax.models.pretrained.names import Tensor
from partitionsel_jax.models.pretrained.weights import (
    ADAPTER,
    EMBEDDING,
    HEAD,
    INDEX,
    SINGLE,
    SafetensorsFiles,
)

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint whose tensors are all there and have the shapes that its config gives them.

    Attributes:
      path: the directory; of a GGUF file, that of its conversion.
      config: the decoder's, with default numerics.
      tensors: what it holds, and where that belongs.
      source: what reads them.
    """

    path: Path
    config: DecoderConfig
    tensors: Sequence[Tensor] = dataclasses.field(repr=False)
    source: SafetensorsFiles = dataclasses.field(repr=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Checkpoint":
        """Opens a directory in a hub's format, or a GGUF file; weights are not read yet.

        Nothing that a checkpoint holds is executed: JSON, arrays and a sandboxed chat template.

        Raises:
          ValueError: anything that is missing, damaged, unknown or does not fit, by file and
            tensor.
        """
        with reading(path):
            folder = _directory(Path(path))
            config, source = _described(folder), _weights(folder)
            shapes = source.shapes
            repeated = config.tied and {EMBEDDING, HEAD} <= {*shapes}
            if repeated and not source.same(EMBEDDING, source, HEAD):
                # Tying what was trained apart would change the model without a word.
                _LOG.warning(
                    "%s says tie_word_embeddings, and its %s differs from the embedding: it is "
                    "used as it is, untied",
                    folder / CONFIG,
                    HEAD,
                )
                config = dataclasses.replace(config, tied=False)
            # Some checkpoints repeat the embedding as the head that is tied to it.
            ignored = (HEAD,) if config.tied else ()
            tensors = weights.check_model(config, shapes, source.where, folder, ignored)
        return cls(folder, config, tensors, source)

    def parameters(self, dtype: str) -> dict[str, Any]:
        """Reads all weights onto the default device; see `weights.read`.

        Args:
          dtype: "float32" or "bfloat16", of the parameters.
        """
        return weights.read(self.tensors, self.source, DTYPES[dtype])

    @property
    def has_tokenizer(self) -> bool:
        """True if it comes with a vocabulary: weights alone are enough for logits."""
        return (self.path / "tokenizer.json").exists()

    @functools.cached_property
    def tokenizer(self) -> data.Tokenizer:
        """The checkpoint's own tokenizer.

        Raises:
          ValueError: there is none, or it has ids past the embedding's rows.
        """
        with reading(self.path):
            files = sorted(self.path.glob("*.json")) + sorted(self.path.glob("*.jinja"))
            states = tuple((s.st_mtime_ns, s.st_size) for s in (file.stat() for file in files))
            tokenizer = _tokenizer(self.path, states)
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
    with reading(path):
        folder = _directory(Path(path))
        return Checkpoint.open(folder).config if _weight_files(folder) else _described(folder)


def _directory(path: Path) -> Path:
    """The directory of a checkpoint, into which a GGUF file is converted first."""
    if path.is_dir():
        return path
    if path.suffix != ".gguf" or not path.is_file():
        raise ValueError(f"{path}: expected a checkpoint directory or a .gguf file")
    return gguf_conversion.directory_of(path)


def _described(path: Path) -> DecoderConfig:
    """The decoder of a directory's config.json; an adapter, which is no model, is refused."""
    adapter = next((name for name in (ADAPTER_CONFIG, ADAPTER) if (path / name).exists()), None)
    if adapter is None:
        return description.decoder_config(description.read_json(path / CONFIG), str(path / CONFIG))
    if files := _weight_files(path):
        raise ValueError(
            f"{path} holds an adapter ({adapter}) beside a model's weights ({files[0]}), and one "
            "of them would be dropped: if the weights have it merged in, delete the adapter's "
            "files here; if not, move them to a folder of their own, and give that as the adapter"
        )
    base = description.read_json(path / ADAPTER_CONFIG).get("base_model_name_or_path")
    raise ValueError(
        f"{path} holds a LoRA adapter ({adapter}), not a model: give its base "
        f"{f'{base!r:.200}' if base else ''} as the model and this folder as the adapter "
        "(--model=BASE --adapter=FOLDER, or models.load(BASE, adapter=FOLDER))"
    )


def _weight_files(path: Path) -> list[str]:
    """The files of a directory that say which tensors there are."""
    return [name for name in (INDEX, SINGLE) if (path / name).exists()]


def _weights(path: Path) -> SafetensorsFiles:
    """A directory's weights, which may lie there in one file or in shards, or twice the same."""
    sources = [SafetensorsFiles(path, name) for name in _weight_files(path)]
    if not sources:
        raise ValueError(
            f"{path} holds neither {SINGLE} nor {INDEX}: expected a checkpoint in safetensors "
            "format"
        )
    first, last = sources[0], sources[-1]
    if first is not last and not (
        first.shapes.keys() == last.shapes.keys()
        and all(first.same(name, last, name) for name in sorted(first.shapes))
    ):
        raise ValueError(
            f"{path} holds {SINGLE} and {INDEX}, whose weights differ: one of them is left from "
            "an earlier save; remove the one that is not meant, an index with its shards"
        )
    if unread := first.unread & last.unread:
        description.report_once(f"{path}: files of weights that are not read: {sorted(unread)}")
    return first


@functools.lru_cache(maxsize=4)
def _tokenizer(path: Path, states: tuple[Any, ...]) -> data.Tokenizer:
    """Remembered while its files stay as they are, since large vocabularies take seconds."""
    del states
    return data.load_tokenizer(path)
