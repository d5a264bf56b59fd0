"""The compiled programs of a run, shared between runs that differ in their seed alone."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from partitionsel_jax import models
from partitionsel_jax.models import parameters as trees
from partitionsel_jax.training import spmd
from partitionsel_jax.training.state import TrainState
from partitionsel_jax.training.step import Step


@dataclasses.dataclass(frozen=True)
class Programs:
    """What a run executes on its devices; see `create` for the arguments of each.

    Attributes:
      step: (state, frozen, pool, anchors, seed) -> (state, record).
      losses: (trained, frozen, rows) -> f32[B].
      generate: (trained, frozen, tokens, lengths, stop) -> i32[B, T].
      featurize, choose, update: the stages of a step by themselves, to learn their share of it.
    """

    step: spmd.Program
    losses: spmd.Program
    generate: spmd.Program
    featurize: spmd.Program
    choose: spmd.Program
    update: spmd.Program


@functools.lru_cache(maxsize=16)
def create(step: Step, devices: tuple[jax.Device, ...]) -> Programs:
    """The programs of `step` over `devices`; equal steps get the very same programs."""

    def losses(trained, frozen, rows):
        return spmd.gather(step.losses(trees.join(frozen, trained), rows))

    def generate(trained, frozen, tokens, lengths, stop):
        parameters = trees.join(frozen, trained)
        apply = functools.partial(step.model.apply, parameters)
        return spmd.gather(models.greedy(apply, tokens, lengths, stop))

    # The pool is not read in these two: `jax.pmap` wants one argument to map over.
    def choose(candidates, key, pool):
        return step.choose(candidates, key)[0]

    def update(state, frozen, rows, result, pool):
        return step.update(state, frozen, rows, result)

    parallel = functools.partial(spmd.data_parallel, devices=devices)
    return Programs(
        # The state is replaced by its successor, so its buffers are given away.
        step=parallel(step.__call__, (False, False, True, True, False), donate=(0,)),
        losses=parallel(losses, (False, False, True)),
        generate=parallel(generate, (False, False, True, True, False)),
        featurize=parallel(step.featurize, (False, False, True, True)),
        choose=parallel(choose, (False, False, True)),
        update=parallel(update, (False, False, False, False, True)),
    )


def stage_shares(
    programs: Programs, state: TrainState, frozen: Any, pool: Any, anchors: Any
) -> dict[str, float]:
    """Shares of features, selection and update in the step's time, measured on a real pool.

    The stages are timed as programs of their own, since the step is one program that cannot be
    looked into; the shares are of their sum.
    """
    candidates = programs.featurize(state.parameters, frozen, pool, anchors)
    key = jax.random.key(0)
    result = programs.choose(candidates, key, pool)
    taken = {
        "features": _seconds(lambda: programs.featurize(state.parameters, frozen, pool, anchors)),
        "selection": _seconds(lambda: programs.choose(candidates, key, pool)),
        "update": _seconds(lambda: programs.update(state, frozen, candidates.rows, result, pool)),
    }
    return {name: value / sum(taken.values()) for name, value in taken.items()}


def _seconds(function: Callable[[], Any], repeats: int = 5) -> float:
    """Median wall-clock seconds of a call, its results awaited; one call before is not counted."""
    jax.block_until_ready(function())
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(function())
        taken.append(time.perf_counter() - started)
    return float(np.median(taken))
