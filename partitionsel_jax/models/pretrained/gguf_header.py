"""The header of a GGUF file (llama.cpp's format), and its tensors, mapped into memory.

It is read here rather than by the `gguf` package, which believes every count: a list that is said
to have 2^60 entries keeps it busy for ever.
"""

import math
import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from partitionsel_jax.file_errors import one_line

_TEXT, _LIST, _FLOAT32 = 8, 9, 6
# Kind of a scalar -> its code in `struct`.
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_PLAIN = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
_MOST_VALUES = 1 << 22  # in all lists; the largest vocabularies have a third of it
_MOST_DIMENSIONS = 4


class GGUFTensor(NamedTuple):
    """A tensor as it is stored.

    Attributes:
      kind: its type, "F32" or "Q4_0", say.
      shape: rows first.
      data: rows first; blocks of quantised kinds are bytes.
    """

    kind: str
    shape: tuple[int, ...]
    data: np.ndarray

    @property
    def quantised(self) -> bool:
        return self.kind not in _PLAIN


def read(path: Path) -> tuple[dict[str, Any], dict[str, GGUFTensor]]:
    """The metadata and the tensors of a file, by name.

    Raises:
      ValueError: a file that is missing, damaged, or of another format.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing, or no file")
    try:
        with open(path, "rb") as file:
            return _content(_Walk(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    except PermissionError:
        raise
    except Exception as error:  # whatever a damaged header leads to
        raise ValueError(
            f"{path} cannot be read ({one_line(error)}): it is cut short, damaged, or no GGUF "
            "file of version 2 or 3; fetch it again"
        ) from None


class _Walk:
    """A walk through a file that believes no count which the rest of the file cannot hold."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at, self._listed = data, 0, 0

    def take(self, size: int) -> int:
        """Steps over `size` bytes and returns where they begin."""
        start = self.at
        if size > len(self.data) - start:
            raise ValueError(f"{size} bytes are said to follow byte {start}, past the file's end")
        self.at += size
        return start

    def number(self, code: str) -> Any:
        """Reads a little-endian number."""
        size = struct.calcsize("<" + code)
        return struct.unpack_from("<" + code, self.data, self.take(size))[0]

    def text(self) -> str:
        size = self.number("Q")
        start = self.take(size)
        return self.data[start : start + size].decode("utf-8", "surrogateescape")

    def value(self, kind: int) -> Any:
        """Reads a value of the metadata."""
        if kind == _TEXT:
            return self.text()
        if kind == _LIST:
            kind, count = self.number("I"), self.number("Q")
            self._listed += count
            if self._listed > _MOST_VALUES:
                raise ValueError(f"its metadata is said to list more than {_MOST_VALUES} values")
            return [self.value(kind) for _ in range(count)]
        if kind not in _SCALARS:
            raise ValueError(f"its metadata has a value of the unknown kind {kind}")
        found = self.number(_SCALARS[kind])
        # Of a float32 the shortest decimal is meant: 1e-5 rather than 9.999999747e-06.
        return float(str(np.float32(found))) if kind == _FLOAT32 else found


def _content(walk: _Walk) -> tuple[dict[str, Any], dict[str, GGUFTensor]]:
    import gguf  # imported late: many a run never sees such a file

    if walk.data[: walk.take(4) + 4] != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    if (version := walk.number("I")) not in (2, 3):
        raise ValueError(f"version {version} where 2 or 3 is expected, little-endian")
    tensor_count, field_count = walk.number("Q"), walk.number("Q")
    fields: dict[str, Any] = {}
    for _ in range(field_count):
        if (name := walk.text()) in fields:
            raise ValueError(f"its field {name!r:.80} is there twice")
        fields[name] = walk.value(walk.number("I"))
    places: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(tensor_count):
        name, dimensions = walk.text(), walk.number("I")
        if name in places:
            raise ValueError(f"its tensor {name!r:.80} is there twice")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise ValueError(f"its tensor {name!r:.80} is said to have {dimensions} dimensions")
        shape = tuple(walk.number("Q") for _ in range(dimensions))[::-1]
        places[name] = shape, walk.number("I"), walk.number("Q")
    alignment = fields.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"general.alignment={alignment!r:.80} is no number of bytes")
    start = -(-walk.at // alignment) * alignment
    tensors: dict[str, GGUFTensor] = {}
    for name, (shape, number, offset) in places.items():
        kind = gguf.GGMLQuantizationType(number)
        block, size = gguf.GGML_QUANT_SIZES[kind]
        if shape[-1] % block:
            raise ValueError(
                f"its tensor {name!r:.80} has rows that are no whole blocks of {kind.name}"
            )
        plain = _PLAIN.get(kind.name)
        stored = shape if plain else (*shape[:-1], shape[-1] // block * size)
        dtype, count = np.dtype(plain or np.uint8), math.prod(stored)
        if start + offset + count * dtype.itemsize > len(walk.data):
            raise ValueError(f"its tensor {name!r:.80} reaches past the file's end")
        data = np.frombuffer(walk.data, dtype, count, start + offset).reshape(stored)
        tensors[name] = GGUFTensor(kind.name, shape, data)
    return fields, tensors
