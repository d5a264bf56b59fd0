"""Minibatch selection: which candidates of a pool to train on, under per-domain budgets."""

from partitionsel_jax.selection import budgets, diagnostics
from partitionsel_jax.selection.certificate import certify
from partitionsel_jax.selection.matroid import COUPLINGS, RULES
from partitionsel_jax.selection.problem import Problem, Selection
from partitionsel_jax.selection.pursuit import SOLVERS
from partitionsel_jax.selection.selector import best_of, check_choices, select
from partitionsel_jax.selection.utilities import UTILITIES

__all__ = [
    "COUPLINGS",
    "RULES",
    "SOLVERS",
    "UTILITIES",
    "Problem",
    "Selection",
    "best_of",
    "budgets",
    "certify",
    "check_choices",
    "diagnostics",
    "select",
]
