"""The bytes that devices exchange in one update, counted in the step itself.

The step is traced and its collectives are added up, so that the count follows whatever the step
does. A collective counts as the size of the whole array: N rows of features that are gathered as
N * m * 4 bytes, a gradient that is summed as the gradient's. Over a ring of D devices each of them
sends (D - 1) / D of that for a gathering, and twice as much for a sum.
"""

import collections
import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.extend import core

from partitionsel_jax.models.shards import SCOPE
from partitionsel_jax.training import processes, spmd
from partitionsel_jax.training.step import Step

_LOG = logging.getLogger(__name__)

_GATHERS, _SCATTERS = ("all_gather",), ("reduce_scatter", "psum_scatter")
_SUMS = ("psum", "psum_invariant", "pmax", "pmin")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Bytes of the arrays that one update exchanges.

    Attributes:
      gathered: features, losses and rows, from every device to every device.
      summed: the gradient and a few numbers.
      weights: parts of weights that are put together, and the sums of their gradients, where
        devices split them; 0 where they do not.
    """

    gathered: int
    summed: int
    weights: int

    @property
    def total(self) -> int:
        return self.gathered + self.summed + self.weights

    def __str__(self) -> str:
        parts = f"features and rows {_text(self.gathered)}, gradient {_text(self.summed)}"
        return parts + (f", weights {_text(self.weights)}" if self.weights else "")


def count(step: Step, devices: int, *arguments: Any) -> Traffic:
    """The traffic of an update that computes all features, and shares none with others.

    Args:
      step: the update.
      devices: how many there are.
      arguments: of `Step.__call__`, as one device sees them; arrays or their shapes.
    """
    step = dataclasses.replace(
        step,
        features=dataclasses.replace(step.features, anchors_every=1, sketch_every=0),
        selection=dataclasses.replace(step.selection, updates_per_pool=1),
    )
    state, *rest = arguments
    state = dataclasses.replace(state, kept=None)
    traced = jax.make_jaxpr(step.__call__, axis_env=[(spmd.AXIS, devices)])(state, *rest)
    found = _counted(traced.jaxpr)
    return Traffic(found["gathered"], found["summed"], found["weights"])


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


def _counted(jaxpr: core.Jaxpr) -> Mapping[str, int]:
    """Bytes by kind; of a loop so many times, of branches those with most."""
    total: collections.Counter[str] = collections.Counter()
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        kind = {**dict.fromkeys(_SUMS, "summed"), **dict.fromkeys(_GATHERS, "gathered")}.get(name)
        if name in _SCATTERS or (kind and SCOPE in str(equation.source_info.name_stack)):
            kind = "weights"
        if kind is not None:
            # What is whole: the result of a gathering, what a scattering takes.
            whole = equation.outvars if name in _GATHERS else equation.invars
            total[kind] += sum(map(_bytes, whole))
            continue
        inner = [_counted(body) for body in _bodies(equation)]
        if name == "cond":
            inner = [max(inner, key=lambda found: sum(found.values()))]
        for found in inner:
            for key, size in found.items():
                total[key] += size * equation.params.get("length", 1)
    return total


def _bodies(equation: Any) -> Iterator[core.Jaxpr]:
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def _bytes(variable: Any) -> int:
    return math.prod(variable.aval.shape) * variable.aval.dtype.itemsize


def _text(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
