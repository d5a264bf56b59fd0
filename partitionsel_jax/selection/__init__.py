"""Minibatch selection: which candidates of a pool to train on, under per-domain budgets."""

from partitionsel_jax.selection import budgets, diagnostics
from partitionsel_jax.selection.couplings import COUPLINGS
from partitionsel_jax.selection.problem import Problem, Selection
from partitionsel_jax.selection.restarts import best_of
from partitionsel_jax.selection.rules import RULES
from partitionsel_jax.selection.selector import certify, check_choices, select
from partitionsel_jax.selection.solvers import SOLVERS
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
