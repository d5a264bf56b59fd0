"""Measures of a trained model."""

from partitionsel_jax.evaluation.accuracy import answer_accuracy
from partitionsel_jax.evaluation.losses import DomainLosses, domain_losses
from partitionsel_jax.evaluation.scoring import SCORERS, Scorer, check_scorer, task_scorer

__all__ = [
    "SCORERS",
    "DomainLosses",
    "Scorer",
    "answer_accuracy",
    "check_scorer",
    "domain_losses",
    "task_scorer",
]
