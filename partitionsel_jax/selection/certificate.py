"""Certificate of optimality: how much a selection can at most have lost to the best one.

f(S) / f(all N) <= f(S) / f(S*), because dropping the matroid can only raise the optimum. f(all N)
is bounded from above by duality, so that stopping early makes the certificate smaller, never wrong
(beyond `ROUNDING`: strictly, the bound is that of alignments lowered by so much of the largest):
for every u, of whatever signs, with Ku >= s, and every v >= 0,

    U(v) = <v, s> - v'Kv / 2  <=  <v, Ku> - v'Kv / 2  <=  u'Ku / 2 .

Such a u is a multiple of a nearly optimal w >= 0. Where gradients positively span their space there
is none with slack, but there the anchors can be matched as if weights had no sign: then u solves
Ku = s.

`certify` looks for u until the bound is sharp, or hundreds of products with K are spent. `estimate`
takes what the picks' own weights give for nothing and a few conjugate gradient steps on Ku = s.
Both scale gradients to unit norm first, which is what `ROUNDING` knows of float32.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from partitionsel_jax.selection.arrays import jit, tie
from partitionsel_jax.selection.gram import Product
from partitionsel_jax.selection.matroid import COUPLINGS
from partitionsel_jax.selection.problem import (
    Pool,
    Problem,
    Selection,
    check_problem,
    check_scalar,
    make_pool,
)

# Relative gap between the bound and a utility reached, below which the bound is sharp enough.
GAP = 1e-3
# Products with K at most: for weights >= 0, and for weights of any sign.
MAX_ASCENT = 960
MAX_CONJUGATE = 240
# Conjugate gradient steps on a face, that is with the same candidates free to move. More are wasted
# on faces that are not the last one; fewer do not tell which candidates to let go.
FACE_STEPS = 4
# Ku >= s is meant up to this share of the largest alignment: what products in float32 leave of it.
ROUNDING = 1e-5
# Rounding of a float32 number, relative to it.
ROUNDOFF = 6e-8
# Products of `estimate`: as many as keep it within twice the time of the picks, and no more than
# the rounding of a residual that is carried along allows.
MAX_ESTIMATE = 8
FREE_ENTRIES = 2048


class _Scaled(NamedTuple):
    """A selection's problem with gradients of unit norm: f32[N] each, and the norms' inverses."""

    alignment: jax.Array
    weights: jax.Array
    ridge: jax.Array
    scale: jax.Array


class _Conjugate(NamedTuple):
    solution: jax.Array
    residual: jax.Array
    direction: jax.Array
    square: jax.Array


class _Ascent(NamedTuple):
    weights: jax.Array
    product: jax.Array
    free: jax.Array
    step: jax.Array
    value: jax.Array
    bound: jax.Array
    products: jax.Array


def certify(
    problem: Problem,
    result: Selection,
    *,
    coupling: str = "joint",
    ridge: jax.Array | float = 0.0,
) -> jax.Array:
    """Computes the sharpest certificate of a selection by `gradient_matching`.

    It takes up to some hundred products with the Gram matrix, where that of `select` takes a few:
    6 to 240 times as long as the picks.

    Args:
      problem: what was selected from.
      result: what `select` answered.
      coupling, ridge: as they were given to `select`.

    Returns:
      f32[] in [0, 1]; lower bound on utility / optimum, mostly within 1e-3 of the best that leaves
      the matroid out; 1 where the optimum is 0, and 0 where no bound was found.

    Raises:
      ValueError: as `select`.
    """
    if result.budgets is not None:  # which the problem may only have a function for
        problem = dataclasses.replace(problem, budgets=result.budgets)
    check_problem(problem, result.indices.shape[0])
    if coupling not in COUPLINGS:
        raise ValueError(f"coupling must be one of {sorted(COUPLINGS)}, got {coupling!r}.")
    return _certify(problem, result, check_scalar("ridge", ridge), coupling=coupling)


@jit("coupling")
def _certify(problem: Problem, result: Selection, ridge: jax.Array, *, coupling: str) -> jax.Array:
    with jax.default_matmul_precision("highest"):
        pool, _ = make_pool(problem, problem.budgets)
        pool = COUPLINGS[coupling](tie(pool, problem, result, ridge), result.indices.shape[0])
        scaled = _scaled(pool, result.indices, result.weights, ridge)
        multiply = pool.gram.product(scaled.scale)

        def product(weights_N: jax.Array) -> jax.Array:
            return multiply(weights_N) + scaled.ridge * weights_N

        value, bound = _ascend(product, scaled)
        return _ratio(result.utility, _unsigned(product, scaled.alignment, value, bound))


def estimate(
    pool: Pool,
    indices: jax.Array,
    weights: jax.Array,
    matched: jax.Array,
    utility: jax.Array,
    ridge: jax.Array,
) -> jax.Array:
    """Computes a lower bound on f(S) / f(S*) at about the price of the picks themselves.

    Args:
      pool: with N candidates, after the coupling.
      indices: i32[K]; the picks, -1 for none.
      weights: f32[K]; theirs.
      matched: f32[N]; K w, which the solver knows.
      utility: f32[]; f(S).
      ridge: f32[].

    Returns:
      f32[] in [0, 1], at most a few thousandths above that of `certify` and often below it.
    """
    alignment_N, weights_N, ridge_N, scale_N = _scaled(pool, indices, weights, ridge)

    def product(weights_N: jax.Array) -> jax.Array:
        return scale_N * pool.gram.times(scale_N * weights_N) + ridge_N * weights_N

    _, bound = _value_and_bound(alignment_N, weights_N, scale_N * matched + ridge_N * weights_N)
    everywhere_N = jnp.ones_like(alignment_N, bool)
    conjugate = _conjugate(jnp.zeros_like(alignment_N), alignment_N)
    size = indices.shape[0]
    # The picks cost a pass over K and, for each of them, one over the rows of all; where the pool
    # is small, neither counts beside the rounds of a loop.
    affordable = 2 + (size**2 + FREE_ENTRIES) // alignment_N.shape[0]
    for _ in range(min(MAX_ESTIMATE, affordable)):
        conjugate = _advance(conjugate, product, everywhere_N)
        reached_N = alignment_N - conjugate.residual
        bound = jnp.minimum(bound, _value_and_bound(alignment_N, conjugate.solution, reached_N)[1])
    return _ratio(utility, bound)


def _scaled(pool: Pool, indices: jax.Array, weights: jax.Array, ridge: jax.Array) -> _Scaled:
    """A candidate without a gradient carries no weight, whatever its alignment."""
    norm_N = jnp.sqrt(jnp.maximum(pool.gram.diagonal(), 0.0))
    scale_N = jnp.where(norm_N > 0.0, 1.0 / jnp.where(norm_N > 0.0, norm_N, 1.0), 0.0)
    size = norm_N.shape[0]
    weights_N = jnp.zeros((size + 1,), jnp.float32).at[indices].add(weights)[:size]
    return _Scaled(scale_N * pool.alignment, norm_N * weights_N, ridge * scale_N**2, scale_N)


def _ratio(utility: jax.Array, bound: jax.Array) -> jax.Array:
    ratio = utility / jnp.where(bound > 0.0, bound, 1.0)
    return jnp.where(bound > 0.0, jnp.clip(ratio, 0.0, 1.0), 1.0)


def _ascend(product: Product, scaled: _Scaled) -> tuple[jax.Array, jax.Array]:
    """A utility reached, and the best bound met on the way, by weights >= 0.

    Every turn takes a few conjugate gradient steps on the face of the candidates that have a weight
    or should have one, and cuts off what became negative. A turn that was for nothing, as a cut may
    undo more than the steps gained, is given up for a projected gradient step.
    """
    alignment_N, first_step = scaled.alignment, 1.0 / (1.0 + jnp.max(scaled.ridge))

    def turn(state: _Ascent) -> _Ascent:
        residual_N = jnp.where(state.free, alignment_N - state.product, 0.0)
        conjugate = _conjugate(state.weights, residual_N)
        for _ in range(FACE_STEPS):
            conjugate = _advance(conjugate, product, state.free)
        weights_N = jnp.maximum(conjugate.solution, 0.0)
        product_N = product(weights_N)
        value, bound = _value_and_bound(alignment_N, weights_N, product_N)
        helped = (value > state.value) | (bound < state.bound)
        best = state._replace(
            value=jnp.maximum(state.value, value),
            bound=jnp.minimum(state.bound, bound),
            products=state.products + FACE_STEPS + 1,
        )
        free_N = (weights_N > 0.0) | (alignment_N > product_N)
        moved = best._replace(weights=weights_N, product=product_N, free=free_N)
        after: _Ascent = jax.lax.cond(helped, lambda: moved, lambda: gradient_step(best))
        return after

    def gradient_step(state: _Ascent) -> _Ascent:
        weights_N = jnp.maximum(state.weights + state.step * (alignment_N - state.product), 0.0)
        product_N = product(weights_N)
        value, bound = _value_and_bound(alignment_N, weights_N, product_N)
        # The next step's length is Barzilai and Borwein's.
        moved_N = weights_N - state.weights
        curvature = jnp.dot(moved_N, product_N - state.product)
        step = jnp.dot(moved_N, moved_N) / jnp.where(curvature > 0.0, curvature, 1.0)
        return _Ascent(
            weights=weights_N,
            product=product_N,
            free=weights_N > 0.0,
            step=jnp.where(curvature > 0.0, step, first_step),
            value=jnp.maximum(state.value, value),
            bound=jnp.minimum(state.bound, bound),
            products=state.products + 1,
        )

    product_N = product(scaled.weights)
    value, bound = _value_and_bound(alignment_N, scaled.weights, product_N)
    free_N = (scaled.weights > 0.0) | (alignment_N > product_N)
    start = _Ascent(scaled.weights, product_N, free_N, first_step, value, bound, jnp.int32(0))
    final = jax.lax.while_loop(
        lambda state: (state.products < MAX_ASCENT) & _loose(state.value, state.bound),
        turn,
        tie(start, product_N, alignment_N),
    )
    return final.value, final.bound


def _unsigned(
    product: Product, alignment_N: jax.Array, value: jax.Array, bound: jax.Array
) -> jax.Array:
    """The bound by weights of any sign, where that is better: conjugate gradients on Ku = s."""
    tolerance = ROUNDING * jnp.max(jnp.abs(alignment_N))
    everywhere_N = jnp.ones_like(alignment_N, bool)

    def unsolved(state: tuple[_Conjugate, jax.Array]) -> jax.Array:
        conjugate, products = state
        solved = jnp.max(jnp.abs(conjugate.residual)) <= 0.5 * tolerance
        return _loose(value, bound) & ~solved & (products < MAX_CONJUGATE)

    zeros_N = jnp.zeros_like(alignment_N)
    start = (_conjugate(zeros_N, alignment_N), jnp.int32(0))
    final, products = jax.lax.while_loop(
        unsolved,
        lambda state: (_advance(state[0], product, everywhere_N), state[1] + 1),
        tie(start, alignment_N, value, bound),
    )
    # The residual that is carried along is not quite s - Ku: the bound wants the true one.
    reached_N = jax.lax.cond(
        products > 0, lambda: product(final.solution), lambda: tie(zeros_N, alignment_N)
    )
    _, unsigned = _value_and_bound(alignment_N, final.solution, reached_N)
    return jnp.where(products > 0, jnp.minimum(bound, unsigned), bound)


def _conjugate(solution_N: jax.Array, residual_N: jax.Array) -> _Conjugate:
    """Conjugate gradients before the first step."""
    return _Conjugate(solution_N, residual_N, residual_N, jnp.dot(residual_N, residual_N))


def _advance(state: _Conjugate, product: Product, free_N: jax.Array) -> _Conjugate:
    """One step of conjugate gradients on the rows and columns of K that are free."""
    turned_N = jnp.where(free_N, product(state.direction), 0.0)
    curvature = jnp.dot(state.direction, turned_N)
    length = state.square / jnp.where(curvature > 0.0, curvature, jnp.inf)
    residual_N = state.residual - length * turned_N
    square = jnp.dot(residual_N, residual_N)
    ratio = square / jnp.where(state.square > 0.0, state.square, 1.0)
    return _Conjugate(
        solution=state.solution + length * state.direction,
        residual=residual_N,
        direction=residual_N + ratio * state.direction,
        square=square,
    )


def _loose(value: jax.Array, bound: jax.Array) -> jax.Array:
    """Tells where a utility reached leaves the bound much room to come down, bool[]."""
    return bound > (1.0 + GAP) * jnp.maximum(value, 0.0)


def _value_and_bound(
    alignment_N: jax.Array, weights_N: jax.Array, product_N: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """U(w), and (c w)'K(c w) / 2 for the least c >= 0 with cKw >= s; infinite if there is none."""
    # Weights that nearly cancel may be so large that rounding hides part of the energy.
    energy = jnp.dot(weights_N, product_N + ROUNDOFF * weights_N)
    value = jnp.dot(weights_N, alignment_N) - 0.5 * energy
    wanted_N = alignment_N - ROUNDING * jnp.max(jnp.abs(alignment_N))
    safe_N = jnp.where(product_N == 0.0, 1.0, product_N)
    ratio_N = jnp.where(product_N == 0.0, jnp.inf, wanted_N / safe_N)
    # Where s > 0, c must reach s / Kw, which takes Kw > 0; where both are below 0, not pass it.
    least = jnp.max(jnp.where(wanted_N > 0.0, jnp.where(product_N > 0.0, ratio_N, jnp.inf), 0.0))
    most = jnp.min(jnp.where((wanted_N <= 0.0) & (product_N < 0.0), ratio_N, jnp.inf))
    bound = 0.5 * least**2 * jnp.maximum(energy, 0.0)
    # With alignments so small that none is wanted, nothing is known unless none is above 0.
    found = (least <= most) & jnp.isfinite(least) & ((least > 0.0) | jnp.all(alignment_N <= 0.0))
    return value, jnp.where(found, bound, jnp.inf)
