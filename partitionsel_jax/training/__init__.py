"""Training with a selector inside the step."""

from partitionsel_jax.training import clusters, processes
from partitionsel_jax.training.loop import check, train, train_all
from partitionsel_jax.training.plan import PlannedRun, expand
from partitionsel_jax.training.recorder import NonFiniteUpdate
from partitionsel_jax.training.step import Step
from partitionsel_jax.training.workdir import absolute

__all__ = [
    "NonFiniteUpdate",
    "PlannedRun",
    "Step",
    "absolute",
    "check",
    "clusters",
    "expand",
    "processes",
    "train",
    "train_all",
]
