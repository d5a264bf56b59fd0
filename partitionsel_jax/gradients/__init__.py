"""Gradient features of examples: what is differentiated, how, and how it is sketched."""

from partitionsel_jax.gradients import preconditioning
from partitionsel_jax.gradients.factored import factored_features
from partitionsel_jax.gradients.features import (
    PARAMETERS,
    Features,
    Scope,
    per_example_features,
    stacked,
    unit,
)
from partitionsel_jax.gradients.sketches import FACTORED, FAMILIES, Sketch, make_sketch

__all__ = [
    "FACTORED",
    "FAMILIES",
    "PARAMETERS",
    "Features",
    "Scope",
    "Sketch",
    "factored_features",
    "make_sketch",
    "per_example_features",
    "preconditioning",
    "stacked",
    "unit",
]
