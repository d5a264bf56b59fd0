"""Rules: which feasible candidate a round of matching pursuit adds.

Every rule has the signature `rule(residual, matroid, uniform) -> i32[]`: `residual` f32[N] is the
gradient of the utility, `uniform` f32[] one draw from [0, 1). The answer is a candidate's index,
or -1 when no candidate is feasible.
"""

import jax
import jax.numpy as jnp

from partitionsel_jax.selection.indexing import take
from partitionsel_jax.selection.matroid import Matroid


def greedy(residual: jax.Array, matroid: Matroid, uniform: jax.Array) -> jax.Array:
    """The feasible candidate of greatest residual; ties go to the lowest index."""
    del uniform
    score = jnp.where(matroid.open, residual, -jnp.inf)
    # Two plain reductions are faster than `argmax` on a CPU.
    size = score.shape[0]
    first = jnp.where(score == jnp.max(score), jnp.arange(size, dtype=jnp.int32), size)
    pick = jnp.min(first)
    return jnp.where((pick < size) & take(matroid.open, pick), pick, -1)


def residual_random(residual: jax.Array, matroid: Matroid, uniform: jax.Array) -> jax.Array:
    """Uniform over a maximum-weight base of the contracted matroid (paper, Algorithm 2).

    The base is every domain's best `remaining` open candidates by residual, ties to the lowest
    index. Its elements are numbered domain by domain; the one whose number was drawn is found in
    its own domain, so that the base itself is never laid out.
    """
    iota_P = jnp.arange(matroid.remaining.shape[0])
    member_NxP = (matroid.domains[:, None] == iota_P[None, :]) & matroid.open[:, None]
    share_P = jnp.minimum(matroid.remaining, jnp.sum(member_NxP, axis=0, dtype=jnp.int32))
    seen_P = jnp.cumsum(share_P)
    total = seen_P[-1]
    drawn = jnp.minimum(jnp.floor(uniform * total).astype(jnp.int32), total - 1)
    domain = jnp.argmax(seen_P > drawn)
    rank = drawn - (seen_P[domain] - share_P[domain])

    score = jnp.where(matroid.open & (matroid.domains == domain), _sortable(residual), _LOWEST)
    threshold = jax.lax.sort(score, is_stable=False)[score.shape[0] - 1 - rank]
    ties = jnp.cumsum(score == threshold)
    pick = jnp.argmax(ties > rank - jnp.sum(score > threshold)).astype(jnp.int32)
    return jnp.where(total > 0, pick, -1)


def _sortable(values: jax.Array) -> jax.Array:
    """i32 in the order of finite f32 `values`: integers sort many times faster on a CPU."""
    # Zeros of either sign tie.
    values = jnp.where(values == 0.0, 0.0, values)
    bits = jax.lax.bitcast_convert_type(values, jnp.int32)
    return jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)


_LOWEST = jnp.iinfo(jnp.int32).min

RULES = {"greedy": greedy, "residual_random": residual_random}

# Rules that draw from `key`.
RANDOMISED = frozenset({"residual_random"})
