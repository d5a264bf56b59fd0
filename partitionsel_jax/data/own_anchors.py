"""Anchors from a file of the user's own: a development set of what the model is to get good at.

As LESS has them (Xia et al. 2024, arXiv 2402.04333), they need not be of the training domains.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from partitionsel_jax.data.sources.duplicates import held_out
from partitionsel_jax.data.sources.files import source_files
from partitionsel_jax.data.sources.scanning import Tally, check_columns, good_rows
from partitionsel_jax.data.sources.schemas import Columns, schema_of


@dataclasses.dataclass(frozen=True, eq=False)
class OwnAnchors:
    """The rows of a file, as records without ids.

    Attributes:
      records: as TFDS gives those of a corpus.
      foreign: rows of other domains than the corpus's; their records say domain 0.
      report: what was read, as JSON can hold it.
    """

    records: Sequence[Mapping[str, Any]]
    foreign: int
    report: Mapping[str, Any]

    def without(self, questions: Iterable[str]) -> "OwnAnchors":
        """Those anchors whose question is, or nearly is, none of these."""
        index = held_out(questions)
        kept = [row for row in self.records if not index.match(row["question"].decode())]
        left_out = len(self.records) - len(kept)
        return dataclasses.replace(
            self, records=kept, report={**self.report, "scored elsewhere": left_out}
        )


def read_anchors(
    kind: str,
    path: str | os.PathLike[str],
    *,
    columns: Columns | None = None,
    domains: Sequence[str],
) -> OwnAnchors:
    """Reads anchors; all of them are in memory afterwards.

    Args:
      kind, path, columns: see `prepare_files`; the path is a local one.
      domains: the corpus's, in order.

    Raises:
      ValueError: a file that is missing, damaged or empty, a column that is not there, or more
        than 1 % bad rows.
    """
    schema = schema_of(kind, columns or Columns())
    root = Path(path).expanduser()
    if not root.exists():
        raise ValueError(f"expected a file of anchors at {root}, got none; mend the path")
    files = source_files(root, schema.leave_out)
    check_columns(files, schema)
    tally, places = Tally(), {name: place for place, name in enumerate(domains)}
    records, foreign = [], 0
    for row in good_rows(files, schema, (), tally):
        foreign += row.domain not in places
        texts = {name: text.encode() for name, text in row.texts.items()}
        records.append({"domain": places.get(row.domain, 0), **texts})
    tally.check()
    return OwnAnchors(records, foreign, {"file": os.fspath(path), **tally.report()})
