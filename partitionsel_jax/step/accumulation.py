"""Gradient accumulation: one gradient from several backward passes, each over a few rows."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from partitionsel_jax.gradients.buckets import Buckets, switch


def accumulated(
    objective: Callable[[Any, Any], tuple[jax.Array, jax.Array]],
    parameters: Any,
    rows: Any,
    microbatch: int,
    buckets: Buckets,
) -> tuple[jax.Array, Any]:
    """The second value of `objective`, and the gradient of the first, summed over microbatches.

    Args:
      objective: (parameters, rows) -> two sums over the rows; all-zero rows add nothing.
      parameters: what is differentiated.
      rows: a pytree whose leaves have a leading axis.
      microbatch: rows at once; 0 for all.
      buckets: the widths that a microbatch may have, and the rows' lengths.
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    microbatch = min(microbatch or count, count)
    choices = buckets.choices(microbatch)
    if len(buckets.widths) > 1:
        order = buckets.order()
        rows = jax.tree.map(lambda leaf: leaf[order], rows)

    def differentiated(part: Any, choice: jax.Array) -> tuple[jax.Array, Any]:
        def one(part: Any) -> tuple[jax.Array, Any]:
            (_, value), gradient = jax.value_and_grad(objective, has_aux=True)(parameters, part)
            return value, gradient

        return switch(one, part, buckets.widths, choice)

    if microbatch == count:
        return differentiated(rows, choices[0])
    pieces = -(-count // microbatch)

    def split(leaf: jax.Array) -> jax.Array:
        filled = jnp.pad(leaf, [(0, pieces * microbatch - count)] + [(0, 0)] * (leaf.ndim - 1))
        return filled.reshape(pieces, microbatch, *leaf.shape[1:])

    def add(total: tuple[jax.Array, Any], piece: Any) -> tuple[tuple[jax.Array, Any], None]:
        return jax.tree.map(jnp.add, total, differentiated(*piece)), None

    nothing = jnp.zeros(()), jax.tree.map(jnp.zeros_like, parameters)
    return jax.lax.scan(add, nothing, (jax.tree.map(split, rows), choices))[0]
