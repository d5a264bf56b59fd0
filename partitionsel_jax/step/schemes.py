"""The schemes that config.selection names: a pool's budgets, and the weights of its picks."""

import jax
import jax.numpy as jnp

from partitionsel_jax.config.sections import SelectionSettings
from partitionsel_jax.selection import budgets
from partitionsel_jax.selection.budgets import CurriculumState


def update_weights(picked_K: jax.Array, learned_K: jax.Array, scheme: str, cap: float) -> jax.Array:
    """Weights of the picks in the update, f32[K]: mean 1 over the picks, 0 at padding.

    Args:
      picked_K: bool[K], False at padding.
      learned_K: f32[K], the selector's weights.
      scheme: "uniform"; "learned" (rescaled to mean 1); "clipped" (learned, at most `cap`).
      cap: the largest weight of "clipped", in units of the mean.
    """
    ones_K = picked_K.astype(jnp.float32)
    if scheme == "uniform":
        return ones_K
    count, total = ones_K.sum(), (learned_K * ones_K).sum()
    scaled_K = jnp.where(total > 0, learned_K * ones_K * count / jnp.maximum(total, 1e-30), ones_K)
    return jnp.minimum(scaled_K, cap) if scheme == "clipped" else scaled_K


def domain_budgets(
    counts_P: jax.Array, settings: SelectionSettings, curriculum: CurriculumState | None = None
) -> jax.Array:
    """This pool's budgets i32[P] under the configured scheme; `curriculum` is its state."""
    if settings.budgets == "curriculum":
        if curriculum is None:
            raise ValueError(
                "budgets='curriculum' need the state of a curriculum, got None; make the training "
                "state with Step.initial"
            )
        chosen = settings.curriculum
        return budgets.curriculum(
            counts_P,
            settings.size,
            curriculum,
            blend=chosen.blend,
            floor=chosen.floor,
            sharpness=chosen.sharpness,
        )
    if settings.budgets == "fixed":
        return budgets.fixed(counts_P, settings.size, jnp.asarray(settings.shares))
    if settings.budgets == "temperature":
        return budgets.temperature(counts_P, settings.size, settings.temperature)
    return {
        "proportional": budgets.proportional,
        "uniform": budgets.uniform,
    }[settings.budgets](counts_P, settings.size)
