"""Anchors from a file of the user's own: a development set of what the model is to get good at.

As LESS has them (Xia et al. 2024, arXiv 2402.04333), they need not be of the training domains.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from partitionsel_jax.data.sources.duplicates import HeldOut, Prompt, boilerplate
from partitionsel_jax.data.sources.files import source_files
from partitionsel_jax.data.sources.messages import asked
from partitionsel_jax.data.sources.scanning import Tally, check_columns, good_rows, spelt
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

    @property
    def questions(self) -> frozenset[str]:
        """The questions that they ask."""
        return frozenset(row["question"].decode() for row in self.records)

    @property
    def fingerprint(self) -> str:
        """A digest of the records."""
        content = json.dumps(self.records, default=str, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @functools.cached_property
    def _prompts(self) -> list[Prompt]:
        names = ("question", "messages", "entry")
        return [compared(*(row[name].decode() for name in names)) for row in self.records]

    def _held_out(self, prompts: Iterable[Prompt], samples: Iterable[Collection[str]]) -> HeldOut:
        """The index of prompts, without the wording that many of the anchors, or samples, share."""
        asked = {prompt.asked for prompt in self._prompts}
        return HeldOut(prompts, boilerplate([asked, *map(set, samples)]))

    def index(self, samples: Iterable[Collection[str]] = ()) -> HeldOut:
        """Makes the index that finds rows which ask, or nearly ask, what one of the anchors asks.

        Args:
          samples: questions of every domain of those rows: wording that many share is no match.
        """
        return self._held_out(self._prompts, samples)

    def without(self, scored: Sequence[Sequence[Prompt]]) -> "OwnAnchors":
        """Leaves out the anchors that ask, or nearly ask, what scored rows of a domain ask."""
        samples = [[prompt.asked for prompt in rows] for rows in scored]
        index = self._held_out(itertools.chain.from_iterable(scored), samples)
        pairs = zip(self.records, self._prompts, strict=True)
        kept = [row for row, prompt in pairs if not index.match(*prompt)]
        report = {**self.report, "scored elsewhere": len(self.records) - len(kept)}
        return dataclasses.replace(self, records=kept, report=report)


def compared(question: str, messages: str, entry: str) -> Prompt:
    """Returns the prompt of an example, as `Example` has it, for the search of near-duplicates.

    They are alike in all but the system's turn and tools of a conversation; where an instruction is
    published apart from what it is about, in the latter.
    """
    if messages:
        return Prompt(question, asked(json.loads(messages)))
    return Prompt(question, json.loads(entry or "{}").get("input", "").strip() or question)


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
    if len(splits := sorted({file.split or "none" for file in files})) > 1:
        raise ValueError(
            f"expected anchors of one split, got files of {', '.join(splits)} at {root}; name the "
            "file or directory of one"
        )
    check_columns(files, schema)
    tally, places = Tally(), {name: place for place, name in enumerate(domains)}
    records, foreign = [], 0
    for row in good_rows(files, schema, (), tally):
        foreign += row.domain not in places
        texts = {**row.texts, "place": spelt(tally.place)}
        encoded = {name: text.encode() for name, text in texts.items()}
        records.append({"domain": places.get(row.domain, 0), **encoded})
    tally.check()
    return OwnAnchors(records, foreign, {"file": os.fspath(path), **tally.report()})
