"""The compiled programs of a run, shared between all runs that compute the same thing."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from partitionsel_jax import models, selection
from partitionsel_jax.config.sections import FeatureSettings
from partitionsel_jax.distributed import spmd
from partitionsel_jax.gradients.features import Features, Scope, unit
from partitionsel_jax.models import parameters as trees
from partitionsel_jax.step import anchors as held_out
from partitionsel_jax.step import fidelity, recorded
from partitionsel_jax.step.candidates import Candidates, RowInfo, compare
from partitionsel_jax.step.features import compute_features
from partitionsel_jax.step.parts import row_losses
from partitionsel_jax.step.state import NO_OTHERS, Others, TrainState, before, is_sound
from partitionsel_jax.step.step import Step

# Feature dimension for timing selection where none is set; the time hardly depends on it.
IDENTITY_STAND_IN = 1024
# Seconds of timing one thing, after which it is not repeated again.
PATIENCE_S = 2.0
# Of a process's memory, half of what Linux allows.
MOST_MAPPINGS = 32_000
# Steps that the mean is taken over at most, where many share features.
MOST_SHARING = 8

# Never forgotten: all processes measure together, or none does.
_SHARES: dict[Hashable, dict[str, float]] = {}


@dataclasses.dataclass(frozen=True)
class Evaluators:
    """The programs of evaluations.

    Attributes:
      losses: (trained, frozen, rows) -> f32[B].
      generate: (trained, frozen, tokens, lengths, stops) -> i32[B, T].
    """

    losses: spmd.Program
    generate: spmd.Program


@functools.lru_cache(maxsize=16)
def evaluators(model: models.Model, layout: spmd.Layout) -> Evaluators:
    """The evaluations of a model; equal ones get the very same programs."""

    def losses(trained, frozen, rows):
        everything = trees.join(frozen, trained)
        return spmd.gather(model.losses(everything, rows.tokens, rows.response))

    def generate(trained, frozen, tokens, lengths, stops):
        everything, limits = trees.join(frozen, trained), jnp.full_like(lengths, tokens.shape[1])
        written = models.continuation(model, everything, tokens, lengths, limits, stops)
        return spmd.gather(written.tokens)

    return Evaluators(
        losses=layout.map(losses, ("weights", "weights", "rows")),
        generate=layout.map(generate, ("weights", "weights", "rows", "rows", "replicated")),
    )


@functools.lru_cache(maxsize=16)
def scorer(model: models.Model, layout: spmd.Layout) -> spmd.Program:
    """(parameters, rows) -> the rows' losses, f32[B], lengths and response tokens, i32[B] each."""

    def score(parameters, rows):
        answered = rows.response[:, 1:].sum(axis=1, dtype=jnp.int32)
        return spmd.gather((row_losses(model, parameters, rows), rows.lengths, answered))

    return layout.map(score, ("weights", "rows"))


@functools.lru_cache(maxsize=16)
def features(
    model: models.Model, scope: Scope, settings: FeatureSettings, layout: spmd.Layout
) -> spmd.Program:
    """(parameters, rows) -> the rows' features, by parameters that stay as they are."""

    def compute(parameters, rows):
        found, _ = compute_features(model, scope, settings, parameters, rows, step=jnp.int32(0))
        return spmd.gather(found)

    return layout.map(compute, ("weights", "rows"))


def halting(
    step: Callable[..., tuple[TrainState, dict[str, jax.Array]]],
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """`Step.__call__` or the like, but for what it does to a state that has halted: nothing.

    A state halts at the first update that is not sound, and is then that before the update but for
    its step, which is negative; see `state.before`. The host reads a step's record while the next
    step runs: were that one carried out, the state that the failed update started from would be
    gone.
    """

    def run(
        state: TrainState,
        frozen: Any,
        pool: Any,
        anchors: Any,
        seed: jax.Array,
        others: Others = NO_OTHERS,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        state, halted = before(state), state.step < 0
        after, record = step(state, frozen, pool, anchors, seed, others)
        goes_on = is_sound(record) & ~halted
        halted_state = dataclasses.replace(state, step=-1 - state.step)
        return jax.tree.map(lambda a, b: jnp.where(goes_on, a, b), after, halted_state), record

    return run


@functools.lru_cache(maxsize=16)
def training_step(step: Step, layout: spmd.Layout) -> spmd.Program:
    """(state, frozen, pool, anchors, seed, others) -> (state, record), as one program."""
    update = functools.partial(recorded.update, step) if step.selection.recorded else step
    # The state is replaced by its successor, so its buffers are given away.
    return layout.map(halting(update), Step.KINDS, donate=(0,), returns_first=True)


@functools.lru_cache(maxsize=16)
def fidelity_check(step: Step, layout: spmd.Layout) -> spmd.Program:
    """(state, frozen, pool, anchors, seed, others) -> what `fidelity.compare` measures."""
    compare = functools.partial(fidelity.compare, step)
    return layout.map(compare, Step.KINDS)


@functools.lru_cache(maxsize=16)
def _stages(step: Step, layout: spmd.Layout) -> tuple[spmd.Program, spmd.Program]:
    """Selection and update as programs of their own, to be timed."""

    # The pool is not read where it is not used: `jax.pmap` wants one argument to map over.
    def select(candidates, seed, curriculum, pool):
        return step.select(candidates, jax.random.key(seed), curriculum)[0]

    def update(state, frozen, result, pool, others):
        info, key = spmd.gather(RowInfo.of(pool)), jax.random.key(0)
        kept = state.curriculum, state.kept, key
        return step.update(state, frozen, pool, info, result, *kept, others=others)

    return (
        layout.map(select, ("replicated", "replicated", "replicated", "rows")),
        layout.map(
            update, ("weights", "weights", "replicated", "rows", "weights"), returns_first=True
        ),
    )


def make_room() -> None:
    """Forgets compiled programs where a process could soon map no more of them into memory.

    On a CPU each takes thousands of mappings, and Linux gives a process 65,530.
    """
    try:
        with open("/proc/self/maps") as file:
            mappings = sum(1 for _ in file)
    except OSError:
        return  # not Linux
    if mappings < MOST_MAPPINGS:
        return
    for kept in (evaluators, scorer, features, training_step, fidelity_check, _stages):
        kept.cache_clear()
    jax.clear_caches()


def stage_shares(
    step: Step,
    layout: spmd.Layout,
    state: TrainState,
    frozen: Any,
    pool: Any,
    anchors: Any,
    others: Others = NO_OTHERS,
) -> dict[str, float]:
    """Shares of features (or losses), selection and update in the step's time.

    The step is one program, which cannot be looked into: selection and update are timed as programs
    of their own (on random unit features and the pool's first rows), and the features are the rest.
    Where steps share features, the step's time is the mean over steps that do. Measured once for
    runs that share their programs.
    """
    key = step, layout, *(np.shape(leaf) for leaf in jax.tree.leaves((pool, anchors)))
    if key in _SHARES:
        return _SHARES[key]
    run_select, run_update = _stages(step, layout)
    picks = jnp.arange(step.selection.size, dtype=jnp.int32)
    nothing = jnp.zeros(())
    result = selection.Selection(
        indices=picks,
        weights=jnp.ones(picks.shape),
        utility=nothing,
        certificate=nothing,
        gains=jnp.zeros(picks.shape),
        dropped=nothing,
    )
    # NumPy's, since what lies on one process's device is no argument of all processes' program.
    candidates = dataclasses.replace(_random_candidates(step), anchor_shares=others.anchor_shares)
    candidates, result = jax.device_get((candidates, result))
    seed = np.int32(0)
    run_step = training_step(step, layout)

    def whole(later: int) -> float:
        def run():
            # A copy, since the step takes its state's buffers.
            copied = jax.tree.map(jnp.copy, state)
            moved = dataclasses.replace(copied, step=copied.step + later)
            return run_step(moved, frozen, pool, anchors, seed, others)

        return _seconds(run)

    sharing = min(
        math.lcm(step.features.anchors_every, step.selection.updates_per_pool), MOST_SHARING
    )

    chosen = _seconds(lambda: run_select(candidates, seed, state.curriculum, pool))
    updated = _seconds(lambda: run_update(state, frozen, result, pool, others))
    # On a busy machine the parts may seem to take longer than the whole.
    mean = sum(map(whole, range(sharing))) / sharing
    total = max(mean, chosen + updated)
    shares = {"selection": chosen / total, "update": updated / total}
    _SHARES[key] = {"features": 1.0 - sum(shares.values()), **shares}
    return _SHARES[key]


def _random_candidates(step: Step) -> Candidates:
    """Candidates that selection takes as long for as for real ones."""
    random = np.random.default_rng(0)

    def features(count: int) -> Features:
        dim = step.features.dim or IDENTITY_STAND_IN
        vectors_BxM = random.normal(size=(count, dim)).astype(np.float32)
        return Features(unit(jnp.asarray(vectors_BxM)), jnp.ones(count), jnp.ones(count))

    chosen = step.selection
    numbers_N = jnp.arange(chosen.pool, dtype=jnp.int32)
    info = RowInfo(numbers_N % step.domains, numbers_N, numbers_N < 0)
    anchors = held_out.from_features(
        features(chosen.anchors),
        jnp.arange(chosen.anchors, dtype=jnp.int32) % step.domains,
        mean=chosen.anchor_mean,
        domains=step.domains,
    )
    made = compare(info, features(chosen.pool), anchors, chosen)
    names = {"reference_losses", "nuclear_norms", "novelty"} & chosen.reads
    scores: dict[str, Any] = {name: jnp.zeros(chosen.pool) for name in names}
    return dataclasses.replace(made, **scores)


def _seconds(function: Callable[[], Any], repeats: int = 5) -> float:
    """Median wall-clock seconds of a call, its results awaited; fewer repeats of a slow one.

    One call before is not counted: it may compile. Processes that run one program together make
    equally many calls, however long they take.
    """
    jax.block_until_ready(function())
    together = jax.process_count() > 1
    taken: list[float] = []
    while len(taken) < repeats and (together or sum(taken) <= PATIENCE_S):
        started = time.perf_counter()
        jax.block_until_ready(function())
        taken.append(time.perf_counter() - started)
    return float(np.median(taken))
