"""The bytes that devices exchange in one update, counted in the step itself.

The step is traced and its collectives are added up, so that the count follows whatever the step
does. A collective counts as the size of the whole array: N rows of features that are gathered as
N * m * 4 bytes, a gradient that is summed as the gradient's. Over a ring of D devices each of them
sends (D - 1) / D of that for a gathering, and twice as much for a sum.
"""

import dataclasses
import logging
from typing import Any

import jax
from jax.extend import core

from partitionsel_jax import traced
from partitionsel_jax.distributed import processes, spmd
from partitionsel_jax.models.shards import SCOPE
from partitionsel_jax.step.step import Step

_LOG = logging.getLogger(__name__)

_FIELDS = {"gather": "gathered", "scatter": "dealt", "sum": "summed"}


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Bytes of the arrays that one update exchanges.

    Attributes:
      gathered: features of the pool, and a few numbers of every row, to every device.
      dealt: the picked rows, to the devices that train on them.
      summed: the gradient, the mean of the anchors' features and a few numbers.
      weights: parts of weights that are put together, and the sums of their gradients, where
        devices split them; 0 where they do not.
    """

    gathered: int = 0
    dealt: int = 0
    summed: int = 0
    weights: int = 0

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))

    def __str__(self) -> str:
        parts = [
            f"features {_text(self.gathered)}",
            f"picked rows {_text(self.dealt)}",
            f"gradient {_text(self.summed)}",
        ]
        return ", ".join(parts) + (f", weights {_text(self.weights)}" if self.weights else "")


def count(step: Step, devices: int, *arguments: Any) -> Traffic:
    """The traffic of an update that computes all features, and shares none with others.

    Args:
      step: the update.
      devices: how many there are.
      arguments: of `Step.__call__`, as one device sees them; arrays or their shapes.
    """
    step = dataclasses.replace(
        step,
        features=step.features.unshared,
        selection=step.selection.unshared,
    )
    state, *rest = arguments
    state = dataclasses.replace(state, kept=None)
    program = jax.make_jaxpr(step.__call__, axis_env=[(spmd.AXIS, devices)])(state, *rest)
    found = traced.add_up(program.jaxpr, _amounts, lambda amounts: sum(amounts.values()))
    return Traffic(**{name: int(size) for name, size in found.items()})


def describe(step: Step, layout: spmd.Layout, *arguments: Any) -> None:
    """Logs the traffic of an update, where there is more than one device.

    Args:
      step, layout: the update, and where it runs.
      arguments: as its mapped program takes them.
    """
    devices = len(layout.devices)
    if devices == 1 or not processes.is_first():
        return
    local = [
        layout.on_one_device(kind, argument)
        for kind, argument in zip(Step.KINDS, arguments, strict=False)
    ]
    found = count(step, devices, *local)
    _LOG.info("%d devices exchange %s in an update: %s", devices, _text(found.total), str(found))


def _amounts(equation: core.JaxprEqn) -> traced.Amounts | None:
    found = traced.collective(equation)
    if found is None:
        return None
    # The transpose of a gathering of weights, which sums their gradients, keeps its name.
    return {"weights" if SCOPE in found.scope else _FIELDS[found.kind]: found.size}


def _text(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
