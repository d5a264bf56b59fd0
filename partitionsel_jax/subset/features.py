"""Gradient features of every row of a table, in shards on disk that a stopped pass goes on with.

A folder holds a manifest and, for every so many rows, two .npy files: `features-00000.npy`
float32[R, M], the sketched gradients as they are, and `rows-00000.npy`, a structured array of each
row's index in the table, loss and gradient norm, and a digest of the manifest. A shard in progress
has ".part" in its names; a row counts once its `done` is set, which is after its features were
written.
"""

import dataclasses
import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from partitionsel_jax import gradients, models
from partitionsel_jax.config.sections import FeatureSettings
from partitionsel_jax.data.rows import Rows
from partitionsel_jax.distributed import spmd
from partitionsel_jax.json_files import read_json, write_json
from partitionsel_jax.offline.passes import scaled
from partitionsel_jax.step import programs
from partitionsel_jax.subset.table import Table

_LOG = logging.getLogger(__name__)

MANIFEST = "manifest.json"
SHARD_ROWS = 4096
# Seconds between two lines on how far a pass is.
_TELL_S = 10.0
_ABOUT = np.dtype(
    [("row", "<i8"), ("loss", "<f4"), ("norm", "<f4"), ("manifest", "<u8"), ("done", "?")]
)


@dataclasses.dataclass(frozen=True, eq=False)
class Extractor:
    """Computes features of rows.

    Attributes:
      model, parameters: what is differentiated; parameters lie on the devices.
      scope, settings: which of its parameters, and how.
      layout: the devices.
      widths: ascending tokens that batches may have; the last one is that of the longest row.
    """

    model: models.Model
    parameters: Any
    scope: gradients.Scope
    settings: FeatureSettings
    layout: spmd.Layout
    widths: tuple[int, ...]

    @property
    def batch(self) -> int:
        """Rows of a batch."""
        return self.settings.microbatch * len(self.layout.devices)

    def __call__(self, rows: Rows) -> gradients.Features:
        """Features of one batch, on the host."""
        program = programs.features(self.model, self.scope, self.settings, self.layout)
        inputs = self.parameters, self.layout.rows(self.layout.part(rows))
        return jax.device_get(program(*inputs))

    @property
    def dim(self) -> int:
        """M."""
        return self.settings.dim


class Shards:
    """Features on disk, as a matrix whose slices are read when they are asked for.

    Attributes:
      shape, dtype: of the matrix.
    """

    def __init__(self, folder: Path, rows: int, dim: int):
        self.shape: tuple[int, int] = (rows, dim)
        self.dtype: np.dtype = np.dtype(np.float32)
        self._folder = folder

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Reads rows start .. stop."""
        start, stop, _ = rows.indices(self.shape[0])
        parts = [
            _mapped(self._folder / name(number))[max(0, start - first) : stop - first]
            for number in range(start // SHARD_ROWS, -(-stop // SHARD_ROWS))
            for first in (number * SHARD_ROWS,)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.shape[1]), np.float32)


class Kept:
    """Some rows of a matrix, as a matrix.

    Attributes:
      shape, dtype: of it.
    """

    def __init__(self, matrix: "Matrix", indices: np.ndarray):
        """Takes the rows at `indices`, ascending."""
        self.shape: tuple[int, int] = (len(indices), matrix.shape[1])
        self.dtype: np.dtype = matrix.dtype
        self._matrix, self._indices = matrix, indices

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Reads the rows between the first and the last that are asked for."""
        wanted = self._indices[rows]
        if not len(wanted):
            return np.zeros((0, self.shape[1]), self.dtype)
        first = int(wanted[0])
        return self._matrix[first : int(wanted[-1]) + 1][wanted - first]


class Joined:
    """Features of the same rows by several models: each model's of unit norm, side by side.

    An inner product of two rows is then the sum of the models' cosines.

    Attributes:
      shape, dtype: of the matrix.
    """

    def __init__(self, matrices: "Sequence[Matrix]"):
        dim = sum(matrix.shape[1] for matrix in matrices)
        self.shape: tuple[int, int] = (matrices[0].shape[0], dim)
        self.dtype: np.dtype = np.dtype(np.float32)
        self._matrices = matrices

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Reads the rows of every model."""
        return np.concatenate([scaled(part[rows], unit=True) for part in self._matrices], axis=1)


Matrix = Shards | Kept | Joined


def name(number: int, what: str = "features") -> str:
    """The file of a shard."""
    return f"{what}-{number:05d}.npy"


def compute(
    folder: Path,
    table: Table,
    extractor: Extractor,
    manifest: Mapping[str, Any],
    pad: int,
    what: str,
    part: tuple[int, int] = (1, 1),
) -> None:
    """Computes the shards of a table that are not there yet.

    Args:
      folder: of the shards.
      table: the rows.
      extractor: computes them.
      manifest: everything that features depend on, as JSON values.
      pad: the token that fills rows up.
      what: what the rows are, for the log.
      part: (I, N), the Ith of N parts of the shards, I from 1.

    Raises:
      ValueError: the folder holds features of something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digest = claim(folder, {**manifest, "rows": len(table), "shard_rows": SHARD_ROWS})
    total = -(-len(table) // SHARD_ROWS)
    mine = [number for number in range(total) if number % part[1] == part[0] - 1]
    progress = _Progress(what, sum(_rows_of(table, number) for number in mine))
    for number in mine:
        if not _lacks(folder, number):
            _check_shard(folder, number, digest)
            progress.had(_rows_of(table, number))
            continue
        first = number * SHARD_ROWS
        indices = np.arange(first, first + _rows_of(table, number))
        _compute_shard(folder, number, indices, table, extractor, pad, digest, progress)


def claim(folder: Path, manifest: Mapping[str, Any]) -> int:
    """Writes a folder's manifest, or compares it with that of earlier work; a digest of it.

    Raises:
      ValueError: another one lies there.
    """
    path = folder / MANIFEST
    if path.exists():
        found = read_json(path)
        for key in dict.fromkeys((*manifest, *found)):
            if found.get(key) != manifest.get(key):
                raise ValueError(
                    f"{folder} holds features of {key}={found.get(key)!r}, and these would be of "
                    f"{key}={manifest.get(key)!r}: choose another --output, or what they were "
                    "made with"
                )
    else:
        write_json(path, dict(manifest))
    content = json.dumps(manifest, sort_keys=True).encode()
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little")


def missing(folder: Path, rows: int) -> list[int]:
    """Numbers of the shards that are not there."""
    return [number for number in range(-(-rows // SHARD_ROWS)) if _lacks(folder, number)]


def _lacks(folder: Path, number: int) -> bool:
    return not all((folder / name(number, what)).exists() for what in ("features", "rows"))


def _check_shard(folder: Path, number: int, digest: int) -> None:
    """Raises ValueError for a shard of something else, as one that was copied here may be."""
    path = folder / name(number, "rows")
    about = _mapped(path)
    if about.dtype != _ABOUT or not len(about) or about["manifest"][0] != digest:
        raise ValueError(
            f"{path} and the features beside it are of another model, of other rows or of another "
            f"way to read them than {folder / MANIFEST} says: remove both, or bring the right ones"
        )


def batches(lengths: np.ndarray, widths: tuple[int, ...], size: int) -> list[tuple[int, list[int]]]:
    """Which rows are computed together: (width, places) of every batch, shortest rows first.

    Rows of a batch fit into its width, and no more than `size` are in one. A row's features do not
    depend on the rows beside it, so that this decides the time alone.
    """
    order = np.argsort(lengths, kind="stable")
    choice = np.searchsorted(widths, lengths[order])
    found = []
    for place, width in enumerate(widths):
        rows = order[choice == place].tolist()
        found += [(width, rows[start : start + size]) for start in range(0, len(rows), size)]
    return found


def _rows_of(table: Table, number: int) -> int:
    return min(SHARD_ROWS, len(table) - number * SHARD_ROWS)


def _compute_shard(
    folder: Path,
    number: int,
    indices: np.ndarray,
    table: Table,
    extractor: Extractor,
    pad: int,
    digest: int,
    progress: "_Progress",
) -> None:
    parts = {kind: folder / f"{name(number, kind)}.part" for kind in ("features", "rows")}
    if (folder / name(number)).exists() and parts["rows"].exists():
        # Stopped between the two moves at the end.
        parts["rows"].replace(folder / name(number, "rows"))
        progress.had(len(indices))
        return
    if not parts["features"].exists():
        parts["rows"].unlink(missing_ok=True)
    shape = (len(indices), extractor.dim)
    features = _writable(parts["features"], shape, np.dtype(np.float32))
    about = _writable(parts["rows"], shape[:1], _ABOUT)
    about["row"], about["manifest"] = indices, digest
    for width, places in batches(table.lengths[indices], extractor.widths, extractor.batch):
        if about["done"][places].all():
            progress.had(len(places))
            continue
        # The last batch is filled up with its last row.
        filled = np.array(places + [places[-1]] * (extractor.batch - len(places)))
        found = extractor(table.rows(indices[filled], width, pad))
        features[places] = found.vectors[: len(places)]
        about["loss"][places] = found.losses[: len(places)]
        about["norm"][places] = found.norms[: len(places)]
        features.flush()
        about["done"][places] = True
        progress.did(len(places))
    about.flush()
    del features, about
    for kind, path in parts.items():
        path.replace(folder / name(number, kind))


def _writable(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.memmap:
    """A .npy file that is written in place; one that a stopped pass left, if it is whole."""
    if path.exists():
        try:
            found = np.lib.format.open_memmap(path, mode="r+")
        except (ValueError, OSError, EOFError):
            found = None
        if found is not None and (found.shape, found.dtype) == (shape, dtype):
            return found
    made = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with open(path, "r+b") as file:
        # A full disk is an error here, and would end the process in a page that is mapped.
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return made


def _mapped(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r")


class _Progress:
    """Says from time to time how many rows are done, how fast, and when the others will be."""

    def __init__(self, what: str, total: int):
        self._what, self._total = what, total
        self._began = self._told = time.monotonic()
        self._done = self._found = 0

    def had(self, rows: int) -> None:
        """Counts rows of an earlier pass."""
        self._found += rows

    def did(self, rows: int) -> None:
        """Counts rows of this pass."""
        self._done += rows
        now, here = time.monotonic(), self._found + self._done
        if now - self._told < _TELL_S and here < self._total:
            return
        self._told = now
        rate = self._done / max(now - self._began, 1e-9)
        left = time.strftime("%H:%M:%S", time.gmtime((self._total - here) / rate))
        _LOG.info("%s  %d/%d rows  %.3g rows/s  ETA %s", self._what, here, self._total, rate, left)
