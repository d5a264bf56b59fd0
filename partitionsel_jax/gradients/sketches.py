"""Random sketches of gradients: linear maps R^D -> R^m that keep inner products in expectation.

Every family promises, over its seeds, for fixed x and y:

* E<sketch(x), sketch(y)> = <x, y>;
* Var<sketch(x), sketch(y)> <= (|x|^2 |y|^2 + <x, y>^2) / m.

Matrices are regenerated from (seed, block) whenever they are used and never stored. None is
larger than `BLOCK` x m entries, whatever the number of parameters D.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

BLOCK = 4096  # coordinates sketched at a time; a power of two, and of Walsh-Hadamard's radix
_RADIX = 64
# Keeps the sketch's stream apart from others that fold small numbers into a key of the same seed.
_STREAM = 0x5E7C4


def _signs(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Independent +-1 as f32; one random word serves 32 of them."""
    *leading, last = shape
    words = jax.random.bits(key, (*leading, -(-last // 32)), jnp.uint32)
    shifts = jnp.arange(32, dtype=jnp.uint32).reshape((1,) * len(shape) + (32,))
    bits = (words[..., None] >> shifts) & 1
    bits = bits.reshape(*leading, -1)[..., :last]
    return 2.0 * bits.astype(jnp.float32) - 1.0


def _walsh(size: int) -> jax.Array:
    """The Walsh-Hadamard matrix of a power of two, entries +-1, f32[size, size]."""
    index = jnp.arange(size, dtype=jnp.uint32)
    parity = jax.lax.population_count(index[:, None] & index[None, :]) & 1
    return 1.0 - 2.0 * parity.astype(jnp.float32)


def walsh_hadamard(x: jax.Array) -> jax.Array:
    """Unnormalised Walsh-Hadamard transform along the last axis (a power of two <= BLOCK).

    H_n = H_a (x) H_b with a b = n: two small matrix products, which suit matrix units better
    than log2(n) passes of butterflies.
    """
    size = x.shape[-1]
    inner = min(size, _RADIX)
    outer = size // inner
    x = x.reshape(*x.shape[:-1], outer, inner)
    x = jnp.einsum("...oi,ij->...oj", x, _walsh(inner), precision="highest")
    x = jnp.einsum("...oi,op->...pi", x, _walsh(outer), precision="highest")
    return x.reshape(*x.shape[:-2], size)


def _srht_block(key: jax.Array, x_BxC: jax.Array, dim: int) -> jax.Array:
    """Subsampled randomised Hadamard transform of one block of coordinates.

    Signs before the transform spread every coordinate; rows are drawn with replacement, so that m
    may exceed the block; signs after it decorrelate the blocks, whose sketches are added up. With
    them the variance is that of independent signs, (|x|^2 |y|^2 + <x, y>^2 - 2 sum x_i^2 y_i^2) / m
    (Ailon & Chazelle 2009 for the transform; the sum over blocks is derived in the tests).
    """
    before, rows, after = jax.random.split(key, 3)
    size = x_BxC.shape[-1]
    spread = walsh_hadamard(x_BxC * _signs(before, (size,))[None, :])
    drawn = jax.random.randint(rows, (dim,), 0, size)
    return spread[:, drawn] * _signs(after, (dim,))[None, :]


def _rademacher_block(key: jax.Array, x_BxC: jax.Array, dim: int) -> jax.Array:
    """A dense matrix of independent signs (Achlioptas 2003), for one block of coordinates."""
    return jnp.dot(x_BxC, _signs(key, (x_BxC.shape[-1], dim)), precision="highest")


FAMILIES: dict[str, Callable[[jax.Array, jax.Array, int], jax.Array]] = {
    "rademacher": _rademacher_block,
    "srht": _srht_block,
}


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["seed"], meta_fields=["family", "dim"]
)
@dataclasses.dataclass(frozen=True)
class Sketch:
    """A sketch of gradient trees; see `make_sketch`. A pytree whose only leaf is the seed."""

    family: str
    dim: int
    seed: int | jax.Array

    def __call__(self, per_example: Any) -> jax.Array:
        """Sketches a pytree of per-example gradients.

        Args:
          per_example: a pytree, or one array, whose leaves have a leading axis B.

        Returns:
          f32[B, dim]; linear in `per_example`. Leaves without any coordinate add nothing.

        Raises:
          ValueError: no leaves, or leaves that disagree about B.
        """
        leaves = jax.tree.leaves(per_example)
        batches = {leaf.shape[0] if leaf.ndim else None for leaf in leaves}
        if len(batches) != 1 or None in batches:
            raise ValueError(
                "a sketch takes a pytree of gradients with one leading axis B in common; "
                f"got leaves of shapes {[leaf.shape for leaf in leaves]}"
            )
        return _sketch_leaves(self, leaves)


@jax.jit
def _sketch_leaves(sketch: Sketch, leaves: list[jax.Array]) -> jax.Array:
    batch, sizes = leaves[0].shape[0], [math.prod(leaf.shape[1:]) for leaf in leaves]
    total = jnp.zeros((batch, sketch.dim), jnp.float32)
    if not any(sizes):
        return total
    # One long vector instead of one loop per leaf: the program stays small, and quick to compile.
    flat = [
        leaf.reshape(batch, n).astype(jnp.float32) for leaf, n in zip(leaves, sizes, strict=True)
    ]
    block = min(BLOCK, 1 << (sum(sizes) - 1).bit_length())
    blocks = -(-sum(sizes) // block)
    flat.append(jnp.zeros((batch, blocks * block - sum(sizes)), jnp.float32))
    x_BxKxC = jnp.concatenate(flat, axis=1).reshape(batch, blocks, block)
    key = jax.random.fold_in(jax.random.key(sketch.seed), _STREAM)
    sketch_block = FAMILIES[sketch.family]

    def add(number, total):
        x_BxC = jax.lax.dynamic_index_in_dim(x_BxKxC, number, axis=1, keepdims=False)
        return total + sketch_block(jax.random.fold_in(key, number), x_BxC, sketch.dim)

    return jax.lax.fori_loop(0, blocks, add, total) / jnp.sqrt(jnp.float32(sketch.dim))


def make_sketch(family: str, dim: int, seed: int | jax.Array = 0) -> Sketch:
    """A sketch R^D -> R^dim for any D, with the guarantees of this module's docstring.

    Args:
      family: a name in `FAMILIES`. "srht" costs O(D log D) and suits large D; "rademacher" costs
        O(D dim) and has the plainest distribution.
      dim: m, at least 1; it may exceed D and need not be a power of two.
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
