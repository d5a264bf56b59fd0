"""The Gram matrix K, held whole or as the features that it is made of.

Solvers read K through the picks: of every pick a *trace* is kept, from which weighted sums of K's
rows and the picks' own block follow. Held whole, the trace is the row of K; held as features, it is
the feature vector, and no [N, N] array ever exists.
"""

import dataclasses
from typing import TypeAlias

import jax
import jax.numpy as jnp

from partitionsel_jax.selection.indexing import gather, take


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DenseGram:
    """K as a matrix.

    Attributes:
      matrix: f32[N, N], symmetric; 0 between candidates of different groups.
    """

    matrix: jax.Array

    @property
    def trace_shape(self) -> tuple[int, ...]:
        """Shape of a trace, (N,)."""
        return self.matrix.shape[1:]

    def diagonal(self) -> jax.Array:
        """K_ii, f32[N]."""
        return jnp.diagonal(self.matrix)

    def trace(self, pick: jax.Array) -> jax.Array:
        """What is kept of candidate `pick`, i32[]."""
        return take(self.matrix, pick)

    def row(self, pick: jax.Array) -> jax.Array:
        """Row `pick` of K, f32[N]."""
        return take(self.matrix, pick)

    def among(self, traces_KxX: jax.Array, indices_K: jax.Array, pick: jax.Array) -> jax.Array:
        """K between `pick` and the picks, f32[K]; arbitrary where the index is -1."""
        del traces_KxX
        return gather(take(self.matrix, pick), indices_K)

    def combine(self, traces_KxX: jax.Array, weights_K: jax.Array) -> jax.Array:
        """The picks' rows of K summed by weight, f32[N]."""
        return weights_K @ traces_KxX

    def rows(self, traces_KxX: jax.Array) -> jax.Array:
        """The picks' rows of K, f32[K, N]."""
        return traces_KxX

    def product(self, weights_N: jax.Array) -> jax.Array:
        """K @ weights, f32[N]."""
        return self.matrix @ weights_N


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FactoredGram:
    """K as `features @ features.T`.

    Groups, where there are any, are spread over blocks of the trace's leading axis: vectors of
    different groups lie in different blocks, and so have an inner product of 0.

    Attributes:
      features: f32[N, M].
      groups: i32[N] in [0, G), or None; candidates of different groups have K_ij = 0.
      group_count: G; 1 without groups. Static.
    """

    features: jax.Array
    groups: jax.Array | None = None
    group_count: int = dataclasses.field(default=1, metadata={"static": True})

    @property
    def trace_shape(self) -> tuple[int, ...]:
        """Shape of a trace, (G, M)."""
        return (self.group_count, self.features.shape[1])

    def diagonal(self) -> jax.Array:
        """K_ii, f32[N]."""
        return jnp.sum(self.features**2, axis=1)

    def trace(self, pick: jax.Array) -> jax.Array:
        """What is kept of candidate `pick`, i32[]."""
        group = 0 if self.groups is None else take(self.groups, pick)
        blocks_G = jnp.arange(self.group_count) == group
        return jnp.where(blocks_G[:, None], take(self.features, pick)[None, :], 0.0)

    def row(self, pick: jax.Array) -> jax.Array:
        """Row `pick` of K, f32[N]."""
        return self._against(self.trace(pick))

    def among(self, traces_KxX: jax.Array, indices_K: jax.Array, pick: jax.Array) -> jax.Array:
        """K between `pick` and the picks, f32[K]; arbitrary where the index is -1."""
        del indices_K
        return jnp.tensordot(traces_KxX, self.trace(pick), 2)

    def combine(self, traces_KxX: jax.Array, weights_K: jax.Array) -> jax.Array:
        """The picks' rows of K summed by weight, f32[N]."""
        return self._against(jnp.tensordot(weights_K, traces_KxX, 1))

    def rows(self, traces_KxX: jax.Array) -> jax.Array:
        """The picks' rows of K, f32[K, N]."""
        return jax.vmap(self._against)(traces_KxX)

    def product(self, weights_N: jax.Array) -> jax.Array:
        """K @ weights, f32[N]."""
        if self.groups is None:
            return self.features @ (weights_N @ self.features)
        member_GxN = self.groups[None, :] == jnp.arange(self.group_count)[:, None]
        return self._against(jnp.where(member_GxN, weights_N[None, :], 0.0) @ self.features)

    def _against(self, vector_GxM: jax.Array) -> jax.Array:
        """Every candidate's inner product with its own group's vector, f32[N]."""
        if self.groups is None:
            return self.features @ vector_GxM[0]
        inner_NxG = self.features @ vector_GxM.T
        return jnp.take_along_axis(inner_NxG, self.groups[:, None], axis=1)[:, 0]


Gram: TypeAlias = DenseGram | FactoredGram
