"""Matching the validation gradient: the utility of PartitionSel."""

import jax.numpy as jnp

from partitionsel_jax.selection import certificate, refit
from partitionsel_jax.selection.problem import Options, Pool
from partitionsel_jax.selection.solvers import SOLVERS
from partitionsel_jax.selection.swaps import improve
from partitionsel_jax.selection.utilities.utility import Solution


def gradient_matching(pool: Pool, options: Options) -> Solution:
    """max <w, s> - w'(K + ridge I)w / 2 over w >= 0 (PartitionSel's f; GradMatch, IWD)."""
    rounds = SOLVERS[options.solver](pool, options)
    if options.swaps:
        rounds = improve(rounds, pool, options)
    support = rounds.state.support
    gains = refit.contributions(support)
    utility = jnp.sum(gains)
    bound = None
    if options.certificate:
        matched_N = pool.gram.combine(rounds.state.traces, support.weights)
        bound = certificate.estimate(
            pool, rounds.indices, support.weights, matched_N, utility, options.ridge
        )
    return Solution(rounds.indices, support.weights, utility, bound, gains)
