"""The Gram matrix K, held whole or as the features that it is made of.

Solvers read K through the picks: of every pick a *trace* is kept, from which weighted sums of K's
rows and the picks' own block follow. Held whole, the trace is the row of K; held as features, it is
the feature vector, and no [N, N] array ever exists.
"""

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from partitionsel_jax.selection.arrays import take

# A product with K: f32[N] -> f32[N].
Product: TypeAlias = Callable[[jax.Array], jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DenseGram:
    """K as a matrix, masked where it is read: a masked copy costs more than a whole pursuit.

    Attributes:
      matrix: f32[N, N], symmetric.
      sound: bool[N]; rows and columns of other candidates may hold anything and count as 0.
      groups: i32[N] in [0, G), or None; candidates of different groups have K_ij = 0.
    """

    matrix: jax.Array
    sound: jax.Array
    groups: jax.Array | None = None

    def split(self, groups: jax.Array, group_count: int) -> "DenseGram":
        """K without the entries between different groups."""
        return dataclasses.replace(self, groups=groups)

    def diagonal(self) -> jax.Array:
        """K_ii, f32[N]."""
        return jnp.where(self.sound, jnp.diagonal(self.matrix), 0.0)

    def row(self, pick: jax.Array) -> jax.Array:
        """Row `pick` (i32[]) of K, f32[N]."""
        known_N = self.sound
        if self.groups is not None:
            known_N = known_N & (self.groups == take(self.groups, pick))
        return jnp.where(known_N, take(self.matrix, pick), 0.0)

    trace = row

    def rows(self, traces_KxN: jax.Array) -> jax.Array:
        """The picks' rows of K, f32[K, N]."""
        return traces_KxN

    def among(self, traces_KxN: jax.Array, indices_K: jax.Array, trace_N: jax.Array) -> jax.Array:
        """K between a pick, by its trace, and the picks, f32[K]; arbitrary at index -1."""
        return take(trace_N, indices_K)

    def combine(self, traces_KxN: jax.Array, weights_K: jax.Array) -> jax.Array:
        """The picks' rows of K summed by weight, f32[N]."""
        return weights_K @ traces_KxN

    def masked(self) -> jax.Array:
        """K, f32[N, N], with zeros where it counts as 0."""
        known_NxN = self.sound[:, None] & self.sound[None, :]
        if self.groups is not None:
            known_NxN &= self.groups[:, None] == self.groups[None, :]
        return jnp.where(known_NxN, self.matrix, 0.0)

    def times(self, weights_N: jax.Array) -> jax.Array:
        """K w, f32[N], for one product or a few: it makes no masked copy of K where none is needed.

        Every entry of K that counts is finite, so that one which is not and stands in a column of
        weight 0 makes the plain product nan in a row that counts. Only then K is masked.
        """
        if self.groups is not None:
            return self.masked() @ weights_N
        plain_N = jnp.where(self.sound, self.matrix @ jnp.where(self.sound, weights_N, 0.0), 0.0)
        product_N: jax.Array = jax.lax.cond(
            jnp.all(jnp.isfinite(plain_N)), lambda: plain_N, lambda: self.masked() @ weights_N
        )
        return product_N

    def product(self, scale_N: jax.Array | None = None) -> Product:
        """The function that multiplies f32[N] by K, or by DKD with D the diagonal `scale_N`."""
        matrix_NxN = self.masked()
        if scale_N is not None:
            matrix_NxN = scale_N[:, None] * matrix_NxN * scale_N[None, :]
        return lambda weights_N: matrix_NxN @ weights_N


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FactoredGram:
    """K as `features @ features.T`, with the methods of `DenseGram`.

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

    def split(self, groups: jax.Array, group_count: int) -> "FactoredGram":
        return dataclasses.replace(self, groups=groups, group_count=group_count)

    def diagonal(self) -> jax.Array:
        return jnp.sum(self.features**2, axis=1)

    def trace(self, pick: jax.Array) -> jax.Array:
        """The feature vector in the block of its group, f32[G, M]."""
        group = 0 if self.groups is None else take(self.groups, pick)
        blocks_G = jnp.arange(self.group_count) == group
        return jnp.where(blocks_G[:, None], take(self.features, pick)[None, :], 0.0)

    def row(self, pick: jax.Array) -> jax.Array:
        return self._against(self.trace(pick))

    def rows(self, traces_KxGxM: jax.Array) -> jax.Array:
        return jax.vmap(self._against)(traces_KxGxM)

    def among(
        self, traces_KxGxM: jax.Array, indices_K: jax.Array, trace_GxM: jax.Array
    ) -> jax.Array:
        return jnp.tensordot(traces_KxGxM, trace_GxM, 2)

    def combine(self, traces_KxGxM: jax.Array, weights_K: jax.Array) -> jax.Array:
        return self._against(jnp.tensordot(weights_K, traces_KxGxM, 1))

    def times(self, weights_N: jax.Array) -> jax.Array:
        return self.product()(weights_N)

    def product(self, scale_N: jax.Array | None = None) -> Product:
        if scale_N is not None:
            scaled = dataclasses.replace(self, features=scale_N[:, None] * self.features)
            return scaled.product()
        groups_1xN = jnp.zeros((1, 1), jnp.int32) if self.groups is None else self.groups[None, :]
        member_GxN = groups_1xN == jnp.arange(self.group_count)[:, None]
        return lambda weights_N: self._against(
            jnp.where(member_GxN, weights_N[None, :], 0.0) @ self.features
        )

    def _against(self, vector_GxM: jax.Array) -> jax.Array:
        """Every candidate's inner product with its own group's vector, f32[N]."""
        if self.groups is None:
            return self.features @ vector_GxM[0]
        inner_NxG = self.features @ vector_GxM.T
        return jnp.take_along_axis(inner_NxG, self.groups[:, None], axis=1)[:, 0]


Gram: TypeAlias = DenseGram | FactoredGram
