"""Per-example gradient features out of one batched backward pass: the factored path.

Where y = x W, the gradient of example i's loss is X_i^T D_i, with X_i [T, in] what the map read and
D_i [T, out] the loss's gradient at its output. Both pass by in one ordinary backward pass over the
batch, so the sketch (X_i S_in)^T (D_i S_out) costs two thin products, and no gradient of W, of one
example or of all, is ever formed. How it leaves the pass: each map has a *side input*, zero-valued,
one for every example, that it does not use; a custom rule says that its cotangent is that product.
Differentiating the losses with respect to the side inputs alone then gives the features, and the
backward pass ends below the first map that has one.

LoRA factors are two such maps. Biases and the scales of norms have per-example gradients as small
as themselves, which are sketched as they are. The embedding is looked up (X_i one-hot) and, when
tied, is also the head, whose D_i [T, V] is met in pieces only, while the loss passes over the
vocabulary: there `models.losses` hands over its product with S.

The features are those of `per_example_features` with the same sketch (up to rounding).

Letters of the shape comments: B rows, T tokens, L layers in scope, M feature dimension, K and J
columns of the two sides' matrices.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from partitionsel_jax.gradients import two_sided
from partitionsel_jax.gradients.features import Features, Path, is_stacked, unit
from partitionsel_jax.gradients.microbatches import Buckets, Span, map_microbatches
from partitionsel_jax.gradients.sketches import FACTORED, Sketch
from partitionsel_jax.gradients.two_sided import Side

# Factors of a matrix's gradient from the left and from the right, or of a vector's gradient.
Scale = tuple[jax.Array, jax.Array] | jax.Array


class _Leaf(NamedTuple):
    """A parameter in scope: its number in the sketch, and its shape without the layer axis."""

    number: int
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Rule:
    """How one parameter's gradient is sketched in the backward pass of its map.

    Attributes:
      kind: "linear", "lookup", "head" or "vector".
      dim: M; 0 where nothing is sketched.
      shape: of the parameter, without the layer axis.
      vocab_axis: the axis of a head's matrix that runs over the vocabulary.
    """

    kind: str
    dim: int
    shape: tuple[int, ...]
    vocab_axis: int = 0

    def sketch(self, kept: Any, delta: jax.Array) -> jax.Array:
        """The gradient's sketch in float32, from what the map kept and its output's cotangent."""
        if self.kind == "vector":
            x, key, scale = kept
            delta = delta.astype(jnp.float32)
            gradient_BxD = jnp.sum(delta if x is None else x * delta, axis=1)
            if scale is not None:
                gradient_BxD = gradient_BxD * scale[None, :]
            return two_sided.vector(key, gradient_BxD, self.dim) if self.dim else gradient_BxD
        if self.kind == "linear":
            left_BxTxK, right = kept
            right_BxTxJ = right.apply(delta)
        elif self.kind == "lookup":
            tokens, left, right = kept
            left_BxTxK, right_BxTxJ = left.at(tokens), right.apply(delta)
        else:
            x, other, residual_BxTxK = kept
            left_BxTxK, right_BxTxJ = residual_BxTxK * delta[..., None], other.apply(x)
            if self.vocab_axis:
                left_BxTxK, right_BxTxJ = right_BxTxJ, left_BxTxK
        products_BxKxJ = jnp.einsum(
            "btk,btj->bkj",
            left_BxTxK,
            right_BxTxJ,
            precision="highest",
            preferred_element_type=jnp.float32,
        )
        if not self.dim:
            return products_BxKxJ
        return two_sided.flatten(products_BxKxJ, (self.shape[0], self.shape[1]), self.dim)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attach(rule: _Rule, y: jax.Array, kept: Any, side_input: jax.Array) -> jax.Array:
    """y, with the sketch of the map's gradient as the cotangent of `side_input`."""
    return y


def _attach_backward(rule: _Rule, kept: Any, delta: jax.Array) -> tuple[jax.Array, None, jax.Array]:
    return delta, None, rule.sketch(kept, delta)


_attach.defvjp(lambda rule, y, kept, side_input: (y, kept), _attach_backward)


@dataclasses.dataclass(frozen=True)
class _SketchTap:
    """Attaches the rules of the parameters in scope to the decoder; see `models.taps`.

    Attributes:
      sketch: of one of the families in `FACTORED`.
      dim: of the sketch; 0 for the identity.
      leaves: what is in scope.
      side_inputs: f32 zeros by path; inside a layer, that layer's.
      scales: by path, as `side_inputs`; empty without preconditioning.
      number: i32[], the layer's number from the lowest in scope; 0 outside the layers.
      path: of the submodule being tapped.
    """

    sketch: Sketch
    dim: int
    leaves: Mapping[Path, _Leaf]
    side_inputs: Mapping[Path, jax.Array]
    scales: Mapping[Path, Scale]
    number: jax.Array | int = 0
    path: Path = ()

    @property
    def layers(self) -> Any:
        inputs, scales = (
            {path: leaf for path, leaf in tree.items() if is_stacked(path)}
            for tree in (self.side_inputs, self.scales)
        )
        numbers_L = jnp.arange(len(next(iter(inputs.values()))) if inputs else 0)
        return (numbers_L, inputs, scales) if inputs else None

    def layer(self, piece: Any) -> "_SketchTap":
        number, inputs, scales = piece or (self.number, self.side_inputs, self.scales)
        return dataclasses.replace(
            self, path=("layers",), number=number, side_inputs=inputs, scales=scales
        )

    def at(self, name: str) -> "_SketchTap":
        return dataclasses.replace(self, path=(*self.path, name))

    def _key(self, path: Path) -> jax.Array:
        return jax.random.fold_in(self.sketch.leaf_key(self.leaves[path].number), self.number)

    def _sides(self, path: Path) -> tuple[Side, Side]:
        rows, columns = self.leaves[path].shape
        scales = self.scales.get(path, (None, None))
        return two_sided.sides(self._key(path), (rows, columns), self.dim, (scales[0], scales[1]))

    def _tapped(
        self, kind: str, name: str, y: jax.Array, keep: Callable[[Path], Any], vocab_axis: int = 0
    ) -> jax.Array:
        """y, with a rule attached to it if the parameter is in scope; `keep`: path -> kept."""
        path = (*self.path, name)
        if path not in self.leaves:
            return y
        rule = _Rule(kind, self.dim, self.leaves[path].shape, vocab_axis)
        attached: jax.Array = _attach(rule, y, keep(path), self.side_inputs[path])
        return attached

    def drop(self, x: jax.Array) -> jax.Array:
        return x  # features are those of the whole adapter

    def linear(self, name: str, x: jax.Array, y: jax.Array) -> jax.Array:
        def keep(path: Path) -> tuple[jax.Array, Side]:
            left, right = self._sides(path)
            return left.apply(x), right

        return self._tapped("linear", name, y, keep)

    def shift(self, name: str, y: jax.Array) -> jax.Array:
        return self.scale(name, None, y)

    def scale(self, name: str, x: jax.Array | None, y: jax.Array) -> jax.Array:
        return self._tapped(
            "vector", name, y, lambda path: (x, self._key(path), self.scales.get(path))
        )

    def lookup(self, name: str, tokens: jax.Array, y: jax.Array) -> jax.Array:
        return self._tapped("lookup", name, y, lambda path: (tokens, *self._sides(path)))

    def probe(self, name: str, vocab_axis: int) -> Side | None:
        path = (*self.path, name)
        return self._sides(path)[vocab_axis] if path in self.leaves else None

    def head(
        self, name: str, vocab_axis: int, x: jax.Array, residual: jax.Array, nll: jax.Array
    ) -> jax.Array:
        return self._tapped(
            "head",
            name,
            nll,
            lambda path: (x, self._sides(path)[1 - vocab_axis], residual),
            vocab_axis,
        )


def factored_features(
    losses: Callable[[Any, Any], jax.Array],
    scoped: Mapping[Path, Any],
    rows: Any,
    sketch: Sketch,
    *,
    microbatch: int,
    normalize: bool,
    scales: Mapping[Path, Scale] | None = None,
    span: Span | None = None,
    buckets: Buckets | None = None,
) -> Features:
    """Sketches the gradient of every row's loss, at the price of one backward pass over them.

    Works under `jax.pmap` and under `jax.shard_map`, with replicated parameters and without
    `check_vma=False`: nothing replicated is differentiated.

    Args:
      losses: (rows, tap) -> f32[b]; `models.Model.losses` with its parameters bound. Row i's
        loss may depend on row i alone.
      scoped: arrays or shapes of the parameters in scope, by path, as `Scope.extract` gives them.
      sketch: from `make_sketch`, of a family in `FACTORED`.
      rows, microbatch, normalize, span, buckets: see `per_example_features`.
      scales: what multiplies the gradients before they are sketched (see
        `preconditioning.factored`): by path, (f32[in], f32[out]) for a matrix, f32[D] for a vector,
        with a leading layer axis where `scoped` has one. None for nothing.

    Returns:
      `Features` of the B rows, in their order. `norms` are the sketches' norms: exact for
      "identity"; for "two_sided", of which the squares are right in expectation.

    Raises:
      ValueError: a family that the path cannot serve, or microbatch < 1.
    """
    if sketch.family not in FACTORED:
        raise ValueError(
            f"the factored path cannot serve the sketch family {sketch.family!r}: choose from "
            f"{list(FACTORED)}, or take the reference path (features.path='reference')"
        )
    paths = sorted(scoped)
    leaves, depths = {}, {}
    for number, path in enumerate(paths):
        shape = tuple(scoped[path].shape)
        depths[path] = shape[:1] if is_stacked(path) else ()
        leaves[path] = _Leaf(number, shape[len(depths[path]) :])
    whole = sketch.family == "identity"
    dim = 0 if whole else sketch.dim

    def flat(path: Path, found: jax.Array) -> jax.Array:
        """[L, B, ...] or [B, ...] -> [B, D] if whole, else [B, M]."""
        if not depths[path]:
            return found.reshape(found.shape[0], -1)
        if not whole:
            return found.sum(axis=0)
        return jnp.moveaxis(found, 0, 1).reshape(found.shape[1], -1)

    def one_microbatch(part: Any) -> tuple[jax.Array, jax.Array]:
        row = jax.tree.leaves(part)[0]
        inputs = {}
        for path in paths:
            shape = leaves[path].shape if whole else (sketch.dim,)
            shape = (*depths[path], row.shape[0], *shape)
            inputs[path] = jnp.zeros_like(row, jnp.float32, shape)

        def tapped(side_inputs: dict[Path, jax.Array]) -> jax.Array:
            return losses(part, _SketchTap(sketch, dim, leaves, side_inputs, scales or {}))

        losses_B, pullback = jax.vjp(tapped, inputs)
        (found,) = pullback(jnp.ones_like(losses_B))
        parts = [flat(path, found[path]) for path in paths]
        vectors = jnp.concatenate(parts, axis=1) if whole else sum(parts, jnp.float32(0))
        return vectors, losses_B

    vectors, losses_B = map_microbatches(one_microbatch, rows, microbatch, span, buckets)
    if whole and vectors.shape[1] != sketch.dim:
        raise ValueError(
            f"the identity keeps all {vectors.shape[1]} coordinates in scope, but the sketch was "
            f"made with dim={sketch.dim}: set it to that number"
        )
    norms_B = jnp.linalg.norm(vectors, axis=1)
    return Features(unit(vectors) if normalize else vectors, losses_B, norms_B)
