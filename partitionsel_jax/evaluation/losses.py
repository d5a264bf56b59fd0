"""Losses over a whole split, per domain."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from partitionsel_jax.gradients.microbatches import narrowed


@dataclasses.dataclass(frozen=True)
class DomainLosses:
    """Mean loss over all examples of a split, and over each domain's, in the corpus's order.

    A domain without rows has nan.
    """

    mean: float
    per_domain: list[float]


def batches(tree: Any, batch: int) -> Iterator[tuple[Any, int]]:
    """Cuts the leading axis into pieces of `batch` rows; the last is filled up with its last row.

    Yields:
      (rows, real): a pytree with `batch` rows, of which the first `real` are the tree's own.
    """
    total = jax.tree.leaves(tree)[0].shape[0]
    for begin in range(0, total, batch):
        index = np.minimum(np.arange(begin, begin + batch), total - 1)
        yield jax.tree.map(lambda leaf, index=index: leaf[index], tree), min(batch, total - begin)


def domain_losses(
    losses: Callable[[Any], jax.Array],
    rows: Any,
    *,
    batch: int,
    domains: int,
    widths: tuple[int, ...] = (),
    every: bool = True,
) -> DomainLosses:
    """Averages a loss over rows, and over the rows of each domain, in float64.

    Args:
      losses: rows -> f32[batch], for pieces of exactly `batch` rows.
      rows: `data.Rows` of the split.
      batch: rows per call.
      domains: number of domains P.
      widths: columns that pieces of short rows may have instead of all; ascending.
      every: whether all domains have to have rows.

    Raises:
      ValueError: a domain without a row, whose mean would not exist.
    """
    counts = np.bincount(rows.domain, minlength=domains)
    if every and (counts == 0).any():
        raise ValueError(
            f"domain {int(np.argmin(counts))} has no row to evaluate: enlarge its split"
        )
    order = np.argsort(rows.lengths, kind="stable") if widths else np.arange(len(rows.domain))
    pending = []
    for piece, real in batches(jax.tree.map(lambda leaf: leaf[order], rows), batch):
        longest = int(piece.lengths.max())
        width = next((width for width in widths if width >= longest), rows.tokens.shape[1])
        pending.append((losses(narrowed(piece, width)), real))
    values = np.zeros(len(order))
    values[order] = np.concatenate([np.asarray(loss, np.float64)[:real] for loss, real in pending])
    sums = np.bincount(rows.domain, weights=values, minlength=domains)
    means = np.divide(sums, counts, out=np.full(domains, np.nan), where=counts > 0)
    return DomainLosses(float(values.mean()), means.tolist())
