"""Values that differ along the axes of a device mesh; only matters inside `jax.shard_map`.

There, differentiating with respect to a value that is replicated sums over the devices, and the
carry of a loop that ends up varying must vary from the start.
"""

from typing import Any

import jax


def varying_like(tree: Any, reference: Any) -> Any:
    """`tree`, varying over every mesh axis that a leaf of `reference` varies over."""
    wanted = frozenset[str]().union(*(_axes(leaf) for leaf in jax.tree.leaves(reference)))

    def cast(leaf: jax.Array) -> jax.Array:
        missing = tuple(wanted - _axes(leaf))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, tree)


def _axes(leaf: jax.Array) -> frozenset[str]:
    kind: Any = jax.typeof(leaf)
    # Without a default: to find no axes where there are some would give wrong gradients.
    return kind.vma if hasattr(kind, "vma") else kind.mat.varying
