"""What a run would take on hardware that is not here: operations, bytes, memory, seconds.

Operations and bytes are counted in the traced step itself, seconds follow from published peaks and
bandwidths and from assumptions that are stated, and a compiler can be asked about memory.
"""

from partitionsel_jax.planning.calibration import Calibration, measure
from partitionsel_jax.planning.compiling import Compiled, compile_step
from partitionsel_jax.planning.hardware import CHIPS, Chip, Slice, find
from partitionsel_jax.planning.memory import Memory, memory_of
from partitionsel_jax.planning.predicting import Assumptions, Prediction, predict
from partitionsel_jax.planning.runs import planned
from partitionsel_jax.planning.writing import write_compiled, write_plan
from partitionsel_jax.step.counting import Counts, count, trace
from partitionsel_jax.step.operations import Stages, local, rows, stages_of

__all__ = [
    "CHIPS",
    "Assumptions",
    "Calibration",
    "Chip",
    "Compiled",
    "Counts",
    "Memory",
    "Prediction",
    "Slice",
    "Stages",
    "compile_step",
    "count",
    "find",
    "local",
    "measure",
    "memory_of",
    "planned",
    "predict",
    "rows",
    "stages_of",
    "trace",
    "write_compiled",
    "write_plan",
]
