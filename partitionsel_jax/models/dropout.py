"""Dropout on what the adapters read (LoRA, arXiv 2106.09685), in training updates alone."""

import dataclasses
import functools
import zlib
from typing import Any

import jax
import jax.numpy as jnp

from partitionsel_jax.models.lora import LoRAConfig
from partitionsel_jax.models.taps import NO_TAP, NoTap, Tap


@dataclasses.dataclass(frozen=True)
class Dropping(NoTap):
    """A tap that drops each adapter's inputs by a mask of its own.

    Every row has its own key, so that its masks do not depend on which rows share its batch, nor
    on the device count.

    Attributes:
      rate: share of the inputs that become 0; the others are divided by 1 - rate.
      keys: a `jax.random.key` for every row, [B].
      depth: layers of the model.
    """

    rate: float
    keys: jax.Array
    depth: int

    def _folded(self, number: jax.Array | int) -> "Dropping":
        fold = functools.partial(jax.vmap(jax.random.fold_in, (0, None)), self.keys)
        return dataclasses.replace(self, keys=fold(number))

    @property
    def layers(self) -> Any:
        return jnp.arange(self.depth)

    def layer(self, piece: Any) -> "Dropping":
        return self._folded(piece)

    def at(self, name: str) -> "Dropping":
        return self._folded(zlib.crc32(name.encode()))

    def drop(self, x_BxTxD: jax.Array) -> jax.Array:
        def mask(key: jax.Array) -> jax.Array:
            return jax.random.bernoulli(key, 1 - self.rate, x_BxTxD.shape[1:])

        kept_BxTxD = jax.vmap(mask)(self.keys)
        return jnp.where(kept_BxTxD, x_BxTxD / (1 - self.rate), 0).astype(x_BxTxD.dtype)


def dropping(lora: LoRAConfig, key: jax.Array | None, ids_B: jax.Array, depth: int) -> Tap:
    """The tap of a training update: `lora.dropout` for rows of these ids, or nothing at all.

    Args:
      lora: of the model.
      key: of the update; may be None where nothing is dropped.
      ids_B: i32[B], the rows' ids.
      depth: layers of the model.

    Raises:
      ValueError: something is to be dropped, and there is no key.
    """
    if not lora.dropout:
        return NO_TAP
    if key is None:
        raise ValueError(f"lora.dropout={lora.dropout} needs a key, got None; pass the update's")
    keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key, ids_B)
    return Dropping(lora.dropout, keys_B, depth)
