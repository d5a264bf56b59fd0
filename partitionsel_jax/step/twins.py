"""The twins of a guard: copies of the proxy that train on selected rows, and on random ones."""

from typing import Any

import jax

from partitionsel_jax.config.sections import SelectionSettings
from partitionsel_jax.selection import Problem, Selection, select
from partitionsel_jax.step.descent import Batch, descend
from partitionsel_jax.step.features import TokenCounts
from partitionsel_jax.step.parts import Parts, divide
from partitionsel_jax.step.state import Guard


def draw(problem: Problem, settings: SelectionSettings, key: jax.Array) -> Selection:
    """Draws the rows that a run with utility `random` selects by the same key and budgets."""
    return select(
        problem, size=settings.size, utility="random", coupling=settings.coupling, key=key
    )


def fixed_parameters(parts: Parts, proxy: Any) -> Any:
    """Parameters of the twins that they do not train.

    Args:
      parts: of the step.
      proxy: `Others.proxy`.
    """
    return proxy if parts.selection.trains_proxy else divide(parts.chooser, proxy)[1]


def train(
    parts: Parts,
    guard: Guard,
    proxy: Any,
    selected: Batch,
    random: Batch,
    key: jax.Array | None,
    tokens: TokenCounts | None,
) -> tuple[Guard, TokenCounts | None]:
    """The twins after their updates, and this device's tokens with theirs.

    Args:
      parts: of the step.
      guard: before the update; its `used` stays as it is.
      proxy: `Others.proxy`.
      selected, random: what each of them trains on.
      key: the update's, for dropout.
      tokens: what this device has computed before.
    """
    fixed = fixed_parameters(parts, proxy)
    twin, model = guard.selected, parts.chooser
    if twin is not None:  # a proxy that trains is the twin itself
        twin, _, tokens, _ = descend(parts, model, twin, fixed, selected, key, tokens)
    other, _, tokens, _ = descend(parts, model, guard.random, fixed, random, key, tokens)
    return Guard(twin, other, guard.used), tokens
