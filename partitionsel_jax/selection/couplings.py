"""Couplings: how the domains of a pool share one utility and one set of budgets.

A coupling maps a pool to the pool that the solver sees. Every one has the signature
`coupling(pool, size) -> Pool`.
"""

import dataclasses

import jax.numpy as jnp

from partitionsel_jax.selection.problem import Pool


def joint(pool: Pool, size: int) -> Pool:
    """One utility over the whole pool under per-domain budgets: PartitionSel."""
    del size
    return pool


def independent(pool: Pool, size: int) -> Pool:
    """Each domain on its own, same budgets: cross-domain Gram entries become 0 (IWD, ID)."""
    del size
    count = pool.budgets.shape[0]
    return dataclasses.replace(
        pool, gram=pool.gram.split(pool.domains, count), groups=pool.domains, group_count=count
    )


def agnostic(pool: Pool, size: int) -> Pool:
    """One budget of `size` and one domain: the uniform matroid (GradMatch, GREATS)."""
    return dataclasses.replace(
        pool,
        domains=jnp.zeros_like(pool.domains),
        budgets=jnp.full((1,), size, jnp.int32),
    )


COUPLINGS = {"joint": joint, "independent": independent, "agnostic": agnostic}

# Couplings whose picks are limited by `Problem.budgets`.
BUDGETED = frozenset({"joint", "independent"})
