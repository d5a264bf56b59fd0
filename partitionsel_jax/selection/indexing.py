"""Reading and writing at traced indices that are known to be in range, or -1.

NumPy-style indexing wraps, clips and masks every traced index; in loops over small arrays that
costs more than the arithmetic. Here -1, which stands for no pick, reads entry 0: callers mask what
they read for it.
"""

import jax
import jax.numpy as jnp


def take(array: jax.Array, index: jax.Array) -> jax.Array:
    """`array[index]` along axis 0, for i32[] index."""
    index = jnp.maximum(index, 0)
    return jax.lax.dynamic_index_in_dim(
        array, index, 0, keepdims=False, allow_negative_indices=False
    )


def gather(array: jax.Array, indices: jax.Array) -> jax.Array:
    """`array[indices]` along axis 0, for i32[K] indices."""
    return array.at[jnp.maximum(indices, 0)].get(mode="promise_in_bounds")


def put(array: jax.Array, index: jax.Array, value: jax.Array, axis: int = 0) -> jax.Array:
    """`array` with `value` at `index` (i32[], not -1) along `axis`."""
    return jax.lax.dynamic_update_index_in_dim(
        array, value, index, axis, allow_negative_indices=False
    )
