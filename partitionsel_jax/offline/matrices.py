"""Matrices in files, of which only the rows asked for are ever in memory.

A .npy file, one tensor of a safetensors file (PATH.safetensors:NAME), or one column of a Parquet
file that has a list of numbers in each row (PATH.parquet:NAME).
"""

import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from pyarrow import parquet
from safetensors import safe_open

from partitionsel_jax.file_errors import check_regular, one_line, reading
from partitionsel_jax.offline.passes import Rows

_LONGEST_HEADER = 1 << 16  # bytes; of a matrix it has some hundred
_SAFETENSORS, _PARQUET = ".safetensors", ".parquet"


def open_matrix(name: str, text: str) -> Rows:
    """Opens a matrix.

    Args:
      name: what messages call it.
      text: PATH.npy, PATH.safetensors:NAME or PATH.parquet:NAME; the name may be left out where
        there is one alone.

    Raises:
      ValueError: no such file, tensor or column, or one that is damaged or no matrix.
    """
    path, part = _split(text)
    if path.suffix == _SAFETENSORS:
        return TensorMatrix(name, path, part)
    if path.suffix == _PARQUET:
        return ColumnMatrix(name, path, part)
    return MappedMatrix(name, text)


def read_values(name: str, text: str) -> np.ndarray:
    """One value for each row: of a .npy file, or a column PATH.parquet:NAME, which may be texts.

    Raises:
      ValueError: no such file or column, or one without a value in some row.
    """
    path, part = _split(text)
    if path.suffix != _PARQUET:
        return load(name, text)
    with reading(path, f"{name}: {path}"):
        file = parquet.ParquetFile(path)
        column = file.read(columns=[_only(name, path, part, file.schema_arrow.names)]).column(0)
        if column.null_count:
            raise ValueError(f"{name}: {text} has no value in {column.null_count} rows; fill it")
        return column.to_numpy()


def _split(text: str) -> tuple[Path, str]:
    """A path, and what in the file is meant; empty where nothing is said."""
    for suffix in (_SAFETENSORS, _PARQUET):
        before, found, part = text.rpartition(f"{suffix}:")
        if found:
            return Path(before + suffix), part
    return Path(text), ""


def _only(name: str, path: Path, part: str, there: list[str]) -> str:
    """The tensor or column that is meant."""
    if part in there or (not part and len(there) == 1):
        return part or there[0]
    shown = ", ".join(sorted(there)[:20]) or "nothing"
    asked = f"no {part!r}" if part else "several"
    raise ValueError(f"{name}: {path} holds {asked}: name one as {path.name}:NAME, of {shown}")


class MappedMatrix:
    """A matrix in a .npy file, of which only the rows asked for are ever in memory.

    Args:
      name: what messages call it.
      path: the file.

    Raises:
      ValueError: no such file, or one that is not a whole .npy array.
    """

    def __init__(self, name: str, path: str | os.PathLike[str]):
        self._name, self._path = name, path
        mapped = load(name, path, mapped=True)
        self.shape, self.dtype = mapped.shape, mapped.dtype

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        # Mapped anew every time: the pages of a mapping that lives on count as this process's.
        return np.array(load(self._name, self._path, mapped=True)[rows])


class TensorMatrix:
    """A tensor of a safetensors file; bfloat16 too.

    Attributes:
      shape, dtype: of the matrix.
    """

    def __init__(self, name: str, path: Path, tensor: str):
        """Opens it; raises ValueError for a file or a tensor that is not there, or damaged."""
        self._path, self._what = path, f"{name}: {path}"
        with reading(path, self._what), safe_open(path, framework="numpy") as file:
            self._tensor = _only(name, path, tensor, list(file.keys()))
            self.shape = tuple(file.get_slice(self._tensor).get_shape())
        if len(self.shape) != 2 or 0 in self.shape:
            raise ValueError(
                f"{name} must be a matrix of shape [rows, dimension], neither of them 0, got shape "
                f"{list(self.shape)} in {path.name}:{self._tensor}."
            )
        self.dtype = self[0:1].dtype

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        # Opened anew every time: what is mapped counts as this process's memory.
        with reading(self._path, self._what), safe_open(self._path, framework="numpy") as file:
            return file.get_slice(self._tensor)[rows]


class ColumnMatrix:
    """A column of a Parquet file, a list of as many numbers in each row.

    Attributes:
      shape, dtype: of the matrix.
    """

    def __init__(self, name: str, path: Path, column: str):
        """Opens it; raises ValueError for a file or a column that is not there, or damaged."""
        self._path, self._what = path, f"{name}: {path}"
        with reading(path, self._what):
            file = parquet.ParquetFile(path)
            self._column = _only(name, path, column, file.schema_arrow.names)
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        self._ends = np.cumsum(sizes, dtype=np.int64)
        # The row group that was read last: slices come in order.
        self._read: tuple[int, np.ndarray] = (-1, np.zeros((0, 0)))
        if not sum(sizes):
            raise ValueError(f"{name} must have rows, got none in {path}.")
        first = self._group(int(np.flatnonzero(sizes)[0]))
        self.shape, self.dtype = (int(self._ends[-1]), first.shape[1]), first.dtype

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        parts = []
        while start < stop:
            group = int(np.searchsorted(self._ends, start, side="right"))
            first = int(self._ends[group - 1]) if group else 0
            found = self._group(group)
            if found.shape[1] != self.shape[1]:
                raise ValueError(
                    f"{self._what}: column {self._column!r} holds lists of {self.shape[1]} and of "
                    f"{found.shape[1]} numbers"
                )
            parts.append(found[start - first : stop - first])
            start = int(self._ends[group])
        return np.concatenate(parts) if parts else np.zeros((0, self.shape[1]), self.dtype)

    def _group(self, number: int) -> np.ndarray:
        if self._read[0] != number:
            with reading(self._path, self._what):
                table = parquet.ParquetFile(self._path).read_row_group(number, [self._column])
                self._read = number, self._matrix(table.column(0).combine_chunks())
        return self._read[1]

    def _matrix(self, lists: Any) -> np.ndarray:
        kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        if not any(kind(lists.type) for kind in kinds):
            raise ValueError(
                f"{self._what}: column {self._column!r} holds {lists.type}, no lists of numbers"
            )
        values = lists.flatten()
        if lists.null_count or values.null_count:
            raise ValueError(
                f"{self._what}: column {self._column!r} lacks numbers in some rows; fill them, or "
                "leave the rows out"
            )
        widths = set(lists.value_lengths().to_pylist())
        if len(widths) > 1:
            raise ValueError(
                f"{self._what}: column {self._column!r} holds lists of {min(widths)} to "
                f"{max(widths)} numbers"
            )
        return values.to_numpy(zero_copy_only=False).reshape(len(lists), -1)


class Part:
    """Neighbouring rows of a matrix, read when they are asked for.

    Attributes:
      shape, dtype: of the part.
    """

    def __init__(self, matrix: Rows, rows: slice):
        self.shape, self.dtype = (rows.stop - rows.start, *matrix.shape[1:]), matrix.dtype
        self._matrix, self._first = matrix, rows.start

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        return self._matrix[self._first + start : self._first + stop]


def load(name: str, path: str | os.PathLike[str], *, mapped: bool = False) -> np.ndarray:
    """An array of a .npy file.

    Raises:
      ValueError: in one line, for a file that is missing, truncated, pickled or of another kind.
    """
    try:
        check_regular(path)
        with open(path, "rb") as file:
            start = file.read(12)
        # A header of gigabytes would be read whole.
        length = int.from_bytes(start[8 : 10 if start[6:7] == b"\x01" else 12], "little")
        if start.startswith(b"\x93NUMPY") and length > _LONGEST_HEADER:
            raise ValueError(f"its header is said to have {length} bytes")
        # Mapped in any case: a file that says more than it holds is not waited for.
        with np.errstate(over="raise"):  # in the product of a shape
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise ValueError(f"{name}: cannot read {path}: {error.strerror or error}.") from None
    except Exception as error:  # whatever a header of nonsense leads to
        # NumPy takes whatever does not begin like a .npy file for a pickle.
        raise ValueError(
            f"{name}: {path} is not a whole .npy file of numbers ({one_line(error)[:200]}); write "
            "it with numpy.save, without objects."
        ) from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(
            f"{name}: {path} holds several arrays (.npz); save the one you mean with numpy.save."
        )
    if array.dtype == np.dtype("V2"):  # as NumPy writes what it does not know
        array = array.view(jnp.bfloat16)
    return array if mapped else np.array(array)
