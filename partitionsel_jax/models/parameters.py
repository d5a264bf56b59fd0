"""Parameter trees: split by path, merged with their adapters, and split over devices.

Weights that are split over devices (ZeRO's third stage, Rajbhandari et al. 2020, arXiv 1910.02054):
every matrix has an axis along which the devices split it, and the decoder gathers a layer's
matrices inside its scan. The gathering lies within what `remat` computes again, so that no whole
layer outlives its use, and it is differentiated into a sum that leaves every device its own part of
the gradient.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from partitionsel_jax.models.config import LoRAConfig

Tree = dict[str, Any]
Path = tuple[str, ...]
# The large parameters, by the last name of their paths; vectors and adapters stay whole.
MATRICES = ("kernel", "kernel_a", "kernel_b", "embedding", "head")
# The name of the gathering of weights in a traced program.
SCOPE = "gather_weights"


def split(parameters: Tree, wanted: Callable[[Path], bool]) -> tuple[Tree, Tree]:
    """Splits a nested dict into the leaves whose path is `wanted`, and the others."""
    parts: tuple[Tree, Tree] = ({}, {})
    for path, leaf in traverse_util.flatten_dict(parameters).items():
        parts[0 if wanted(path) else 1][path] = leaf
    return traverse_util.unflatten_dict(parts[0]), traverse_util.unflatten_dict(parts[1])


def join(*trees: Tree) -> Tree:
    """The union of nested dicts without a leaf in common: the inverse of `split`."""
    flat: Tree = {}
    for tree in trees:
        flat |= traverse_util.flatten_dict(tree)
    return traverse_util.unflatten_dict(flat)


def count(parameters: Tree) -> int:
    """Number of scalars in the tree."""
    return sum(leaf.size for leaf in traverse_util.flatten_dict(parameters).values())


def is_adapter(path: Path) -> bool:
    """True if a parameter's path in the tree names an adapter factor."""
    return path[-1] in ("lora_a", "lora_b")


def merge(parameters: Tree, lora: LoRAConfig, dtype: Any = None) -> Tree:
    """The parameters of the same model without adapters: W + (alpha / rank) A B for W.

    The sum is taken in float32 and rounded once, to `dtype` (W's own if None), as is all else.

    Raises:
      ValueError: an adapter on a matrix of which there are only factors.
    """
    paths = traverse_util.flatten_dict(parameters)
    if any(is_adapter(path) and (*path[:-1], "kernel") not in paths for path in paths):
        raise ValueError(
            "this model's matrices are kept as two factors (model.rank), and no adapter can be "
            "merged into them: export the adapters, or train all weights (lora.rank=0)"
        )

    def merged(flat: dict[Path, jax.Array]) -> dict[Path, jax.Array]:
        whole = {}
        for path, leaf in flat.items():
            kind, (a, b) = dtype or leaf.dtype, ((*path[:-1], f"lora_{name}") for name in "ab")
            if path[-1] == "kernel" and a in flat:
                change = jnp.matmul(flat[a], flat[b], precision="highest")
                leaf = leaf.astype(jnp.float32) + lora.scale * change
            if not is_adapter(path):
                whole[path] = leaf.astype(kind)
        return whole

    return traverse_util.unflatten_dict(jax.jit(merged)(traverse_util.flatten_dict(parameters)))


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
      axes: (path, axis from the end) of every parameter of which a device holds only its part.
    """

    axis_name: str
    axes: tuple[tuple[Path, int], ...] = ()

    @classmethod
    def of(cls, shapes: Tree, axis_name: str, devices: int) -> "Gathering":
        """The split of parameters of these whole shapes."""
        flat = traverse_util.flatten_dict(shapes)
        axes = {path: split_axis(path, leaf.shape, devices) for path, leaf in flat.items()}
        return cls(axis_name, tuple((path, axis) for path, axis in axes.items() if axis))

    def whole(self, path: Path, leaf: jax.Array) -> jax.Array:
        """The parameter, or one layer of it, from every device's part."""
        axis = dict(self.axes).get(path)
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
        flat, axes = traverse_util.flatten_dict(gradient), dict(self.axes)
        whole = {path: leaf for path, leaf in flat.items() if path not in axes}
        return traverse_util.unflatten_dict(flat | jax.lax.psum(whole, self.axis_name))

    def norm(self, tree: Tree) -> jax.Array:
        """f32[], the norm of the whole of a tree that is split as the parameters are."""
        if not self.axes:
            return optax.tree.norm(tree)
        parts, rest = split(tree, dict(self.axes).__contains__)
        squares = jax.lax.psum(optax.tree.norm(parts, squared=True), self.axis_name)
        return jnp.sqrt(squares + optax.tree.norm(rest, squared=True))
