"""Random sketches of gradients: linear maps R^D -> R^m that keep inner products in expectation.

Every family promises, over its seeds and for fixed x and y, E<sketch(x), sketch(y)> = <x, y>, and
that the variance of <sketch(x), sketch(y)> stays within a bound. With Q = |x|^2 |y|^2:

| family     | map                                | operations a row  | variance at most          |
|------------|------------------------------------|-------------------|---------------------------|
| gaussian   | dense normal entries               | D m               | (Q + <x, y>^2) / m        |
| rademacher | dense signs                        | D m               | (Q + <x, y>^2) / m        |
| sparse     | s <= 8 signs a coordinate          | D s               | (Q + <x, y>^2) / m        |
| srht       | signs, Walsh-Hadamard, drawn rows  | 128 D + m D / C   | (Q + <x, y>^2) / m        |
| fft        | signs, Fourier, drawn frequencies  | D log C + m D / C | (Q + <x, y>^2) / m        |
| two_sided  | two-sided: signs on both sides of  | D sqrt(m)         | Q (2 k_in + 2 k_out + 4)  |
|            | every matrix (Kronecker)           |                   | / m, about 4 Q / sqrt(m)  |
| identity   | every coordinate as it is, m = D   | none              | 0                         |

C is `BLOCK`, D the number of parameters and k_in x k_out the grid of `two_sided`. The families
that `FACTORED` names can also be computed without the gradients themselves.

Matrices are regenerated from (seed, block) whenever they are used and never stored. Whatever D is,
no array is larger than the gradients, filled up to whole blocks, the result, or `BLOCK` x m entries
(m rounded up to a multiple of 32).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from partitionsel_jax.gradients import blocks, two_sided
from partitionsel_jax.gradients.two_sided import BLOCK

# Keeps the sketch's stream apart from others that fold small numbers into a key of the same seed.
_STREAM = 0x5E7C4

# (sketch, leaves [B, ...], whether each is stacked over layers) -> f32[B, dim]
_Family = Callable[["Sketch", list[jax.Array], tuple[bool, ...]], jax.Array]


def _flat(leaves: list[jax.Array]) -> list[jax.Array]:
    """The leaves as f32[B, size] each."""
    return [
        leaf.reshape(leaf.shape[0], math.prod(leaf.shape[1:])).astype(jnp.float32)
        for leaf in leaves
    ]


def _blockwise(sketch_block: Callable[[jax.Array, jax.Array, int], jax.Array]) -> _Family:
    """A family that maps the leaves, as one long vector, block by block."""

    def family(sketch: "Sketch", leaves: list[jax.Array], stacked: tuple[bool, ...]) -> jax.Array:
        # One long vector instead of one loop per leaf: the program stays small, and quick to
        # compile.
        flat = _flat(leaves)
        batch, size = flat[0].shape[0], sum(leaf.shape[1] for leaf in flat)
        if not size:
            return jnp.zeros((batch, sketch.dim), jnp.float32)
        block = min(BLOCK, 1 << (size - 1).bit_length())
        count = -(-size // block)
        flat.append(jnp.zeros((batch, count * block - size), jnp.float32))
        x_BxKxC = jnp.concatenate(flat, axis=1).reshape(batch, count, block)

        def add(number: jax.Array, total: jax.Array) -> jax.Array:
            x_BxC = jax.lax.dynamic_index_in_dim(x_BxKxC, number, axis=1, keepdims=False)
            return total + sketch_block(jax.random.fold_in(sketch.key, number), x_BxC, sketch.dim)

        total: jax.Array = jnp.zeros_like(x_BxKxC, jnp.float32, (batch, sketch.dim))
        total = jax.lax.fori_loop(0, count, add, total)
        return total / jnp.sqrt(jnp.float32(sketch.dim))

    return family


def _two_sided(sketch: "Sketch", leaves: list[jax.Array], stacked: tuple[bool, ...]) -> jax.Array:
    total = jnp.zeros((leaves[0].shape[0], sketch.dim), jnp.float32)
    for number, (leaf, layered) in enumerate(zip(leaves, stacked, strict=True)):
        total += two_sided.leaf(sketch.leaf_key(number), leaf, layered, sketch.dim)
    return total


def _identity(sketch: "Sketch", leaves: list[jax.Array], stacked: tuple[bool, ...]) -> jax.Array:
    x_BxD = jnp.concatenate(_flat(leaves), axis=1)
    if x_BxD.shape[1] != sketch.dim:
        raise ValueError(
            "the identity sketch keeps every coordinate, so dim must equal their number, "
            f"{x_BxD.shape[1]}; got dim={sketch.dim}. Make it with dim={x_BxD.shape[1]}, or "
            "choose a family that reduces the dimension"
        )
    return x_BxD


FAMILIES: dict[str, _Family] = {
    "gaussian": _blockwise(blocks.gaussian),
    "rademacher": _blockwise(blocks.rademacher),
    "sparse": _blockwise(blocks.sparse),
    "srht": _blockwise(blocks.srht),
    "fft": _blockwise(blocks.fft),
    "two_sided": _two_sided,
    "identity": _identity,
}
FACTORED = ("identity", "two_sided")  # the families that can serve the factored path


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["seed"], meta_fields=["family", "dim"]
)
@dataclasses.dataclass(frozen=True)
class Sketch:
    """A sketch of gradient trees; see `make_sketch`. A pytree whose only leaf is the seed."""

    family: str
    dim: int
    seed: int | jax.Array

    @property
    def key(self) -> jax.Array:
        """The key that all of this sketch's randomness comes from."""
        return jax.random.fold_in(jax.random.key(self.seed), _STREAM)

    def leaf_key(self, number: int) -> jax.Array:
        """The key of a leaf, by its place in `jax.tree.leaves` order; used by two_sided."""
        return jax.random.fold_in(self.key, number)

    def __call__(self, per_example: Any, stacked: Any = None) -> jax.Array:
        """Sketches a pytree of per-example gradients.

        Args:
          per_example: a pytree, or one array, whose leaves have a leading axis B.
          stacked: pytree of bools of the same structure; True says that axis 1 of that leaf runs
            over layers that are parameters of their own. None: no leaf is stacked. Only two_sided
            makes a difference of it.

        Returns:
          f32[B, dim]; linear in `per_example`. Leaves without any coordinate add nothing.

        Raises:
          ValueError: no leaves, leaves that disagree about B, a `stacked` that does not fit
            them, or an identity whose `dim` is not the number of coordinates.
        """
        leaves = jax.tree.leaves(per_example)
        batches = {leaf.shape[0] if leaf.ndim else None for leaf in leaves}
        if len(batches) != 1 or None in batches:
            raise ValueError(
                "a sketch takes a pytree of gradients with one leading axis B in common; "
                f"got leaves of shapes {[leaf.shape for leaf in leaves]}"
            )
        expected: Any = jax.tree.structure(per_example)
        if stacked is None:
            stacked = jax.tree.map(lambda _: False, per_example)
        flags = jax.tree.leaves(stacked)
        if expected != jax.tree.structure(stacked):
            raise ValueError(
                "stacked must be a pytree of bools of the structure of the gradients, "
                f"{expected}; got {jax.tree.structure(stacked)}. Pass None if no leaf is stacked "
                "over layers"
            )
        for flag, leaf in zip(flags, leaves, strict=True):
            if not isinstance(flag, bool | np.bool_):
                raise ValueError(f"the leaves of stacked must be True or False; got {flag!r}")
            if flag and leaf.ndim < 2:
                raise ValueError(
                    "stacked is True for a leaf without an axis of layers: expected shape "
                    f"[B, layers, ...], got {leaf.shape}; pass False for it"
                )
        vectors: jax.Array = _sketch_leaves(self, leaves, tuple(map(bool, flags)))
        return vectors


@functools.partial(jax.jit, static_argnames="stacked")
def _sketch_leaves(sketch: Sketch, leaves: list[jax.Array], stacked: tuple[bool, ...]) -> jax.Array:
    return FAMILIES[sketch.family](sketch, leaves, stacked)


def make_sketch(family: str, dim: int, seed: int | jax.Array = 0) -> Sketch:
    """A sketch R^D -> R^dim for any D, with the guarantees of this module's docstring.

    Args:
      family: a name in `FAMILIES`; the module's table compares them.
      dim: m, at least 1; it may exceed D and need not be a power of two. For "identity" it is
        the number of coordinates D.
      seed: int or i32[] (may be traced); the same seed gives the same linear map everywhere.

    Example:
      >>> sketch = make_sketch("srht", dim=256, seed=0)
      >>> sketch({"w": jnp.ones((4, 1000))}).shape
      (4, 256)

    Raises:
      ValueError: unknown family, or dim < 1.
    """
    if family not in FAMILIES:
        raise ValueError(f"unknown sketch family {family!r}; choose from {sorted(FAMILIES)}")
    if dim < 1:
        raise ValueError(f"a sketch needs dim >= 1, not {dim}")
    return Sketch(family, dim, seed)
