"""The anchors as selection sees them: a direction and losses, put together from all devices.

Features of anchors stay where they were computed. What selection reads of them is their mean, so
that is what devices exchange, unless the utility compares candidates with each anchor.

Picks must not depend on the number of devices, and a sum of floats depends on its order. The mean
is therefore summed as integers, in units of 2^-30 of the largest entry's power of two: exact in any
order, with an error below that of adding float32 up.

Letters of the shape comments: A anchors of all devices, a of this one, M feature dimension,
P domains.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from partitionsel_jax.gradients.features import Features

# The weights of a mean sum to 1, so that its entries stay below 2^30 units and rounding fits.
_BITS = 30


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Anchors:
    """The anchors as selection reads them, on every device.

    Attributes:
      direction: f32[M], the mean of their features; nan if no anchor is sound.
      losses: f32[P], see `mean_losses`.
      dropped: i32[], anchors left out because a feature of theirs was not finite.
      vectors: f32[A, M], the features themselves; None unless the utility reads them.
    """

    direction: jax.Array
    losses: jax.Array
    dropped: jax.Array
    vectors: jax.Array | None = None

    @classmethod
    def nothing(cls, dim: int, domains: int, count: int = 0) -> "Anchors":
        """Zeros for features of M = `dim`; with `count`, for as many of them as well."""
        return cls(
            direction=jnp.zeros(dim),
            losses=jnp.zeros(domains),
            dropped=jnp.zeros((), jnp.int32),
            vectors=jnp.zeros((count, dim)) if count else None,
        )


class AnchorStats(NamedTuple):
    """The few numbers of every anchor that all devices need.

    Attributes:
      domain: i32[A].
      loss: f32[A].
      largest: f32[A], the largest absolute value in its feature; not finite where one is not.
    """

    domain: jax.Array
    loss: jax.Array
    largest: jax.Array

    @classmethod
    def of(cls, features: Features, domains_A: jax.Array) -> "AnchorStats":
        """The numbers of anchors with these features and domains."""
        return cls(domains_A, features.losses, jnp.max(jnp.abs(features.vectors), axis=1))


def summarise(
    stats: AnchorStats,
    vectors_axM: jax.Array,
    *,
    mean: str,
    domains: int,
    vectors_AxM: jax.Array | None = None,
    axis_name: str | None = None,
) -> Anchors:
    """The anchors of all devices; those with a non-finite feature are left out.

    Args:
      stats: of all anchors, those of one device behind those of another.
      vectors_axM: f32[a, M], features of this device's anchors.
      mean: "plain", or "balanced" to give every domain with a sound anchor the same weight.
      domains: P.
      vectors_AxM: f32[A, M], to be kept in the result; None where nothing reads them.
      axis_name: of the mapped axis; None where all anchors are here.
    """
    sound_A = jnp.isfinite(stats.largest)
    weights_A = sound_A.astype(jnp.float32)
    if mean == "balanced":
        counts_P = jax.ops.segment_sum(weights_A, stats.domain, domains)
        weights_A = weights_A / jnp.maximum(counts_P, 1.0)[stats.domain]
    weights_A = weights_A / jnp.maximum(weights_A.sum(), 1e-30)
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * vectors_axM.shape[0]
    weights_a = jax.lax.dynamic_slice_in_dim(weights_A, first, vectors_axM.shape[0])
    # The weight of an anchor that is not sound is 0, which alone would leave a nan.
    weighted_axM = weights_a[:, None] * jnp.where(weights_a[:, None] > 0, vectors_axM, 0.0)
    _, exponent = jnp.frexp(jnp.max(jnp.where(sound_A, stats.largest, 0.0)))
    units_axM = jnp.round(jnp.ldexp(weighted_axM, _BITS - exponent)).astype(jnp.int32)
    total_M = units_axM.sum(axis=0)
    if axis_name is not None:
        total_M = jax.lax.psum(total_M, axis_name)
    direction_M = jnp.ldexp(total_M.astype(jnp.float32), exponent - _BITS)
    return Anchors(
        direction=jnp.where(jnp.any(sound_A), direction_M, jnp.nan),
        losses=mean_losses(jnp.where(sound_A, stats.loss, jnp.nan), stats.domain, domains),
        dropped=jnp.sum(~sound_A, dtype=jnp.int32),
        vectors=vectors_AxM,
    )


def from_features(features: Features, domains_A: jax.Array, *, mean: str, domains: int) -> Anchors:
    """The anchors from the features of all of them, where these are all here.

    Args:
      features: of the A anchors.
      domains_A: i32[A].
      mean, domains: see `summarise`.
    """
    vectors = features.vectors
    stats = AnchorStats.of(features, domains_A)
    return summarise(stats, vectors, mean=mean, domains=domains, vectors_AxM=vectors)


def mean_losses(losses_A: jax.Array, domains_A: jax.Array, domains: int) -> jax.Array:
    """Mean loss of each domain's anchors, f32[P]; nan for a domain without a finite loss.

    Args:
      losses_A: f32[A]; those that are not finite are left out.
      domains_A: i32[A].
      domains: P.
    """
    sound_A = jnp.isfinite(losses_A)
    totals_P = jax.ops.segment_sum(jnp.where(sound_A, losses_A, 0.0), domains_A, domains)
    counts_P = jax.ops.segment_sum(sound_A.astype(jnp.float32), domains_A, domains)
    return totals_P / counts_P
