"""Gradient features in the geometry of Adam's steps instead of plain gradient descent's.

A step of Adam (arXiv 1412.6980) divides each coordinate of a gradient by sqrt(v) + eps, with v the
running mean of its squares. The first-order gain of such a step along example i's gradient, for a
validation gradient a, is <a, g_i / (sqrt(v) + eps)>: the influence of LESS (arXiv 2402.04333), its
momentum left out. Multiplying every gradient, candidates' and anchors' alike, by
(sqrt(v) + eps)^(-1/2) makes that the plain inner product of two features, and the Gram matrix that
of the same geometry.

`exact` takes v as it is. `factored` replaces the v of a matrix by the product of its row and
column means over its mean (Adafactor, arXiv 1804.04235), whose scale can be applied to the two
factors of a gradient, before they are sketched.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from partitionsel_jax.gradients.factored import Scale
from partitionsel_jax.gradients.features import Path, is_stacked

# eps, relative to the root mean square of all gradients in scope. Adam's own 1e-8 would multiply a
# coordinate that has seen no gradient yet by 10^4.
DAMPING = 1e-3


def _damped(
    second_moments: Mapping[Path, jax.Array], updates: jax.Array, decay: float
) -> tuple[dict[Path, jax.Array], jax.Array, jax.Array]:
    """Bias-corrected second moments, eps^2, and whether there is anything to go by yet."""
    corrected = {
        path: leaf.astype(jnp.float32) / jnp.maximum(1 - decay**updates, 1e-30)
        for path, leaf in second_moments.items()
    }
    total = sum(jnp.sum(leaf) for leaf in corrected.values())
    mean = total / sum(leaf.size for leaf in corrected.values())
    known = (updates > 0) & (mean > 0) & jnp.isfinite(mean)
    return corrected, DAMPING**2 * jnp.where(known, mean, 1.0), known


def exact(
    second_moments: Mapping[Path, jax.Array], updates: jax.Array, decay: float
) -> dict[Path, jax.Array]:
    """The factors that the reference path multiplies gradients by.

    Args:
      second_moments: f32, Adam's, of the parameters in scope by path.
      updates: i32[], how many updates they have seen.
      decay: Adam's b2.

    Returns:
      (sqrt(v) + eps)^(-1/2) in the shapes of `second_moments`; 1 before the first update. eps is
      `DAMPING` times the root mean square of the gradients in scope.
    """
    corrected, floor, known = _damped(second_moments, updates, decay)

    def scale(v: jax.Array) -> jax.Array:
        return jnp.where(known, jax.lax.rsqrt(jnp.sqrt(v) + jnp.sqrt(floor)), 1.0)

    return {path: scale(v) for path, v in corrected.items()}


def factored(
    second_moments: Mapping[Path, jax.Array], updates: jax.Array, decay: float
) -> dict[Path, Scale]:
    """The factors that the factored path multiplies its two sides by.

    Args and conventions as for `exact`; eps^2 is added to the row and column means instead.

    Returns:
      By path, (f32[in], f32[out]) for a matrix and f32[D] for a vector, each with the layer axis of
      stacked leaves in front.
    """
    corrected, floor, known = _damped(second_moments, updates, decay)

    def scale(path: Path, v: jax.Array) -> Scale:
        if v.ndim - is_stacked(path) == 1:
            return jnp.where(known, jax.lax.rsqrt(jnp.sqrt(v) + jnp.sqrt(floor)), 1.0)
        rows, columns = v.mean(axis=-1) + floor, v.mean(axis=-2) + floor
        mean = jnp.sqrt(rows.mean(axis=-1, keepdims=True))
        # v_ij = (rows_i / mean) (columns_j / mean), and the scale is v^(-1/4).
        left, right = (jnp.where(known, (x / mean) ** -0.25, 1.0) for x in (rows, columns))
        return left, right

    return {path: scale(path, v) for path, v in corrected.items()}


def expand(scales: Mapping[Path, Scale]) -> dict[Path, jax.Array]:
    """The result of `factored` as whole arrays, for the reference path."""
    return {
        path: scale[0][..., :, None] * scale[1][..., None, :] if isinstance(scale, tuple) else scale
        for path, scale in scales.items()
    }
