"""From a checkpoint's tensors to the decoder's parameters, one tensor at a time."""

import collections
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from partitionsel_jax.models.pretrained.names import REDUNDANT, Tensor

# A piece of a tensor, as float32, that is on its way from the file to the device.
PIECE_BYTES = 32 << 20


class Tensors(Protocol):
    """Where a checkpoint's tensors are read from; `read` gives the rows start .. stop - 1."""

    def names(self) -> Iterator[str]: ...
    def where(self, name: str) -> str: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def read(self, name: str, start: int, stop: int) -> np.ndarray: ...


def equal(source: Tensors, name: str, other_source: Tensors, other: str) -> bool:
    """Whether two tensors hold the same numbers."""
    shape = source.shape(name)
    return (
        bool(shape)
        and other_source.shape(other) == shape
        and all(
            np.array_equal(source.read(name, *rows), other_source.read(other, *rows))
            for rows in _pieces(shape)
        )
    )


def _pieces(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """The first row of every piece of a tensor, and the one behind its last."""
    rows = max(1, PIECE_BYTES // (4 * max(1, math.prod(shape[1:]))))
    return ((row, min(row + rows, shape[0])) for row in range(0, shape[0], rows))


def check(expected: Sequence[Tensor], source: Tensors, ignored: Sequence[str] = ()) -> None:
    """Compares names and shapes before anything is read.

    Raises:
      ValueError: a tensor that is missing, has another shape, or that nobody knows, with its file.
    """
    held = set(source.names())
    for tensor in sorted(expected, key=lambda tensor: source.where(tensor.name)):
        if tensor.name not in held:
            raise ValueError(
                f"{source.where(tensor.name)} lacks the tensor {tensor.name!r}: the checkpoint is "
                "not complete, or its config describes another"
            )
        if (shape := source.shape(tensor.name)) != tensor.shape:
            raise ValueError(
                f"{source.where(tensor.name)}: {tensor.name} has shape {list(shape)} where the "
                f"config makes it {list(tensor.shape)}"
            )
    known = {tensor.name for tensor in expected} | set(ignored)
    for name in sorted(held - known):
        if not name.endswith(REDUNDANT):
            raise ValueError(
                f"{source.where(name)}: unknown tensor {name!r}; the model has parts that this "
                "architecture lacks"
            )


@functools.partial(jax.jit, static_argnames="transposed", donate_argnums=0)
def _place(
    parameter: jax.Array, piece: jax.Array, layer: int | None, row: int, *, transposed: bool
) -> tuple[jax.Array, jax.Array]:
    """The parameter, stacked over layers or not, with rows of a tensor written into it.

    Also returns whether they are finite numbers.
    """
    piece = (piece.T if transposed else piece).astype(parameter.dtype)
    start = [jnp.int32(0)] * piece.ndim
    start[-1 if transposed else 0] = jnp.int32(row)
    if layer is not None:
        piece, start = piece[None], [jnp.int32(layer), *start]
    return jax.lax.dynamic_update_slice(parameter, piece, start), jnp.isfinite(piece).all()


def read(expected: Sequence[Tensor], source: Tensors, dtype: Any) -> dict[str, Any]:
    """The parameters, on the default device, as a nested dict.

    Tensors go to the device in pieces, as they are read, and are transposed and converted there,
    into their place in the stack of their layers: the host holds one piece at a time, of at most
    `PIECE_BYTES` (q and k of a Llama's GGUF file, whose rows lie in another order, as a whole).

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
        for row, stop in _pieces(tensor.shape):
            piece = source.read(tensor.name, row, stop)
            if not jnp.issubdtype(piece.dtype, jnp.floating):
                raise ValueError(
                    f"{source.where(tensor.name)}: {tensor.name} holds {piece.dtype}, where "
                    "floating point numbers are expected"
                )
            flat[tensor.path], finite = _place(
                flat[tensor.path], piece, tensor.layer, row, transposed=tensor.transposed
            )
            # Asking waits, which keeps the transfers of pieces still to come from piling up.
            if not finite:
                raise ValueError(
                    f"{source.where(tensor.name)}: {tensor.name} holds numbers that are not "
                    "finite: the file is damaged; fetch it again"
                )
    return traverse_util.unflatten_dict(flat)
