"""Data parallelism: one per-device function, mapped over the devices of all processes."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from partitionsel_jax.config.sections import check_form
from partitionsel_jax.distributed import processes
from partitionsel_jax.models import split_axis

AXIS = "data"

# How an argument lies on the devices: the same on each, by its rows, or as weights lie.
Kind = Literal["replicated", "rows", "weights"]


class Program:
    """A mapped function, compiled once for each set of shapes, ahead of the call if one likes.

    Keeps compile time apart from run time.

    Args:
      mapped: arguments -> the function mapped for trees of their structure, jitted.
    """

    def __init__(self, mapped: Callable[..., Any]):
        self._mapped = mapped
        self._compiled: dict[Any, Callable] = {}

    def compile(self, *arguments: Any) -> float:
        """Compiles for the shapes of `arguments`; returns the seconds that took (0 if done)."""
        shapes = self._shapes(arguments)
        if shapes in self._compiled:
            return 0.0
        started = time.perf_counter()
        self._compiled[shapes] = self.lower(*arguments).compile()
        processes.wait()
        return time.perf_counter() - started

    def lower(self, *arguments: Any) -> Any:
        """The program for arrays or shapes of arrays, as `jax.stages.Lowered`: to be looked at."""
        return self.jitted(*arguments).lower(*arguments)

    def jitted(self, *arguments: Any) -> Any:
        """The mapped function for trees of this structure: to be exported."""
        return self._mapped(*arguments)

    def __call__(self, *arguments: Any) -> Any:
        self.compile(*arguments)
        return self._compiled[self._shapes(arguments)](*arguments)

    @staticmethod
    def _shapes(arguments: Any) -> Any:
        leaves, tree = jax.tree.flatten(arguments)
        return tree, tuple((np.shape(leaf), leaf.dtype) for leaf in leaves)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the arrays of a run lie, and how functions are mapped over them.

    Every process calls the same methods in the same order, each with its own rows.

    Attributes:
      devices: of all processes, those of one process behind those of another.
      form: "pmap", whose rows have a leading device axis, or "shard_map" over a mesh.
      split_weights: whether every device holds a part of each matrix; see `models.Gathering`.

    Raises:
      ValueError: an unknown form, or weights to be split under pmap.
    """

    devices: tuple[jax.Device, ...]
    form: str = "pmap"
    split_weights: bool = False

    def __post_init__(self) -> None:
        """Checks the form."""
        check_form(self.form, self.split_weights)

    @classmethod
    def first(cls, count: int, form: str = "pmap", split_weights: bool = False) -> "Layout":
        """On the first `count` devices of this process."""
        return cls(tuple(jax.local_devices()[:count]), form, split_weights)

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """The devices in a row."""
        return jax.sharding.Mesh(np.asarray(self.devices), (AXIS,))

    @property
    def processes(self) -> int:
        """How many processes the devices belong to."""
        return len({device.process_index for device in self.devices})

    @property
    def process(self) -> int:
        """This process's place among them."""
        order = list(dict.fromkeys(device.process_index for device in self.devices))
        return order.index(jax.process_index())

    def map(
        self,
        function: Callable,
        kinds: Sequence[Kind],
        *,
        donate: tuple[int, ...] = (),
        returns_first: bool = False,
    ) -> Program:
        """Maps a per-device function that names its axis `AXIS`.

        Args:
          function: returns values that are equal on every device.
          kinds: of each argument.
          donate: arguments whose buffers the call may reuse.
          returns_first: whether it returns a pair, the first of which lies as its first argument.
        """
        if self.form == "pmap":
            mapped = jax.pmap(
                function,
                axis_name=AXIS,
                in_axes=tuple(0 if kind == "rows" else None for kind in kinds),
                out_axes=None,
                devices=list(self.devices),
                # Of several processes' replicated arguments, a donated one would be deleted before
                # its other copies are read.
                donate_argnums=donate if jax.process_count() == 1 else (),
            )
            return Program(lambda *_: mapped)

        def make(*arguments: Any) -> Any:
            specs = tuple(map(self.specs, kinds, arguments))
            whole = PartitionSpec()
            return jax.jit(
                jax.shard_map(
                    function,
                    mesh=self.mesh,
                    in_specs=specs,
                    out_specs=(specs[0], whole) if returns_first else whole,
                    check_vma=False,
                ),
                donate_argnums=donate,
            )

        return Program(make)

    def specs(self, kind: Kind, tree: Any) -> Any:
        """The partition of every leaf of an argument, under shard_map."""

        def spec(path: Any, leaf: Any) -> PartitionSpec:
            if kind == "rows":
                return PartitionSpec(AXIS)
            if kind == "replicated" or not self.split_weights:
                return PartitionSpec()
            names = tuple(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))
            axis = split_axis(names, np.shape(leaf), len(self.devices))
            return PartitionSpec() if axis is None else _along(axis + len(leaf.shape), leaf)

        return jax.tree_util.tree_map_with_path(spec, tree)

    def place(self, tree: Any, kind: Kind = "weights") -> Any:
        """Puts arrays that every process has whole onto the devices."""

        def put(leaf: Any, spec: PartitionSpec) -> jax.Array:
            sharding = NamedSharding(self.mesh, spec)
            if jax.process_count() == 1:
                return jax.device_put(leaf, sharding)
            whole = np.asarray(leaf)
            return jax.make_array_from_callback(whole.shape, sharding, lambda part: whole[part])

        return jax.tree.map(put, tree, self.specs(kind, tree))

    def rows(self, part: Any) -> Any:
        """This process's rows [B / processes, ...] as an argument of kind "rows"."""
        if self.form == "pmap":
            part = shard(part, len(self.devices) // self.processes)
            if self.processes == 1:
                return part
        sharding = NamedSharding(self.mesh, PartitionSpec(AXIS))
        return jax.tree.map(
            lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), part
        )

    def on_one_device(self, kind: Kind, tree: Any) -> Any:
        """Shapes of an argument's leaves as the mapped function sees them."""
        devices = len(self.devices)

        def local(leaf: Any, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
            shape = leaf.shape
            if kind == "rows" and self.form == "pmap":
                shape = shape[1:]
            elif spec:
                axis = spec.index(AXIS)
                shape = (*shape[:axis], shape[axis] // devices, *shape[axis + 1 :])
            return jax.ShapeDtypeStruct(shape, leaf.dtype)

        return jax.tree.map(local, tree, self.specs(kind, tree))

    def part(self, rows: Any) -> Any:
        """This process's part of rows [B, ...] that all processes have."""
        if self.processes == 1:
            return rows
        return jax.tree.map(lambda leaf: leaf[self.process], shard(rows, self.processes))


def _along(axis: int, leaf: Any) -> PartitionSpec:
    names = [None] * len(leaf.shape)
    return PartitionSpec(*names[:axis], AXIS, *names[axis + 1 :])


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


def gather(tree: Any) -> Any:
    """[B, ...] of this device -> [devices * B, ...], in device order; inside a mapped function.

    One collective for the whole tree: its latency is paid once, and no two devices can meet the
    collectives of two leaves in different orders, in which each would wait for the other.

    Raises:
      ValueError: several leaves, and one of them neither of 32 bits nor bool.
    """
    leaves, structure = jax.tree.flatten(tree)
    if len(leaves) == 1:
        return jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, AXIS, tiled=True), tree)
    packed = jnp.concatenate([_words(leaf).reshape(-1) for leaf in leaves])
    gathered = jax.lax.all_gather(packed, AXIS)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1].tolist()
    found = []
    for words, leaf in zip(jnp.split(gathered, ends, axis=1), leaves, strict=True):
        words = words.reshape(-1, *leaf.shape[1:])
        is_bool = leaf.dtype == jnp.bool_
        found.append(words > 0 if is_bool else jax.lax.bitcast_convert_type(words, leaf.dtype))
    return jax.tree.unflatten(structure, found)


def _words(leaf: jax.Array) -> jax.Array:
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.int32)
    if leaf.dtype.itemsize != 4:
        raise ValueError(
            f"expected leaves of 32 bits or bool to gather together, got {leaf.dtype}; convert it "
            "first, or gather it alone"
        )
    return jax.lax.bitcast_convert_type(leaf, jnp.int32)


def deal(rows: jax.Array, places_K: jax.Array) -> jax.Array:
    """This device's contiguous part of some of all devices' rows: no other row moves.

    The same as `share(gather(rows)[places_K])`.

    Args:
      rows: i32[B, ...] of this device; integers, of which sums with zeros are exact.
      places_K: i32[K], places in what `gather` would return, equal on every device.

    Raises:
      ValueError: the devices do not divide K.
    """
    _part_of(len(places_K))
    count = rows.shape[0]
    here_K = places_K - jax.lax.axis_index(AXIS) * count
    mine_K = (here_K >= 0) & (here_K < count)
    found = rows[jnp.clip(here_K, 0, count - 1)]
    found = jnp.where(mine_K.reshape(-1, *[1] * (rows.ndim - 1)), found, 0)
    return jax.lax.psum_scatter(found, AXIS, scatter_dimension=0, tiled=True)


def share(tree: Any) -> Any:
    """This device's contiguous part of replicated rows: the inverse of `gather`.

    Raises:
      ValueError: the devices do not divide the rows.
    """
    index = jax.lax.axis_index(AXIS)

    def part(leaf):
        size = _part_of(leaf.shape[0])
        return jax.lax.dynamic_slice_in_dim(leaf, index * size, size)

    return jax.tree.map(part, tree)


def _part_of(rows: int) -> int:
    size, rest = divmod(rows, jax.lax.axis_size(AXIS))
    if rest:
        raise ValueError(
            f"{rows} rows cannot be shared by {jax.lax.axis_size(AXIS)} devices: use a multiple"
        )
    return size
