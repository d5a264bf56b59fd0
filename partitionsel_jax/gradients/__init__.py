"""Gradient features of examples: what is differentiated, how it is sketched."""

from partitionsel_jax.gradients.features import Features, per_example_features, unit
from partitionsel_jax.gradients.scope import Scope
from partitionsel_jax.gradients.sketches import FAMILIES, Sketch, make_sketch

__all__ = [
    "FAMILIES",
    "Features",
    "Scope",
    "Sketch",
    "make_sketch",
    "per_example_features",
    "unit",
]
