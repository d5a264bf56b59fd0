"""Training with a selector inside the step."""

from partitionsel_jax.paths import absolute
from partitionsel_jax.training import clusters, processes, stopping
from partitionsel_jax.training.ablation import Outcome, Shard, ablate, planned
from partitionsel_jax.training.checkpoints import NotSaved
from partitionsel_jax.training.failures import replay
from partitionsel_jax.training.loop import check, train, train_all
from partitionsel_jax.training.plan import PlannedRun, expand
from partitionsel_jax.training.recorder import NonFiniteUpdate
from partitionsel_jax.training.replaying import score, train_again
from partitionsel_jax.training.step import Step
from partitionsel_jax.training.stopping import Stopped

__all__ = [
    "NonFiniteUpdate",
    "NotSaved",
    "Outcome",
    "PlannedRun",
    "Shard",
    "Step",
    "Stopped",
    "ablate",
    "absolute",
    "check",
    "clusters",
    "expand",
    "planned",
    "processes",
    "replay",
    "score",
    "stopping",
    "train",
    "train_again",
    "train_all",
]
