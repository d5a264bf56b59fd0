"""Measures of a trained model."""

from partitionsel_jax.evaluation.accuracy import answer_accuracy
from partitionsel_jax.evaluation.losses import DomainLosses, domain_losses

__all__ = ["DomainLosses", "answer_accuracy", "domain_losses"]
