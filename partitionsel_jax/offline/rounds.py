"""Exact greedy rounds over rows that do not fit in memory: draft, then check in one pass.

A round needs the feasible row of largest <f_i, d>, and d depends on all the picks so far. So a
draft plays the next rounds on a shortlist of rows in memory, and one pass over all the rows finds
the best rows for every direction of the draft at once. The draft's picks stand up to the first that
the pass betters; there the better row is picked, and what follows is drafted anew. Every pass thus
settles at least one pick, and no pick rests on anything but a comparison with all the rows.

(To bound the rows outside the shortlist by Cauchy-Schwarz instead, and pass again when the bound
fails, comes to one pass per pick: a pick turns d so far that the bound excludes nothing.)
"""

import dataclasses
import heapq
import logging
import time
from typing import NamedTuple

import jax
import numpy as np

from partitionsel_jax.offline import drafts, passes
from partitionsel_jax.offline.drafts import Draft, Shortlist, State, Task
from partitionsel_jax.offline.passes import Answers, Pool

# Rounds drafted before a pass: more when drafts hold, fewer when they fail.
LOOKAHEADS = (16, 64, 256)
# Rows that a pass brings back at most, over all its queries.
NAMED_ROWS = 8192
# Of a shortlist's capacity, the first pass fills one part in so many.
SEEDED = 2
# Slots for picks with weights at first; twice as many whenever they run out.
FIRST_SLOTS = 128

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass
class Pursuit:
    """One greedy selection: over the whole pool, or over one domain if they are independent.

    Attributes:
      state: after all settled picks, on the device.
      left: i64[P]; picks that each domain may still take.
      ids: row of every settled pick.
      gains: its score when it was picked.
      direction: f32[M] once no row is worth a weight: the rest is a ranking by it.
      over: whether nothing is left to pick.
    """

    state: State
    left: np.ndarray
    ids: list[int] = dataclasses.field(default_factory=list)
    gains: list[float] = dataclasses.field(default_factory=list)
    direction: np.ndarray | None = None
    over: bool = False

    def weights(self) -> np.ndarray:
        """f32[len(ids)]; 1 for utilities without weights, 0 for picks of the final ranking."""
        if self.state.support is None:
            return np.ones(len(self.ids), np.float32)
        weights = np.zeros(len(self.ids), np.float32)
        settled = int(self.state.used)
        weights[:settled] = np.asarray(self.state.support.weights)[:settled]
        return weights

    def settle(self, row_id: int, domain: int, gain: float) -> None:
        """Adds a pick to the books."""
        self.ids.append(row_id)
        self.gains.append(gain)
        self.left[domain] -= 1
        self.over = not self.left.any()


class _Plan(NamedTuple):
    """A draft on the host: picks i64[T] as rows (-1 for none), directions f32[T, M], open."""

    picks: np.ndarray
    directions: np.ndarray
    open: np.ndarray


def play(
    pool: Pool,
    task: Task,
    budgets: list[np.ndarray],
    shortlist_rows: int,
    taken_N: np.ndarray | None = None,
    *,
    fills: bool = True,
) -> list[Pursuit]:
    """Plays every pursuit to its end.

    Args:
      pool: all the rows.
      task: what is maximised.
      budgets: i64[P] for every pursuit; no domain has a budget in two of them.
      shortlist_rows: C >= 1, rows kept in memory for drafts.
      taken_N: bool[N]; rows that are out of the question. None: none.
      fills: whether budgets are filled once no row is worth a weight.

    Returns:
      The pursuits, in order.
    """
    dim = pool.features.shape[1]
    slots = min(FIRST_SLOTS, max(int(left.sum()) for left in budgets))
    pursuits = [
        Pursuit(State.start(left, dim, slots, weighted=task.weighted), left, over=not left.any())
        for left in (left.astype(np.int64) for left in budgets)
    ]
    shortlist = Shortlist(shortlist_rows, dim)
    picked_N = np.zeros(len(pool.domains), bool) if taken_N is None else taken_N.copy()
    level = 0
    while active := [p for p in pursuits if not p.over and p.direction is None]:
        began = time.perf_counter()
        # At least one round each; constant, so that nothing is compiled again.
        lookahead = max(LOOKAHEADS[level], len(pursuits))
        steps = lookahead // len(active)
        settled = _one_pass(pool, task, active, shortlist, picked_N, steps, lookahead)
        if settled == steps * len(active):
            level = min(level + 1, len(LOOKAHEADS) - 1)
        elif 4 * settled < lookahead:
            level = max(level - 1, 0)
        _log_pass(pool, pursuits, began)
    waiting = [pursuit for pursuit in pursuits if pursuit.direction is not None]
    if waiting and fills:
        began = time.perf_counter()
        _rank_the_rest(pool, waiting, picked_N)
        _log_pass(pool, pursuits, began)
    return pursuits


def merge(pursuits: list[Pursuit]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows i64[K'], weights f32[K'] and gains f32[K'], in the order that one selection takes."""
    lists = [zip((-gain for gain in p.gains), p.ids, p.weights(), strict=True) for p in pursuits]
    # By the first pick that is left of each, whether or not its gains fall.
    merged = list(heapq.merge(*lists))
    losses, ids, weights = ([pick[part] for pick in merged] for part in range(3))
    return (
        np.array(ids, np.int64),
        np.array(weights, np.float32),
        -np.array(losses, np.float32),
    )


def rank(scores_N: np.ndarray, domain_N: np.ndarray, left_P: np.ndarray) -> np.ndarray:
    """The best `left_P` rows of every domain, best first over all: i64[K'].

    Rows with a score of -inf are left out; ties go to the lowest index.
    """
    ids = np.flatnonzero((scores_N > -np.inf) & (left_P[domain_N] > 0))
    ids = ids[np.lexsort((ids, -scores_N[ids], domain_N[ids]))]
    domains = domain_N[ids]
    place = np.arange(len(ids)) - np.searchsorted(domains, domains)
    ids = ids[place < left_P[domains]]
    return ids[np.lexsort((ids, -scores_N[ids]))]


def _one_pass(
    pool: Pool,
    task: Task,
    active: list[Pursuit],
    shortlist: Shortlist,
    picked_N: np.ndarray,
    steps: int,
    lookahead: int,
) -> int:
    """Drafts, checks, settles, and renews the shortlist; answers the number of picks settled."""
    features, domains = shortlist.on_device(pool.domains)

    def played(pursuit: Pursuit, new: list[tuple[int, np.ndarray]], steps: int) -> Draft:
        """Plays on from a pursuit's state, the new picks first; of constant shapes."""
        rows = np.zeros((lookahead, features.shape[1]), np.float32)
        own = np.zeros(lookahead, np.int32)
        for slot, (row_id, row) in enumerate(new):
            rows[slot], own[slot] = row, pool.domains[row_id]
        forced = np.int32(len(new))
        return drafts.play(
            pursuit.state, task, features, domains, rows, own, forced, np.int32(steps)
        )

    order_N = np.where(picked_N, np.int32(-1), passes.UNDRAFTED)
    plans = []
    for pursuit in active:
        most = min(steps, int(pursuit.left.sum()))
        pursuit.state = pursuit.state.with_room(most)
        places, directions, open_QxP, count = jax.device_get(played(pursuit, [], most)[1:])
        held = places[:count] >= 0
        picks = np.full(count, -1, np.int64)
        picks[held] = shortlist.ids[places[:count][held]]
        plans.append(_Plan(picks, directions[:count], open_QxP[:count]))
        order_N[picks[held]] = np.flatnonzero(held)

    # All the plans' rounds as queries, and closed ones up to a constant number.
    missing = lookahead - sum(len(plan.picks) for plan in plans)
    steps_Q = np.concatenate([np.arange(len(plan.picks), dtype=np.int32) for plan in plans])
    answers = passes.best(
        pool,
        order_N,
        np.pad(np.concatenate([plan.directions for plan in plans]), ((0, missing), (0, 0))),
        np.pad(np.concatenate([plan.open for plan in plans]), ((0, missing), (0, 0))),
        np.pad(steps_Q, (0, missing)),
        max(1, min(NAMED_ROWS, shortlist.capacity) // lookahead),
        _seeds(pool, active, shortlist, picked_N),
    )
    first, settled = 0, 0
    for pursuit, plan in zip(active, plans, strict=True):
        new = _settle(pursuit, plan, answers, first, pool.domains, float(task.floor))
        pursuit.state = played(pursuit, new, len(new)).state
        picked_N[[row_id for row_id, _ in new]] = True
        first, settled = first + len(plan.picks), settled + len(new)
    shortlist.renew(answers.row_ids, answers.rows, picked_N)
    return settled


def _settle(
    pursuit: Pursuit, plan: _Plan, answers: Answers, first: int, domain_N: np.ndarray, floor: float
) -> list[tuple[int, np.ndarray]]:
    """Books the picks that the pass confirms, and the row that betters the next: (row, features).

    Queries from `first` on are the plan's. Scores are compared in float64, row by row: equal rows
    tie, and picks depend neither on the chunks nor on the devices.
    """
    new: list[tuple[int, np.ndarray]] = []
    for step, direction in enumerate(plan.directions):
        ids, rows = answers.rows_of(first + step)
        if not len(ids):
            pursuit.over = True
            break
        scores = np.sum(rows.astype(np.float64) * direction, axis=1)
        gain = scores.max()
        if gain <= floor:
            pursuit.direction = direction
            break
        row_id = int(ids[scores == gain].min())
        pursuit.settle(row_id, domain_N[row_id], float(gain))
        new.append((row_id, rows[np.flatnonzero(ids == row_id)[0]]))
        if row_id != plan.picks[step]:
            break
    return new


def _rank_the_rest(pool: Pool, waiting: list[Pursuit], picked_N: np.ndarray) -> None:
    """Fills what budgets are left by the last directions, along which no row has any gain."""
    group_P = np.zeros(len(waiting[0].left), np.int32)
    for group, pursuit in enumerate(waiting):
        group_P[pursuit.left > 0] = group
    directions = np.stack([p.direction for p in waiting if p.direction is not None])
    scores_N = passes.scores(pool, directions, group_P[pool.domains])
    scores_N[picked_N] = -np.inf
    for pursuit in waiting:
        for row_id in rank(scores_N, pool.domains, pursuit.left):
            pursuit.settle(int(row_id), pool.domains[row_id], float(scores_N[row_id]))


def _seeds(
    pool: Pool, active: list[Pursuit], shortlist: Shortlist, picked_N: np.ndarray
) -> np.ndarray:
    """Rows to begin a shortlist with, i64[W]: the best of every domain by the anchor direction."""
    if len(shortlist.ids):
        return np.zeros(0, np.int64)
    open_P = sum(pursuit.left for pursuit in active) > 0
    share = shortlist.capacity // (SEEDED * np.sum(open_P))
    scores_N = np.where(picked_N, np.float32(-np.inf), pool.scores)
    return np.sort(rank(scores_N, pool.domains, np.where(open_P, share, 0)))


def _log_pass(pool: Pool, pursuits: list[Pursuit], began: float) -> None:
    picked = sum(len(pursuit.ids) for pursuit in pursuits)
    wanted = picked + sum(int(pursuit.left.sum()) for pursuit in pursuits)
    seconds = time.perf_counter() - began
    _LOG.info("pass %d: %d of %d picked, %.1f s", pool.passes, picked, wanted, seconds)
