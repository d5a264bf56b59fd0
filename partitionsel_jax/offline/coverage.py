"""Facility location over rows that do not fit in memory, against a sample of them.

f(S) = sum_v max(0, max_{i in S} <f_i, f_v>) over the reference rows v, all rows or a random sample.
A gain never grows while S does. So one pass gives every row's gain, the rows of largest gain are
kept in memory, and picks among these are the greedy ones as long as they better every gain that the
pass found outside: lazy greedy (Minoux 1978, "Accelerated greedy algorithms for maximizing
submodular set functions"). Then the next pass is due.

Letters: C rows of the shortlist, V references.
"""

import logging
import time

import numpy as np

from partitionsel_jax.offline import passes, rounds
from partitionsel_jax.offline.passes import Pool

_LOG = logging.getLogger(__name__)


def facility_location(
    pool: Pool,
    limits_P: np.ndarray,
    *,
    references: int,
    shortlist_rows: int,
    seed: int,
    by_domain: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Picks rows that the others resemble: i64[K'] in the order picked, and their gains f32[K'].

    Args:
      pool: all rows, after the first pass.
      limits_P: i64[P], most picks per domain.
      references: V, rows that are to be resembled; a random sample where there are more.
      shortlist_rows: C, rows kept in memory between passes.
      seed: of the sample.
      by_domain: whether a row serves those of its own domain alone.
    """
    sound = np.flatnonzero(~np.isnan(pool.scale))
    if len(sound) > references:
        sound = np.sort(np.random.default_rng(seed).choice(sound, references, replace=False))
    served_VxM, domain_V = passes.fetch(pool, sound), pool.domains[sound]
    cover_V, left_P = np.zeros(len(sound), np.float32), limits_P.copy()
    taken_N = np.zeros(len(pool.domains), bool)
    ids, gains = list[int](), list[float]()
    while left_P.any():
        began = time.perf_counter()
        gain_N = passes.cover(pool, served_VxM, domain_V, cover_V, by_domain=by_domain)
        gain_N[taken_N | (left_P[pool.domains] == 0)] = -np.inf
        if not gain_N.max() > 0:
            break
        order = np.argsort(-gain_N, kind="stable")
        inside = np.sort(order[:shortlist_rows])
        inside = inside[gain_N[inside] > -np.inf]
        outside_P = np.full(len(left_P), -np.inf, np.float32)
        rest = order[shortlist_rows:]
        np.maximum.at(outside_P, pool.domains[rest], gain_N[rest])
        similar_CxV = passes.fetch(pool, inside) @ served_VxM.T
        if by_domain:
            similar_CxV[pool.domains[inside][:, None] != domain_V[None, :]] = 0.0
        first = len(ids)
        while left_P.any():
            gain_C = np.sum(np.maximum(similar_CxV - cover_V, 0.0), axis=1)
            gain_C[taken_N[inside] | (left_P[pool.domains[inside]] == 0)] = -np.inf
            best = int(np.argmax(gain_C))
            # The first is the best of the pass, whatever its rounding here.
            if len(ids) > first and gain_C[best] <= max(0.0, outside_P[left_P > 0].max()):
                break
            row, domain = int(inside[best]), pool.domains[inside[best]]
            ids.append(row)
            gains.append(float(gain_C[best]))
            taken_N[row] = True
            left_P[domain] -= 1
            cover_V = np.maximum(cover_V, similar_CxV[best])
        seconds = time.perf_counter() - began
        wanted = len(ids) + int(left_P.sum())
        _LOG.info("pass %d: %d of %d picked, %.1f s", pool.passes, len(ids), wanted, seconds)
    # Nothing gains any more: what is left of the budgets goes by index.
    free_N = np.where(taken_N | np.isnan(pool.scale), np.float32(-np.inf), np.float32(0))
    others = rounds.rank(free_N, pool.domains, left_P)
    found = np.concatenate([np.array(ids, np.int64), others])
    return found, np.array([*gains, *(0.0 for _ in others)], np.float32)
