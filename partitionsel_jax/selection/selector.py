"""`select`: one entry point over all utilities, couplings and rules; `best_of` several draws."""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from partitionsel_jax.selection.arrays import jit, tie
from partitionsel_jax.selection.matroid import BUDGETED, COUPLINGS, RANDOMISED, RULES
from partitionsel_jax.selection.problem import (
    Options,
    Problem,
    Selection,
    Solution,
    check_count,
    check_problem,
    check_scalar,
    make_pool,
)
from partitionsel_jax.selection.pursuit import SOLVERS
from partitionsel_jax.selection.utilities import UTILITIES


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
    check_choices(utility=utility, coupling=coupling, rule=rule, solver=solver, swaps=swaps)
    count = check_problem(problem, size, budgeted=coupling in BUDGETED)
    entry, pool_size = UTILITIES[utility], problem.alignment.shape[0]
    for field in entry.needs:
        if getattr(problem, field) is None:
            raise ValueError(
                f"utility={utility!r} needs Problem.{field}, got None; pass it, or choose another "
                "utility."
            )
    if entry.takes_all and size != pool_size:
        raise ValueError(
            f"size must be the pool's {pool_size} with utility={utility!r}, got {size}; "
            "draw a pool of that size, or choose a utility that selects."
        )
    draws = entry.draws or rule in RANDOMISED
    if draws and not isinstance(key, jax.Array):
        raise ValueError(
            f"key must be given for a utility or a rule that draws at random, got {key!r}; pass a "
            "jax.random.key."
        )
    options = Options(
        ridge=check_scalar("ridge", ridge),
        step_scale=check_scalar("step_scale", step_scale, without=0.0),
        # A key that is not drawn from must not cost a compilation of its own.
        key=key if draws else None,
        size=operator.index(size),
        rule=rule,
        solver=solver,
        swaps=operator.index(swaps),
        certificate=bool(certificate),
    )
    budgets_of = problem.budgets if callable(problem.budgets) else None
    if budgets_of is not None:  # no array, and so no argument of a compiled function
        problem = dataclasses.replace(problem, budgets=None, domain_count=count)  # type: ignore[arg-type]
    solution, dropped, candidates, budgets = _select(
        problem, options, utility=utility, coupling=coupling, budgets_of=budgets_of
    )
    # On the host: `jax_debug_nans` checks whatever an operation answers.
    nan: Any = np.array(np.nan, np.float32)
    fields = {name: nan if found is None else found for name, found in solution._asdict().items()}
    return Selection(**fields, dropped=dropped, candidates=candidates, budgets=budgets)


@jit("utility", "coupling", "budgets_of")
def _select(
    problem: Problem,
    options: Options,
    *,
    utility: str,
    coupling: str,
    budgets_of: Callable[[jax.Array], jax.Array] | None,
) -> tuple[Solution, jax.Array, jax.Array, jax.Array]:
    # Accelerators would otherwise round the factors of a float32 product to fewer digits than the
    # refit's tolerance needs.
    with jax.default_matmul_precision("highest"):
        pool, dropped = make_pool(problem, budgets_of or problem.budgets)
        coupled = COUPLINGS[coupling](tie(pool, problem, options), options.size)
        solution = UTILITIES[utility].solve(coupled, options)
    return solution, dropped, pool.candidates, pool.budgets


def check_choices(*, utility: str, coupling: str, rule: str, solver: str, swaps: int) -> None:
    """Checks the names, and that what they name goes together.

    Raises:
      ValueError: an unknown name, or a pair that makes no sense.
    """
    for argument, name, known in (
        ("utility", utility, sorted(UTILITIES)),
        ("coupling", coupling, sorted(COUPLINGS)),
        ("rule", rule, sorted(RULES)),
        ("solver", solver, sorted(SOLVERS)),
    ):
        if name not in known:
            raise ValueError(f"{argument} must be one of {known}, got {name!r}.")
    check_count(swaps, "swaps", 0)
    entry = UTILITIES[utility]
    if rule not in entry.rules:
        able = [name for name, entry in UTILITIES.items() if rule in entry.rules]
        raise ValueError(
            f"rule={rule!r} needs a utility whose scores change with the picks, one of {able}, "
            f"got utility={utility!r}; use rule='greedy' with it."
        )
    for came, unusual in ((f"swaps={swaps}", swaps > 0), (f"solver={solver!r}", solver != "exact")):
        if unusual and not entry.refits:
            weighted = [name for name, entry in UTILITIES.items() if entry.refits]
            raise ValueError(
                f"{came} needs a utility that refits weights, one of {weighted}, got "
                f"utility={utility!r}; use swaps=0 and solver='exact' with it."
            )
    if swaps and solver != "exact":
        raise ValueError(
            f"swaps={swaps} needs solver='exact', whose weights are refitted exactly, got "
            f"solver={solver!r}; use swaps=0 with it."
        )


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
    check_count(restarts, "restarts")
    if rule not in RANDOMISED:
        raise ValueError(
            f"rule must be one that draws, of {sorted(RANDOMISED)}, got {rule!r}; "
            "with any other all restarts are the same."
        )
    one = functools.partial(select, problem, size=size, rule=rule, **options)
    draws = jax.vmap(lambda own: one(key=own))(jax.random.split(key, operator.index(restarts)))
    best: Selection = jax.tree.map(lambda leaf: leaf[jnp.argmax(draws.utility)], draws)
    return best
