"""Per-example gradient features: their scope, and the reference path, `vmap(grad)`."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from partitionsel_jax.gradients.microbatches import Buckets, Span, map_microbatches
from partitionsel_jax.gradients.sketches import Sketch

PARAMETERS = ("full", "lora", "lora_b")

Path = tuple[str, ...]


def is_stacked(path: Path) -> bool:
    """True if the parameter at a path is stacked over layers, along its first axis."""
    return path[0] == "layers"


def stacked(scoped: Mapping[Path, Any]) -> dict[Path, bool]:
    """By path, True for parameters stacked over layers; see `Sketch.__call__`."""
    return {path: is_stacked(path) for path in scoped}


@dataclasses.dataclass(frozen=True)
class Scope:
    """The part of a parameter tree whose gradients become features.

    Args:
      parameters: "full" (every parameter, base and adapters), "lora" (the adapters' factors) or
        "lora_b" (of an adapter x A B the second factor alone).
      last_layers: 0 for the whole model; n > 0 for the last n layers only, in which case the
        embedding, the final norm and the head are out of scope and the backward pass ends below
        those layers.
      layers: depth of the model.

    Raises:
      ValueError: an unknown `parameters`, or more layers than the model has.
    """

    parameters: str
    last_layers: int
    layers: int

    def __post_init__(self) -> None:
        if self.parameters not in PARAMETERS:
            raise ValueError(
                f"features.parameters must be one of {list(PARAMETERS)}, not {self.parameters!r}"
            )
        if not 0 <= self.last_layers <= self.layers:
            raise ValueError(
                f"features.last_layers must lie in 0 (all) .. {self.layers}, the model's depth; "
                f"got {self.last_layers}"
            )

    @property
    def stop_below(self) -> int:
        """How many leading layers receive no gradient at all."""
        return self.layers - self.last_layers if self.last_layers else 0

    def _contains(self, path: Path) -> bool:
        if self.last_layers and not is_stacked(path):
            return False
        factors = {"lora": ("lora_a", "lora_b"), "lora_b": ("lora_b",)}
        return self.parameters == "full" or path[-1] in factors[self.parameters]

    def extract(self, parameters: dict[str, Any]) -> dict[Path, jax.Array]:
        """The parameters in scope, by path; stacked leaves cut to the layers in scope.

        Raises:
          ValueError: no parameter of the tree is in scope.
        """
        flat = traverse_util.flatten_dict(parameters)
        scoped = {path: leaf for path, leaf in flat.items() if self._contains(path)}
        if not scoped:
            raise ValueError(
                f"the feature scope {self.parameters!r} (last_layers={self.last_layers}) matches "
                "no parameter; for 'lora' give the model adapters with lora.rank > 0"
            )
        return {
            path: leaf[self.stop_below :] if is_stacked(path) else leaf
            for path, leaf in scoped.items()
        }

    def insert(self, parameters: dict[str, Any], scoped: dict[Path, jax.Array]) -> dict[str, Any]:
        """`parameters` with the scoped leaves put back: the inverse of `extract`."""
        flat = dict(traverse_util.flatten_dict(parameters))
        for path, leaf in scoped.items():
            if is_stacked(path) and self.stop_below:
                leaf = jnp.concatenate([flat[path][: self.stop_below], leaf])
            flat[path] = leaf
        whole: dict[str, Any] = traverse_util.unflatten_dict(flat)
        return whole


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Features:
    """Gradient features of a batch of examples, as selection reads them.

    Attributes:
      vectors: f32[B, m], sketched gradients, of unit norm when `normalize` was asked for.
      losses: f32[B], each example's loss.
      norms: f32[B], each example's gradient norm before scaling.
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
    stacked: Any = None,
    scales: Any = None,
    span: Span | None = None,
    buckets: Buckets | None = None,
) -> Features:
    """Sketches the gradient of every example's loss, one microbatch at a time.

    Each microbatch is sketched before the next one starts, so that the gradients in memory are
    [microbatch, D] and never [B, D].

    Works under `jax.pmap` and under `jax.shard_map`, as long as parameters that the loss reads and
    that are not in `parameters` are not differentiated.

    Args:
      loss: (parameters, row) -> f32[], for a row without its batch axis.
      parameters: pytree of the parameters in scope; D scalars in all.
      rows: pytree whose leaves have a leading axis B.
      sketch: from `make_sketch`.
      microbatch: rows differentiated at once, at least 1; B need not be a multiple.
      normalize: scale each feature to unit norm (a zero gradient stays zero).
      stacked: pytree of bools like `parameters`, True where the first axis runs over layers; see
        `Sketch.__call__`. None: nowhere.
      scales: pytree like `parameters` by which the gradients are multiplied before they are
        sketched; None for nothing.
      span: the rows that are needed, if not all; see `map_microbatches`.
      buckets: the widths to compute rows in by their lengths, if not whole.

    Returns:
      `Features` of the B rows, in their order; `norms` are exact.

    Raises:
      ValueError: microbatch < 1.
    """

    def one_microbatch(part: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        # Differentiating what is replicated would sum over the devices of a shard_map: with a zero
        # of this device's rows added, parameters are its own.
        zero = jnp.zeros_like(jax.tree.leaves(part)[0], shape=())
        local = jax.tree.map(lambda leaf: leaf + zero.astype(leaf.dtype), parameters)
        losses_B, gradients = jax.vmap(jax.value_and_grad(loss), in_axes=(None, 0))(local, part)
        if scales is not None:
            gradients = jax.tree.map(lambda leaf, scale: leaf * scale[None], gradients, scales)
        squares = [
            jnp.sum(jnp.square(leaf.astype(jnp.float32)).reshape(losses_B.size, -1), axis=-1)
            for leaf in jax.tree.leaves(gradients)
        ]
        return sketch(gradients, stacked), losses_B, jnp.sqrt(sum(squares))

    vectors, losses_B, norms_B = map_microbatches(one_microbatch, rows, microbatch, span, buckets)
    return Features(unit(vectors) if normalize else vectors, losses_B, norms_B)


def unit(vectors: jax.Array) -> jax.Array:
    """Scales the rows of f32[B, m] to norm 1; zero rows stay zero, non-finite ones non-finite."""
    # The largest entry first, so that squares neither overflow nor vanish.
    largest = jnp.max(jnp.abs(vectors), axis=-1, keepdims=True)
    scaled = vectors / jnp.where(largest == 0, 1.0, largest)
    norm = jnp.linalg.norm(scaled, axis=-1, keepdims=True)
    return scaled / jnp.where(largest == 0, 1.0, norm)
