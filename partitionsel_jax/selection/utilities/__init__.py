"""Utilities: what makes a set of candidates a good one, each with the solver that maximises it."""

from partitionsel_jax.selection.utilities import coverage, ranking, taylor, transport
from partitionsel_jax.selection.utilities import gradient_matching as matching
from partitionsel_jax.selection.utilities.utility import Solution, Utility

__all__ = ["UTILITIES", "Solution", "Utility"]

_BOTH_RULES = ("greedy", "residual_random")

UTILITIES = {
    "gradient_matching": Utility(matching.gradient_matching, rules=_BOTH_RULES, refits=True),
    "taylor": Utility(taylor.taylor, rules=_BOTH_RULES),
    "facility_location": Utility(coverage.facility_location, rules=_BOTH_RULES, needs=("gram",)),
    "anchor_coverage": Utility(
        coverage.anchor_coverage, rules=_BOTH_RULES, needs=("anchor_similarity",)
    ),
    "fair_transport": Utility(
        transport.fair_transport, rules=_BOTH_RULES, needs=("anchor_similarity",)
    ),
    "alignment": Utility(ranking.alignment),
    "grad_norm": Utility(ranking.grad_norm, also_reads=("norms",)),
    "loss": Utility(ranking.loss, needs=("losses",), gradients=False),
    "reducible_loss": Utility(
        ranking.reducible_loss,
        needs=("losses",),
        also_reads=("reference_losses",),
        gradients=False,
    ),
    "random": Utility(ranking.random, draws=True, gradients=False),
    "full": Utility(ranking.full, takes_all=True, gradients=False),
}
