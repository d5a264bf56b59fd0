"""Functions of many rows, computed in microbatches, so that memory stays that of one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from partitionsel_jax.gradients.buckets import Buckets, switch


def map_microbatches(
    function: Callable[[Any], Any],
    rows: Any,
    microbatch: int,
    span: tuple[jax.Array | int, jax.Array | int] | None = None,
    buckets: Buckets | None = None,
) -> Any:
    """Applies `function` to rows, `microbatch` at a time, and puts the results together.

    Args:
      function: rows with a leading axis b -> a pytree of arrays with that leading axis.
      rows: a pytree whose leaves have a leading axis B.
      microbatch: b, at least 1; B need not be a multiple of it.
      span: (start, stop), the rows that are needed, may be traced: microbatches without any of
        them are skipped, at no cost. None: all.
      buckets: the widths that microbatches may have, and the rows' lengths; a span then has to
        begin and end at 0, `buckets.split` or B. None: all columns of all rows.

    Returns:
      A pytree of arrays with a leading axis B, in the rows' order; 0 where skipped.

    Raises:
      ValueError: microbatch < 1.
    """
    if microbatch < 1:
        raise ValueError(f"features.microbatch must be at least 1, not {microbatch}")
    batch = jax.tree.leaves(rows)[0].shape[0]
    size = max(1, min(microbatch, batch))
    count = -(-batch // size)

    def pad(leaf: jax.Array) -> jax.Array:
        # Repeats the last row: a copy is finite wherever the rows are.
        filled = jnp.pad(leaf, [(0, count * size - batch)] + [(0, 0)] * (leaf.ndim - 1), "edge")
        return filled.reshape(count, size, *leaf.shape[1:])

    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), rows)
    shapes = jax.eval_shape(function, one)
    if not batch:
        return jax.tree.map(lambda x: jnp.zeros((0, *x.shape[1:]), x.dtype), shapes)
    order = choices = None
    if buckets is not None and len(buckets.widths) > 1:
        order, choices = buckets.order(), buckets.choices(size)
        rows = jax.tree.map(lambda leaf: leaf[order], rows)
    parts = jax.tree.map(pad, rows)
    # Zeros like the rows, which differ between devices: the carry of a loop in a shard_map has to
    # enter it as it leaves.
    row = jax.tree.leaves(rows)[0]
    results = jax.tree.map(lambda x: jnp.zeros_like(row, x.dtype, (count, *x.shape)), shapes)

    def body(number: jax.Array, results: Any) -> Any:
        part = jax.tree.map(lambda leaf: leaf[number], parts)
        if buckets is None or choices is None:
            found = function(part)
        else:
            found = switch(function, part, buckets.widths, choices[number])
        return jax.tree.map(lambda all_, new: all_.at[number].set(new), results, found)

    first, last = needed(batch, size, span)
    results = jax.lax.fori_loop(first, last, body, results)
    flat = jax.tree.map(lambda leaf: leaf.reshape(count * size, *leaf.shape[2:])[:batch], results)
    if order is None:
        return flat
    return jax.tree.map(lambda leaf: jnp.zeros_like(leaf).at[order].set(leaf), flat)


def needed(
    batch: int, size: int, span: tuple[jax.Array | int, jax.Array | int] | None
) -> tuple[jax.Array | int, jax.Array | int]:
    """The first microbatch that holds a row of the span, and the one after the last."""
    if span is None:
        return 0, -(-batch // size)
    first = span[0] // size
    return first, jnp.where(span[1] > span[0], -(-span[1] // size), first)


def sum_gradients(
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
    size = min(microbatch or count, count)
    choices = buckets.choices(size)
    if len(buckets.widths) > 1:
        order = buckets.order()
        rows = jax.tree.map(lambda leaf: leaf[order], rows)

    def differentiated(part: Any) -> tuple[jax.Array, Any]:
        (_, value), gradient = jax.value_and_grad(objective, has_aux=True)(parameters, part)
        return value, gradient

    if size == count:
        return switch(differentiated, rows, buckets.widths, choices[0])
    pieces = -(-count // size)

    def split(leaf: jax.Array) -> jax.Array:
        filled = jnp.pad(leaf, [(0, pieces * size - count)] + [(0, 0)] * (leaf.ndim - 1))
        return filled.reshape(pieces, size, *leaf.shape[1:])

    def add(total: tuple[jax.Array, Any], piece: Any) -> tuple[tuple[jax.Array, Any], None]:
        part, choice = piece
        found = switch(differentiated, part, buckets.widths, choice)
        return jax.tree.map(jnp.add, total, found), None

    nothing = jnp.zeros(()), jax.tree.map(jnp.zeros_like, parameters)
    return jax.lax.scan(add, nothing, (jax.tree.map(split, rows), choices))[0]
