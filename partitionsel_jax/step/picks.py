"""The picked rows, brought to the devices that train on them."""

import jax
import jax.numpy as jnp

from partitionsel_jax.data.rows import Rows
from partitionsel_jax.distributed import spmd
from partitionsel_jax.step.candidates import RowInfo


def deal(pool: Rows, labels: RowInfo, places_K: jax.Array) -> Rows:
    """This device's contiguous part of the picked rows, [K / devices, ...].

    Args:
      pool: this device's rows.
      labels: of all rows.
      places_K: i32[K], what is picked, in the pool of all devices.

    Raises:
      ValueError: the devices do not divide K.
    """
    tokens, response = _unpacked(spmd.deal(_packed(pool.tokens, pool.response), places_K))
    mine = spmd.share(jax.tree.map(lambda leaf: leaf[places_K], labels))
    return Rows(tokens, response, **mine._asdict())


def _packed(tokens: jax.Array, response: jax.Array) -> jax.Array:
    """One array of both: no token is negative, so that the sign is free."""
    return jnp.where(response, ~tokens, tokens)


def _unpacked(packed: jax.Array) -> tuple[jax.Array, jax.Array]:
    response = packed < 0
    return jnp.where(response, ~packed, packed), response
