"""Studies: what ablations have shown, kept as CSV files, and RESULTS.md, which is made of them."""

from partitionsel_jax.studies.page import keep, update
from partitionsel_jax.studies.records import Study, collect, read, write

__all__ = ["Study", "collect", "keep", "read", "update", "write"]
