"""The first pass over a source: bad rows, and the few numbers a row that the splits depend on."""

import array
import collections
import contextlib
import dataclasses
import hashlib
import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from partitionsel_jax.data.sources.duplicates import normalise
from partitionsel_jax.data.sources.files import SourceFile
from partitionsel_jax.data.sources.readers import read
from partitionsel_jax.data.sources.schemas import BadRow, Row, Schema, SkippedRow
from partitionsel_jax.data.streams import derive

# The largest part of the rows that may be bad.
BAD_SHARE = 0.01
_NAMED = 10
_PEEK = 100
_MOST_DOMAINS = 1000


@dataclasses.dataclass
class Tally:
    """What was read, and what of it is no row of the corpus.

    Attributes:
      read: rows.
      skipped: what they are of -> rows that are none of the source's.
      bad: reason -> bad rows.
      first: reason -> file and number of the first ten of them.
      named: file, number and reason of the first ten of all.
    """

    read: int = 0
    skipped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    bad: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    first: dict[str, list[tuple[str, int]]] = dataclasses.field(default_factory=dict)
    named: list[tuple[str, int, str]] = dataclasses.field(default_factory=list)

    def add_bad(self, file: SourceFile, number: int, reason: str) -> None:
        """Counts a bad row."""
        self.bad[reason] += 1
        places = self.first.setdefault(reason, [])
        if len(places) < _NAMED:
            places.append((file.name, number))
        if len(self.named) < _NAMED:
            self.named.append((file.name, number, reason))

    def check(self) -> None:
        """Raises ValueError if there are no rows, or too many bad ones."""
        if not self.read:
            raise ValueError("expected rows, got files without any; name files that have some")
        bad = sum(self.bad.values())
        if bad > BAD_SHARE * self.read:
            listed = "; ".join(f"{file} row {number}: {why}" for file, number, why in self.named)
            raise ValueError(
                f"expected at most {BAD_SHARE:.0%} bad rows, got {bad} of {self.read} ({listed}); "
                "mend them, or name the columns and domains that the files have"
            )

    def report(self) -> dict[str, Any]:
        """The counts as JSON can hold them."""
        return {
            "read": self.read,
            "skipped": dict(self.skipped),
            "bad": {
                reason: {"rows": count, "first": [list(place) for place in self.first[reason]]}
                for reason, count in self.bad.items()
            },
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
    """What is kept of N good rows, which are numbered in order of reading.

    Attributes:
      domains: the names.
      domain: i32[N], indices into them.
      group: i64[N], a hash of the question that the row was made of, under the data seed.
      test: i8[N], whether its publishers meant the row for testing; -1 where they do not say.
      tally: what was read.
      prompts: row -> what near-duplicates of it are looked for in, of the rows of every domain
        whose groups come first; they are likely to be held out.
    """

    domains: tuple[str, ...]
    domain: np.ndarray
    group: np.ndarray
    test: np.ndarray
    tally: Tally
    prompts: Mapping[int, str] = dataclasses.field(default_factory=dict, repr=False)


class FirstPrompts:
    """Keeps one prompt of each of the first groups of every domain, in a bounded memory."""

    def __init__(self, size: int):
        """Keeps those of at least `size` groups of a domain, and of at most twice as many."""
        self._size = size
        self._kept: dict[Hashable, dict[int, tuple[int, str]]] = {}
        self._last: dict[Hashable, int] = {}

    def add(self, domain: Hashable, group: int, row: int, prompt: str) -> None:
        """Offers a row's prompt; of a group's rows the first is kept."""
        kept = self._kept.setdefault(domain, {})
        if group > self._last.get(domain, group) or group in kept:
            return
        kept[group] = (row, prompt)
        if len(kept) > 2 * self._size:
            first = sorted(kept)[: self._size]
            self._last[domain] = first[-1]
            self._kept[domain] = {group: kept[group] for group in first}

    def prompts(self) -> dict[int, str]:
        """Row -> prompt of all that are kept."""
        return dict(pair for kept in self._kept.values() for pair in kept.values())


def check_columns(files: Sequence[SourceFile], schema: Schema) -> None:
    """Raises ValueError unless every file has the schema's columns, as its first rows show."""
    for file in files:
        with contextlib.closing(read(file)) as raw:
            peeked = [row.fields for row in itertools.islice(raw, _PEEK) if not row.problem]
        there = dict.fromkeys(name for fields in peeked for name in fields)
        missing = [name for name in schema.columns if name not in there]
        if peeked and missing:
            raise ValueError(
                f"expected the columns {', '.join(schema.columns)} in {file.name}, got "
                f"{', '.join(there)}: {', '.join(missing)} missing; name the columns that are there"
            )


def good_rows(
    files: Sequence[SourceFile], schema: Schema, domains: Sequence[str], tally: Tally
) -> Iterator[Row]:
    """The good rows of a source in order; all others are counted.

    Args:
      files: read one after the other.
      schema: what makes rows of their fields.
      domains: the domains that are wanted; empty for all.
      tally: counts.

    Raises:
      ValueError: a damaged file.
    """
    wanted = frozenset(domains)
    for file in files:
        stem = file.stem
        for number, fields, problem in read(file):
            tally.read += 1
            try:
                if problem:
                    raise BadRow(problem)
                row = schema.parse(fields, stem)
                if wanted and row.domain not in wanted:
                    if row.domain in schema.domains:
                        raise SkippedRow(row.domain)
                    raise BadRow("unknown domain")
            except BadRow as reason:
                tally.add_bad(file, number, str(reason))
            except SkippedRow as reason:
                tally.skipped[str(reason)] += 1
            else:
                yield row


def scan(
    files: Sequence[SourceFile], schema: Schema, domains: Sequence[str], seed: int, keep: int
) -> Scan:
    """Reads a source once and keeps some 13 bytes a row.

    Args:
      files: the source.
      schema: what makes rows of their fields.
      domains: the domains in order; empty for all that there are, sorted.
      seed: data seed.
      keep: of so many groups of every domain the prompts are kept, too.

    Raises:
      ValueError: a damaged file, no rows, too many bad rows, or too many domains.
    """
    tally = Tally()
    key = derive(seed, "split").to_bytes(16, "big")
    places = {name: place for place, name in enumerate(domains)}
    domain, group, test = array.array("i"), array.array("q"), array.array("b")
    first = FirstPrompts(keep)
    for number, row in enumerate(good_rows(files, schema, domains, tally)):
        place = places.setdefault(row.domain, len(places))
        digest = hashlib.blake2b(normalise(row.group).encode(), digest_size=8, key=key).digest()
        hashed = int.from_bytes(digest, "big", signed=True)
        domain.append(place)
        group.append(hashed)
        test.append(-1 if row.test is None else row.test)
        # Test rows are taken from those that are meant for it, validation rows from the others.
        first.add((place, row.test), hashed, number, row.compared)
        if len(places) > _MOST_DOMAINS:
            raise ValueError(
                f"expected at most {_MOST_DOMAINS} domains, got more (one is {row.domain[:40]!r}); "
                "name another column of domains, or the domains that are wanted"
            )
    tally.check()
    names = tuple(domains or sorted(places))
    order = np.array([names.index(name) for name in places], np.int32)
    return Scan(
        domains=names,
        domain=order[np.array(domain, np.int32)],
        group=np.array(group, np.int64),
        test=np.array(test, np.int8),
        tally=tally,
        prompts=first.prompts(),
    )
