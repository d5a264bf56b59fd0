"""Selection from features that a user computed elsewhere, and that need not fit in memory."""

from partitionsel_jax.offline.files import select_files
from partitionsel_jax.offline.passes import Rows
from partitionsel_jax.offline.selector import (
    UTILITIES,
    Budgets,
    OfflineSelection,
    Reading,
    check_names,
    limits,
    select,
)

__all__ = [
    "UTILITIES",
    "Budgets",
    "OfflineSelection",
    "Reading",
    "Rows",
    "check_names",
    "limits",
    "select",
    "select_files",
]
