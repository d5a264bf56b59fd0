"""Best of several random restarts, as one batched call."""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp

from partitionsel_jax.selection.problem import Problem, Selection
from partitionsel_jax.selection.rules import RANDOMISED
from partitionsel_jax.selection.selector import select


def best_of(
    problem: Problem,
    *,
    size: int,
    restarts: int,
    key: jax.Array,
    rule: str = "residual_random",
    **options: Any,
) -> Selection:
    """The selection of greatest utility among `restarts` draws of a random rule.

    All draws run side by side in one compiled program. The first of several equals is taken.

    Args:
      problem: the pool.
      size: K, as for `select`. Static.
      restarts: R >= 1 draws. Static.
      key: a `jax.random.key`; draw r uses `jax.random.split(key, restarts)[r]`.
      rule: a random one of `RULES`.
      **options: whatever else `select` takes.

    Returns:
      The best draw's `Selection`, with that draw's certificate.

    Raises:
      ValueError: restarts < 1, a rule that draws nothing, or what `select` refuses.
    """
    try:
        count = 0 if isinstance(restarts, bool) else operator.index(restarts)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(
            f"restarts must be a Python integer >= 1 (it is static), got {restarts!r}."
        )
    if rule not in RANDOMISED:
        raise ValueError(
            f"rule must be one that draws, of {sorted(RANDOMISED)}, got {rule!r}; "
            "with any other all restarts are the same."
        )
    one = functools.partial(select, problem, size=size, rule=rule, **options)
    draws = jax.vmap(lambda own: one(key=own))(jax.random.split(key, count))
    best = jnp.argmax(draws.utility)
    return jax.tree.map(lambda leaf: leaf[best], draws)
