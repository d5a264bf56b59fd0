"""Drafts: rounds of a pursuit played on a shortlist of rows, ahead of the pass that checks them.

What a round needs to know of its picks is one direction d in feature space: the pick is the
feasible row of largest <f_i, d>.

* `gradient_matching`: d = a - sum_S w_j f_j with w refitted exactly; r_i = <f_i, d>.
* `taylor`: d = eta a - eta^2 sum_S f_j.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from partitionsel_jax.selection import refit
from partitionsel_jax.selection.refit import Support


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Task:
    """The objective that is maximised.

    Attributes:
      anchor: f32[M]; a.
      ridge: f32[]; added to the Gram matrix's diagonal by `gradient_matching`.
      step_scale: f32[]; eta of `taylor`.
      scale: f32[]; largest |<f_i, a>| over all rows, to which the refit's tolerance is relative.
      floor: f32[]; a best score at or below it ends a draft: from there on no weight moves, and
        all that is left to do is to rank by the last direction.
      weighted: whether weights are refitted. Static.
    """

    anchor: jax.Array
    ridge: jax.Array
    step_scale: jax.Array
    scale: jax.Array
    floor: jax.Array
    weighted: bool = dataclasses.field(metadata={"static": True})


class State(NamedTuple):
    """A pursuit between two rounds.

    Attributes:
      remaining: i32[P]; picks that each domain may still take; 0 for domains of other pursuits.
      blend: f32[M]; sum_S w_j f_j.
      used: i32[]; slots in use.
      traces: f32[S, M]; the picks' features, 0 in empty slots; None without weights.
      support: weights and refit state of the S slots; None without weights.
    """

    remaining: jax.Array
    blend: jax.Array
    used: jax.Array
    traces: jax.Array | None = None
    support: Support | None = None

    @classmethod
    def start(cls, budgets_P: np.ndarray, dim: int, slots: int, *, weighted: bool) -> "State":
        """The state of no picks, with `slots` empty slots."""
        state = cls(jnp.asarray(budgets_P, jnp.int32), jnp.zeros(dim, jnp.float32), jnp.int32(0))
        if not weighted:
            return state
        traces = jnp.zeros((slots, dim), jnp.float32)
        return state._replace(traces=traces, support=refit.empty_support(slots))

    def with_room(self, more: int) -> "State":
        """The same state with slots for `more` picks, doubled as often as it takes."""
        if self.traces is None:
            return self
        slots = before = self.traces.shape[0]
        while slots < int(self.used) + more:
            slots *= 2
        added = slots - before
        support = jax.tree.map(lambda leaf: jnp.pad(leaf, [(0, added)] * leaf.ndim), self.support)
        traces = jnp.pad(self.traces, ((0, added), (0, 0)))
        return self._replace(traces=traces, support=support)


class Draft(NamedTuple):
    """The rounds that were played.

    Attributes:
      state: after the last of them.
      picks: i32[Q]; positions in the shortlist; -1 where it held none worth adding.
      directions: f32[Q, M]; d at the beginning of every round.
      open: bool[Q, P]; domains with budget left at the beginning of every round.
      played: i32[]; rounds played; entries from there on mean nothing.
    """

    state: State
    picks: jax.Array
    directions: jax.Array
    open: jax.Array
    played: jax.Array


@jax.jit
def play(
    state: State,
    task: Task,
    features_CxM: jax.Array,
    domain_C: jax.Array,
    forced_QxM: jax.Array,
    forced_domain_Q: jax.Array,
    forced: jax.Array,
    steps: jax.Array,
) -> Draft:
    """Plays up to `steps` rounds: the forced picks first, then the best of the shortlist.

    One program for both, so that a settled pick leaves the very state that was drafted.

    Args:
      state: where to start.
      task: what is maximised.
      features_CxM: the shortlist.
      domain_C: i32[C]; -1 where the shortlist is empty.
      forced_QxM, forced_domain_Q: picks that are settled: their features and domains.
      forced: i32[], how many there are.
      steps: i32[], at most Q.

    Returns:
      A `Draft`. It ends early with the round in which the shortlist holds nothing feasible whose
      score is above `task.floor`.
    """
    limit = forced_domain_Q.shape[0]
    empty = Draft(
        state=state,
        picks=jnp.full((limit,), -1, jnp.int32),
        directions=jnp.zeros((limit, features_CxM.shape[1]), jnp.float32),
        open=jnp.zeros((limit, state.remaining.shape[0]), bool),
        played=jnp.int32(0),
    )

    def one_round(carry: tuple[Draft, jax.Array, jax.Array]) -> tuple:
        draft, taken_C, _ = carry
        current, slot = draft.state, draft.played
        if task.weighted:
            direction = task.anchor - current.blend
        else:
            direction = task.step_scale * task.anchor - task.step_scale**2 * current.blend
        open_P = current.remaining > 0
        settled = slot < forced

        def search() -> tuple[jax.Array, jax.Array]:
            feasible = (domain_C >= 0) & open_P[domain_C] & ~taken_C
            score = jnp.where(feasible, features_CxM @ direction, -jnp.inf)
            pick = jnp.argmax(score).astype(jnp.int32)
            worth = feasible[pick] & (score[pick] > task.floor)
            return jnp.where(worth, pick, -1), worth

        pick, worth = jax.lax.cond(settled, lambda: (jnp.int32(-1), jnp.asarray(True)), search)
        row = jnp.where(settled, forced_QxM[slot], features_CxM[pick])
        domain = jnp.where(settled, forced_domain_Q[slot], domain_C[pick])
        added = jax.lax.cond(worth, lambda: _add(current, task, row, domain), lambda: current)
        new = Draft(
            state=added,
            picks=draft.picks.at[slot].set(pick),
            directions=draft.directions.at[slot].set(direction),
            open=draft.open.at[slot].set(open_P),
            played=slot + 1,
        )
        return new, taken_C | (jnp.arange(domain_C.shape[0]) == pick), worth

    with jax.default_matmul_precision("highest"):
        return jax.lax.while_loop(
            lambda carry: carry[2] & (carry[0].played < steps),
            one_round,
            (empty, jnp.zeros(domain_C.shape, bool), jnp.asarray(True)),
        )[0]


def _add(state: State, task: Task, row: jax.Array, domain: jax.Array) -> State:
    """Adds a row and refits the weights."""
    remaining = state.remaining - (jnp.arange(state.remaining.shape[0]) == domain)
    if state.support is None or state.traces is None:
        return State(remaining, state.blend + row, state.used + 1)
    slot = state.used
    here_S = jnp.arange(state.traces.shape[0]) == slot
    traces = state.traces.at[slot].set(row)
    among_S = traces @ row + jnp.where(here_S, task.ridge, 0.0)
    support = refit.fill(state.support, slot, among_S, jnp.dot(row, task.anchor))
    support = refit.refit(support, task.scale)
    return State(remaining, support.weights @ traces, slot + 1, traces, support)


class Shortlist:
    """The C rows that drafts may pick, those that a pass named most recently.

    Attributes:
      capacity: C.
      ids: i64[X], ascending, X <= C.
      rows: f32[X, M].
    """

    def __init__(self, capacity: int, dim: int):
        self.ids = np.zeros(0, np.int64)
        self.rows = np.zeros((0, dim), np.float32)
        self._named = np.zeros(0, np.int64)
        self.capacity = capacity
        self._pass = 0

    def renew(self, ids: np.ndarray, rows: np.ndarray, picked_N: np.ndarray) -> None:
        """Takes in the rows that a pass named, and lets the picked and then the oldest go."""
        self._pass += 1
        known = np.isin(ids, self.ids)
        self._named[np.searchsorted(self.ids, ids[known])] = self._pass
        ids = np.concatenate([self.ids, ids[~known]])
        rows = np.concatenate([self.rows, rows[~known]])
        named = np.concatenate([self._named, np.full(int(np.sum(~known)), self._pass)])
        kept = np.flatnonzero(~picked_N[ids])
        kept = kept[np.argsort(-named[kept], kind="stable")[: self.capacity]]
        # By index, so that drafts break ties as passes do.
        kept = kept[np.argsort(ids[kept])]
        self.ids, self.rows, self._named = ids[kept], rows[kept], named[kept]

    def on_device(self, domain_N: np.ndarray) -> tuple[jax.Array, jax.Array]:
        """Features f32[C, M] and domains i32[C], -1 where empty, of a constant length."""
        missing = self.capacity - len(self.ids)
        features = np.pad(self.rows, ((0, missing), (0, 0)))
        domains = np.pad(domain_N[self.ids], (0, missing), constant_values=-1)
        return jnp.asarray(features), jnp.asarray(domains)
