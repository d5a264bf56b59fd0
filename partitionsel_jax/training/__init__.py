"""Training with a selector inside the step."""

from partitionsel_jax.training.loop import check, train, train_all
from partitionsel_jax.training.plan import PlannedRun, expand
from partitionsel_jax.training.recorder import NonFiniteUpdate
from partitionsel_jax.training.step import Step

__all__ = ["NonFiniteUpdate", "PlannedRun", "Step", "check", "expand", "train", "train_all"]
