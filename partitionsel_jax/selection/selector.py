"""`select`: one entry point over all utilities, couplings and rules."""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from partitionsel_jax.selection import certificate as certificates
from partitionsel_jax.selection.carries import tie
from partitionsel_jax.selection.couplings import BUDGETED, COUPLINGS
from partitionsel_jax.selection.problem import (
    Options,
    Problem,
    Selection,
    check_shapes,
    check_values,
    domain_count,
    is_concrete,
    make_pool,
)
from partitionsel_jax.selection.rules import RANDOMISED, RULES
from partitionsel_jax.selection.solvers import SOLVERS
from partitionsel_jax.selection.utilities import UTILITIES, Solution


def select(
    problem: Problem,
    *,
    size: int,
    utility: str = "gradient_matching",
    coupling: str = "joint",
    rule: str = "greedy",
    solver: str = "exact",
    ridge: jax.Array | float = 0.0,
    swaps: int = 0,
    step_scale: jax.Array | float = 1.0,
    key: jax.Array | None = None,
    certificate: bool = True,
) -> Selection:
    """Selects `size` candidates of a pool under per-domain budgets.

    Contract, whatever the utility, coupling and rule:

    * picks are distinct, and domain p has at most budgets[p] of them (`agnostic`: any number);
    * budgets are filled even by candidates that add nothing (weight 0); a slot stays empty
      (index -1, weight 0) only when no feasible candidate is left;
    * padding rows (domain -1) are never picked; neither are candidates with a NaN or an infinity
      in any of the problem's arrays, which are counted in `dropped` and leave the others untouched;
    * ties go to the lowest index; permuting the pool permutes the picks;
    * the same program runs eagerly and under jit, vmap, pmap and shard_map. Eager calls compile
      once per shape and choice of static arguments.

    Args:
      problem: the pool, N candidates from P domains.
      size: K, number of picks, 1 <= K <= N. Static.
      utility: a key of `UTILITIES`. Static.
      coupling: a key of `COUPLINGS`. Static.
      rule: a key of `RULES`. Static.
      solver: a key of `SOLVERS`: how `gradient_matching` is maximised. Static.
      ridge: f32[], >= 0; added to the Gram matrix's diagonal by `gradient_matching`.
      swaps: sweeps of improving exchanges after the last round, >= 0; each tries at most K. Static.
      step_scale: f32[], > 0; eta, the step of `taylor`, which models one update.
      key: a `jax.random.key`; needed by random utilities and rules.
      certificate: True to compute a certificate within twice the time that the picks take, False
        for none (nan). Static.

    Returns:
      A `Selection`.

    Raises:
      ValueError: an unknown name, a pair that makes no sense, a shape, dtype or size that does not
        fit; and, where values are concrete: domains out of range, budgets that are negative or do
        not sum to `size`, a Gram matrix that is not symmetric, a ridge or step scale out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> problem = Problem(
      ...     alignment=jnp.array([1.0, 0.9, 0.1]),
      ...     gram=jnp.eye(3),
      ...     domains=jnp.array([0, 0, 1]),
      ...     budgets=jnp.array([1, 1]),
      ... )
      >>> select(problem, size=2).indices.tolist()
      [0, 2]
    """
    check_shapes(problem, size)
    check_choices(utility=utility, coupling=coupling, rule=rule, solver=solver, swaps=swaps)
    _check_needs(problem, size=size, utility=utility)
    check_values(problem, operator.index(size), budgeted=coupling in BUDGETED)
    draws = UTILITIES[utility].draws or rule in RANDOMISED
    if draws and key is not None and not isinstance(key, jax.Array):
        raise ValueError(f"key must be a jax.random.key, got {type(key).__name__} {key!r}.")
    options = Options(
        ridge=_scalar("ridge", ridge),
        step_scale=_scalar("step_scale", step_scale, positive=True),
        # A key that is not drawn from must not cost a compilation of its own.
        key=key if draws else None,
        size=operator.index(size),
        rule=rule,
        solver=solver,
        swaps=operator.index(swaps),
        certificate=bool(certificate),
    )
    budgets_of = None
    if callable(problem.budgets):
        budgets_of, count = problem.budgets, domain_count(problem)
        problem = dataclasses.replace(problem, budgets=None, domain_count=count)  # type: ignore[arg-type]
    solution, dropped, pool = _select(
        problem, options, utility=utility, coupling=coupling, budgets_of=budgets_of
    )
    # On the host: `jax_debug_nans` checks whatever an operation answers.
    nan: Any = np.array(np.nan, np.float32)
    return Selection(
        indices=solution.indices,
        weights=solution.weights,
        utility=nan if solution.utility is None else solution.utility,
        certificate=nan if solution.certificate is None else solution.certificate,
        gains=solution.gains,
        dropped=dropped,
        candidates=pool["candidates"],
        budgets=pool["budgets"],
    )


@functools.partial(jax.jit, static_argnames=("utility", "coupling", "budgets_of"))
def _select(
    problem: Problem,
    options: Options,
    *,
    utility: str,
    coupling: str,
    budgets_of: Callable[[jax.Array], jax.Array] | None,
) -> tuple[Solution, jax.Array, dict[str, jax.Array]]:
    # Accelerators would otherwise round the factors of a float32 product to fewer digits than the
    # refit's tolerance needs.
    with jax.default_matmul_precision("highest"):
        whole, dropped = make_pool(problem, budgets_of)
        pool = COUPLINGS[coupling](tie(whole, problem, options), options.size)
        solution = UTILITIES[utility].solve(pool, options)
    return solution, dropped, {"candidates": whole.candidates, "budgets": whole.budgets}


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
      the matroid out; 0 where none was found.

    Raises:
      ValueError: as `select`.
    """
    if result.budgets is not None:  # which the problem may only have a function for
        problem = dataclasses.replace(problem, budgets=result.budgets)
    check_shapes(problem, result.indices.shape[0])
    if coupling not in COUPLINGS:
        raise ValueError(f"coupling must be one of {sorted(COUPLINGS)}, got {coupling!r}.")
    return _certify(problem, result, _scalar("ridge", ridge), coupling=coupling)


@functools.partial(jax.jit, static_argnames=("coupling",))
def _certify(problem: Problem, result: Selection, ridge: jax.Array, *, coupling: str) -> jax.Array:
    with jax.default_matmul_precision("highest"):
        pool, _ = make_pool(problem, None)
        pool = COUPLINGS[coupling](tie(pool, problem, result, ridge), result.indices.shape[0])
        return certificates.certify(pool, result.indices, result.weights, result.utility, ridge)


def check_choices(*, utility: str, coupling: str, rule: str, solver: str, swaps: int) -> None:
    """Checks the names, and that what they name goes together.

    Raises:
      ValueError: an unknown name, or a pair that makes no sense.
    """
    for argument, name, known in (
        ("utility", utility, UTILITIES),
        ("coupling", coupling, COUPLINGS),
        ("rule", rule, RULES),
        ("solver", solver, SOLVERS),
    ):
        if name not in known:
            raise ValueError(f"{argument} must be one of {sorted(known)}, got {name!r}.")
    try:
        counted = not isinstance(swaps, bool) and operator.index(swaps) >= 0
    except Exception:  # traced swaps fail in their own way
        counted = False
    if not counted:
        raise ValueError(f"swaps must be a Python integer >= 0 (it is static), got {swaps!r}.")
    entry = UTILITIES[utility]
    if rule not in entry.rules:
        able = [name for name, entry in UTILITIES.items() if rule in entry.rules]
        raise ValueError(
            f"rule={rule!r} needs a utility whose scores change with the picks, one of {able}, "
            f"got utility={utility!r}; use rule='greedy' with it."
        )
    weighted = [name for name, entry in UTILITIES.items() if entry.refits]
    for came, unusual in ((f"swaps={swaps}", swaps > 0), (f"solver={solver!r}", solver != "exact")):
        if unusual and not entry.refits:
            raise ValueError(
                f"{came} needs a utility that refits weights, one of {weighted}, got "
                f"utility={utility!r}; use swaps=0 and solver='exact' with it."
            )
    if swaps and solver != "exact":
        raise ValueError(
            f"swaps={swaps} needs solver='exact', whose weights are refitted exactly, got "
            f"solver={solver!r}; use swaps=0 with it."
        )


def _check_needs(problem: Problem, *, size: int, utility: str) -> None:
    """Checks that the problem holds what the utility reads."""
    entry = UTILITIES[utility]
    for field in entry.needs:
        if getattr(problem, field) is None:
            raise ValueError(
                f"utility={utility!r} needs Problem.{field}, got None; "
                f"pass {_SHAPES[field]}, or choose another utility."
            )
    pool_size = problem.alignment.shape[0]
    if entry.takes_all and size != pool_size:
        raise ValueError(
            f"size must be the pool's {pool_size} with utility={utility!r}, got {size}; "
            "draw a pool of that size, or choose a utility that selects."
        )


_SHAPES = {
    "gram": "the Gram matrix f32[N, N] (it compares all pairs, which features cannot spare it)",
    "losses": "the candidates' losses f32[N]",
    "anchor_similarity": "the candidates' similarities to the anchors f32[N, A]",
}


def _scalar(name: str, value: jax.Array | float, *, positive: bool = False) -> jax.Array:
    """`value` as f32[], so that Python and array values share one compilation."""
    if np.shape(value) != ():
        raise ValueError(f"{name} must be a scalar, got shape {np.shape(value)}; use jax.vmap.")
    if is_concrete(value):
        host = np.asarray(value)
        if not (np.isfinite(host) and (host > 0.0 if positive else host >= 0.0)):
            bound = "> 0" if positive else ">= 0"
            raise ValueError(f"{name} must be finite and {bound}, got {value}.")
    return jnp.asarray(value, jnp.float32)
