"""Weights that are split over devices, and put together again where a layer needs them.

ZeRO's third stage (Rajbhandari et al. 2020, arXiv 1910.02054) as two functions: every matrix has an
axis along which the devices split it, and the decoder gathers a layer's matrices inside its scan.
The gathering lies within what `remat` computes again, so that no whole layer outlives its use, and
it is differentiated into a sum that leaves every device its own part of the gradient.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from partitionsel_jax.models.parameters import Tree

Path = tuple[str, ...]
# The large parameters, by the last name of their paths; vectors and adapters stay whole.
MATRICES = ("kernel", "embedding", "head")
# What the gathering of weights is called in a traced program.
SCOPE = "gather_weights"


def split_axis(path: Path, shape: tuple[int, ...], devices: int) -> int | None:
    """The axis, counted from the end, that `devices` split a parameter along; None for whole."""
    if devices == 1 or not path or path[-1] not in MATRICES:
        return None
    return next((axis for axis in (-2, -1) if shape[axis] % devices == 0), None)


@dataclasses.dataclass(frozen=True)
class Gathering:
    """The split of the parameters over the devices of a mapped axis.

    Attributes:
      axis_name: of the mapped axis.
      axes: (path, axis from the end) of every parameter that is split.
    """

    axis_name: str
    axes: tuple[tuple[Path, int], ...] = ()

    @classmethod
    def of(cls, shapes: Tree, axis_name: str, devices: int) -> "Gathering":
        """The split of parameters of these whole shapes."""
        flat = traverse_util.flatten_dict(shapes)
        axes = {path: split_axis(path, leaf.shape, devices) for path, leaf in flat.items()}
        return cls(axis_name, tuple((path, axis) for path, axis in axes.items() if axis))

    @functools.cached_property
    def _axes(self) -> Mapping[Path, int]:
        return dict(self.axes)

    def is_split(self, path: Path) -> bool:
        """True if a device holds only its part of the parameter."""
        return path in self._axes

    def whole(self, path: Path, leaf: jax.Array) -> jax.Array:
        """The parameter, or one layer of it, from every device's part."""
        axis = self._axes.get(path)
        if axis is None:
            return leaf
        with jax.named_scope(SCOPE):
            return jax.lax.all_gather(leaf, self.axis_name, axis=leaf.ndim + axis, tiled=True)

    def whole_layer(self, layer: Tree) -> Tree:
        """A layer's parameters, without the leading axis of the stack."""
        flat = traverse_util.flatten_dict(layer)
        found = {path: self.whole(("layers", *path), leaf) for path, leaf in flat.items()}
        return traverse_util.unflatten_dict(found)

    def anywhere(self, condition: jax.Array) -> jax.Array:
        """Returns bool[], True if the condition holds on any device; loops that gather need it."""
        return jax.lax.pmax(condition.astype(jnp.int32), self.axis_name) > 0

    def summed(self, gradient: Tree) -> Tree:
        """Sums a gradient over the devices; the backward pass has summed what is split."""
        flat = traverse_util.flatten_dict(gradient)
        whole = {path: leaf for path, leaf in flat.items() if not self.is_split(path)}
        return traverse_util.unflatten_dict(flat | jax.lax.psum(whole, self.axis_name))

    def norm(self, tree: Tree) -> jax.Array:
        """f32[], the norm of the whole of a tree that is split as the parameters are."""
        if not self.axes:
            return optax.tree.norm(tree)
        flat = traverse_util.flatten_dict(tree)
        parts = {path: leaf for path, leaf in flat.items() if self.is_split(path)}
        rest = {path: leaf for path, leaf in flat.items() if not self.is_split(path)}
        squares = jax.lax.psum(optax.tree.norm(parts, squared=True), self.axis_name)
        return jnp.sqrt(squares + optax.tree.norm(rest, squared=True))
