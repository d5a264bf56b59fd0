"""Predicts operations, bytes, memory and seconds of a run on hardware that is not here.

Operations and bytes are counted in the traced step, seconds follow from published peaks and
bandwidths and from stated assumptions, and a compiler can be asked about memory.
"""

from partitionsel_jax.planning.checks import calibrate, compile_step
from partitionsel_jax.planning.hardware import CHIPS, find
from partitionsel_jax.planning.predictions import memory_of, planned, predict
from partitionsel_jax.planning.report import write_compiled, write_plan

__all__ = [
    "CHIPS",
    "calibrate",
    "compile_step",
    "find",
    "memory_of",
    "planned",
    "predict",
    "write_compiled",
    "write_plan",
]
