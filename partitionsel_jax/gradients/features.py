"""Per-example gradient features, the reference path: `vmap(grad)` in microbatches."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from partitionsel_jax.gradients.sketches import Sketch


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Features:
    """What selection needs to know of a batch of examples.

    Attributes:
      vectors: f32[B, m], sketched gradients, of unit norm when `normalize` was asked for.
      losses: f32[B], each example's loss.
      norms: f32[B], each example's gradient norm before sketching and scaling.
    """

    vectors: jax.Array
    losses: jax.Array
    norms: jax.Array


def per_example_features(
    loss: Callable[[Any, Any], jax.Array],
    parameters: Any,
    rows: Any,
    sketch: Sketch,
    *,
    microbatch: int,
    normalize: bool,
) -> Features:
    """Sketches the gradient of every example's loss, one microbatch at a time.

    Each microbatch is sketched before the next one starts, so that the gradients in memory are
    [microbatch, D] and never [B, D].

    Under `jax.pmap` this is local to the device. Under `jax.shard_map` call it with
    `check_vma=False`: otherwise differentiating with respect to replicated parameters sums over
    the devices.

    Args:
      loss: (parameters, row) -> f32[], for a row without its batch axis.
      parameters: pytree of the parameters in scope; D scalars in all.
      rows: pytree whose leaves have a leading axis B.
      sketch: from `make_sketch`.
      microbatch: rows differentiated at once, at least 1; B need not be a multiple.
      normalize: scale each feature to unit norm (a zero gradient stays zero).

    Returns:
      `Features` of the B rows, in their order.

    Raises:
      ValueError: microbatch < 1.
    """
    if microbatch < 1:
        raise ValueError(f"features.microbatch must be at least 1, not {microbatch}")
    batch = jax.tree.leaves(rows)[0].shape[0]
    size = min(microbatch, max(batch, 1))
    count = -(-batch // size)

    def pad(leaf):
        # Repeats the last row: a copy is finite wherever the rows are.
        filled = jnp.pad(leaf, [(0, count * size - batch)] + [(0, 0)] * (leaf.ndim - 1), "edge")
        return filled.reshape(count, size, *leaf.shape[1:])

    def one_microbatch(part):
        losses, gradients = jax.vmap(jax.value_and_grad(loss), in_axes=(None, 0))(parameters, part)
        squares = [
            jnp.sum(jnp.square(leaf.astype(jnp.float32)).reshape(size, -1), axis=-1)
            for leaf in jax.tree.leaves(gradients)
        ]
        return Features(sketch(gradients), losses, jnp.sqrt(sum(squares)))

    if not batch:
        empty = jnp.zeros((0,), jnp.float32)
        return Features(jnp.zeros((0, sketch.dim), jnp.float32), empty, empty)
    stacked = jax.lax.map(one_microbatch, jax.tree.map(pad, rows))
    features = jax.tree.map(
        lambda leaf: leaf.reshape(count * size, *leaf.shape[2:])[:batch], stacked
    )
    if not normalize:
        return features
    return dataclasses.replace(features, vectors=unit(features.vectors))


def unit(vectors: jax.Array) -> jax.Array:
    """Scales the rows of f32[B, m] to norm 1; zero rows stay zero, non-finite ones non-finite."""
    # The largest entry first, so that squares neither overflow nor vanish.
    largest = jnp.max(jnp.abs(vectors), axis=-1, keepdims=True)
    scaled = vectors / jnp.where(largest == 0, 1.0, largest)
    norm = jnp.linalg.norm(scaled, axis=-1, keepdims=True)
    return scaled / jnp.where(largest == 0, 1.0, norm)
