"""Data parallelism: one per-device function, mapped over the devices."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

AXIS = "data"


class Program:
    """A mapped function, compiled once for each set of shapes, ahead of the call if one likes.

    Keeps compile time apart from run time.
    """

    def __init__(self, function: Any):
        self._function = function
        self._compiled: dict[Any, Callable] = {}

    def compile(self, *arguments: Any) -> float:
        """Compiles for the shapes of `arguments`; returns the seconds that took (0 if done)."""
        shapes = self._shapes(arguments)
        if shapes in self._compiled:
            return 0.0
        started = time.perf_counter()
        self._compiled[shapes] = self.lower(*arguments).compile()
        return time.perf_counter() - started

    def lower(self, *arguments: Any) -> Any:
        """The program for arrays or shapes of arrays, as `jax.stages.Lowered`: to be looked at."""
        return self._function.lower(*arguments)

    def __call__(self, *arguments: Any) -> Any:
        self.compile(*arguments)
        return self._compiled[self._shapes(arguments)](*arguments)

    @staticmethod
    def _shapes(arguments: Any) -> Any:
        leaves, tree = jax.tree.flatten(arguments)
        return tree, tuple((np.shape(leaf), leaf.dtype) for leaf in leaves)


def data_parallel(
    function: Callable,
    sharded: Sequence[bool],
    devices: Sequence[jax.Device],
    donate: tuple[int, ...] = (),
) -> Program:
    """Maps a per-device function that names its axis `AXIS`.

    Args:
      function: takes replicated and sharded arguments, and returns values that are equal on
        every device.
      sharded: for each argument, whether its leaves carry a leading device axis (see `shard`).
      devices: the devices to run on.
      donate: arguments whose buffers the call may reuse. Dropped when there are several processes,
        where a donated replicated argument is deleted before its other copies are read.

    Returns:
      The mapped function; what is replicated has no leading axis, on the way in and out.
    """
    mapped = jax.pmap(
        function,
        axis_name=AXIS,
        in_axes=tuple(0 if is_sharded else None for is_sharded in sharded),
        out_axes=None,
        devices=list(devices),
        donate_argnums=donate if jax.process_count() == 1 else (),
    )
    return Program(mapped)


def shard(rows: Any, devices: int) -> Any:
    """Splits the leading axis [B, ...] of every leaf into [devices, B / devices, ...].

    Raises:
      ValueError: `devices` does not divide B.
    """

    def split(leaf):
        if leaf.shape[0] % devices:
            raise ValueError(
                f"{leaf.shape[0]} rows cannot be split over {devices} devices: "
                "use a multiple, or fewer devices"
            )
        return np.reshape(leaf, (devices, leaf.shape[0] // devices, *leaf.shape[1:]))

    return jax.tree.map(split, rows)


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Copies every leaf to every device, as one array without a device axis."""
    mesh = jax.sharding.Mesh(np.asarray(devices), (AXIS,))
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def gather(tree: Any) -> Any:
    """[B, ...] of this device -> [devices * B, ...], in device order; inside a mapped function."""
    return jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, AXIS, tiled=True), tree)


def share(tree: Any) -> Any:
    """This device's contiguous part of replicated rows: the inverse of `gather`.

    Raises:
      ValueError: the devices do not divide the rows.
    """
    devices = jax.lax.axis_size(AXIS)
    index = jax.lax.axis_index(AXIS)

    def part(leaf):
        size, rest = divmod(leaf.shape[0], devices)
        if rest:
            raise ValueError(
                f"{leaf.shape[0]} rows cannot be shared by {devices} devices: use a multiple"
            )
        return jax.lax.dynamic_slice_in_dim(leaf, index * size, size)

    return jax.tree.map(part, tree)
