"""What a corpus must have to be one."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from partitionsel_jax.data.fitting import Scan, named
from partitionsel_jax.data.sources.scanning import BAD_SHARE


def check_refused(records: Mapping[str, Any], scans: Mapping[str, Scan], *splits: str) -> None:
    """Raises ValueError if the template refuses more of all rows than may be bad ones.

    Args:
      records, scans: of every split.
      splits: those that are counted; all if none is named.
    """
    counted = splits or tuple(scans)
    total = sum(len(records[split]) for split in counted)
    refused = {split: len(scans[split].refused) for split in counted if len(scans[split].refused)}
    if sum(refused.values()) <= BAD_SHARE * total:
        return
    told = [named(records[s], scans[s].refused, scans[s].reasons) for s in refused]
    where = "; ".join(map(str, told))
    raise ValueError(
        f"expected a template that refuses at most {BAD_SHARE:.0%} of the rows, got "
        f"{sum(refused.values())} of {total} refused: {where}. Of the first of them it says: "
        f"{told[0].reason}"
    )


def check_scan(scanned: Scan, split: str, domains: tuple[str, ...], length: int) -> None:
    """Raises ValueError unless ids and domains are in range and every domain has a row."""
    ids, domain = scanned.ids, scanned.domains
    if len(domain) and not 0 <= domain.min() <= domain.max() < len(domains):
        raise ValueError(
            f"expected domains in 0 .. {len(domains) - 1} in {split}, got {domain.min()} .. "
            f"{domain.max()}; name every domain in the builder's metadata"
        )
    if len(ids) and not 0 <= ids.min() <= ids.max() < 2**31:
        raise ValueError(
            f"expected ids in 0 .. 2^31 - 1 in {split}, got {ids.min()} .. {ids.max()}; rows hold "
            "them as 32-bit integers"
        )
    # Anchors of the user's own need not be of every domain.
    if split == "anchors":
        return
    empty = [name for i, name in enumerate(domains) if not np.any(domain == i)]
    if empty or not domains:
        count = len(scanned.refused)
        refused = f", {count} because the template refuses them" * bool(count)
        raise ValueError(
            f"expected rows of every domain in {split}, got none of {', '.join(empty) or 'any'} "
            f"({len(scanned.left_out)} rows were left out because they do not fit {length} tokens"
            f"{refused}); use longer rows, or leave the domain out"
        )


def check_anchors(report: Mapping[str, Any], scanned: Scan, length: int) -> None:
    """Raises ValueError if no anchor of the user's own is left."""
    if not len(scanned.ids):
        raise ValueError(
            f"expected anchors, got none of the {report['read']} rows of "
            f"data.anchors_path={report['file']!r}: {len(scanned.left_out)} do not fit "
            f"into data.length={length}, {report['scored elsewhere']} ask what validation "
            "or test rows ask; use longer rows, or name a file of other anchors"
        )
