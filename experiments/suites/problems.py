"""Selection problems of any size, SciPy's answer to them, and a judge of everybody's answers."""

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from partitionsel_jax import selection

# Dimension M of the features.
DIM = 512
ANCHORS = 16


class Shape(NamedTuple):
    """N candidates, K picks, P domains."""

    pool: int
    picks: int
    domains: int

    def __str__(self) -> str:
        return "x".join(map(str, self))


def parse(sizes: Iterable[str]) -> tuple[Shape, ...]:
    """Shapes from NxKxP; ValueError for anything else."""
    shapes = []
    for text in sizes:
        match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text.strip())
        shape = Shape(*map(int, match.groups())) if match else None
        if shape is None or not (1 <= shape.picks <= shape.pool and shape.domains >= 1):
            raise ValueError(
                f"sizes must be NxKxP, pool x picks x domains with 1 <= K <= N and P >= 1, got "
                f"{text!r}; write e.g. --sizes=256x32x8,1024x128x8."
            )
        shapes.append(shape)
    if not shapes:
        raise ValueError("sizes must name at least one problem, got none; leave --sizes out.")
    return tuple(shapes)


class Instance(NamedTuple):
    """A problem, on the device, and the float32 vectors f32[N, M] and f32[M] that pose it."""

    shape: Shape
    problem: selection.Problem
    features: np.ndarray
    anchor: np.ndarray

    def with_picks(self, picks: int) -> "Instance":
        """The same pool with budgets for so many picks."""
        counts = jnp.bincount(self.problem.domains, length=self.shape.domains)
        budgets = selection.budgets.proportional(counts, picks)
        problem = dataclasses.replace(self.problem, budgets=budgets)
        return self._replace(shape=self.shape._replace(picks=picks), problem=problem)


def make_instance(shape: Shape, *, gram: bool = True, seed: int = 0) -> Instance:
    """A pool with a gradient signal common to pool and anchors, with its Gram matrix or without."""
    rng = np.random.default_rng(seed)
    centres, signal = rng.normal(size=(shape.domains, DIM)), rng.normal(size=DIM)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        domains = rng.integers(0, shape.domains, count)
        vectors = rng.normal(size=(count, DIM)) + 0.3 * centres[domains] + 0.3 * signal
        return domains, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    domains, pool = draw(shape.pool)
    features, anchor = pool.astype(np.float32), draw(ANCHORS)[1].mean(axis=0).astype(np.float32)
    # Products on the host, so that every device gets the same numbers.
    problem = selection.Problem(
        alignment=jnp.asarray(features @ anchor),
        gram=jnp.asarray(features @ features.T) if gram else None,
        domains=jnp.asarray(domains, jnp.int32),
        budgets=jnp.zeros((shape.domains,), jnp.int32),
        features=None if gram else jnp.asarray(features),
    )
    return Instance(shape, problem, features, anchor).with_picks(shape.picks)


def pursue(instance: Instance) -> tuple[np.ndarray, np.ndarray]:
    """Greedy matching pursuit under the matroid, refitted by SciPy's NNLS.

    Args:
      instance: with N candidates and K picks.

    Returns:
      The picks, int[K], and their weights, f64[K]; fewer where nothing feasible was left.
    """
    nnls = import_nnls()
    features, anchor = instance.features.astype(np.float64), instance.anchor.astype(np.float64)
    domains, left = np.asarray(instance.problem.domains), np.array(instance.problem.budgets)
    alignment = features @ anchor
    picks: list[int] = []
    residual, weights, free = alignment, np.zeros(0), np.ones(len(domains), bool)
    for _ in range(instance.shape.picks):
        feasible = free & (left[domains] > 0)
        if not feasible.any():
            break
        pick = int(np.argmax(np.where(feasible, residual, -np.inf)))
        picks.append(pick)
        free[pick] = False
        left[domains[pick]] -= 1
        weights, _ = nnls(features[picks].T, anchor, maxiter=10_000)
        residual = alignment - features @ (features[picks].T @ weights)
    return np.array(picks), weights


def judge(instance: Instance, indices: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Utility and KKT residual of an answer, in float64, on the float32 problem that was posed.

    Args:
      instance: with K picks.
      indices: int[K], -1 for none.
      weights: f[K].

    Returns:
      U(w), and the largest violation of the refit's KKT conditions relative to the largest
      alignment of a pick.

    Raises:
      ValueError: weights that are not finite.
    """
    if not np.isfinite(weights).all():
        raise ValueError(f"weights must be finite, got {weights} at {instance.shape}.")
    picks, weights = indices[indices >= 0], weights[indices >= 0].astype(np.float64)
    problem = instance.problem
    target = np.asarray(problem.alignment)[picks].astype(np.float64)
    if problem.gram is None:
        rows = instance.features[picks].astype(np.float64)
        block = rows @ rows.T
    else:
        block = np.asarray(problem.gram)[np.ix_(picks, picks)].astype(np.float64)
    residual = target - block @ weights
    stationarity = np.abs(residual[weights > 0]).max(initial=0.0)
    violation = max(stationarity, residual.max(initial=0.0), -weights.min(initial=0.0))
    return float(weights @ (target + residual)) / 2, float(violation / np.abs(target).max())


def import_nnls() -> Callable[..., tuple[np.ndarray, float]]:
    """`scipy.optimize.nnls`; ImportError that says where it comes from."""
    try:
        from scipy.optimize import nnls
    except ImportError as error:
        raise ImportError(
            "the selection suite compares with SciPy, which is not installed: "
            "pip install -e '.[dev]' in the clone."
        ) from error
    return nnls
