"""Reports of training runs: headline numbers, charts, one self-contained page, CSV files."""

from partitionsel_jax.reporting.building import Report, build
from partitionsel_jax.reporting.comparison import Pair, Row, Spread, ToTarget, headline
from partitionsel_jax.reporting.runs import Run, read_runs

__all__ = ["Pair", "Report", "Row", "Run", "Spread", "ToTarget", "build", "headline", "read_runs"]
