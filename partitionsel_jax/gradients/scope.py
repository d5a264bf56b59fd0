"""Which parameters the gradient features are taken from."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

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

    def __post_init__(self):
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
        return traverse_util.unflatten_dict(flat)
