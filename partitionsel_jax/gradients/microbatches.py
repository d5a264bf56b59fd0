"""Functions of many rows, computed a few rows at a time, so that memory stays that of a few.

A compiled program has fixed shapes, but not every microbatch needs the widest. With buckets, rows
are put in order of their lengths, what is done with a microbatch is compiled once for each width,
and every microbatch goes through the narrowest that holds its rows: `lax.switch` executes one
branch only, and padding is not computed.

Letters: B rows, b rows of a microbatch, T tokens of a row.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# The first row that is needed and the one after the last; may be traced.
Span = tuple[jax.Array | int, jax.Array | int]


@dataclasses.dataclass(frozen=True)
class Buckets:
    """The widths that there are, and the lengths of the rows.

    Attributes:
      widths: ascending; static. The last one is T.
      lengths: i32[B], columns of each row that are not padding, in 0 .. T.
      split: rows before it and rows from it on are put in order each on their own. 0 for all
        together. It may be traced.
      axis_name: of the mapped axis whose devices take the same width each time, the widest that one
        of them needs, since they gather weights from each other on the way; None: each its own.

    Raises:
      ValueError: widths that are not positive and ascending.
    """

    widths: tuple[int, ...]
    lengths: jax.Array
    split: jax.Array | int = 0
    axis_name: str | None = None

    def __post_init__(self) -> None:
        check_widths(self.widths)

    def order(self) -> jax.Array:
        """i32[B], the rows from the shortest to the longest; ties stay as they are."""
        late_B = jnp.arange(self.lengths.shape[0]) >= self.split
        return jnp.argsort(self.lengths + late_B * (self.widths[-1] + 1), stable=True)

    def choices(self, size: int) -> jax.Array:
        """i32[ceil(B / size)], the place in `widths` of what each microbatch of `order` needs."""
        lengths_B = self.lengths[self.order()]
        filled = jnp.pad(lengths_B, (0, -lengths_B.shape[0] % size), "edge")
        longest = filled.reshape(-1, size).max(axis=1)
        # A row longer than all of them, which there should not be, is cut to the widest.
        found: jax.Array = jnp.minimum(
            jnp.searchsorted(jnp.asarray(self.widths), longest), len(self.widths) - 1
        )
        if self.axis_name is not None and len(self.widths) > 1:
            found = jax.lax.pmax(found, self.axis_name)
        return found


def check_widths(widths: tuple[int, ...]) -> None:
    """Raises ValueError unless there are widths, positive and ascending."""
    if not widths or any(a >= b for a, b in zip((0, *widths), widths, strict=False)):
        raise ValueError(f"expected ascending widths of at least 1, got {widths}; sort them")


def map_microbatches(
    function: Callable[[Any], Any],
    rows: Any,
    microbatch: int,
    span: Span | None = None,
    buckets: Buckets | None = None,
) -> Any:
    """Applies `function` to rows, `microbatch` at a time, and puts the results together.

    Args:
      function: rows with a leading axis b -> a pytree of arrays with that leading axis.
      rows: a pytree whose leaves have a leading axis B.
      microbatch: b, at least 1; B need not be a multiple of it.
      span: the rows that are needed: microbatches without any of them are skipped, at no cost.
        None: all.
      buckets: the widths that microbatches may have, and the rows' lengths; a span then has to
        begin and end at 0, `buckets.split` or B. None: all columns of all rows.

    Returns:
      A pytree of arrays with a leading axis B, in the rows' order; 0 where skipped.

    Raises:
      ValueError: microbatch < 1.
    """
    if microbatch < 1:
        raise ValueError(f"features.microbatch must be at least 1, not {microbatch}")
    row = jax.tree.leaves(rows)[0]
    batch = row.shape[0]
    size = max(1, min(microbatch, batch))
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), rows)
    shapes = jax.eval_shape(function, one)
    if not batch:
        return jax.tree.map(lambda x: jnp.zeros((0, *x.shape[1:]), x.dtype), shapes)
    # The filling repeats the last row: a copy is finite wherever the rows are.
    parts, count, order = _split(rows, size, buckets, "edge")
    choices = None if buckets is None or order is None else buckets.choices(size)
    # Zeros like the rows, which differ between devices: the carry of a loop in a shard_map has to
    # enter it as it leaves.
    results = jax.tree.map(lambda x: jnp.zeros_like(row, x.dtype, (count, *x.shape)), shapes)

    def body(number: jax.Array, results: Any) -> Any:
        part = jax.tree.map(lambda leaf: leaf[number], parts)
        found = (
            function(part)
            if buckets is None or choices is None
            else _at_width(function, part, buckets.widths, choices[number])
        )
        return jax.tree.map(lambda all_, new: all_.at[number].set(new), results, found)

    results = jax.lax.fori_loop(*needed(batch, size, span), body, results)
    flat = jax.tree.map(lambda leaf: leaf.reshape(count * size, *leaf.shape[2:])[:batch], results)
    if order is None:
        return flat
    return jax.tree.map(lambda leaf: jnp.zeros_like(leaf).at[order].set(leaf), flat)


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
    batch = jax.tree.leaves(rows)[0].shape[0]
    size = min(microbatch or batch, batch)
    choices = buckets.choices(size)
    parts, count, _ = _split(rows, size, buckets, "constant")

    def differentiated(part: Any) -> tuple[jax.Array, Any]:
        (_, value), gradient = jax.value_and_grad(objective, has_aux=True)(parameters, part)
        return value, gradient

    def add(total: tuple[jax.Array, Any], piece: Any) -> tuple[tuple[jax.Array, Any], None]:
        found = _at_width(differentiated, piece[0], buckets.widths, piece[1])
        return jax.tree.map(jnp.add, total, found), None

    if count == 1:
        whole = jax.tree.map(lambda leaf: leaf[0], parts)
        found: tuple[jax.Array, Any] = _at_width(differentiated, whole, buckets.widths, choices[0])
        return found
    nothing = jnp.zeros(()), jax.tree.map(jnp.zeros_like, parameters)
    return jax.lax.scan(add, nothing, (parts, choices))[0]


def _split(
    rows: Any, size: int, buckets: Buckets | None, fill: str
) -> tuple[Any, int, jax.Array | None]:
    """The rows as [pieces, size, ...], filled up; the pieces' number, and the rows' order.

    The order is that of their buckets, or None, for as they came, where there is one width.
    """
    batch, order = jax.tree.leaves(rows)[0].shape[0], None
    pieces = -(-batch // size)
    if buckets is not None and len(buckets.widths) > 1:
        order = buckets.order()
        rows = jax.tree.map(lambda leaf: leaf[order], rows)

    def split(leaf: jax.Array) -> jax.Array:
        widths = [(0, pieces * size - batch)] + [(0, 0)] * (leaf.ndim - 1)
        return jnp.pad(leaf, widths, fill).reshape(pieces, size, *leaf.shape[1:])

    return jax.tree.map(split, rows), pieces, order


def _at_width(
    function: Callable[[Any], Any], rows: Any, widths: tuple[int, ...], choice: jax.Array
) -> Any:
    """`function` of the rows [b, ...] at the chosen (i32[]) width; only that one is computed."""
    if len(widths) == 1:
        return function(narrowed(rows, widths[0]))
    branches = [lambda rows, width=width: function(narrowed(rows, width)) for width in widths]
    return jax.lax.switch(choice, branches, rows)


def narrowed(rows: Any, width: int) -> Any:
    """The first `width` columns of every leaf that has columns."""
    return jax.tree.map(lambda leaf: leaf[:, :width] if leaf.ndim > 1 else leaf, rows)


def needed(batch: int, size: int, span: Span | None) -> tuple[jax.Array | int, jax.Array | int]:
    """The first microbatch that holds a row of the span, and the one after the last."""
    if span is None:
        return 0, -(-batch // size)
    first = span[0] // size
    return first, jnp.where(span[1] > span[0], -(-span[1] // size), first)
