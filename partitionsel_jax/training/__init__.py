"""Training runs: where they start, their loop, and everything they write."""

from partitionsel_jax.training.checkpoints import NotSaved
from partitionsel_jax.training.failures import replay
from partitionsel_jax.training.loop import check, train, train_all
from partitionsel_jax.training.plan import PlannedRun, expand
from partitionsel_jax.training.records import NonFiniteUpdate

__all__ = [
    "NonFiniteUpdate",
    "NotSaved",
    "PlannedRun",
    "check",
    "expand",
    "replay",
    "train",
    "train_all",
]
