"""Smaller models out of a large one's own weights: its first layers, or low-rank matrices."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from partitionsel_jax.models.config import DecoderConfig

Tree = dict[str, Any]


def first_layers(parameters: Tree, layers: int) -> Tree:
    """The parameters of the model's first layers, its final norm and its head.

    Args:
      parameters: of a decoder, without adapters.
      layers: how many of its layers, from the lowest, at least 1.
    """
    cut = jax.tree.map(lambda leaf: leaf[:layers], parameters["layers"])
    return {**parameters, "layers": cut}


def low_rank(config: DecoderConfig, parameters: Tree) -> tuple[Tree, float]:
    """Replaces every projection's matrix by two factors, where these are smaller.

    The product of the factors is the nearest matrix of that rank (Eckart and Young 1936): the
    singular value decomposition, cut after its largest values, whose square roots scale both.

    Args:
      config: of the decoder that is made, with its `rank`.
      parameters: of the same decoder with whole matrices f[layers, in, out], without adapters.

    Returns:
      The parameters with factors, and the share of the factored matrices' sum of squares that is
      left, in [0, 1].
    """
    flat = traverse_util.flatten_dict(parameters)
    kept = whole = 0.0
    for path in [path for path in flat if path[-1] == "kernel"]:
        if len(config.matrices(path[-2])) == 1:
            continue
        matrix = flat.pop(path)
        a, b, squares, total = _factors(matrix, config.rank)
        for name, factor in (("kernel_a", a), ("kernel_b", b)):
            flat[*path[:-1], name] = factor.astype(matrix.dtype)
        kept, whole = kept + float(squares), whole + float(total)
    return traverse_util.unflatten_dict(flat), kept / whole


@functools.partial(jax.jit, static_argnums=1)
def _factors(matrices: jax.Array, rank: int) -> tuple[jax.Array, ...]:
    """f32[L, in, rank], f32[L, rank, out], and the sums of squares of what is kept and of all."""
    product = functools.partial(jnp.matmul, precision="highest")
    is_wide = matrices.shape[1] < matrices.shape[2]

    def one(matrix: jax.Array) -> tuple[jax.Array, ...]:
        tall = (matrix.T if is_wide else matrix).astype(jnp.float32)
        # Right singular vectors are the Gram matrix's eigenvectors, in an eighth of the time. What
        # they lose of the smallest values is cut away, and the product is a projection in any case.
        _, vectors = jnp.linalg.eigh(product(tall.T, tall))
        right = vectors[:, -rank:]
        left = product(tall, right)
        values = jnp.linalg.norm(left, axis=0)
        root = jnp.sqrt(jnp.where(values > 0, values, 1.0))
        a, b = left / root[None, :], root[:, None] * right.T
        squares = jnp.sum(values**2), jnp.sum(tall**2)
        return (b.T, a.T, *squares) if is_wide else (a, b, *squares)

    # One layer after the other, so that no more than one decomposition is held.
    a, b, kept, whole = jax.lax.map(one, matrices)
    return a, b, kept.sum(), whole.sum()
