"""Rows of different lengths in a few static widths, so that padding is not computed.

A compiled program has fixed shapes, but not every microbatch needs the widest. Rows are put in
order of their lengths, what is done with a microbatch is compiled once for each width, and every
microbatch goes through the narrowest that holds its rows: `lax.switch` executes one branch only.

Letters: B rows, b rows of a microbatch, T tokens of a row.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Buckets:
    """Which widths there are, and how long the rows are.

    Attributes:
      widths: ascending; static. The last one is T.
      lengths: i32[B], columns of each row that are not padding, in 0 .. T.
      split: static; rows before it and rows from it on are put in order each on their own. 0 for
        all together.
      axis_name: of the mapped axis whose devices take the same width each time, the widest that one
        of them needs, since they gather weights from each other on the way; None: each its own.

    Raises:
      ValueError: widths that are not positive and ascending.
    """

    widths: tuple[int, ...]
    lengths: jax.Array
    split: int = 0
    axis_name: str | None = None

    def __post_init__(self):
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
        found = jnp.minimum(
            jnp.searchsorted(jnp.asarray(self.widths), longest), len(self.widths) - 1
        )
        if self.axis_name is None or len(self.widths) == 1:
            return found
        return jax.lax.pmax(found, self.axis_name)


def check_widths(widths: tuple[int, ...]) -> None:
    """Raises ValueError unless there are widths, positive and ascending."""
    if not widths or any(a >= b for a, b in zip((0, *widths), widths, strict=False)):
        raise ValueError(f"expected ascending widths of at least 1, got {widths}; sort them")


def narrowed(rows: Any, width: int) -> Any:
    """The first `width` columns of every leaf that has columns."""
    return jax.tree.map(lambda leaf: leaf[:, :width] if leaf.ndim > 1 else leaf, rows)


def switch(
    function: Callable[[Any], Any], rows: Any, widths: tuple[int, ...], choice: jax.Array
) -> Any:
    """`function` of the rows at one of the widths; only that one is computed.

    Args:
      function: rows [b, width] -> a pytree whose shapes do not depend on the width.
      rows: a pytree whose leaves are [b] or [b, T, ...].
      widths: static.
      choice: i32[], place in `widths`.
    """
    if len(widths) == 1:
        return function(narrowed(rows, widths[0]))
    branches = [lambda rows, width=width: function(narrowed(rows, width)) for width in widths]
    return jax.lax.switch(choice, branches, rows)
