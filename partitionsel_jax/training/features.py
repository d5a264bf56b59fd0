"""The features of a step's rows, and what of them outlives the step.

Letters of the shape comments: B rows, T tokens, N pool, A anchors, M feature dimension.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from partitionsel_jax import gradients, models
from partitionsel_jax.data.rows import Rows
from partitionsel_jax.gradients import Features, preconditioning
from partitionsel_jax.models.watch import Watch
from partitionsel_jax.training.sections import FeatureSettings


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Kept:
    """What later steps use again, on every device; None where they do not.

    Attributes:
      pool: features of the N rows of the pool, while several updates share it.
      anchors: features of the A anchors, while several steps share them.
      used: bool[N], the rows of the pool that updates before this one have picked.
    """

    pool: Features | None
    anchors: Features | None
    used: jax.Array | None


def crop(rows: Rows, tokens: int) -> Rows:
    """Every row cut to a window of so many tokens, around where its response begins.

    Up to half of the window is the prompt's end, the rest the response's prefix. Attention sees
    positions relative to each other only, so a prompt that loses its beginning is sound.

    Args:
      rows: [B, T].
      tokens: the window; 0 for all of the row.
    """
    length = rows.tokens.shape[1]
    if not tokens or tokens >= length:
        return rows
    first_B = jnp.argmax(rows.response, axis=1)
    start_B = jnp.clip(first_B - tokens // 2, 0, length - tokens)
    place_BxT = start_B[:, None] + jnp.arange(tokens)[None, :]
    cut = {
        name: jnp.take_along_axis(getattr(rows, name), place_BxT, axis=1)
        for name in ("tokens", "response")
    }
    return rows._replace(**cut)


def has_response(rows: Rows) -> jax.Array:
    """bool[B], whether a row has a token that its loss counts."""
    # The first token is predicted from nothing.
    return jnp.any(rows.response[:, 1:], axis=1)


def make_sketch(
    settings: FeatureSettings, step: jax.Array | int, coordinates: int
) -> gradients.Sketch:
    """The sketch that features of a step go through; `coordinates` is their number in scope."""
    seed = jnp.asarray(settings.seed, jnp.uint32)
    if settings.sketch_every:
        # A stride, so that runs with neighbouring seeds do not come to share sketches.
        seed += jnp.uint32(1_000_003) * (jnp.asarray(step) // settings.sketch_every).astype(
            jnp.uint32
        )
    dim = coordinates if settings.family == "identity" else settings.dim
    return gradients.make_sketch(settings.family, dim, seed)


def compute(
    model: models.Model,
    scope: gradients.Scope,
    settings: FeatureSettings,
    parameters: Any,
    rows: Rows,
    *,
    step: jax.Array,
    second_moments: Any = None,
    decay: float = 0.0,
    span: tuple[jax.Array | int, jax.Array | int] | None = None,
) -> Features:
    """Features of this device's rows; those of a row without a response token are NaN.

    Args:
      model, scope, settings: what is differentiated, and how.
      parameters: all of the model's.
      rows: [B, T].
      step: i32[], updates done.
      second_moments: Adam's, of the trained parameters, a nested dict; for preconditioning only.
      decay: their decay, b2.
      span: the rows that are needed, if not all.
    """
    scoped = scope.extract(parameters)
    sketch = make_sketch(settings, step, sum(leaf.size for leaf in scoped.values()))
    scales = None
    if settings.preconditioner != "none":
        whole = settings.preconditioner == "adam"
        make = preconditioning.exact if whole else preconditioning.factored
        scales = make(scope.extract(second_moments), step, decay)
    rows = crop(rows, settings.tokens)
    if settings.path == "factored":

        def losses(rows: Rows, watch: Watch) -> jax.Array:
            return model.losses(parameters, rows.tokens, rows.response, scope.stop_below, watch)

        found = gradients.factored_features(
            losses,
            scoped,
            rows,
            sketch,
            microbatch=settings.microbatch,
            normalize=settings.normalize,
            scales=scales,
            span=span,
        )
    else:

        def loss(scoped: Any, row: Rows) -> jax.Array:
            everything = scope.insert(parameters, scoped)
            tokens, response = row.tokens[None], row.response[None]
            return model.losses(everything, tokens, response, scope.stop_below)[0]

        found = gradients.per_example_features(
            loss,
            scoped,
            rows,
            sketch,
            microbatch=settings.microbatch,
            normalize=settings.normalize,
            stacked=gradients.scope.stacked(scoped),
            scales=None if scales is None else preconditioning.expand(scales),
            span=span,
        )
    counted_B = has_response(rows)
    return jax.tree.map(
        lambda leaf: jnp.where(counted_B.reshape((-1,) + (1,) * (leaf.ndim - 1)), leaf, jnp.nan),
        found,
    )


def second_moments_of(optimizer: Any) -> Any:
    """Adam's running mean of squared gradients, out of an optax state."""
    return optax.tree_utils.tree_get(optimizer, "nu")
