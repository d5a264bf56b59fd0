"""What a program computes and receives, counted in the traced program."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend import core

from partitionsel_jax import traced


@dataclasses.dataclass(frozen=True)
class Counts:
    """Of one device.

    Attributes:
      products: operations (multiplications and additions) of matrix products.
      exact: those among them that are float32 of the highest precision.
      received: bytes from other devices.
    """

    products: float = 0.0
    exact: float = 0.0
    received: float = 0.0


def trace(
    function: Callable[..., Any], *shapes: Any, axis: str, devices: int, rounds: float = 1.0
) -> Counts:
    """Counts a per-device function that names its axis.

    Args:
      function: of one device's arrays.
      shapes: of these arrays.
      axis: the name of the mapped axis.
      devices: on it.
      rounds: how often a loop runs whose end depends on the data.
    """
    jaxpr = jax.make_jaxpr(function, axis_env=[(axis, devices)])(*shapes).jaxpr
    return count(jaxpr, devices, rounds)


def count(jaxpr: core.Jaxpr, devices: int, rounds: float = 1.0) -> Counts:
    """Counts a traced per-device program; of a conditional, the most expensive branch."""

    def amounts(equation: core.JaxprEqn) -> traced.Amounts | None:
        if equation.primitive.name == "dot_general":
            return _product(equation)
        found = traced.collective(equation)
        return None if found is None else {"received": found.received(devices)}

    def cost(found: traced.Amounts) -> tuple[float, float]:
        return found.get("products", 0.0), found.get("received", 0.0)

    return Counts(**traced.add_up(jaxpr, amounts, cost, rounds))


def _product(equation: core.JaxprEqn) -> traced.Amounts:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left: Any = equation.invars[0].aval
    made: Any = equation.outvars[0].aval
    operations = 2.0 * made.size * math.prod(left.shape[axis] for axis in contracted)
    precision = equation.params["precision"]
    exact = isinstance(precision, tuple) and jax.lax.Precision.HIGHEST in precision
    return {
        "products": operations,
        "exact": operations if exact and left.dtype == np.float32 else 0.0,
    }
