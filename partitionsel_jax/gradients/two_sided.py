"""The two-sided (Kronecker) sketch: a matrix of gradients G becomes S_in^T G S_out.

A linear layer's gradient is a product X^T D of what goes in and what comes back, so its two-sided
sketch (X S_in)^T (D S_out) never needs G: this family serves the factored path too, from the same
pieces. S_in [in, k_in] and S_out [out, k_out] have independent +-1 entries; of the k_in x k_out
products the first m are kept, row by row, over sqrt(m). A side so short that keeping it whole costs
less variance (an adapter's rank) is kept whole, and the other one has m / short columns of signs.
Vectors and scalars meet a dense matrix of signs [d, m]. Leaves, and layers of a stacked leaf, have
keys of their own and are added up.

With k = ceil(sqrt(m)), variance <= (4 k + 4) / m |x|^2 |y|^2, about 4 / sqrt(m). For matrices X, Y
of norm 1 with c = <X, Y>, let v_ab(X) be product (a, b) of S_in^T X S_out, and count the pairs:

* the same one: E v_ab(X)^2 v_ab(Y)^2 - c^2 <= 7 + c^2 <= 8, by taking the mean over S_out and then
  over S_in of |u|^2 |w|^2 + 2 <u, w>^2, u and w the images of X and Y under column a of S_in;
* one row or one column shared: conditionally independent, with conditional mean s^T X Y^T s for
  a vector of signs s, whose variance is <= 2 (Hutchinson's trace estimate);
* neither shared: independent, 0.

A product has at most k_out - 1 others in its row and k_in - 1 in its column, and m products in all
give (8 + 2 (k_out - 1) + 2 (k_in - 1)) / m. Gradients of one rank attain it, but for terms that
vanish for long vectors. With one side whole it is a trace estimate of X Y^T from j columns of
signs, of variance <= 2 / j; that is what is compared. Products of different leaves add at most
2 |x_l|^2 |y_n|^2 / m a pair, as for dense signs (/ j where both have a side whole), and keep a sum
of leaves within the bound; many leaves of like norm stay far below.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

# Coordinates sketched at a time; a power of two, and of Walsh-Hadamard's radix.
BLOCK = 4096
_HALVES = (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))


def unpack_signs(words: jax.Array, count: int) -> jax.Array:
    """The first `count` bits along the last axis of u32[..., W], as +-1 f32[..., count]."""
    shifts = jnp.arange(32, dtype=jnp.uint32).reshape((1,) * words.ndim + (32,))
    bits = (words[..., None] >> shifts) & 1
    bits = bits.reshape(*words.shape[:-1], 32 * words.shape[-1])[..., :count]
    return 2.0 * bits.astype(jnp.float32) - 1.0


def grid(dim: int) -> tuple[int, int]:
    """(k_in, k_out) of a sketch of m = `dim`: ceil(sqrt(m)) and the least that gives m products."""
    k_in = math.isqrt(dim - 1) + 1
    return k_in, -(-dim // k_in)


def columns(shape: tuple[int, int], dim: int) -> tuple[int | None, int | None]:
    """Columns of signs on each side of a matrix of that shape; None for a side kept whole."""
    k_in, k_out = grid(dim)
    short = min(shape)
    wide = dim // short
    if not wide or 2 / wide > (2 * k_in + 2 * k_out + 4) / dim:
        return k_in, k_out
    return (None, wide) if shape[0] == short else (wide, None)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["key", "scale"], meta_fields=["size", "width"]
)
@dataclasses.dataclass(frozen=True)
class Side:
    """A matrix f32[size, width] of independent +-1, regenerated row by row and never stored.

    Attributes:
      key: typed PRNG key, may be traced; row i depends on (key, i) alone. None for the identity
        in the place of signs: a side that is kept whole.
      size, width: static.
      scale: f32[size], multiplies the rows (preconditioning), or None for 1.
    """

    key: jax.Array | None
    size: int
    width: int
    scale: jax.Array | None = None

    def at(self, rows: jax.Array) -> jax.Array:
        """f32[..., width] for i32[...] row numbers in 0 .. size - 1, in any order."""
        if self.key is None:
            matrix = jax.nn.one_hot(rows, self.size, dtype=jnp.float32)
        else:
            keys = jax.vmap(functools.partial(jax.random.fold_in, self.key))(rows.reshape(-1))
            words = jax.vmap(lambda key: jax.random.bits(key, (-(-self.width // 32),), jnp.uint32))(
                keys
            )
            matrix = unpack_signs(words, self.width).reshape(*rows.shape, self.width)
        return matrix if self.scale is None else matrix * self.scale[rows][..., None]

    def rows(self, start: int | jax.Array, count: int) -> jax.Array:
        """f32[count, width] from row `start` (may be traced) on; meaningless beyond `size`."""
        return self.at(start + jnp.arange(count, dtype=jnp.int32))

    def apply(self, x: jax.Array, axis: int = -1) -> jax.Array:
        """x @ matrix, the matrix made in blocks of at most `BLOCK` rows.

        Args:
          x: [..., size, ...], `size` at `axis`. bfloat16 and float16 are multiplied as they are
            (signs are exact in both, a `scale` is rounded); everything else as float32.
          axis: the axis summed over.

        Returns:
          f32[..., width], the other axes of x in their order; accumulated in float32.

        Raises:
          ValueError: `axis` of x is not `size` long.
        """
        if x.shape[axis] != self.size:
            raise ValueError(
                f"x must have {self.size} entries along axis {axis}, the rows of this matrix of "
                f"signs; got shape {x.shape}"
            )
        if self.key is None:
            moved = jnp.moveaxis(x, axis, -1).astype(jnp.float32)
            if self.scale is None:
                return moved
            return moved * self.scale.reshape((1,) * (x.ndim - 1) + (-1,))
        axis %= x.ndim
        x = x if x.dtype in _HALVES else x.astype(jnp.float32)

        def block(start: int | jax.Array, count: int) -> jax.Array:
            matrix = self.rows(start, count).astype(x.dtype)
            part = jax.lax.dynamic_slice_in_dim(x, start, count, axis)
            product: jax.Array = jax.lax.dot_general(
                part,
                matrix,
                (((axis,), (0,)), ((), ())),
                precision="highest",
                preferred_element_type=jnp.float32,
            )
            return product

        full, rest = divmod(self.size, BLOCK)
        if not full:
            return block(0, rest)
        shape = (*x.shape[:axis], *x.shape[axis + 1 :], self.width)
        total: jax.Array = jnp.zeros_like(x, jnp.float32, shape)
        total = jax.lax.fori_loop(0, full, lambda i, sum_: sum_ + block(i * BLOCK, BLOCK), total)
        return total + block(full * BLOCK, rest) if rest else total


def sides(
    key: jax.Array,
    shape: tuple[int, int],
    dim: int,
    scales: tuple[jax.Array | None, jax.Array | None] = (None, None),
) -> tuple[Side, Side]:
    """S_in and S_out of a matrix [in, out] whose key is fold_in(leaf_key, layer).

    Both are whole where `dim` is 0; `scales` are those of their rows.
    """
    widths = columns(shape, dim) if dim else (None, None)
    left, right = (
        Side(None if width is None else jax.random.fold_in(key, number), size, width or size, scale)
        for number, (size, width, scale) in enumerate(zip(shape, widths, scales, strict=True))
    )
    return left, right


def flatten(products: jax.Array, shape: tuple[int, int], dim: int) -> jax.Array:
    """The products f32[B, ., .] of a matrix of that shape -> f32[B, dim]: the first m of them."""
    batch, *widths = products.shape
    flat = products.reshape(batch, math.prod(widths))[:, :dim]
    filled = jnp.pad(flat, ((0, 0), (0, dim - flat.shape[1])))
    k_in, k_out = columns(shape, dim)
    return filled / math.sqrt(dim if k_in and k_out else k_in or k_out or 1)


def vector(key: jax.Array, x_BxD: jax.Array, dim: int) -> jax.Array:
    """f32[B, d] -> f32[B, dim]: the rule for vectors and scalars, dense signs over sqrt(m)."""
    return Side(key, x_BxD.shape[1], dim).apply(x_BxD) / math.sqrt(dim)


def _parameter(key: jax.Array, x: jax.Array, dim: int) -> jax.Array:
    """The share f32[B, dim] of one parameter's gradients [B, ...]."""
    batch, *leading, last = x.shape if x.ndim > 1 else (*x.shape, 1)
    if not leading:
        return vector(key, x.reshape(batch, last), dim)
    g_BxIxO = x.reshape(batch, math.prod(leading), last)
    _, size_in, size_out = g_BxIxO.shape
    signs_in, signs_out = sides(key, (size_in, size_out), dim)
    k_in, k_out = signs_in.width, signs_out.width
    # The order of the two products that costs less also keeps what is between them small.
    if size_out * k_in * (size_in + k_out) <= size_in * k_out * (size_out + k_in):
        products = signs_out.apply(signs_in.apply(g_BxIxO, axis=1), axis=1)
    else:
        products = signs_in.apply(signs_out.apply(g_BxIxO), axis=1).swapaxes(1, 2)
    return flatten(products, (size_in, size_out), dim)


def leaf(key: jax.Array, x: jax.Array, stacked: bool, dim: int) -> jax.Array:
    """The share f32[B, dim] of one leaf of a gradient tree.

    Args:
      key: the leaf's key; layer l uses fold_in(key, l), an unstacked leaf fold_in(key, 0).
      x: [B, ...] gradients of a parameter, [B, layers, ...] of one parameter a layer if `stacked`.
        All axes of a parameter but the last are its `in`; parameters of one axis are vectors.
      stacked: static.
      dim: m.
    """
    total: jax.Array = jnp.zeros_like(x, jnp.float32, (x.shape[0], dim))
    if not math.prod(x.shape[1:]):
        return total
    if not stacked:
        return _parameter(jax.random.fold_in(key, 0), x, dim)

    def add(layer: jax.Array, total: jax.Array) -> jax.Array:
        part = jax.lax.dynamic_index_in_dim(x, layer, axis=1, keepdims=False)
        return total + _parameter(jax.random.fold_in(key, layer), part, dim)

    # A loop, so that neither the program nor its memory grows with the number of layers.
    total = jax.lax.fori_loop(0, x.shape[1], add, total)
    return total
