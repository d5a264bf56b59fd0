"""Training with a selector inside the step."""

from partitionsel_jax.training.loop import train
from partitionsel_jax.training.plan import PlannedRun, expand
from partitionsel_jax.training.recorder import NonFiniteUpdate
from partitionsel_jax.training.step import Step

__all__ = ["NonFiniteUpdate", "PlannedRun", "Step", "expand", "train"]
