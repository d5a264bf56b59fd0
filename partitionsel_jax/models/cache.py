"""The keys and values of tokens that a decoder has already read."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from partitionsel_jax.models.config import DTYPES, DecoderConfig


class Cache(NamedTuple):
    """Keys and values of all layers; slot s of a row belongs to its position s.

    Slots past a row's last token may hold anything: `Reading` masks them, and later tokens
    overwrite them.

    Attributes:
      keys, values: f[L, B, S, K, E], in the decoder's dtype; the keys are rotated.
    """

    keys: jax.Array
    values: jax.Array

    @classmethod
    def empty(cls, config: DecoderConfig, rows: int, slots: int) -> "Cache":
        shape = (config.layers, rows, slots, config.kv_heads, config.head_dim)
        return cls(*(jnp.zeros(shape, DTYPES[config.dtype]) for _ in range(2)))


class Reading(NamedTuple):
    """The cache as one layer sees it while it reads new tokens.

    Attributes:
      cache: of all layers, since the scan over them carries it and updates it in place.
      layer: i32[], which of them this is.
      positions: i32[B, T], the new tokens' positions; one outside the slots is not written.
    """

    cache: Cache
    layer: Any
    positions: jax.Array

    def remember(self, keys_BxTxKxE: jax.Array, values_BxTxKxE: jax.Array) -> "Reading":
        """Writes the new tokens' keys and values into their slots."""
        rows = jnp.arange(self.positions.shape[0])[:, None]
        place = (self.layer, rows, self.positions)
        new = (keys_BxTxKxE, values_BxTxKxE)
        written = (
            kept.at[place].set(fresh, mode="drop")
            for kept, fresh in zip(self.cache, new, strict=True)
        )
        return self._replace(cache=Cache(*written))

    def recall(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """This layer's keys and values [B, S, K, E], and which of them each new token may see.

        The mask is bool[B, 1, T, S], True up to a token's own position.
        """
        keys, values = (kept[self.layer] for kept in self.cache)
        seen_BxTxS = jnp.arange(keys.shape[1])[None, None, :] <= self.positions[:, :, None]
        return keys, values, seen_BxTxS[:, None]
