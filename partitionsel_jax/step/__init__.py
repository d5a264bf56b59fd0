"""One update: features of pool and anchors, a choice under budgets, a weighted step."""

from partitionsel_jax.step.step import Step

__all__ = ["Step"]
