"""A chosen part of a user's rows: from files, anchors and a model to a file that any trainer reads.

subset.make(
    [subset.Chooser("smollm2-135m")], "rows.jsonl", "dev.jsonl",
    subset.Request(size="5%", budgets="anchors"), output="chosen",
)
"""

from partitionsel_jax.subset.choosing import Request
from partitionsel_jax.subset.loading import Chooser
from partitionsel_jax.subset.making import Gradients, Reader, make

__all__ = ["Chooser", "Gradients", "Reader", "Request", "make"]
