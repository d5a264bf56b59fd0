"""Studies: what ablations have shown, kept as CSV files, and RESULTS.md, which is made of them."""

from partitionsel_jax.studies.keeping import keep
from partitionsel_jax.studies.records import Result, Study, Trial, collect, read, write
from partitionsel_jax.studies.writing import update

__all__ = ["Result", "Study", "Trial", "collect", "keep", "read", "update", "write"]
