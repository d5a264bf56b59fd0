"""The features of a step's rows, and what of them outlives the step.

Letters of the shape comments: B rows, T tokens, N pool, A anchors, M feature dimension.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from partitionsel_jax import gradients, models
from partitionsel_jax.config.sections import FeatureSettings, SelectionSettings
from partitionsel_jax.data.rows import Rows
from partitionsel_jax.gradients import Features, preconditioning
from partitionsel_jax.gradients.buckets import Buckets
from partitionsel_jax.gradients.microbatches import needed
from partitionsel_jax.models.taps import Tap
from partitionsel_jax.step.anchors import Anchors


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FeatureCache:
    """What later steps use again, on every device; None where they do not.

    Attributes:
      pool: features of the N rows of the pool, while several updates share it.
      anchors: what is known of the anchors, while several steps share them.
      used: bool[N], the rows of the pool that updates before this one have picked.
    """

    pool: Features | None
    anchors: Anchors | None
    used: jax.Array | None

    @classmethod
    def nothing(
        cls, selection: SelectionSettings, settings: FeatureSettings, dim: int, domains: int
    ) -> "FeatureCache":
        """What is kept before the first step, of features of M = `dim` and P = `domains`."""
        shares_pool, featured = selection.shares_pool, selection.needs_features
        pool = anchors = used = None
        if shares_pool:
            used = jnp.zeros(selection.pool, bool)
        if shares_pool and featured:
            # A buffer each, since the step takes those of its state.
            losses, norms = jnp.zeros(selection.pool), jnp.zeros(selection.pool)
            pool = Features(jnp.zeros((selection.pool, dim)), losses, norms)
        if settings.anchors_every > 1 and featured:
            count = selection.anchors if selection.compares_anchors else 0
            anchors = Anchors.nothing(dim, domains, count)
        return cls(pool, anchors, used)


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


def buckets_of(
    rows: Rows, widths: tuple[int, ...], split: int = 0, gathering: models.Gathering | None = None
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

    def and_also(self, other: "TokenCounts") -> "TokenCounts":
        """Both together."""
        return TokenCounts(self.real + other.real, self.computed + other.computed)

    @classmethod
    def of(
        cls,
        buckets: Buckets,
        microbatch: int,
        span: tuple[jax.Array | int, jax.Array | int] | None = None,
    ) -> "TokenCounts":
        """The work of a pass over rows in microbatches; see `map_microbatches`."""
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
    widths: tuple[int, ...] = (),
    split: int = 0,
    span: tuple[jax.Array | int, jax.Array | int] | None = None,
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
        whole = jax.eval_shape(model.init, jax.random.key(0))
        scoped = jax.eval_shape(scope.extract, whole)
    sketch = make_sketch(settings, step, sum(leaf.size for leaf in scoped.values()))
    scales = None
    if settings.preconditioner != "none":
        whole = settings.preconditioner == "adam"
        make = preconditioning.exact if whole else preconditioning.factored
        scales = make(scope.extract(second_moments), step, decay)
    rows = crop(rows, settings.tokens)
    buckets = buckets_of(rows, widths, split, model.gathering)
    if settings.path == "factored":

        def losses(rows: Rows, tap: Tap) -> jax.Array:
            return model.losses(parameters, rows.tokens, rows.response, scope.stop_below, tap)

        found = gradients.factored_features(
            losses,
            scoped,
            rows,
            sketch,
            microbatch=settings.microbatch,
            normalize=settings.normalize,
            scales=scales,
            span=span,
            buckets=buckets,
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
            buckets=buckets,
        )
    counted_B = has_response(rows)
    found = jax.tree.map(
        lambda leaf: jnp.where(counted_B.reshape((-1,) + (1,) * (leaf.ndim - 1)), leaf, jnp.nan),
        found,
    )
    return found, TokenCounts.of(buckets, settings.microbatch, span)


def second_moments_of(optimizer: Any) -> Any:
    """Adam's running mean of squared gradients, out of an optax state."""
    return optax.tree_utils.tree_get(optimizer, "nu")
