"""Diagnostics of a selection: pure, jittable functions of its indices and weights.

Throughout, `indices` is i32[K] with -1 at padding, and `gram` f32[N, N] has finite entries for
whatever is picked.
"""

import jax
import jax.numpy as jnp


def effective_sample_size(weights: jax.Array) -> jax.Array:
    """(sum w)^2 / sum w^2 of f32[K] weights >= 0: f32[] in [1, K], or 0 if all weights are 0.

    Kish's effective sample size. It does not depend on the weights' scale.
    """
    largest = jnp.max(weights, initial=0.0)
    scaled = weights / jnp.where(largest > 0.0, largest, 1.0)
    squares = jnp.sum(scaled**2)
    return jnp.sum(scaled) ** 2 / jnp.where(squares > 0.0, squares, 1.0)


def conflicting_pairs(gram: jax.Array, indices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Picked pairs whose gradients have a negative inner product.

    Returns:
      count: i32[]; unordered pairs in conflict.
      share: f32[] in [0, 1]; of all unordered pairs of picks; 0 with fewer than two picks.
    """
    block_KxK, pair_KxK = _pairs(gram, indices)
    count = jnp.sum(pair_KxK & (block_KxK < 0.0), dtype=jnp.int32)
    total = jnp.sum(pair_KxK, dtype=jnp.int32)
    return count, count / jnp.maximum(total, 1)


def redundancy(gram: jax.Array, indices: jax.Array) -> jax.Array:
    """Mean cosine over unordered pairs of picks, f32[] in [-1, 1].

    Pairs with a zero gradient count as cosine 0; 0 with fewer than two picks.
    """
    block_KxK, pair_KxK = _pairs(gram, indices)
    norm_K = jnp.sqrt(jnp.maximum(jnp.diagonal(block_KxK), 0.0))
    unit_K = jnp.where(norm_K > 0.0, 1.0 / jnp.where(norm_K > 0.0, norm_K, 1.0), 0.0)
    cosine_KxK = block_KxK * unit_K[:, None] * unit_K[None, :]
    total = jnp.sum(pair_KxK, dtype=jnp.int32)
    return jnp.sum(jnp.where(pair_KxK, cosine_KxK, 0.0)) / jnp.maximum(total, 1)


def matching_cosine(
    gram: jax.Array,
    alignment: jax.Array,
    indices: jax.Array,
    weights: jax.Array,
    anchor_norm: jax.Array,
) -> jax.Array:
    """Cosine between the weighted sum of the picks' gradients and the anchor direction.

    <sum w_i g_i, a> / (|sum w_i g_i| |a|) = <w, s> / (sqrt(w'Kw) |a|).

    Args:
      gram: f32[N, N].
      alignment: f32[N]; s.
      indices: i32[K].
      weights: f32[K].
      anchor_norm: f32[], |a| >= 0.

    Returns:
      f32[] in [-1, 1]; 0 where either vector is 0.
    """
    block_KxK, _ = _pairs(gram, indices)
    largest = jnp.max(jnp.abs(weights), initial=0.0)
    scaled = weights / jnp.where(largest > 0.0, largest, 1.0)
    inner = jnp.dot(scaled, jnp.where(indices >= 0, alignment[indices], 0.0))
    length = jnp.sqrt(jnp.maximum(jnp.dot(scaled, block_KxK @ scaled), 0.0)) * anchor_norm
    cosine = inner / jnp.where(length > 0.0, length, 1.0)
    return jnp.where(length > 0.0, jnp.clip(cosine, -1.0, 1.0), 0.0)


def domain_mix(domains: jax.Array, indices: jax.Array, domain_count: int) -> jax.Array:
    """Picks per domain, i32[P], from i32[N] domains; `domain_count` is P and static."""
    domain_K = jnp.where(indices >= 0, domains[indices], -1)
    return jnp.sum(domain_K[:, None] == jnp.arange(domain_count)[None, :], axis=0, dtype=jnp.int32)


def _pairs(gram: jax.Array, indices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The picks' Gram block (0 at padding), and a mask of its unordered pairs."""
    filled_K = indices >= 0
    both_KxK = filled_K[:, None] & filled_K[None, :]
    block_KxK = jnp.where(both_KxK, gram[indices[:, None], indices[None, :]], 0.0)
    return block_KxK, jnp.triu(both_KxK, k=1)
