"""Devices and processes: how they meet, how arrays lie on them, and how they stop."""

from partitionsel_jax.distributed import clusters, processes, stopping
from partitionsel_jax.distributed.stopping import Stopped

__all__ = ["Stopped", "clusters", "processes", "stopping"]
