"""What a device's memory holds during a step, by arithmetic.

Letters: N pool, A anchors, K picks, M feature dimension, T tokens, b rows of a microbatch.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from partitionsel_jax.config.settings import Settings
from partitionsel_jax.models.config import DTYPES
from partitionsel_jax.step.operations import local
from partitionsel_jax.step.step import Step

_FLOAT = 4


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
      base: frozen weights, of which a device may have its part only.
      trained: adapters, or all weights, and their gradient.
      optimizer: its state.
      features: of this device's candidates and anchors, and of all candidates twice, [N, M]: as
        they come, and as they are compared.
      selection: the Gram matrix [N, N] and the picks' rows of it [K, N].
      rows: tokens and masks of this device's part of the pool, and the picks on their way.
      activations: of a microbatch, at the worst moment of the update or of the features.
      gathered: weights put together for the time of their use: embedding, head and two layers.
    """

    base: float
    trained: float
    optimizer: float
    features: float
    selection: float
    rows: float
    activations: float
    gathered: float

    @property
    def total(self) -> float:
        return sum(dataclasses.astuple(self))


def memory_of(settings: Settings) -> Memory:
    """The memory of a step; see `runs.planned`."""
    devices, split = settings.training.devices, settings.training.split_weights
    step = Step.create(settings)
    state, frozen = jax.eval_shape(step.initial, 0)
    mine, base = local(state, devices, split), local(frozen, devices, split)
    chosen = settings.selection
    pool, count = chosen.pool, chosen.pool + chosen.anchors
    dim = settings.features.dim or step.coordinates
    featured = chosen.needs_features
    return Memory(
        base=_bytes(base),
        trained=2 * _bytes(mine.parameters),
        optimizer=_bytes(mine.optimizer),
        features=featured * _FLOAT * dim * (2 * pool + count / devices),
        selection=featured * _FLOAT * pool * (pool + chosen.size),
        rows=settings.data.length * (5 * pool / devices + 4 * chosen.size),
        activations=_activations(settings),
        gathered=_gathered(step, settings) if split and devices > 1 else 0.0,
    )


def _bytes(tree: Any) -> float:
    return float(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)))


def _activations(settings: Settings) -> float:
    model, devices = settings.model, settings.training.devices
    picked = settings.selection.size // devices
    update = min(settings.training.microbatch or picked, picked)
    scoped = settings.features.last_layers or model.layers
    candidates = -(-(settings.selection.pool + settings.selection.anchors) // devices)
    windowed = settings.features.tokens or settings.data.length
    featured = min(settings.features.microbatch, candidates)
    return max(
        _pass(settings, update, settings.data.length, model.layers),
        _pass(settings, featured, windowed, scoped) if settings.selection.needs_features else 0.0,
    )


def _pass(settings: Settings, rows: int, length: int, layers: int) -> float:
    """Forward and backward through `layers` of so many rows."""
    model = settings.model
    tokens, size = rows * length, jnp.dtype(DTYPES[model.dtype]).itemsize
    attention = model.heads * model.head_dim
    keys = model.kv_heads * model.head_dim
    # Of one layer: what it computes, and as much for the cotangents.
    wide = 4 * model.width + 2 * attention + 2 * keys + 3 * model.mlp_width
    inner: float = 2 * tokens * wide * size
    if model.attention == "xla":
        inner += 2 * rows * model.heads * length**2 * (_FLOAT + size) / 2
    # Of the others: their inputs, or all of it.
    kept: float = layers * tokens * model.width * size
    if model.remat == "none":
        kept, inner = layers * inner / 2, inner / 2
    elif model.remat == "dots":
        kept += layers * tokens * (model.width + attention + 2 * keys + 3 * model.mlp_width) * size
    chunks = model.chunks
    head = _FLOAT * chunks.token_block(tokens) * min(chunks.vocab, model.vocab_size) * 2
    head += _FLOAT * tokens * model.width * 2
    return kept + max(inner, head)


def _gathered(step: Step, settings: Settings) -> float:
    """Embedding and head, and two layers: one in use, the next on its way."""
    shapes = jax.eval_shape(step.model.init, jax.random.key(0))
    layers = shapes.pop("layers")
    split = local(shapes, settings.training.devices, True)
    outside = sum(
        math.prod(whole.shape) * whole.dtype.itemsize
        for whole, part in zip(jax.tree.leaves(shapes), jax.tree.leaves(split), strict=True)
        if whole.shape != part.shape
    )
    return outside + 2 * _bytes(layers) / settings.model.layers
