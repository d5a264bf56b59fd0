"""The loss that candidates, anchors, updates and validation all share."""

import jax
import jax.numpy as jnp


def response_loss(logits: jax.Array, tokens: jax.Array, response: jax.Array) -> jax.Array:
    """Mean cross-entropy of every example over its response tokens.

    Args:
      logits: f32[B, T, V], `logits[:, t]` predicts `tokens[:, t + 1]`.
      tokens: i32[B, T].
      response: bool[B, T], True at response tokens; the prompt and the padding are False.

    Returns:
      f32[B], in nats per token; 0 for an example without a response token.
    """
    targets, counted = tokens[:, 1:], response[:, 1:]
    predictions = logits[:, :-1]
    gold = jnp.take_along_axis(predictions, targets[..., None], axis=-1)[..., 0]
    nll = jax.nn.logsumexp(predictions, axis=-1) - gold
    count = jnp.maximum(counted.sum(axis=-1), 1)
    return jnp.where(counted, nll, 0.0).sum(axis=-1) / count
