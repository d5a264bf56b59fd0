"""Minibatch selection by gradient matching under a partition matroid."""

__version__ = "0.1.0"
