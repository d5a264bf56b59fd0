"""Floating-point operations of gradient passes, by arithmetic: the matrix products, no more.

A product of [a, b] and [b, c] counts 2 a b c. Attention scores count in full, as the decoder
computes them, though half of them are masked. Norms, softmaxes, rotary angles, the making of random
signs and optimisers are left out. Activations are kept, not recomputed (remat="none"), and layers
are scanned over, so that the lowest layer in scope pays for the gradient of what it reads, too.
"""

import dataclasses
import math

from partitionsel_jax.gradients import Scope
from partitionsel_jax.gradients.two_sided import grid
from partitionsel_jax.models import DecoderConfig, LoRAConfig

Matrix = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Row:
    """What one row costs.

    Attributes:
      decoder, lora: the model's shape.
      tokens: T of the row.
      response: tokens that the loss counts; no more than these reach the head.
    """

    decoder: DecoderConfig
    lora: LoRAConfig
    tokens: int
    response: int

    @property
    def kernels(self) -> dict[str, Matrix]:
        """(in, out) of a layer's linear maps."""
        d = self.decoder
        queries, keys = d.heads * d.head_dim, d.kv_heads * d.head_dim
        return {
            "q": (d.width, queries),
            "k": (d.width, keys),
            "v": (d.width, keys),
            "o": (queries, d.width),
            "gate": (d.width, d.mlp_width),
            "up": (d.width, d.mlp_width),
            "down": (d.mlp_width, d.width),
        }

    @property
    def adapters(self) -> list[Matrix]:
        """(in, out) of a layer's adapter factors: A, B of one map after the other."""
        rank = self.lora.rank
        adapted = [shape for name, shape in self.kernels.items() if self.lora.adapts(name)]
        return [factor for rows, columns in adapted for factor in ((rows, rank), (rank, columns))]

    @property
    def _maps(self) -> int:
        """One product with every linear map of a layer."""
        return 2 * self.tokens * _size([*self.kernels.values(), *self.adapters])

    @property
    def _scores(self) -> int:
        """One product of a layer's [T, T] scores with [T, E], over all heads."""
        return 2 * self.tokens**2 * self.decoder.heads * self.decoder.head_dim

    @property
    def head(self) -> int:
        """One product with the head, for response tokens."""
        return 2 * self.response * self.decoder.width * self.decoder.vocab_size

    @property
    def forward(self) -> int:
        """The loss alone."""
        return self.decoder.layers * (self._maps + 2 * self._scores) + self.head

    def backward(self, scope: Scope) -> int:
        """From the loss to what the lowest layer in scope reads; no parameter's gradient."""
        return _layers(scope) * (self._maps + 4 * self._scores) + self.head

    def weights(self, scope: Scope) -> int:
        """The gradients of the parameters in scope; a looked-up embedding multiplies nothing."""
        maps = _layers(scope) * 2 * self.tokens * _size(self._matrices(scope))
        # The head's gradient is a product with logits that are made again.
        return maps + 2 * self.head * _has_head(scope)

    def ordinary(self, scope: Scope) -> int:
        """The loss and its gradient in scope."""
        return self.forward + self.backward(scope) + self.weights(scope)

    def ordinary_logits(self, scope: Scope) -> int:
        """The same through logits of all tokens, which are made once."""
        every = dataclasses.replace(self, response=self.tokens)
        return every.ordinary(scope) - every.head * _has_head(scope)

    def reference(self, scope: Scope, dim: int) -> int:
        """Features by `vmap(grad)` and the two-sided sketch of what it gives."""
        d = self.decoder
        sketches = _layers(scope) * sum(_sketch(shape, dim) for shape in self._matrices(scope))
        if _has_head(scope):
            sketches += _sketch((d.vocab_size, d.width), dim)
            sketches += 0 if d.tied else _sketch((d.width, d.vocab_size), dim)
        return self.ordinary(scope) + sketches + self._vectors(scope, dim)

    def factored(self, scope: Scope, dim: int) -> int:
        """Features out of one backward pass, with the two-sided sketch."""
        d, tokens = self.decoder, self.tokens
        k_in, k_out = grid(dim)
        sketches = _layers(scope) * sum(
            2 * tokens * (rows * k_in + columns * k_out + k_in * k_out)
            for rows, columns in self._matrices(scope)
        )
        if _has_head(scope):
            # The embedding as it is looked up, then the head: the error at the logits is met block
            # by block, and multiplied with what the head read.
            sketches += 2 * tokens * k_out * (d.width + k_in)
            near, far = (k_in, k_out) if d.tied else (k_out, k_in)
            sketches += 2 * self.response * d.vocab_size * near
            sketches += 2 * (tokens - 1) * far * (d.width + near)
        return self.forward + self.backward(scope) + sketches + self._vectors(scope, dim)

    def _matrices(self, scope: Scope) -> list[Matrix]:
        """(in, out) of the matrices in scope in a layer."""
        if scope.parameters == "full":
            return [*self.kernels.values(), *self.adapters]
        return self.adapters[1::2] if scope.parameters == "lora_b" else self.adapters

    def _vectors(self, scope: Scope, dim: int) -> int:
        """The sketches of norms and biases."""
        if scope.parameters != "full":
            return 0
        d = self.decoder
        biases = sum(self.kernels[name][1] for name in ("q", "k", "v")) * d.qkv_bias
        return 2 * dim * (_layers(scope) * (2 * d.width + biases) + d.width * _has_head(scope))


def _layers(scope: Scope) -> int:
    return scope.last_layers or scope.layers


def _has_head(scope: Scope) -> bool:
    return scope.parameters == "full" and not scope.last_layers


def _size(shapes: list[Matrix]) -> int:
    return sum(math.prod(shape) for shape in shapes)


def _sketch(shape: Matrix, dim: int) -> int:
    """Of a gradient that is there, in the cheaper order."""
    (rows, columns), (k_in, k_out) = shape, grid(dim)
    return 2 * min(columns * k_in * (rows + k_out), rows * k_out * (columns + k_in))
