"""Selection from features that a user computed elsewhere, and that need not fit in memory."""

from partitionsel_jax.offline.files import select_files
from partitionsel_jax.offline.selector import (
    UTILITIES,
    OfflineSelection,
    Reading,
    select,
)

__all__ = ["UTILITIES", "OfflineSelection", "Reading", "select", "select_files"]
