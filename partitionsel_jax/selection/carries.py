"""Loop carries that `jax.shard_map` accepts.

Under shard_map every array has a type that names the mesh axes it varies over, and a loop's carry
must enter with the type it leaves with. Constants vary over nothing, so a carry that starts from
one has to be tied to the data first. The ties below are arithmetic no-ops that compile to nothing
and mean nothing outside shard_map.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp

Tree = TypeVar("Tree")


def tie(tree: Tree, *sources: object) -> Tree:
    """`tree` with every array varying over all the mesh axes that any array of `sources` does."""
    false = jnp.zeros((), bool)
    for leaf in jax.tree.leaves(sources):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        false |= (leaf.ravel()[0] != 0) & False
    return jax.tree.map(lambda array: jnp.where(false, jnp.zeros_like(array), array), tree)
