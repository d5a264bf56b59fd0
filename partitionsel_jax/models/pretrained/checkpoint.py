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
from partitionsel_jax.models.pretrained import description, importing, names
from partitionsel_jax.models.pretrained.description import ADAPTER_CONFIG, CONFIG
from partitionsel_jax.models.pretrained.gguf_file import GGUFFile
from partitionsel_jax.models.pretrained.safetensors_files import (
    ADAPTER,
    INDEX,
    SINGLE,
    SafetensorsFiles,
)

TOKENIZER = "tokenizer.json"
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"

_LOG = logging.getLogger(__name__)


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
        with reading(path):
            config, source = _opened(path)
            expected = names.tensors(config, gguf=not path.is_dir())
            # Some checkpoints repeat the embedding as the head that is tied to it.
            importing.check(expected, source, ignored=(_HEAD,) if config.tied else ())
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
        with reading(self.path):
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
    with reading(path):
        if path.is_dir() and not _weight_files(path):
            return _described(path)
        return _opened(path)[0]


def _opened(path: Path) -> tuple[DecoderConfig, importing.Tensors]:
    """The decoder as its files bear it out, and what reads its tensors."""
    source: importing.Tensors
    if path.is_dir():
        config, source = _described(path), _weights(path)
    else:
        if path.suffix != ".gguf" or not path.is_file():
            raise ValueError(f"{path}: expected a checkpoint directory or a .gguf file")
        source = GGUFFile(path)
        config = source.config
    held = set(source.names())
    # Before anything is made for each of the layers.
    if config.layers > len(held):
        raise ValueError(
            f"{path} is said to have {config.layers} layers, and holds {len(held)} tensors in "
            "all: the checkpoint is not complete, or its config describes another"
        )
    repeated = config.tied and {_EMBEDDING, _HEAD} <= held
    if repeated and not importing.equal(source, _EMBEDDING, source, _HEAD):
        # What was trained apart is meant: tying it again would change the model without a word.
        _LOG.warning(
            "%s says tie_word_embeddings, and its %s differs from the embedding: it is used as it "
            "is, untied",
            path / CONFIG,
            _HEAD,
        )
        config = dataclasses.replace(config, tied=False)
    return config, source


def _described(path: Path) -> DecoderConfig:
    """The decoder that a directory's config.json describes."""
    adapter = next((name for name in (ADAPTER_CONFIG, ADAPTER) if (path / name).exists()), None)
    if adapter is not None:
        _refuse_adapter(path, adapter)
    file = path / CONFIG
    return description.decoder_config(description.read_json(file), str(file))


def _refuse_adapter(path: Path, adapter: str) -> None:
    """Says what to do with an adapter that was given as a model."""
    if weights := _weight_files(path):
        raise ValueError(
            f"{path} holds an adapter ({adapter}) beside a model's weights ({weights[0]}), and one "
            "of them would be dropped: if the weights have it merged in, delete the adapter's "
            "files here; if not, move them to a folder of their own, and give that as the adapter"
        )
    content = description.read_json(path / ADAPTER_CONFIG)
    base = content.get("base_model_name_or_path")
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
    held = set(first.names())
    same = held == set(last.names()) and all(
        first is last or importing.equal(first, name, last, name) for name in sorted(held)
    )
    if not same:
        raise ValueError(
            f"{path} holds {SINGLE} and {INDEX}, whose weights differ: one of them is left from "
            "an earlier save; remove the one that is not meant, an index with its shards"
        )
    if unread := set.intersection(*(set(source.unread) for source in sources)):
        description.report_once(f"{path}: files of weights that are not read: {sorted(unread)}")
    return first


def _state(path: Path) -> tuple[int, ...]:
    """What changes when a file does, or one of the small ones in a directory."""
    files = sorted(path.glob("*.json")) + sorted(path.glob("*.jinja")) if path.is_dir() else [path]
    return tuple(n for file in files for n in (file.stat().st_mtime_ns, file.stat().st_size))


@functools.lru_cache(maxsize=4)
def _tokenizer(path: Path, *state: int) -> data.SubwordTokenizer:
    """Remembered while its files stay as they are, since large vocabularies take seconds."""
    del state
    return data.load_tokenizer(path)
