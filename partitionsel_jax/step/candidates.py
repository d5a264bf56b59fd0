"""The pool as the selector sees it, made from what is known of its rows and of the anchors.

Letters of the shape comments: N pool, A anchors, M feature dimension, P domains.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from partitionsel_jax.config.sections import SelectionSettings
from partitionsel_jax.data.rows import Rows
from partitionsel_jax.gradients.features import Features
from partitionsel_jax.step.anchors import Anchors


class RowInfo(NamedTuple):
    """What every device knows of the pool's rows; their tokens stay where they are.

    Attributes:
      domain, id, corrupted: see `Rows`; [N] each.
    """

    domain: jax.Array
    id: jax.Array
    corrupted: jax.Array

    @classmethod
    def of(cls, rows: Rows) -> "RowInfo":
        """Those of these rows."""
        return cls(rows.domain, rows.id, rows.corrupted)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Candidates:
    """The pool as the selector sees it, on every device.

    Attributes:
      labels: of the N rows.
      losses: f32[N].
      gram: f32[N, N], alignment: f32[N]; see `selection.Problem`.
      anchor_norm: f32[], norm of the anchor direction.
      norms: f32[N], anchor_similarity: f32[N, A], reference_losses: f32[N]; see there as well;
        None unless the utility reads them.
      anchor_losses: f32[P], see `anchors.mean_losses`; None unless the budgets follow
        them.
      anchors_dropped: i32[], anchors left out because a feature of theirs was not finite; None if
        there are no features.
    """

    labels: RowInfo
    losses: jax.Array
    gram: jax.Array
    alignment: jax.Array
    anchor_norm: jax.Array
    norms: jax.Array | None = None
    anchor_similarity: jax.Array | None = None
    reference_losses: jax.Array | None = None
    anchor_losses: jax.Array | None = None
    anchors_dropped: jax.Array | None = None

    @classmethod
    def without_features(cls, labels: RowInfo, counted_N: jax.Array) -> "Candidates":
        """Of which only bool[N] is known, whether they have a token that the loss counts."""
        count = counted_N.shape[0]
        return cls(
            labels=labels,
            losses=jnp.full(count, jnp.nan),
            gram=jnp.zeros((count, count)),
            alignment=jnp.where(counted_N, 0.0, jnp.nan),
            anchor_norm=jnp.zeros(()),
        )


def compare(
    labels: RowInfo, pool: Features, anchors: Anchors, settings: SelectionSettings
) -> Candidates:
    """The candidates from the features of all rows; what the utility does not read is left out.

    Args:
      labels: of the N rows of the pool.
      pool: features of the N rows.
      anchors: what is known of the anchors.
      settings: what is read of them.
    """
    product = functools.partial(jnp.dot, precision="highest")
    similarity_NxA = None
    if settings.compares_anchors:
        assert anchors.vectors is not None  # as they are read
        similarity_NxA = product(pool.vectors, anchors.vectors.T)
    return Candidates(
        labels=labels,
        losses=pool.losses,
        gram=product(pool.vectors, pool.vectors.T),
        alignment=product(pool.vectors, anchors.direction),
        anchor_norm=jnp.linalg.norm(anchors.direction),
        norms=pool.norms if "norms" in settings.reads else None,
        anchor_similarity=similarity_NxA,
        anchor_losses=anchors.losses if settings.budgets == "curriculum" else None,
        anchors_dropped=anchors.dropped,
    )
