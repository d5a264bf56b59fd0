"""How a forward pass shows every use of a parameter to whoever wants to tap.

A *tap* is told of each map right after it was applied, and hands its output on. It may attach to
that output a rule of its own for the backward pass, which is how per-example gradients come out of
one batched pass (`partitionsel_jax.gradients.factored`). It must not change any value, except in
`drop`, which is there for it.
"""

import dataclasses
import functools
import zlib
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from partitionsel_jax.models.config import LoRAConfig
from partitionsel_jax.models.losses import Probe


class Tap(Protocol):
    """The calls that the decoder makes, by the names of the parameter tree; these do nothing."""

    @property
    def layers(self) -> Any:
        """A pytree whose leaves have a leading axis over the layers above `stop_below`.

        The scan over layers slices it and calls `layer` with each layer's piece.
        """
        return None

    def layer(self, piece: Any) -> "Tap":
        """The tap of one layer."""
        return self

    def at(self, name: str) -> "Tap":
        """The tap of the submodule of that name."""
        return self

    def drop(self, x: jax.Array) -> jax.Array:
        """Called with what an adapter is about to read, [B, T, in]; returns what it reads."""
        return x

    def linear(self, name: str, x: jax.Array, y: jax.Array) -> jax.Array:
        """Called where y [B, T, out] = x [B, T, in] @ parameter [in, out]; returns y."""
        return y

    def shift(self, name: str, y: jax.Array) -> jax.Array:
        """Called where y [B, T, D] has had parameter [D] added to it; returns y."""
        return y

    def scale(self, name: str, x: jax.Array, y: jax.Array) -> jax.Array:
        """Called where y [B, T, D] = x [B, T, D] * parameter [D]; returns y."""
        return y

    def lookup(self, name: str, tokens: jax.Array, y: jax.Array) -> jax.Array:
        """Called where y [B, T, D] = parameter [V, D] at tokens [B, T]; returns y."""
        return y

    def probe(self, name: str, vocab_axis: int) -> Probe | None:
        """Returns the matrix on which `head` wants the logits' gradient projected; None if nothing.

        `vocab_axis` is 0 for a parameter [V, D] (the embedding, when tied), 1 for [D, V].
        """
        return None

    def head(
        self, name: str, vocab_axis: int, x: jax.Array, residual: jax.Array, nll: jax.Array
    ) -> jax.Array:
        """Called where nll [B, T] was computed from x [B, T, D]; returns nll.

        `residual` [B, T, k] is d nll / d logits, times the probe. Only called if there is one.
        """
        return nll


class NoTap(Tap):
    """The tap of an ordinary forward pass."""


NO_TAP = NoTap()


@dataclasses.dataclass(frozen=True)
class Dropping(NoTap):
    """Dropout on what the adapters read (arXiv 2106.09685), by a mask of each adapter's own.

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

    @property
    def layers(self) -> Any:
        return jnp.arange(self.depth)

    def layer(self, piece: Any) -> "Dropping":
        fold = functools.partial(jax.vmap(jax.random.fold_in, (0, None)), self.keys)
        return dataclasses.replace(self, keys=fold(piece))

    def at(self, name: str) -> "Dropping":
        return self.layer(zlib.crc32(name.encode()))

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
