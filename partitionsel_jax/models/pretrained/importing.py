"""From a checkpoint's tensors to the decoder's parameters, one tensor at a time."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from partitionsel_jax.models.pretrained.names import REDUNDANT, Tensor


class Tensors(Protocol):
    """Where a checkpoint's tensors are read from."""

    def names(self) -> Iterator[str]: ...
    def where(self, name: str) -> str: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def read(self, name: str) -> np.ndarray: ...


def check(expected: Sequence[Tensor], source: Tensors, ignored: Sequence[str] = ()) -> None:
    """Compares names and shapes before anything is read.

    Raises:
      ValueError: a tensor that is missing, has another shape, or that nobody knows, with its file.
    """
    held = set(source.names())
    for tensor in expected:
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
    stacked: jax.Array, values: jax.Array, layer: jax.Array, *, transposed: bool
) -> jax.Array:
    values = values.T if transposed else values
    return stacked.at[layer].set(values.astype(stacked.dtype))


@functools.partial(jax.jit, static_argnames=("dtype", "transposed"))
def _convert(values: jax.Array, *, dtype: Any, transposed: bool) -> jax.Array:
    return (values.T if transposed else values).astype(dtype)


def read(expected: Sequence[Tensor], source: Tensors, dtype: Any) -> dict[str, Any]:
    """The parameters, on the default device, as a nested dict.

    Every tensor goes to the device as it is read and is transposed and converted there, into its
    place in the stack of its layers: the host never holds more than one.

    Args:
      expected: what `check` has found to be there.
      source: the checkpoint.
      dtype: of the parameters.

    Raises:
      ValueError: a tensor that holds no floating point numbers.
    """
    flat: dict[tuple[str, ...], jax.Array] = {}
    depth: dict[tuple[str, ...], int] = {}
    for tensor in expected:
        depth[tensor.path] = depth.get(tensor.path, 0) + 1
    for tensor in expected:
        values = source.read(tensor.name)
        if not np.issubdtype(values.dtype, np.floating) and values.dtype != jnp.bfloat16:
            raise ValueError(
                f"{source.where(tensor.name)}: {tensor.name} holds {values.dtype}, where floating "
                "point numbers are expected"
            )
        if tensor.layer is None:
            placed = _convert(values, dtype=dtype, transposed=tensor.transposed)
        else:
            if tensor.path not in flat:
                shape = tensor.shape[::-1] if tensor.transposed else tensor.shape
                flat[tensor.path] = jnp.zeros((depth[tensor.path], *shape), dtype)
            placed = _place(flat[tensor.path], values, tensor.layer, transposed=tensor.transposed)
        # Waiting keeps the transfers of tensors still to come from piling up.
        flat[tensor.path] = jax.block_until_ready(placed)
    return traverse_util.unflatten_dict(flat)
