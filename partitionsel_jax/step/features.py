"""The features of a step's rows, and the tokens that they take.

Letters of the shape comments: B rows, T tokens.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from partitionsel_jax import gradients, models
from partitionsel_jax.config.sections import FeatureSettings
from partitionsel_jax.data.rows import Rows
from partitionsel_jax.gradients import Features, preconditioning
from partitionsel_jax.gradients.microbatches import Buckets, Span, needed
from partitionsel_jax.models.taps import Tap


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
    return rows._replace(
        tokens=jnp.take_along_axis(rows.tokens, place_BxT, axis=1),
        response=jnp.take_along_axis(rows.response, place_BxT, axis=1),
    )


def has_response(rows: Rows) -> jax.Array:
    """bool[B], True for a row with a token that its loss counts."""
    # The first token is predicted from nothing.
    return jnp.any(rows.response[:, 1:], axis=1)


def buckets_of(
    rows: Rows,
    widths: tuple[int, ...],
    split: jax.Array | int = 0,
    gathering: models.Gathering | None = None,
) -> Buckets:
    """The buckets of rows [B, T]: those widths that are below T, and T."""
    length = rows.tokens.shape[1]
    narrower = tuple(width for width in widths if width < length)
    axis_name = None if gathering is None else gathering.axis_name
    return Buckets((*narrower, length), rows.lengths, split, axis_name)


class TokenCounts(NamedTuple):
    """Tokens that went through the model, on this device.

    Attributes:
      real: i32[], of the rows themselves.
      computed: i32[], with the padding that was computed beside them.
    """

    real: jax.Array
    computed: jax.Array

    def plus(self, other: "TokenCounts") -> "TokenCounts":
        """The tokens of both."""
        return TokenCounts(self.real + other.real, self.computed + other.computed)

    @classmethod
    def of(
        cls,
        buckets: Buckets,
        microbatch: int,
        span: Span | None = None,
    ) -> "TokenCounts":
        """The tokens of a pass over rows in microbatches; see `map_microbatches`."""
        rows = buckets.lengths.shape[0]
        size = max(1, min(microbatch, rows))
        choices = buckets.choices(size)
        first, last = needed(rows, size, span)
        number = jnp.arange(choices.shape[0])
        widths = jnp.where(
            (first <= number) & (number < last), jnp.asarray(buckets.widths)[choices], 0
        )
        row = jnp.arange(rows)
        wanted = True if span is None else (span[0] <= row) & (row < span[1])
        return cls(
            real=jnp.sum(jnp.where(wanted, buckets.lengths, 0), dtype=jnp.int32),
            computed=jnp.sum(widths * size, dtype=jnp.int32),
        )


def make_sketch(
    settings: FeatureSettings, step: jax.Array | int, coordinates: int
) -> gradients.Sketch:
    """The sketch that features of a step go through; `coordinates` is their number in scope."""
    seed = jnp.asarray(settings.seed, jnp.uint32)
    if settings.sketch_every:
        # A stride, so that runs with neighbouring seeds do not come to share sketches.
        number = (jnp.asarray(step) // settings.sketch_every).astype(jnp.uint32)
        seed += jnp.uint32(1_000_003) * number
    dim = coordinates if settings.family == "identity" else settings.dim
    return gradients.make_sketch(settings.family, dim, seed)


def compute_features(
    model: models.Model,
    scope: gradients.Scope,
    settings: FeatureSettings,
    parameters: Any,
    rows: Rows,
    *,
    step: jax.Array,
    second_moments: Any = None,
    decay: float = 0.0,
    widths: tuple[int, ...] = (),
    split: jax.Array | int = 0,
    span: Span | None = None,
) -> tuple[Features, TokenCounts]:
    """Features of this device's rows; those of a row without a response token are NaN.

    Args:
      model, scope, settings: what is differentiated, and how.
      parameters: all of the model's.
      rows: [B, T].
      step: i32[], updates done.
      second_moments: Adam's, of the trained parameters, a nested dict; for preconditioning only.
      decay: their decay, b2.
      widths: what microbatches may have, beside the window's own; see `Buckets`.
      split: where `span` may begin or end.
      span: the rows that are needed, if not all.

    Returns:
      The features, and the tokens that they took.
    """
    if model.gathering is None:
        scoped = scope.extract(parameters)
    else:
        # Of parameters that devices split, the factored path knows the whole shapes.
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        scoped = jax.eval_shape(scope.extract, shapes)
    sketch = make_sketch(settings, step, sum(leaf.size for leaf in scoped.values()))
    scales = None
    if settings.preconditioner != "none":
        exact = settings.preconditioner == "adam"
        make = preconditioning.exact if exact else preconditioning.factored
        scales = make(scope.extract(second_moments), step, decay)
    rows = crop(rows, settings.tokens)
    buckets = buckets_of(rows, widths, split, model.gathering)
    how: dict[str, Any] = {
        "microbatch": settings.microbatch,
        "normalize": settings.normalize,
        "span": span,
        "buckets": buckets,
    }
    if settings.path == "factored":

        def losses(rows: Rows, tap: Tap) -> jax.Array:
            return model.losses(parameters, rows.tokens, rows.response, scope.stop_below, tap)

        found = gradients.factored_features(losses, scoped, rows, sketch, scales=scales, **how)
    else:

        def loss(scoped: Any, row: Rows) -> jax.Array:
            everything = scope.insert(parameters, scoped)
            tokens, response = row.tokens[None], row.response[None]
            return model.losses(everything, tokens, response, scope.stop_below)[0]

        whole = None if scales is None else preconditioning.expand(scales)
        stacked = gradients.stacked(scoped)
        found = gradients.per_example_features(
            loss, scoped, rows, sketch, stacked=stacked, scales=whole, **how
        )
    counted_B = has_response(rows)
    found = jax.tree.map(
        lambda leaf: jnp.where(counted_B.reshape((-1,) + (1,) * (leaf.ndim - 1)), leaf, jnp.nan),
        found,
    )
    return found, TokenCounts.of(buckets, settings.microbatch, span)
