"""How a forward pass shows every use of a parameter to whoever wants to tap.

A *tap* is told of each map right after it was applied, and hands its output on. It may attach to
that output a rule of its own for the backward pass, which is how per-example gradients come out of
one batched pass (`partitionsel_jax.gradients.factored`). It must not change any value, except in
`drop`, which is there for it.
"""

from typing import Any, Protocol

import jax

from partitionsel_jax.models.losses import Probe


class Tap(Protocol):
    """What the decoder calls; names are those of the parameter tree.

    Attributes:
      layers: a pytree whose leaves have a leading axis over the layers above `stop_below`. The scan
        over layers slices it and calls `layer` with each layer's piece.
    """

    @property
    def layers(self) -> Any: ...

    def layer(self, piece: Any) -> "Tap":
        """The tap of one layer."""
        ...

    def at(self, name: str) -> "Tap":
        """The tap of the submodule of that name."""
        ...

    def drop(self, x: jax.Array) -> jax.Array:
        """Called with what an adapter is about to read, [B, T, in]; returns what it reads."""
        ...

    def linear(self, name: str, x: jax.Array, y: jax.Array) -> jax.Array:
        """Called where y [B, T, out] = x [B, T, in] @ parameter [in, out]; returns y."""
        ...

    def shift(self, name: str, y: jax.Array) -> jax.Array:
        """Called where y [B, T, D] has had parameter [D] added to it; returns y."""
        ...

    def scale(self, name: str, x: jax.Array, y: jax.Array) -> jax.Array:
        """Called where y [B, T, D] = x [B, T, D] * parameter [D]; returns y."""
        ...

    def lookup(self, name: str, tokens: jax.Array, y: jax.Array) -> jax.Array:
        """Called where y [B, T, D] = parameter [V, D] at tokens [B, T]; returns y."""
        ...

    def probe(self, name: str, vocab_axis: int) -> Probe | None:
        """What `head` wants to know of the logits' gradient; None if nothing.

        `vocab_axis` is 0 for a parameter [V, D] (the embedding, when tied), 1 for [D, V].
        """
        ...

    def head(
        self, name: str, vocab_axis: int, x: jax.Array, residual: jax.Array, nll: jax.Array
    ) -> jax.Array:
        """Called where nll [B, T] was computed from x [B, T, D]; returns nll.

        `residual` [B, T, k] is d nll / d logits, times the probe. Only called if there is one.
        """
        ...


class NoTap:
    """The tap of an ordinary forward pass: sees nothing."""

    @property
    def layers(self) -> Any:
        return None

    def layer(self, piece: Any) -> "NoTap":
        return self

    def at(self, name: str) -> "NoTap":
        return self

    def drop(self, x: jax.Array) -> jax.Array:
        return x

    def linear(self, name: str, x: jax.Array, y: jax.Array) -> jax.Array:
        return y

    def shift(self, name: str, y: jax.Array) -> jax.Array:
        return y

    def scale(self, name: str, x: jax.Array, y: jax.Array) -> jax.Array:
        return y

    def lookup(self, name: str, tokens: jax.Array, y: jax.Array) -> jax.Array:
        return y

    def probe(self, name: str, vocab_axis: int) -> None:
        return None

    def head(
        self, name: str, vocab_axis: int, x: jax.Array, residual: jax.Array, nll: jax.Array
    ) -> jax.Array:
        return nll


NO_TAP = NoTap()
