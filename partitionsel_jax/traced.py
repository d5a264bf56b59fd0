"""Traced programs, walked: amounts are added up over loops and branches, collectives recognised.

XLA's own cost analysis counts the body of a loop once, however often it runs, and the decoder is a
loop over its layers. Here every loop counts as often as it runs, where that is known.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jax.extend import core

Amounts = Mapping[str, float]

_KINDS = {
    "all_gather": "gather",
    **dict.fromkeys(("reduce_scatter", "psum_scatter"), "scatter"),
    **dict.fromkeys(("psum", "psum_invariant", "pmax", "pmin"), "sum"),
}


@dataclasses.dataclass(frozen=True)
class Collective:
    """An exchange between the devices of a mapped axis.

    Attributes:
      kind: "gather", "scatter" (of sums) or "sum".
      size: bytes of what is whole: the result of a gathering, what a scattering or a sum takes.
      scope: the names it was traced under, see `jax.named_scope`.
    """

    kind: str
    size: int
    scope: str

    def received(self, devices: int) -> float:
        """Bytes that reach each of so many devices in a ring; a sum is a scatter and a gather."""
        passes = 2 if self.kind == "sum" else 1
        return passes * self.size * (devices - 1) / devices


def collective(equation: core.JaxprEqn) -> Collective | None:
    """The exchange that an equation is, or None."""
    kind = _KINDS.get(equation.primitive.name)
    if kind is None:
        return None
    whole: Any = equation.outvars if kind == "gather" else equation.invars
    size = sum(variable.aval.size * variable.aval.dtype.itemsize for variable in whole)
    return Collective(kind, size, str(equation.source_info.name_stack))


def add_up(
    jaxpr: core.Jaxpr,
    amounts: Callable[[core.JaxprEqn], Amounts | None],
    cost: Callable[[Amounts], Any],
    rounds: float = 1.0,
) -> Amounts:
    """The sum of what the equations of a program amount to, by name.

    Args:
      jaxpr: the program.
      amounts: of an equation; None to look at the programs inside of it.
      cost: orders the branches of a conditional, of which the most expensive counts.
      rounds: how often a loop runs whose end depends on the data.
    """
    total: dict[str, float] = collections.defaultdict(float)
    for equation in jaxpr.eqns:
        found, times = amounts(equation), 1.0
        if found is not None:
            inner = [found]
        else:
            bodies = core.jaxprs_in_params(equation.params)
            inner = [add_up(body, amounts, cost, rounds) for body in bodies]
            match equation.primitive.name:
                case "scan":
                    times = equation.params["length"]
                case "while":
                    times = rounds
                case "cond":
                    inner = [max(inner, key=cost)]
        for each in inner:
            for name, value in each.items():
                total[name] += times * value
    return total
