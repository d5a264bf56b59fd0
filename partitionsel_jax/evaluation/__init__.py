"""Measures of a trained model."""

from partitionsel_jax.evaluation import molecules, statistics
from partitionsel_jax.evaluation.answers import is_correct
from partitionsel_jax.evaluation.losses import DomainLosses, domain_losses
from partitionsel_jax.evaluation.scoring import (
    SCORERS,
    Scorer,
    answer_accuracy,
    check_scorer,
    task_scorer,
)

__all__ = [
    "SCORERS",
    "DomainLosses",
    "Scorer",
    "answer_accuracy",
    "check_scorer",
    "domain_losses",
    "is_correct",
    "molecules",
    "statistics",
    "task_scorer",
]
