"""Rotary position embeddings (RoFormer, arXiv 2104.09864), in Llama's layout of halves."""

import jax
import jax.numpy as jnp
import numpy as np

from partitionsel_jax.models.config import DecoderConfig, RopeScaling


def slowdown(frequencies: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Divisors f64[E/2] of rotary frequencies in radians per token; see `RopeScaling`."""
    if scaling.kind == "none":
        return np.ones_like(frequencies)
    if scaling.kind == "linear":
        return np.full_like(frequencies, scaling.factor)
    waves = scaling.original * frequencies / (2 * np.pi)  # that fit into the original context
    kept = np.clip((waves - scaling.low) / (scaling.high - scaling.low), 0.0, 1.0)
    return 1 / (kept + (1 - kept) / scaling.factor)


def frequencies(config: DecoderConfig) -> np.ndarray:
    """f64[E/2], radians per token of each pair of a head's coordinates."""
    exponents = np.arange(0, config.head_dim, 2) / config.head_dim
    plain = config.rope_theta**-exponents
    return plain / slowdown(plain, config.rope_scaling)


def rotary(x_BxTxHxE: jax.Array, positions_BxT: jax.Array, config: DecoderConfig) -> jax.Array:
    """Rotates halves of each head by its position; a leading axis of 1 is every row's positions."""
    frequencies_E2 = jnp.asarray(frequencies(config), jnp.float32)
    angles_BxTxE2 = positions_BxT.astype(jnp.float32)[..., None] * frequencies_E2[None, None, :]
    cos, sin = (f(angles_BxTxE2)[:, :, None, :] for f in (jnp.cos, jnp.sin))
    first, second = jnp.split(x_BxTxHxE.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BxTxHxE.dtype)
