"""A weighted gradient step of one model on the selected rows, summed over all devices.

Letters of the shape comments: K selected.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from partitionsel_jax import models
from partitionsel_jax.data.rows import Rows
from partitionsel_jax.distributed import spmd
from partitionsel_jax.gradients.microbatches import sum_gradients
from partitionsel_jax.models import parameters as trees
from partitionsel_jax.selection import Selection
from partitionsel_jax.step.candidates import RowInfo, deal, update_weights
from partitionsel_jax.step.features import TokenCounts, buckets_of
from partitionsel_jax.step.parts import Parts, gathering_of, row_losses
from partitionsel_jax.step.state import Learner


class Batch(NamedTuple):
    """The rows that an update trains on.

    Attributes:
      places: i32[K], places in the pool; padding repeats the first, at weight 0.
      picked: bool[K], False at padding.
      weights: f32[K], of mean 1 over what is picked.
      local: this device's part: its rows, their weights, and 1 for those that are picked.
    """

    places: jax.Array
    picked: jax.Array
    weights: jax.Array
    local: tuple[Rows, jax.Array, jax.Array]


def batch_of(
    pool: Rows, info: RowInfo, result: Selection, weights: str = "uniform", cap: float = 1.0
) -> Batch:
    """Deals the selected rows to the devices.

    Args:
      pool: this device's rows.
      info: of all rows.
      result: what is selected of them.
      weights, cap: as `candidates.update_weights` takes them.
    """
    picked_K = result.indices >= 0
    # Padding repeats the first pick, which is sound: its weight of 0 then leaves no trace.
    index_K = jnp.where(picked_K, result.indices, jnp.maximum(result.indices[0], 0))
    weights_K = update_weights(picked_K, result.weights, weights, cap)
    shared = spmd.share((weights_K, picked_K.astype(jnp.float32)))
    return Batch(index_K, picked_K, weights_K, (deal(pool, info, index_K), *shared))


def descend(
    parts: Parts,
    model: models.Model,
    learner: Learner,
    fixed: Any,
    batch: Batch,
    key: jax.Array | None = None,
    tokens: TokenCounts | None = None,
) -> tuple[Learner, jax.Array, TokenCounts, jax.Array]:
    """One model's update.

    Args:
      parts: of the step: its optimizer, microbatches and widths.
      model, learner: that which learns, and its state.
      fixed: those of its parameters that it does not train.
      batch: what it trains on.
      key: the update's, for dropout.
      tokens: what this device has computed before it.

    Returns:
      The model after its update; f32[3] loss and norms of gradient and change; this device's tokens
      with those before; i32[2] their sums over all devices.
    """
    count = jnp.maximum(batch.picked.sum(), 1).astype(jnp.float32)

    def objective(trained: Any, part: Any) -> tuple[jax.Array, jax.Array]:
        rows, weights, counted = part
        tap = models.dropping(model.lora, key, rows.id, model.config.layers)
        losses = row_losses(model, trees.join(fixed, trained), rows, tap)
        return (weights * losses).sum() / count, (counted * losses).sum() / count

    local, gathering = batch.local, gathering_of(model)
    buckets = buckets_of(local[0], parts.widths, gathering=model.gathering)
    loss, gradient = sum_gradients(objective, learner.parameters, local, parts.microbatch, buckets)
    done = TokenCounts.of(buckets, parts.microbatch or len(local[1]))
    done = done if tokens is None else done.plus(tokens)
    # With the loss: a sum that waits for nothing may meet the gathering of weights in another order
    # on each simulated device, and then none goes on. Counts are exact up to 2^24.
    sums = jnp.stack([loss, *(number.astype(jnp.float32) for number in done)])
    loss, *totals = jax.lax.psum(sums, spmd.AXIS)
    gradient = gathering.summed(gradient)
    norm = gathering.norm(gradient)
    changes, optimizer = parts.transformation.update(
        gradient, learner.optimizer, learner.parameters, norm=norm
    )
    after = Learner(optax.apply_updates(learner.parameters, changes), optimizer)
    measured = jnp.stack([loss, norm, gathering.norm(changes)])
    return after, measured, done, jnp.stack(totals).astype(jnp.int32)
