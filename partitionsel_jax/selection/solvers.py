"""Solvers of gradient matching, by name: (pool, options) -> Rounds[Pursuit]."""

from partitionsel_jax.selection.published import published
from partitionsel_jax.selection.pursuit import pursue

SOLVERS = {"exact": pursue, "published": published}
