"""Random selection problems and NumPy oracles, shared by the tests of this folder."""

import itertools

import numpy as np
from scipy.optimize import nnls

from partitionsel_jax import selection


def unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def make_problem(rng, pool_size=40, domain_count=3, size=8, dim=64):
    """A pool with a gradient signal common to pool and anchors; also features and anchor."""
    domains = rng.integers(0, domain_count, pool_size)
    centres = rng.normal(size=(domain_count, dim))
    signal = rng.normal(size=dim)
    features = rng.normal(size=(pool_size, dim)) + 0.3 * centres[domains] + 0.3 * signal
    anchor_domains = rng.integers(0, domain_count, 16)
    anchors = rng.normal(size=(16, dim)) + 0.3 * centres[anchor_domains] + 0.3 * signal
    features, anchor = unit(features), unit(anchors).mean(axis=0)
    counts = np.bincount(domains, minlength=domain_count)
    return from_features(features, anchor, domains, hamilton(counts, size)), features, anchor


def from_features(features, anchor, domains, budgets):
    """The Problem that float32 features and anchor pose."""
    features, anchor = np.float32(features), np.float32(anchor)
    return selection.Problem(
        alignment=features @ anchor,
        gram=features @ features.T,
        domains=np.asarray(domains, np.int32),
        budgets=np.asarray(budgets, np.int32),
    )


def padded(problem, pool_size, domain_count):
    """The same problem with padding rows and empty domains, so that sizes share a compilation."""
    extra = pool_size - len(problem.alignment)
    return selection.Problem(
        alignment=np.pad(problem.alignment, (0, extra)),
        gram=np.pad(problem.gram, (0, extra)),
        domains=np.pad(problem.domains, (0, extra), constant_values=-1),
        budgets=np.pad(problem.budgets, (0, domain_count - len(problem.budgets))),
    )


def hamilton(counts, size):
    """Largest-remainder apportionment in Python integers."""
    counts = [int(count) for count in counts]
    total = sum(counts)
    if total <= size:
        return np.array(counts, np.int32)
    seats = [size * count // total for count in counts]
    order = sorted(range(len(counts)), key=lambda p: (-(size * counts[p] % total), p))
    for p in order[: size - sum(seats)]:
        seats[p] += 1
    return np.array(seats, np.int32)


def best_value(features, anchor, picks):
    """f(S): the utility of `picks` under SciPy's non-negative least squares."""
    picks = list(picks)
    weights, _ = nnls(features[picks].T, anchor, maxiter=10_000)
    return 0.5 * float(weights @ (features[picks] @ anchor))


def brute_force(features, anchor, domains, budgets):
    """f(S*) over every base of the partition matroid."""
    # In an orthonormal basis of their span, vectors are short and inner products the same.
    coordinates = np.linalg.qr(np.vstack([features, anchor]).T)[1].T
    features, anchor = coordinates[:-1], coordinates[-1]
    bases = [
        list(itertools.combinations(np.flatnonzero(domains == p), min(b, (domains == p).sum())))
        for p, b in enumerate(budgets)
    ]
    return max(best_value(features, anchor, sum(base, ())) for base in itertools.product(*bases))


def pursuit(features, anchor, domains, budgets, size):
    """Picks of orthogonal matching pursuit under the matroid, with SciPy's refit at each round."""
    alignment, left = features @ anchor, np.array(budgets)
    picks, residual = [], features @ anchor
    for _ in range(size):
        feasible = left[domains] > 0
        feasible[picks] = False
        if not feasible.any():
            break
        pick = int(np.argmax(np.where(feasible, residual, -np.inf)))
        picks.append(pick)
        left[domains[pick]] -= 1
        weights, _ = nnls(features[picks].T, anchor, maxiter=10_000)
        residual = alignment - features @ (features[picks].T @ weights)
    return picks


def kkt_residual(gram, target, weights):
    """Largest violation of the KKT conditions in float64, relative to the largest alignment."""
    gram, target, weights = (np.asarray(x, np.float64) for x in (gram, target, weights))
    residual = target - gram @ weights
    stationarity = np.abs(residual[weights > 0]).max(initial=0.0)
    ascent = residual[np.diagonal(gram) > 0].max(initial=0.0)
    return max(stationarity, ascent, -weights.min()) / np.abs(target).max()
