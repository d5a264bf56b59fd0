"""Array primitives of the solvers' loops.

NumPy-style indexing wraps, clips and masks every traced index; in loops over small arrays that
costs more than the arithmetic. Here an index is known to be in range, or -1 for no pick, which
reads entry 0: callers mask what they read for it.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp

Tree = TypeVar("Tree")
Function = TypeVar("Function", bound=Callable[..., Any])


def jit(*static: str) -> Callable[[Function], Function]:
    """`jax.jit` with those arguments static, keeping the function's type."""

    def compiled(function: Function) -> Function:
        return cast(Function, jax.jit(function, static_argnames=static))

    return compiled


def take(array: jax.Array, index: jax.Array) -> jax.Array:
    """`array[index]` along axis 0, for i32[] or i32[K] `index`."""
    index = jnp.maximum(index, 0)
    if index.ndim:
        return array.at[index].get(mode="promise_in_bounds")
    entry: jax.Array = jax.lax.dynamic_index_in_dim(
        array, index, 0, keepdims=False, allow_negative_indices=False
    )
    return entry


def put(array: jax.Array, index: jax.Array, value: jax.Array, axis: int = 0) -> jax.Array:
    """`array` with `value` at `index` (i32[], not -1) along `axis`."""
    changed: jax.Array = jax.lax.dynamic_update_index_in_dim(
        array, value, index, axis, allow_negative_indices=False
    )
    return changed


def tie(tree: Tree, *sources: object) -> Tree:
    """`tree` with every array varying over all the mesh axes that any array of `sources` does.

    Under `jax.shard_map` an array's type names the mesh axes it varies over, and a loop's carry
    must enter with the type it leaves with. Constants vary over nothing, so a carry that starts
    from one is tied to the data first, by arithmetic that compiles to nothing.
    """
    false = jnp.zeros((), bool)
    for leaf in jax.tree.leaves(sources):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        false |= (leaf.ravel()[0] != 0) & False
    tied: Tree = jax.tree.map(lambda array: jnp.where(false, jnp.zeros_like(array), array), tree)
    return tied
