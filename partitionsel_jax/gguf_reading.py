"""GGUF files (llama.cpp's format), for their tensors and for their tokenizer alike.

The header is read here rather than by the `gguf` package, which believes every count in it: a list
that is said to have 2^60 entries keeps it busy for ever, and half a million tokens for ten seconds.
"""

import dataclasses
import functools
import math
import mmap
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from partitionsel_jax.file_errors import one_line

_TEXT, _LIST = 8, 9
# Kind of a value -> its code, which `struct` and NumPy share.
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_PLAIN = {"F32": "<f4", "F16": "<f2"}
_MOST_TEXTS = 1 << 22  # in all lists; the largest vocabularies have a quarter of it
_MOST_DIMENSIONS = 4


class _NotRead(ValueError):
    """The file may be whole, and is of a kind that is not read."""


@dataclasses.dataclass(frozen=True, eq=False)
class GGUFTensor:
    """A tensor as it is stored.

    Attributes:
      kind: its type, "F32" or "Q4_0", say.
      shape: rows first.
      data: mapped into memory; rows first. Blocks of quantised kinds are bytes.
    """

    kind: str
    shape: tuple[int, ...]
    data: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class GGUF:
    """What a file holds: its metadata (lists of numbers as arrays), and its tensors by name."""

    fields: Mapping[str, Any]
    tensors: Mapping[str, GGUFTensor]


def open_gguf(path: str | os.PathLike[str]) -> GGUF:
    """What a file holds; the same object while the file stays as it is.

    Raises:
      ValueError: a file that is missing, damaged, or of another format.
    """
    path = Path(path)  # a local one, since the file is mapped into memory
    if not path.is_file():
        raise ValueError(f"{path} is missing, or no file")
    status = path.stat()
    return _opened(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=4)
def _opened(path: Path, *state: int) -> GGUF:
    """Remembered, since models and tokenizers both ask, and vocabularies are large."""
    del state
    try:
        with open(path, "rb") as file:
            return _read(_Walk(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    except PermissionError:
        raise
    except _NotRead as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:  # whatever a damaged header leads to
        raise ValueError(
            f"{path} cannot be read ({one_line(error)}): it is cut short, damaged, or no GGUF "
            "file; fetch it again"
        ) from None


class _Walk:
    """A walk through a file that believes no count which the rest of the file cannot hold."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at, self._texts = data, 0, 0

    def take(self, size: int) -> int:
        """Where the next so many bytes begin."""
        start = self.at
        if size > len(self.data) - start:
            raise ValueError(f"{size} bytes are said to follow byte {start}, past the file's end")
        self.at += size
        return start

    def number(self, code: str) -> Any:
        """A little-endian number."""
        size = struct.calcsize("<" + code)
        return struct.unpack_from("<" + code, self.data, self.take(size))[0]

    def text(self) -> str:
        size = self.number("Q")
        start = self.take(size)
        return self.data[start : start + size].decode("utf-8", "surrogateescape")

    def value(self, kind: int) -> Any:
        """A value of the metadata."""
        if kind == _TEXT:
            return self.text()
        if kind == _LIST:
            return self.list_of(self.number("I"), self.number("Q"))
        if kind not in _SCALARS:
            raise ValueError(f"its metadata has a value of the unknown kind {kind}")
        return self.number(_SCALARS[kind])

    def list_of(self, kind: int, count: int) -> Any:
        if kind in _SCALARS:
            dtype = np.dtype("<" + _SCALARS[kind])
            return np.frombuffer(self.data, dtype, count, self.take(count * dtype.itemsize))
        self._texts += count
        if self._texts > _MOST_TEXTS:
            raise ValueError(f"its metadata is said to list more than {_MOST_TEXTS} texts")
        return [self.value(kind) for _ in range(count)]


def _read(walk: _Walk) -> GGUF:
    if walk.data[:4] != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    walk.take(4)
    if (version := walk.number("I")) not in (2, 3):
        raise _NotRead(f"version {version} where 2 or 3 is expected, little-endian")
    tensor_count, field_count = walk.number("Q"), walk.number("Q")
    fields: dict[str, Any] = {}
    for _ in range(field_count):
        name = walk.text()
        if name in fields:
            raise ValueError(f"its field {name!r:.80} is there twice")
        fields[name] = walk.value(walk.number("I"))
    places = [_place(walk) for _ in range(tensor_count)]
    alignment = fields.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"general.alignment={alignment!r:.80} is no number of bytes")
    start = -(-walk.at // alignment) * alignment
    tensors = {}
    for name, shape, kind, offset in places:
        if name in tensors:
            raise ValueError(f"its tensor {name!r:.80} is there twice")
        tensors[name] = _tensor(walk.data, name, shape, kind, start + offset)
    return GGUF(fields, tensors)


def _place(walk: _Walk) -> tuple[str, tuple[int, ...], int, int]:
    """A tensor's name, shape, kind and offset."""
    name, dimensions = walk.text(), walk.number("I")
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise ValueError(
            f"its tensor {name!r:.80} has {dimensions} dimensions where 1 to {_MOST_DIMENSIONS} "
            "are expected"
        )
    shape = tuple(walk.number("Q") for _ in range(dimensions))[::-1]
    return name, shape, walk.number("I"), walk.number("Q")


def _tensor(
    data: mmap.mmap, name: str, shape: tuple[int, ...], number: int, start: int
) -> GGUFTensor:
    # Imported late: many a run never sees such a file.
    import gguf

    kind = gguf.GGMLQuantizationType(number)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    if shape[-1] % block:
        raise ValueError(
            f"its tensor {name!r:.80} has rows that are no whole blocks of {kind.name}"
        )
    plain = _PLAIN.get(kind.name)
    dtype = np.dtype(plain or np.uint8)
    stored = shape if plain else (*shape[:-1], shape[-1] // block * size)
    count = math.prod(stored)
    if start + count * dtype.itemsize > len(data):
        raise ValueError(f"its tensor {name!r:.80} reaches past the file's end")
    return GGUFTensor(kind.name, shape, np.frombuffer(data, dtype, count, start).reshape(stored))
