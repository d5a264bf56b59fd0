"""The rounds that every greedy solver plays: score the pool, pick by the rule, add the pick."""

import dataclasses
from collections.abc import Callable
from typing import Generic, TypeVar

import jax
import jax.numpy as jnp

from partitionsel_jax.selection import matroid as matroids
from partitionsel_jax.selection.carries import tie
from partitionsel_jax.selection.indexing import put, take
from partitionsel_jax.selection.matroid import Matroid
from partitionsel_jax.selection.problem import Options, Pool
from partitionsel_jax.selection.rules import RANDOMISED, RULES

State = TypeVar("State")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rounds(Generic[State]):
    """A partial selection.

    Attributes:
      indices: i32[K]; the picks so far, -1 in empty slots.
      gains: f32[K]; every pick's score when it was picked, 0 in empty slots.
      matroid: contracted by the picks.
      state: whatever the solver knows of its picks.
    """

    indices: jax.Array
    gains: jax.Array
    matroid: Matroid
    state: State


def play(
    state: State,
    score: Callable[[State], jax.Array],
    add: Callable[[State, jax.Array, jax.Array, jax.Array], State],
    pool: Pool,
    options: Options,
) -> Rounds[State]:
    """Plays `options.size` rounds by `options.rule`.

    Args:
      state: of no picks.
      score: state -> f32[N], finite; what adding each candidate is worth.
      add: (state, indices i32[K], slot i32[], pick i32[]) -> state with candidate `pick` in `slot`;
        `indices` hold the pick already. -1 for no pick must change nothing.
      pool: with N candidates.
      options: `size`, `rule`, and `key` if the rule draws.

    Returns:
      The selection after the last round. A round in which no candidate is feasible leaves its slot
      empty; one in which no candidate has a positive score adds the best one all the same.
    """
    size = options.size
    rule = RULES[options.rule]
    random = options.rule in RANDOMISED
    uniform_K = options.draw((size,)) if random else jnp.zeros((size,), jnp.float32)
    start = Rounds(
        indices=jnp.full((size,), -1, jnp.int32),
        gains=jnp.zeros((size,), jnp.float32),
        matroid=matroids.from_pool(pool),
        state=state,
    )

    def one_round(slot: jax.Array, rounds: Rounds[State]) -> Rounds[State]:
        score_N = score(rounds.state)
        pick = rule(score_N, rounds.matroid, uniform_K[slot])
        indices = put(rounds.indices, slot, pick)
        return Rounds(
            indices=indices,
            gains=put(rounds.gains, slot, jnp.where(pick >= 0, take(score_N, pick), 0.0)),
            matroid=matroids.add(rounds.matroid, pick),
            state=add(rounds.state, indices, slot, pick),
        )

    return jax.lax.fori_loop(0, size, one_round, tie(start, pool))
