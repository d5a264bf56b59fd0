"""Gradient accumulation: one gradient from several backward passes, each over a few rows."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def accumulated(
    objective: Callable[[Any, Any], tuple[jax.Array, jax.Array]],
    parameters: Any,
    rows: Any,
    microbatch: int,
) -> tuple[jax.Array, Any]:
    """The second value of `objective`, and the gradient of the first, summed over microbatches.

    Args:
      objective: (parameters, rows) -> two sums over the rows; all-zero rows add nothing.
      parameters: what is differentiated.
      rows: a pytree whose leaves have a leading axis.
      microbatch: rows at once; 0 for all.
    """
    differentiated = jax.value_and_grad(objective, has_aux=True)
    count = jax.tree.leaves(rows)[0].shape[0]
    if not microbatch or microbatch >= count:
        (_, value), gradient = differentiated(parameters, rows)
        return value, gradient
    pieces = -(-count // microbatch)

    def split(leaf: jax.Array) -> jax.Array:
        filled = jnp.pad(leaf, [(0, pieces * microbatch - count)] + [(0, 0)] * (leaf.ndim - 1))
        return filled.reshape(pieces, microbatch, *leaf.shape[1:])

    def add(total: tuple[jax.Array, Any], part: Any) -> tuple[tuple[jax.Array, Any], None]:
        (_, value), gradient = differentiated(parameters, part)
        return jax.tree.map(jnp.add, total, (value, gradient)), None

    nothing = jnp.zeros(()), jax.tree.map(jnp.zeros_like, parameters)
    return jax.lax.scan(add, nothing, jax.tree.map(split, rows))[0]
