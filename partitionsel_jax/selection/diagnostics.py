"""Diagnostics of a selection: pure, jittable, vmappable functions of its indices and weights.

Throughout, `indices` is i32[K], distinct, with -1 at padding; `weights` is f32[K], >= 0; and `gram`
is f32[N, N], with finite entries for whatever is picked. Where the pool is held as features and no
[N, N] array should exist, `block_of_picks` makes what stands in for `gram` and `indices`. Shapes
are checked always, the range of `indices` where it is concrete; both raise a ValueError.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from partitionsel_jax.selection import matroid, refit
from partitionsel_jax.selection.problem import check_count, is_concrete

# Largest set of `submodularity_ratio`, which compares all 4^n pairs of subsets.
LARGEST_SET = 8
# Joint gain relative to f(U), below which float32 cannot tell a gain from none.
GAIN_FLOOR = 1e-7


def block_of_picks(features: jax.Array, indices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Stand-ins for `gram` and `indices`, for pools held as features.

    Pass them together, and `alignment[indices]` and `domains[indices]` for the arrays over the
    pool. (`top_k_overlap` reads no Gram matrix and takes the pool as it is.)

    Args:
      features: f32[N, M]; K_ij = <features_i, features_j>.
      indices: i32[K].

    Returns:
      gram: f32[K, K]; the picks' block of the Gram matrix, 0 at padding.
      positions: i32[K]; 0, 1, ..., and -1 at padding.

    Example:
      >>> import jax.numpy as jnp
      >>> features = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
      >>> gram, positions = block_of_picks(features, jnp.array([2, 0, -1]))
      >>> conflicting_pairs(gram, positions)[0].item()
      1
    """
    _check(indices, features.shape[0])
    filled_K = indices >= 0
    picks_KxM = jnp.where(filled_K[:, None], jnp.asarray(features)[indices], 0.0)
    gram_KxK = jnp.matmul(picks_KxM, picks_KxM.T, precision="highest")
    return gram_KxK, jnp.where(filled_K, jnp.arange(indices.shape[0], dtype=jnp.int32), -1)


def effective_sample_size(weights: jax.Array) -> jax.Array:
    """(sum w)^2 / sum w^2 of f32[K] weights >= 0: f32[] in [1, K], or 0 if all weights are 0.

    Kish's effective sample size. It does not depend on the weights' scale.
    """
    scaled = _unit_largest(weights)
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


def conflicting_weight(gram: jax.Array, indices: jax.Array, weights: jax.Array) -> jax.Array:
    """Share of the pair weight w_i w_j that lies on picked pairs in conflict, f32[] in [0, 1].

    What `conflicting_pairs` shares out by number, this shares out by how much the pairs weigh in
    the update; with equal weights the two agree. It does not depend on the weights' scale, and is 0
    where fewer than two picks have a positive weight.
    """
    block_KxK, pair_KxK = _pairs(gram, indices, weights)
    scaled_K = _unit_largest(jnp.where(indices >= 0, weights, 0.0))
    weight_KxK = jnp.where(pair_KxK, scaled_K[:, None] * scaled_K[None, :], 0.0)
    against = jnp.sum(jnp.where(block_KxK < 0.0, weight_KxK, 0.0))
    # Summed in two parts, so that rounding cannot take the share past 1.
    total = against + jnp.sum(jnp.where(block_KxK < 0.0, 0.0, weight_KxK))
    return against / jnp.where(total > 0.0, total, 1.0)


def redundancy(gram: jax.Array, indices: jax.Array) -> jax.Array:
    """Mean cosine over unordered pairs of picks, f32[] in [-1, 1].

    Pairs with a zero gradient count as cosine 0; 0 with fewer than two picks.
    """
    block_KxK, pair_KxK = _pairs(gram, indices)
    unit_K = _reciprocal(jnp.sqrt(jnp.maximum(jnp.diagonal(block_KxK), 0.0)))
    cosine_KxK = jnp.clip(block_KxK * unit_K[:, None] * unit_K[None, :], -1.0, 1.0)
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
    block_KxK, _ = _pairs(gram, indices, weights, alignment)
    scaled_K = _unit_largest(jnp.where(indices >= 0, weights, 0.0))
    with jax.default_matmul_precision("highest"):
        inner = jnp.dot(scaled_K, jnp.where(indices >= 0, jnp.asarray(alignment)[indices], 0.0))
        square = jnp.dot(scaled_K, block_KxK @ scaled_K)
    length = jnp.sqrt(jnp.maximum(square, 0.0)) * anchor_norm
    return jnp.clip(inner * _reciprocal(length), -1.0, 1.0)


def domain_mix(domains: jax.Array, indices: jax.Array, domain_count: int) -> jax.Array:
    """Picks per domain, i32[P], from i32[N] domains; `domain_count` is P and static."""
    _check(indices, domains.shape[0])
    domain_K = jnp.where(indices >= 0, jnp.asarray(domains)[indices], -1)
    return jnp.sum(domain_K[:, None] == jnp.arange(domain_count)[None, :], axis=0, dtype=jnp.int32)


def top_k_overlap(
    alignment: jax.Array, domains: jax.Array, budgets: jax.Array, indices: jax.Array
) -> jax.Array:
    """Share of the picks that the utility `alignment` would have taken under the same budgets.

    1 means that the selection is top-k by alignment, however it was made.

    Args:
      alignment: f32[N]; nan for a candidate that must not be taken (a broken gradient, say). Ties
        go to the lowest index. Neither scale nor any increasing map changes the result.
      domains: i32[N] in [-1, P); -1 marks a padding row. For `agnostic` coupling pass zeros.
      budgets: i32[P], >= 0; most picks per domain. For `agnostic` coupling pass [K].
      indices: i32[K].

    Returns:
      f32[] in [0, 1]; 0 without picks.
    """
    _check(indices, domains.shape[0], alignment=alignment)
    sound_N = (domains >= 0) & jnp.isfinite(alignment)
    free = matroid.before_picks(jnp.maximum(domains, 0), jnp.asarray(budgets), sound_N)
    top_K = matroid.best_base(free, jnp.where(sound_N, alignment, 0.0), indices.shape[0])
    filled_K = indices >= 0
    shared_K = filled_K & jnp.any(indices[:, None] == top_K[None, :], axis=1)
    return jnp.sum(shared_K) / jnp.maximum(jnp.sum(filled_K), 1)


def relative_error(estimate: jax.Array, exact: jax.Array) -> jax.Array:
    """|estimate - exact| / |exact| in the Frobenius norm, f32[]: fidelity of sketched features.

    Args:
      estimate, exact: f32 of one shape, e.g. two Gram matrices [N, N] or two alignments [N].
        Entries of `exact` that are not finite are left out.

    Returns:
      0 where both vanish, inf where only `exact` does, or where `estimate` is not finite and
      `exact` is; nan where no entry is left.

    Raises:
      ValueError: different shapes.
    """
    estimate, exact = jnp.asarray(estimate), jnp.asarray(exact)
    if estimate.shape != exact.shape:
        raise ValueError(
            f"estimate and exact must have one shape, got {estimate.shape} and {exact.shape}; "
            "compare features of the same rows."
        )
    sound = jnp.isfinite(exact)
    broken = jnp.any(sound & ~jnp.isfinite(estimate))
    exact = jnp.where(sound, exact, 0.0)
    estimate = jnp.where(sound & jnp.isfinite(estimate), estimate, 0.0)
    # The largest entry first, so that squares neither overflow nor vanish.
    unit = _reciprocal(jnp.maximum(jnp.max(jnp.abs(exact)), jnp.max(jnp.abs(estimate))))
    error = jnp.linalg.norm((estimate - exact) * unit)
    norm = jnp.linalg.norm(exact * unit)
    ratio = jnp.where(error > 0.0, error / norm, 0.0)
    ratio = jnp.where(broken, jnp.inf, ratio)
    return jnp.where(jnp.any(sound), ratio, jnp.nan)


def pick_overlap(indices: jax.Array, reference: jax.Array) -> jax.Array:
    """Share of the picks `reference` that are among `indices` as well, f32[] in [0, 1].

    Args:
      indices, reference: i32[K]; two selections from one pool, in any order, -1 at padding.

    Returns:
      1 where `reference` holds no pick.
    """
    picked_K = reference >= 0
    common_K = picked_K & jnp.any(reference[:, None] == indices[None, :], axis=1)
    return jnp.where(jnp.any(picked_K), common_K.sum() / jnp.maximum(picked_K.sum(), 1), 1.0)


def submodularity_ratio(
    gram: jax.Array,
    alignment: jax.Array,
    indices: jax.Array,
    *,
    size: int | None = None,
    ridge: jax.Array | float = 0.0,
) -> jax.Array:
    """How submodular gradient matching is on a small set U, by comparing all its subsets.

    gamma = min over disjoint L, S in U with |S| <= size of
      sum_{j in S} [f(L + j) - f(L)]  /  [f(L + S) - f(L)],

    where f(S) = max U(w) over w >= 0 supported on S, and 0/0 counts as 1. It is 1 where f is
    submodular (for orthogonal gradients, say) and never below the smallest eigenvalue of U's block
    of K + ridge I scaled to unit diagonal. Scales of gradients do not matter without a ridge, and
    that of the anchor never.

    Das & Kempe (2011), from whom the definition is, let S leave U; here U is the ground set too, so
    that the value is an upper bound on theirs. Joint gains up to `GAIN_FLOOR` f(U) count as 0.

    Args:
      gram: f32[N, N].
      alignment: f32[N].
      indices: i32[n], n <= 8; U, with -1 for no element. 4^n n numbers are made of them.
      size: most elements of S, the definition's k, >= 1; None for n. Static.
      ridge: f32[], >= 0; as in `select`.

    Returns:
      f32[] in [0, 1]: an S of one element has a ratio of 1. nan if U has entries not finite.

    Raises:
      ValueError: more than 8 indices, a size that is no positive integer, or a negative ridge.
    """
    block_KxK, _ = _pairs(gram, indices, alignment=alignment)
    count = indices.shape[0]
    if count > LARGEST_SET:
        raise ValueError(
            f"indices must be at most {LARGEST_SET}, whose subsets are compared one by one, got "
            f"{count}; pass some of the picks."
        )
    if size is not None:
        check_count(size)
    if is_concrete(ridge) and not np.asarray(ridge) >= 0.0:
        raise ValueError(f"ridge must be >= 0, as in select, got {ridge}.")
    if count == 0:
        return jnp.ones((), jnp.float32)
    filled_K = indices >= 0
    block_KxK += jnp.diag(jnp.where(filled_K, ridge, 0.0))
    target_K = jnp.where(filled_K, jnp.asarray(alignment)[indices], 0.0)
    finite = jnp.all(jnp.isfinite(block_KxK)) & jnp.all(jnp.isfinite(target_K))
    # Scaled to unit diagonal: f stays as it is, and the rounding no longer depends on the norms.
    unit_K = _reciprocal(jnp.sqrt(jnp.maximum(jnp.diagonal(block_KxK), 0.0)))
    block_KxK = block_KxK * unit_K[:, None] * unit_K[None, :]
    target_K *= unit_K
    target_K *= _reciprocal(jnp.max(jnp.abs(target_K)))
    with jax.default_matmul_precision("highest"):
        ratio = _smallest_ratio(block_KxK, target_K, count if size is None else size)
    return jnp.where(finite, ratio, jnp.nan)


def _smallest_ratio(block_KxK: jax.Array, target_K: jax.Array, size: int) -> jax.Array:
    """The submodularity ratio, given a Gram block of unit diagonal. L and S number subsets."""
    count = target_K.shape[0]
    member_LxK = (jnp.arange(2**count)[:, None] >> jnp.arange(count)[None, :]) & 1 == 1

    def best_weights(member_K: jax.Array) -> jax.Array:
        """The weights that maximise U on one subset, f32[K]."""
        support = dataclasses.replace(
            refit.empty_support(count),
            gram=jnp.where(member_K[:, None] & member_K[None, :], block_KxK, 0.0),
            target=jnp.where(member_K, target_K, 0.0),
        )
        return refit.refit(support, jnp.max(jnp.abs(target_K))).weights

    gains_LxS = _gains(block_KxK, target_K, jax.vmap(best_weights)(member_LxK))
    alone_LxK = gains_LxS[:, 1 << jnp.arange(count)]
    apart_LxS = alone_LxK @ member_LxK.T.astype(jnp.float32)
    # An S that overlaps L has the ratio of what it adds to L: no need to leave it out.
    counted_LxS = (jnp.sum(member_LxK, axis=1) <= size)[None, :]
    counted_LxS &= gains_LxS > GAIN_FLOOR * gains_LxS[0, -1]
    return jnp.min(jnp.where(counted_LxS, apart_LxS * _reciprocal(gains_LxS), 1.0), initial=1.0)


def _gains(block_KxK: jax.Array, target_K: jax.Array, weights_LxK: jax.Array) -> jax.Array:
    """f(L + S) - f(L) for all subsets L and S, f32[2^K, 2^K].

    A difference of two values of f would drown small gains in rounding. From weights w to w + d
    with gradient r there, U grows by <r, d> + d'Ad / 2, and by the KKT conditions both are >= 0: r
    is 0 but where a weight fell to 0.
    """
    subset_L = jnp.arange(weights_LxK.shape[0])
    joined_LxS = subset_L[:, None] | subset_L[None, :]
    residual_LxK = target_K[None, :] - weights_LxK @ block_KxK
    push_LxK = jnp.where(weights_LxK > 0.0, 0.0, jnp.minimum(residual_LxK, 0.0))
    change_LxSxK = weights_LxK[joined_LxS] - weights_LxK[:, None, :]
    push_LxSxK = push_LxK[joined_LxS] + 0.5 * change_LxSxK @ block_KxK
    return jnp.sum(push_LxSxK * change_LxSxK, axis=-1)


def _pairs(
    gram: jax.Array,
    indices: jax.Array,
    weights: jax.Array | None = None,
    alignment: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The picks' Gram block (0 at padding), and a mask of its unordered pairs; checks what came."""
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise ValueError(
            f"gram must have shape [N, N], got {gram.shape}; "
            "for a pool held as features see block_of_picks, and batches go through jax.vmap."
        )
    _check(indices, gram.shape[0], weights, alignment)
    filled_K = indices >= 0
    both_KxK = filled_K[:, None] & filled_K[None, :]
    block_KxK = jnp.where(both_KxK, jnp.asarray(gram)[indices[:, None], indices[None, :]], 0.0)
    return block_KxK, jnp.triu(both_KxK, k=1)


def _reciprocal(values: jax.Array) -> jax.Array:
    """1 / values, and 0 where they are not above 0; nan stays nan."""
    return jnp.where(values <= 0.0, 0.0, 1.0 / jnp.where(values <= 0.0, 1.0, values))


def _unit_largest(weights: jax.Array) -> jax.Array:
    """The weights divided by the largest one, so that their squares are in range."""
    largest = jnp.max(weights, initial=0.0)
    return weights / jnp.where(largest > 0.0, largest, 1.0)


def _check(
    indices: jax.Array,
    pool_size: int,
    weights: jax.Array | None = None,
    alignment: jax.Array | None = None,
) -> None:
    if indices.ndim != 1 or not jnp.issubdtype(indices.dtype, jnp.integer):
        raise ValueError(
            f"indices must be i32[K], got {indices.dtype} of shape {indices.shape}; "
            "batches go through jax.vmap."
        )
    # Under jit an index out of range would read another candidate's row, and nobody could tell.
    if is_concrete(indices) and indices.shape[0]:
        picks = np.asarray(indices)
        if picks.min() < -1 or picks.max() >= pool_size:
            raise ValueError(
                f"indices must lie in [-1, {pool_size}) in a pool of {pool_size}, got values from "
                f"{picks.min()} to {picks.max()}; pass the positions that block_of_picks returns "
                "along with a block of the Gram matrix."
            )
    if weights is not None and weights.shape != indices.shape:
        raise ValueError(
            f"weights must have one entry per index, got shapes {weights.shape} and "
            f"{indices.shape}; pass Selection.weights with Selection.indices."
        )
    if alignment is not None and alignment.shape != (pool_size,):
        raise ValueError(
            f"alignment must have shape ({pool_size},), one entry per candidate, got "
            f"{alignment.shape}; with a block of the Gram matrix pass alignment[indices]."
        )
