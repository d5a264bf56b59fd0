"""Floating-point operations of gradient passes, by arithmetic: the matrix products, no more.

A product of [a, b] and [b, c] counts 2 a b c. Attention scores count in full, as the decoder
computes them, though half of them are masked. Norms, softmaxes, rotary angles, the making of random
signs and optimisers are left out. Activations are kept, not recomputed (remat="none"), and layers
are scanned over, so that the lowest layer in scope pays for the gradient of what it reads, too.
"""

import dataclasses
import math

from partitionsel_jax.gradients import Scope, two_sided
from partitionsel_jax.models import DecoderConfig, LoRAConfig

Matrix = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class RowCost:
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
        d = self.decoder
        maps = [_pair(shape, dim, self.tokens) for shape in self._matrices(scope)]
        sketches = _layers(scope) * sum(maps)
        if _has_head(scope):
            # The embedding as it is looked up, where the tokens pick rows of signs, then the head:
            # the error at the logits is met block by block, and multiplied with what the head read.
            table = _widths((d.vocab_size, d.width), dim)
            sketches += 2 * self.tokens * table[1] * (d.width + table[0])
            head = table if d.tied else _widths((d.width, d.vocab_size), dim)[::-1]
            sketches += 2 * self.response * d.vocab_size * head[0]
            sketches += 2 * (self.tokens - 1) * head[1] * (d.width + head[0])
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
        biases = sum(self.kernels[name][1] for name in d.biases)
        return 2 * dim * (_layers(scope) * (2 * d.width + biases) + d.width * _has_head(scope))


def _layers(scope: Scope) -> int:
    return scope.last_layers or scope.layers


def _has_head(scope: Scope) -> bool:
    return scope.parameters == "full" and not scope.last_layers


def _size(shapes: list[Matrix]) -> int:
    return sum(math.prod(shape) for shape in shapes)


def _widths(shape: Matrix, dim: int) -> Matrix:
    """Columns of the two sides' matrices, a side's own size where it is kept whole."""
    left, right = two_sided.columns(shape, dim)
    return left or shape[0], right or shape[1]


def _pair(shape: Matrix, dim: int, tokens: int) -> int:
    """The sketch of X^T D from the X and D of so many tokens."""
    widths = _widths(shape, dim)
    signs = (
        2 * tokens * size * (columns or 0)
        for size, columns in zip(shape, two_sided.columns(shape, dim), strict=True)
    )
    return sum(signs) + 2 * tokens * math.prod(widths)


def _sketch(shape: Matrix, dim: int) -> int:
    """The sketch of a gradient that is there, in the order that the sketch chooses."""
    (rows, columns), (k_in, k_out) = shape, _widths(shape, dim)
    signs_in, signs_out = two_sided.columns(shape, dim)
    if columns * k_in * (rows + k_out) <= rows * k_out * (columns + k_in):
        parts = ((signs_in, rows * columns * k_in), (signs_out, k_in * columns * k_out))
    else:
        parts = ((signs_out, rows * columns * k_out), (signs_in, k_out * rows * k_in))
    return 2 * sum(product for signs, product in parts if signs)
