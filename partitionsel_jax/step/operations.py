"""The stages of a step, counted: features, update, and what selection reads.

Letters: N pool, K picks.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from partitionsel_jax import data, models, selection
from partitionsel_jax.config.settings import Settings
from partitionsel_jax.distributed import spmd
from partitionsel_jax.step.candidates import RowInfo
from partitionsel_jax.step.counting import Counts, trace
from partitionsel_jax.step.step import Step

# Products with the Gram matrix that the certificate takes; it may be 960, and was 15 to 60 on
# unit features.
CERTIFICATE = 60


@dataclasses.dataclass(frozen=True)
class Stages:
    """One device's part of a step.

    Attributes:
      features: of its candidates and anchors, all that is compared with them included.
      update: of its picks.
      read: bytes that selection reads from the device's memory.
      picks: rounds of selection, one after the other.
    """

    features: Counts
    update: Counts
    read: float
    picks: int


def stages_of(settings: Settings, response: float) -> Stages:
    """Counts the stages of a step.

    Args:
      settings: of a step that shares nothing with others; see `planning.planned`.
      response: share of a row's tokens that its loss counts.
    """
    devices, split = settings.training.devices, settings.training.split_weights
    step = Step.create(settings, devices)
    return _counted(step, devices, split, settings.data.length, response)


@functools.lru_cache(maxsize=16)
def _counted(step: Step, devices: int, split: bool, length: int, response: float) -> Stages:
    """Runs that differ in their seed alone trace a step once."""
    state, frozen = (local(tree, devices, split) for tree in jax.eval_shape(step.initial, 0))
    chosen = step.selection
    pool, anchors = (rows(count // devices, length) for count in (chosen.pool, chosen.anchors))

    def rounds(microbatch: int) -> float:
        """Of the one loop whose end depends on the data: over blocks of tokens that count."""
        tokens = microbatch * (length - 1)
        return math.ceil(response * tokens / step.model.config.chunks.token_block(tokens))

    def counted(function: Any, microbatch: int, *shapes: Any) -> Counts:
        return trace(function, *shapes, axis=spmd.AXIS, devices=devices, rounds=rounds(microbatch))

    mine = (chosen.pool + chosen.anchors) // devices
    size = min(step.features.microbatch, mine)
    features, read = Counts(), 0.0
    if chosen.needs_features:
        features = counted(
            lambda *inputs: step.featurize(*inputs)[0], size, state, frozen, pool, anchors
        )
        read = 4.0 * chosen.pool * (chosen.size**2 + CERTIFICATE * chosen.pool)
    elif chosen.needs_losses:
        reference = local(jax.eval_shape(step.model.init, jax.random.key(0)), devices, split)
        features = counted(
            lambda *inputs: step.forward(*inputs)[0],
            size,
            *(state.parameters, frozen, reference, pool, anchors),
        )
    shapes = jax.eval_shape(lambda: _picks(chosen.size))
    picked = chosen.size // devices

    def updated(state: Any, frozen: Any, pool: Any, labels: Any, picks: Any) -> Any:
        kept = state.curriculum, state.kept
        return step.update(state, frozen, pool, labels, picks, *kept, key=jax.random.key(0))

    inputs = (state, frozen, pool, RowInfo.of(rows(chosen.pool, length)), shapes)
    update = counted(updated, min(step.microbatch or picked, picked), *inputs)
    return Stages(features, update, read, chosen.size if chosen.needs_features else 0)


def _picks(size: int) -> selection.Selection:
    """A selection, for its shapes."""
    each, nothing = jnp.zeros(size), jnp.zeros(())
    return selection.Selection(each.astype(jnp.int32), each, nothing, nothing, each, nothing)


def rows(count: int, length: int) -> data.Rows:
    """Shapes of so many rows."""

    def of(dtype: Any, *tail: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((count, *tail), dtype)

    whole = of(np.int32)
    return data.Rows(of(np.int32, length), of(bool, length), whole, whole, of(bool))


def local(tree: Any, devices: int, split_weights: bool) -> Any:
    """Shapes of one device's part of arrays of kind "weights"; see `spmd.Layout`."""

    def part(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        shape = list(leaf.shape)
        names = tuple(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))
        axis = models.split_axis(names, leaf.shape, devices) if split_weights else None
        if axis is not None:
            shape[axis] //= devices
        return jax.ShapeDtypeStruct(tuple(shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(part, tree)
