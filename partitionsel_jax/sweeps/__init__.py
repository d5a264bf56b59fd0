"""Many runs: methods by axes by seeds, tuning, and recorded runs used again."""

from partitionsel_jax.sweeps.ablation import Outcome, Shard, ablate, planned
from partitionsel_jax.sweeps.replaying import score, train_again

__all__ = ["Outcome", "Shard", "ablate", "planned", "score", "train_again"]
