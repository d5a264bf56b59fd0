"""A checkpoint's safetensors files, and from their tensors to the decoder's parameters."""

import collections
import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy, which safetensors reads into)
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open

from partitionsel_jax.file_errors import one_line, reading
from partitionsel_jax.models.config import DecoderConfig
from partitionsel_jax.models.pretrained import names
from partitionsel_jax.models.pretrained.description import read_json
from partitionsel_jax.models.pretrained.names import Tensor

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# Part of a tensor's name in old checkpoints that only repeats what the config says.
_REDUNDANT = "rotary_emb.inv_freq"
# A piece of a tensor, as float32, that is on its way from the file to the device.
PIECE_BYTES = 32 << 20


class SafetensorsFiles:
    """The tensors of a checkpoint in one file, or in shards with an index.

    Opening reads the headers alone, and finds shards that are missing or cut short.

    Args:
      directory: where the files are.
      contents: the one that says which tensors there are: `model.safetensors.index.json`, or a
        safetensors file that holds them all.

    Attributes:
      shapes: of the tensors, by name.
      unread: files of weights beside those that are read.

    Raises:
      ValueError: a file that is missing, damaged, or lacks one of its tensors.
    """

    def __init__(self, directory: str | os.PathLike[str], contents: str):
        self.directory = Path(directory)
        self._contents = contents
        self._open_file: tuple[str, Any] = ("", None)
        self._files: dict[str, str] = {}  # tensor -> file
        self.shapes: dict[str, tuple[int, ...]] = {}
        listed = self._listed() if contents == INDEX else {contents: []}
        for file, tensors in listed.items():
            opened = self._open(file)
            held = sorted(opened.keys())
            if missing := sorted({*tensors} - {*held}):
                raise ValueError(
                    f"{self.directory / file} lacks {missing[0]!r}, which {INDEX} says it holds"
                )
            for tensor in held:
                # What the index does not list is there all the same: whoever reads it decides.
                if (other := self._files.setdefault(tensor, file)) != file:
                    raise ValueError(
                        f"{self.directory} holds {tensor!r} in {other} and in {file}; remove the "
                        "files that are left from an earlier save"
                    )
                with reading(self.directory / file):
                    self.shapes[tensor] = tuple(opened.get_slice(tensor).get_shape())
        there = {path.name for path in self.directory.glob("*.safetensors")}
        self.unread = there - set(self._files.values())

    def _listed(self) -> dict[str, list[str]]:
        """The files that the index names, and which tensors it says that they hold."""
        path = self.directory / INDEX
        mapping = read_json(path).get("weight_map")
        if not isinstance(mapping, dict) or not mapping:
            raise ValueError(f"{path}: expected a 'weight_map' of tensors to files")
        listed: dict[str, list[str]] = {}
        for tensor, file in mapping.items():
            # What an index names lies beside it: nothing else of the machine is read.
            beside = isinstance(file, str) and file.isprintable() and Path(file).name == file
            if not beside or file in ("", ".."):
                raise ValueError(
                    f"{path}: {tensor!r} is said to be in {file!r:.80}, no file beside it"
                )
            listed.setdefault(file, []).append(tensor)
        return dict(sorted(listed.items()))

    def _open(self, file: str) -> Any:
        """A file's handle. It maps the file into memory, so that only the last one is kept."""
        if self._open_file[0] != file:
            path = self.directory / file
            with reading(path):
                if not path.exists():
                    named = f", one of the files that {INDEX} names" * (self._contents == INDEX)
                    raise ValueError(f"{path} is missing{named}; fetch it")
                try:
                    self._open_file = (file, safe_open(path, framework="numpy"))
                except SafetensorError as error:
                    with open(path, "rb") as start:
                        pointer = start.read(20) == b"version https://git-"
                    reason = (
                        "it is a Git LFS pointer, not the file itself: run git lfs pull"
                        if pointer
                        else f"{one_line(error)}: it is cut short, damaged, or of another format; "
                        "fetch it again"
                    )
                    raise ValueError(f"{path} cannot be read ({reason})") from None
        return self._open_file[1]

    def where(self, name: str) -> str:
        """The file of a tensor, or the one that should name it."""
        return str(self.directory / self._files.get(name, self._contents))

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows start .. stop - 1 of a tensor, in the dtype that it is stored in."""
        with reading(self.where(name), f"{self.where(name)}: {name}"):
            return self._open(self._files[name]).get_slice(name)[start:stop]

    def same(self, name: str, source: "SafetensorsFiles", other: str) -> bool:
        """True if a tensor holds the same numbers as another one, of any files."""
        shape = self.shapes[name]
        return (
            bool(shape)
            and source.shapes.get(other) == shape
            and all(
                np.array_equal(self.read(name, *rows), source.read(other, *rows))
                for rows in _pieces(shape)
            )
        )


def _pieces(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """The first row of every piece of a tensor, and the one behind its last."""
    rows = max(1, PIECE_BYTES // (4 * max(1, math.prod(shape[1:]))))
    return ((row, min(row + rows, shape[0])) for row in range(0, shape[0], rows))


def check_model(
    config: DecoderConfig,
    shapes: Mapping[str, tuple[int, ...]],
    where: Callable[[str], str],
    path: Path,
    ignored: Sequence[str] = (),
) -> list[Tensor]:
    """The tensors of a model, once they are known to be there; see `check`."""
    if config.layers > len(shapes):  # before anything is made for each of them
        raise ValueError(
            f"{path} is said to have {config.layers} layers, and holds {len(shapes)} tensors in "
            "all: the checkpoint is not complete, or its config describes another"
        )
    expected = names.tensors(config)
    check(expected, shapes, where, ignored)
    return expected


def check(
    expected: Sequence[Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    where: Callable[[str], str],
    ignored: Sequence[str] = (),
) -> None:
    """Compares names and shapes before anything is read.

    Args:
      expected: the tensors of the model.
      shapes: of those that the checkpoint holds, by name.
      where: gives the file of a tensor, or the one that should name it.
      ignored: tensors that may be there.

    Raises:
      ValueError: a tensor that is missing, has another shape, or that nobody knows, with its file.
    """
    for tensor in sorted(expected, key=lambda tensor: where(tensor.name)):
        if tensor.name not in shapes:
            raise ValueError(
                f"{where(tensor.name)} lacks the tensor {tensor.name!r}: the checkpoint is not "
                "complete, or its config describes another"
            )
        if (shape := shapes[tensor.name]) != tensor.shape:
            raise ValueError(
                f"{where(tensor.name)}: {tensor.name} has shape {list(shape)} where the config "
                f"makes it {list(tensor.shape)}"
            )
    for name in sorted({*shapes} - {tensor.name for tensor in expected} - {*ignored}):
        if not name.endswith(_REDUNDANT):
            raise ValueError(
                f"{where(name)}: unknown tensor {name!r}; the model has parts that this "
                "architecture lacks"
            )


@functools.partial(jax.jit, static_argnames="transposed", donate_argnums=0)
def _place(
    parameter: jax.Array, piece: jax.Array, layer: int | None, row: int, *, transposed: bool
) -> tuple[jax.Array, jax.Array]:
    """The parameter with rows of a tensor written into it, and whether they are finite."""
    piece = (piece.T if transposed else piece).astype(parameter.dtype)
    start = [jnp.int32(0)] * piece.ndim
    start[-1 if transposed else 0] = jnp.int32(row)
    if layer is not None:
        piece, start = piece[None], [jnp.int32(layer), *start]
    return jax.lax.dynamic_update_slice(parameter, piece, start), jnp.isfinite(piece).all()


def read(expected: Sequence[Tensor], source: SafetensorsFiles, dtype: Any) -> dict[str, Any]:
    """The parameters, on the default device, as a nested dict.

    Tensors go to the device in pieces, as they are read, and are transposed and converted there,
    into their place in the stack of their layers: the host holds one piece at a time, of at most
    `PIECE_BYTES`.

    Args:
      expected: what `check` has found to be there.
      source: the checkpoint.
      dtype: of the parameters.

    Raises:
      ValueError: a tensor that holds something else than finite floating point numbers.
    """
    depth = collections.Counter(tensor.path for tensor in expected)
    flat: dict[tuple[str, ...], jax.Array] = {}
    for tensor in sorted(expected, key=lambda tensor: source.where(tensor.name)):
        if tensor.path not in flat:
            shape = tensor.shape[::-1] if tensor.transposed else tensor.shape
            stack = () if tensor.layer is None else (depth[tensor.path],)
            flat[tensor.path] = jnp.zeros((*stack, *shape), dtype)
        where = f"{source.where(tensor.name)}: {tensor.name}"
        for row, stop in _pieces(tensor.shape):
            piece = source.read(tensor.name, row, stop)
            if not jnp.issubdtype(piece.dtype, jnp.floating):
                raise ValueError(
                    f"{where} holds {piece.dtype}, where floating point numbers are expected"
                )
            flat[tensor.path], finite = _place(
                flat[tensor.path], piece, tensor.layer, row, transposed=tensor.transposed
            )
            # Asking waits, which keeps the transfers of pieces still to come from piling up.
            if not finite:
                raise ValueError(
                    f"{where} holds numbers that are not finite: the file is damaged; fetch it "
                    "again"
                )
    return traverse_util.unflatten_dict(flat)
