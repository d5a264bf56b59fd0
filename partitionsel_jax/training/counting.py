"""What a program computes and receives, counted in the traced program.

XLA's own cost analysis counts the body of a loop once, however often it runs, and the decoder is a
loop over its layers. Here every loop counts as often as it runs, where that is known.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.extend import core


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

    def __add__(self, other: "Counts") -> "Counts":
        """Both together."""
        return Counts(*(a + b for a, b in zip(_fields(self), _fields(other), strict=True)))

    def __rmul__(self, times: float) -> "Counts":
        """So many of them."""
        return Counts(*(times * value for value in _fields(self)))


def _fields(counts: Counts) -> Iterable[float]:
    return dataclasses.astuple(counts)


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
    """Counts a traced per-device program; of a conditional, the dearer branch."""
    total = Counts()
    for equation in jaxpr.eqns:
        parameters = equation.params
        inner = [count(sub, devices, rounds) for sub in core.jaxprs_in_params(parameters)]
        match equation.primitive.name:
            case "scan":
                total += parameters["length"] * sum(inner, Counts())
            case "while":
                total += rounds * sum(inner, Counts())
            case "cond":
                total += max(inner, key=lambda counts: (counts.products, counts.received))
            case "dot_general":
                total += _product(equation)
            case "all_gather":
                total += _received(equation.outvars, devices)
            case "reduce_scatter":
                total += _received(equation.invars, devices)
            case "psum":  # a reduce-scatter and an all-gather
                total += 2 * _received(equation.invars, devices)
            case _:
                total += sum(inner, Counts())
    return total


def _product(equation: core.JaxprEqn) -> Counts:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left: Any = equation.invars[0].aval
    made: Any = equation.outvars[0].aval
    operations = 2.0 * made.size * math.prod(left.shape[axis] for axis in contracted)
    precision = equation.params["precision"]
    exact = isinstance(precision, tuple) and jax.lax.Precision.HIGHEST in precision
    return Counts(operations, operations if exact and left.dtype == np.float32 else 0.0)


def _received(variables: Iterable[Any], devices: int) -> Counts:
    size = sum(variable.aval.size * variable.aval.dtype.itemsize for variable in variables)
    return Counts(received=size * (devices - 1) / devices)
