"""Random maps of one block of coordinates, R^C -> R^m; `sketches` adds up the blocks of a gradient.

Every function here has the signature (key, x f32[B, C], dim) -> f32[B, dim], is linear in x, and
returns sqrt(dim) times its share of the sketch. C is a power of two, at most `BLOCK`.

The sketch sums blocks b whose keys differ. Each has outputs of mean zero, E v_r(x_b) v_s(y_b) =
<x_b, y_b> if r = s and 0 if not, so the products of different blocks have mean zero, are
uncorrelated, and add (|x_b|^2 |y_c|^2 + <x_b, y_b> <x_c, y_c>) / m to the variance for each ordered
pair b, c. Every function keeps Var <= (|x_b|^2 |y_b|^2 + <x_b, y_b>^2) / m in its own block, and
these terms sum up to the same bound for the whole.

None builds an array of more than C x dim entries (dim rounded up to a multiple of 32), beside
copies of x.
"""

import itertools
import math

import jax
import jax.numpy as jnp

from partitionsel_jax.gradients.two_sided import unpack_signs

_RADIX = 64
_MOST_NONZEROS = 8  # per coordinate, of the sparse map


def signs(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Independent +-1 as f32; one random word serves 32 of them."""
    *leading, last = shape
    words = jax.random.bits(key, (*leading, -(-last // 32)), jnp.uint32)
    return unpack_signs(words, last)


def gaussian(key: jax.Array, x_BxC: jax.Array, dim: int) -> jax.Array:
    """A dense matrix of independent standard normals (Indyk & Motwani 1998)."""
    return jnp.dot(x_BxC, jax.random.normal(key, (x_BxC.shape[-1], dim)), precision="highest")


def rademacher(key: jax.Array, x_BxC: jax.Array, dim: int) -> jax.Array:
    """A dense matrix of independent signs (Achlioptas 2003)."""
    return jnp.dot(x_BxC, signs(key, (x_BxC.shape[-1], dim)), precision="highest")


def nonzeros(dim: int) -> int:
    """How many nonzeros the sparse map gives a coordinate: the largest divisor of m up to 8."""
    return max(s for s in range(1, _MOST_NONZEROS + 1) if dim % s == 0)


def _prime(least: int) -> int:
    """The smallest prime >= `least`."""
    numbers = itertools.count(max(least, 2))
    return next(n for n in numbers if all(n % d for d in range(2, math.isqrt(n) + 1)))


def sparse(key: jax.Array, x_BxC: jax.Array, dim: int) -> jax.Array:
    """Block SJLT (Kane & Nelson 2014): one signed entry in each of s equal chunks of the output.

    Each chunk is a CountSketch of w = m / s buckets, filled by a random permutation from a pairwise
    independent family (Carter & Wegman 1979), slot t <- coordinate (factor t + offset) mod a prime
    >= C, slot t in bucket t + turn mod w. Two coordinates of a block then meet with probability
    <= 1 / w, of two blocks with 1 / w. Signs being independent, the variance is the sum over pairs
    j < k of P(j, k meet) (x_j y_k + x_k y_j)^2 / s: no more than of independent draws. Gathers and
    sums in a fixed order give the same bits on every run, as a scatter-add on a GPU need not.
    """
    chunks = nonzeros(dim)
    width = dim // chunks
    batch, size = x_BxC.shape
    prime = _prime(size)
    slots = jnp.arange(-(-prime // width) * width, dtype=jnp.int32)
    flip, *places = jax.random.split(key, 4)
    limits = ((1, prime), (0, prime), (0, width))
    factors_S, offsets_S, turns_S = (
        jax.random.randint(place, (chunks,), *limit)
        for place, limit in zip(places, limits, strict=True)
    )

    def one_chunk(drawn: tuple[jax.Array, ...]) -> jax.Array:
        sign, factor, offset, turn = drawn
        coordinates = jnp.where(slots < prime, (factor * slots + offset) % prime, size)
        signed = x_BxC * sign[None, :]
        filled = jnp.take(signed, coordinates, axis=1, mode="fill", fill_value=0)
        return jnp.roll(filled.reshape(batch, -(-prime // width), width).sum(axis=1), turn, axis=1)

    # One chunk after the other: s copies of a batch's block at once would outgrow the bound.
    drawn = (signs(flip, (chunks, size)), factors_S, offsets_S, turns_S)
    sums_SxBxW: jax.Array = jax.lax.map(one_chunk, drawn)
    return sums_SxBxW.swapaxes(0, 1).reshape(batch, dim) * math.sqrt(width)


def _walsh(size: int) -> jax.Array:
    """The Walsh-Hadamard matrix of a power of two, entries +-1, f32[size, size]."""
    index = jnp.arange(size, dtype=jnp.uint32)
    parity = jax.lax.population_count(index[:, None] & index[None, :]) & 1
    return 1.0 - 2.0 * parity.astype(jnp.float32)


def walsh_hadamard(x: jax.Array) -> jax.Array:
    """Unnormalised Walsh-Hadamard transform along the last axis (a power of two <= BLOCK).

    H_n = H_a (x) H_b with a b = n: two small matrix products, which suit matrix units better
    than log2(n) passes of butterflies.
    """
    size = x.shape[-1]
    inner = min(size, _RADIX)
    outer = size // inner
    x = x.reshape(*x.shape[:-1], outer, inner)
    x = jnp.einsum("...oi,ij->...oj", x, _walsh(inner), precision="highest")
    x = jnp.einsum("...oi,op->...pi", x, _walsh(outer), precision="highest")
    return x.reshape(*x.shape[:-2], size)


def srht(key: jax.Array, x_BxC: jax.Array, dim: int) -> jax.Array:
    """Subsampled randomised Hadamard transform.

    Signs before the transform spread every coordinate; rows are drawn with replacement, so that m
    may exceed the block; signs after it give the outputs mean zero in every block. The variance is
    that of independent signs, (|x|^2 |y|^2 + <x, y>^2 - 2 sum x_i^2 y_i^2) / m
    (Ailon & Chazelle 2009 for the transform).
    """
    before, rows, after = jax.random.split(key, 3)
    size = x_BxC.shape[-1]
    spread = walsh_hadamard(x_BxC * signs(before, (size,))[None, :])
    drawn = jax.random.randint(rows, (dim,), 0, size)
    return spread[:, drawn] * signs(after, (dim,))[None, :]


def fft(key: jax.Array, x_BxC: jax.Array, dim: int) -> jax.Array:
    """Subsampled randomised Fourier transform, at frequencies r + 1/2.

    Output = sqrt(2) Re(e^(i phi) z_r), z_r = sum_j e^(-2 pi i (r + 1/2) j / C) sign_j x_j, with r
    drawn with replacement and a uniform phase phi of its own for every output of every block; the
    phases decorrelate the blocks. Given the signs, the mean over (r, phi) is <x, y> exactly, so
    outputs are uncorrelated and the variance is that of one output over m. Its second moment is
    the sum of c_jk (x_j^2 y_k^2 + 2 x_j y_j x_k y_k) over j != k, plus 3/2 x_j^2 y_j^2, where
    c_jk = 1 + mean over r of cos(4 pi (r + 1/2) (j - k) / C) / 2.

    c_jk is 1 but for coordinates C/2 apart. There the half bin makes it 1/2, which keeps the
    second moment below |x|^2 |y|^2 + 2 <x, y>^2; at whole frequencies it would be 3/2, and a pair
    of spikes C/2 apart would break that bound by half.
    """
    before, rows, phases = jax.random.split(key, 3)
    x_BxC = x_BxC * signs(before, x_BxC.shape[-1:])[None, :]
    x_BxC = jnp.pad(x_BxC, ((0, 0), (0, x_BxC.shape[-1] % 2)))
    size = x_BxC.shape[-1]
    half = size // 2
    # Odd r mirror even ones (z_(C-1-r) is the conjugate of z_r), and those of a real block are the
    # C/2-point transform of x_j - i x_(j + C/2), twisted: half the work, the same distribution.
    twist = jnp.exp(-1j * jnp.pi / size * jnp.arange(half, dtype=jnp.float32))
    z_BxH = jnp.fft.fft(jax.lax.complex(x_BxC[:, :half], -x_BxC[:, half:]) * twist[None, :])
    drawn = jax.random.randint(rows, (dim,), 0, half)
    phase = jax.random.uniform(phases, (dim,), maxval=2 * jnp.pi)
    return math.sqrt(2.0) * jnp.real(z_BxH[:, drawn] * jnp.exp(1j * phase)[None, :])
