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
