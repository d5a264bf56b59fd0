"""The first pass over a source: bad rows, and the few numbers a row that the splits depend on."""

import array
import collections
import dataclasses
import hashlib
from collections.abc import Callable, Container, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from partitionsel_jax.data.sources.cells import BadRow, SkippedRow
from partitionsel_jax.data.sources.duplicates import Prompt, normalise
from partitionsel_jax.data.sources.files import SourceFile
from partitionsel_jax.data.sources.published import TEST, VALIDATION
from partitionsel_jax.data.sources.raw_rows import TOO_DEEP
from partitionsel_jax.data.sources.readers import column_names, read
from partitionsel_jax.data.sources.schemas import DOMAINS, Row, Schema, listed
from partitionsel_jax.data.streams import derive

# The largest part of the rows that may be bad.
BAD_SHARE = 0.01
_NAMED = 10
# The sample that boilerplate is looked for in: questions of every domain, at least.
_SAMPLE = 64
_MOST_DOMAINS = 1000
# What rows of domains that nobody asked for are counted as, where the rows decide which there are.
_OTHER_DOMAINS = "other domains"

# A file's name and the row's number in it.
Place = tuple[str, int]


def spelt(place: Place) -> str:
    """How a place is told to people."""
    file, number = place
    return f"{file} row {number}"


@dataclasses.dataclass
class Places:
    """Rows counted by what is to be said of them, such as why they are bad.

    Attributes:
      counts: what -> rows.
      first: what -> the places of the first ten of them.
    """

    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    first: dict[str, list[Place]] = dataclasses.field(default_factory=dict)

    def add(self, what: str, place: Place) -> None:
        """Counts a row."""
        self.counts[what] += 1
        if self.counts[what] <= _NAMED:
            self.first.setdefault(what, []).append(place)

    def report(self) -> dict[str, Any]:
        """The counts as JSON can hold them."""
        return {
            what: {"rows": count, "first": [list(place) for place in self.first[what]]}
            for what, count in self.counts.items()
        }


@dataclasses.dataclass
class Tally:
    """What was read, and what of it is no row of the corpus.

    Attributes:
      read: rows.
      place: of the row that was read last.
      absent: columns that a row may lack, and all have lacked.
      skipped: rows that are not wanted, by what they are of.
      passed_over: their domains, as many as are worth naming.
      bad: bad rows by reason.
      named: place and reason of the first ten of all.
      ignored: good rows, by what they say and nobody reads.
      unread: columns that nobody reads.
    """

    read: int = 0
    place: Place = ("", 0)
    absent: set[str] = dataclasses.field(default_factory=set)
    skipped: Places = dataclasses.field(default_factory=Places)
    passed_over: set[str] = dataclasses.field(default_factory=set)
    bad: Places = dataclasses.field(default_factory=Places)
    named: list[tuple[str, int, str]] = dataclasses.field(default_factory=list)
    ignored: Places = dataclasses.field(default_factory=Places)
    unread: Sequence[str] = ()

    def add_bad(self, reason: str) -> None:
        """Counts the row that was read last as a bad one."""
        self.bad.add(reason, self.place)
        if len(self.named) < _NAMED:
            self.named.append((*self.place, reason))

    def pass_over(self, domain: str) -> None:
        """Notes the domain of a row that is not wanted."""
        if len(self.passed_over) < _MOST_DOMAINS:
            self.passed_over.add(domain)

    def check_domains(self, wanted: Sequence[str], found: Container[str]) -> None:
        """Raises ValueError if a domain that is wanted has no rows."""
        absent = [name for name in wanted if name not in found]
        if not absent:
            return
        spelt = {name: _plain(name) for name in self.passed_over}
        near = {
            name: [other for other, plain in sorted(spelt.items()) if plain == _plain(name)]
            for name in absent
        }
        hints = [
            f"{name!r} is written {listed(map(repr, others))} there"
            for name, others in near.items()
            if others
        ]
        others = sorted({name for name in wanted if name in found} | self.passed_over)
        there = listed(map(repr, others)) or "none at all"
        raise ValueError(
            f"expected rows of every domain of {DOMAINS}, got none of "
            f"{listed(map(repr, absent))}; the domains that have rows are {there}"
            + "".join(f"; {hint}" for hint in hints[:_NAMED])
            + "; list only domains that are there, spelt as they are"
        )

    def check(self) -> None:
        """Raises ValueError if there are no rows, or too many bad ones."""
        if not self.read:
            raise ValueError("expected rows, got files without any; name files that have some")
        bad = sum(self.bad.counts.values())
        if bad > BAD_SHARE * self.read:
            listed = "; ".join(
                f"{spelt((file, number))}: {why}" for file, number, why in self.named
            )
            raise ValueError(
                f"expected at most {BAD_SHARE:.0%} bad rows, got {bad} of {self.read} ({listed}); "
                "mend them, or name the columns that the files have"
            )

    def report(self) -> dict[str, Any]:
        """The counts as JSON can hold them."""
        return {
            "read": self.read,
            "skipped": self.skipped.report(),
            "bad": self.bad.report(),
            "ignored": self.ignored.report(),
            "unread": list(self.unread),
        }


def _plain(name: str) -> str:
    """A domain's name without what is easily overlooked: case, and white space around it."""
    return name.strip().casefold()


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
    """What is kept of N good rows, which are numbered in order of reading.

    Attributes:
      domains: the names.
      domain: i32[N], indices into them.
      group: i64[N], a hash of the question that the row was made of, under the data seed.
      test: i8[N], whether its publishers meant the row for testing; -1 where they do not say.
      validation: bool[N], whether they meant it for validation; empty where no row is.
      tally: what was read.
      places: the rows of every domain.
      prompts: of the rows of every domain whose groups come first, one of each; they are likely to
        be held out, and a sample of the domain.
      published: the prompts of all rows that were meant for testing, also those of domains that
        are not wanted.
      elsewhere: i64[], the groups of those of domains that are not wanted.
    """

    domains: tuple[str, ...]
    domain: np.ndarray
    group: np.ndarray
    test: np.ndarray
    tally: Tally
    validation: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, bool))
    places: Places = dataclasses.field(default_factory=Places, repr=False)
    prompts: Mapping[int, Prompt] = dataclasses.field(default_factory=dict, repr=False)
    published: Sequence[Prompt] = dataclasses.field(default=(), repr=False)
    elsewhere: np.ndarray = dataclasses.field(
        default_factory=lambda: np.empty(0, np.int64), repr=False
    )


class FirstPrompts:
    """Keeps one prompt of each of the first groups of every domain, in a bounded memory."""

    def __init__(self, size: int):
        """Keeps those of at least `size` groups of a domain, and of at most twice as many."""
        self._size = size
        self._kept: dict[Hashable, dict[int, tuple[int, Prompt]]] = {}
        self._last: dict[Hashable, int] = {}

    def add(self, domain: Hashable, group: int, row: int, prompt: Prompt) -> None:
        """Offers a row's prompt; of a group's rows the first is kept."""
        kept = self._kept.setdefault(domain, {})
        if group > self._last.get(domain, group) or group in kept:
            return
        kept[group] = (row, prompt)
        if len(kept) > 2 * self._size:
            first = sorted(kept)[: self._size]
            self._last[domain] = first[-1]
            self._kept[domain] = {group: kept[group] for group in first}

    def prompts(self) -> dict[int, Prompt]:
        """Row -> prompt of all that are kept."""
        return dict(pair for kept in self._kept.values() for pair in kept.values())


def check_columns(files: Sequence[SourceFile], schema: Schema) -> list[str]:
    """The columns that nobody reads, as the first rows of every file show.

    Raises:
      ValueError: a file lacks columns of the schema.
    """
    unread: dict[str, None] = {}
    for file in files:
        there = column_names(file)
        unread |= dict.fromkeys(name for name in there if name not in schema.read)
        missing = [name for name in schema.columns if name not in there]
        if there and missing:
            raise ValueError(
                f"expected the columns {', '.join(schema.columns)} in {file.name}, got "
                f"{', '.join(there)}: {', '.join(missing)} missing; {schema.remedy}"
            )
    return list(unread)


def good_rows(
    files: Sequence[SourceFile],
    schema: Schema,
    domains: Sequence[str],
    tally: Tally,
    unwanted: Callable[[Row], None] = lambda row: None,
) -> Iterator[Row]:
    """The good rows of a source in order; all others are counted.

    Args:
      files: read one after the other.
      schema: what makes rows of their fields.
      domains: the domains that are wanted; empty for all.
      tally: counts.
      unwanted: is called with the good rows of other domains.

    Raises:
      ValueError: a damaged file.
    """
    wanted = frozenset(domains)
    tally.absent = absent = set(schema.optional)
    for file in files:
        stem = file.stem
        for number, fields, problem in read(file, schema.read):
            tally.read += 1
            tally.place = (file.name, number)
            if absent:
                absent.difference_update(fields)
            try:
                if problem:
                    raise BadRow(problem)
                row = _meant(schema.parse(fields, stem), file.split)
                if wanted and row.domain not in wanted:
                    if schema.domains and row.domain not in schema.domains:
                        raise BadRow("unknown domain")
                    unwanted(row)
                    tally.pass_over(row.domain)
                    raise SkippedRow(row.domain if schema.domains else _OTHER_DOMAINS)
            except BadRow as reason:
                tally.add_bad(str(reason))
            except RecursionError:
                tally.add_bad(TOO_DEEP)
            except SkippedRow as reason:
                tally.skipped.add(str(reason), tally.place)
            else:
                for what in row.ignored:
                    tally.ignored.add(what, tally.place)
                yield row


def _meant(row: Row, split: str) -> Row:
    """The row with what its file's name says of its split; what the row says of itself holds."""
    if not split or row.test or row.validation:
        return row
    return row._replace(test=split == TEST, validation=split == VALIDATION)


def scan(
    files: Sequence[SourceFile], schema: Schema, domains: Sequence[str], seed: int, keep: int
) -> Scan:
    """Reads a source once and keeps some 13 bytes a row, and what was published for testing.

    Args:
      files: the source.
      schema: what makes rows of their fields.
      domains: the domains in order; empty for all that there are, sorted.
      seed: data seed.
      keep: of so many groups of every domain the prompts are kept, too.

    Raises:
      ValueError: a damaged file, no rows, too many bad rows, too many domains, or a column or a
        domain that no row has.
    """
    tally = Tally()
    key = derive(seed, "split").to_bytes(16, "big")
    places = {name: place for place, name in enumerate(domains)}
    domain, group, test = array.array("i"), array.array("q"), array.array("b")
    validation = array.array("b")
    first, rows = FirstPrompts(max(keep, _SAMPLE)), Places()
    published: list[Prompt] = []
    elsewhere = array.array("q")

    def hashed_group(row: Row) -> int:
        digest = hashlib.blake2b(normalise(row.group).encode(), digest_size=8, key=key).digest()
        return int.from_bytes(digest, "big", signed=True)

    def protect(row: Row) -> None:
        if row.test:
            published.append(row.prompt)
            elsewhere.append(hashed_group(row))

    for number, row in enumerate(good_rows(files, schema, domains, tally, protect)):
        place = places.setdefault(row.domain, len(places))
        hashed = hashed_group(row)
        domain.append(place)
        group.append(hashed)
        test.append(-1 if row.test is None else row.test)
        validation.append(row.validation)
        rows.add(row.domain, tally.place)
        # Test rows are taken from those that are meant for it, validation rows from the others.
        first.add((place, row.test, row.validation), hashed, number, row.prompt)
        if row.test:
            published.append(row.prompt)
        if len(places) > _MOST_DOMAINS:
            raise ValueError(
                f"expected at most {_MOST_DOMAINS} domains, got more (one is {row.domain[:40]!r}); "
                f"name another column of domains, or those that are wanted in {DOMAINS}"
            )
    tally.check()
    if tally.absent:
        raise ValueError(
            f"expected the column {', '.join(sorted(tally.absent))} in some row, got none that has "
            "it; mend the name, or leave it out"
        )
    tally.check_domains(domains, rows.counts)
    names = tuple(domains or sorted(places))
    order = np.array([names.index(name) for name in places], np.int32)
    return Scan(
        domains=names,
        domain=order[np.array(domain, np.int32)],
        group=np.array(group, np.int64),
        test=np.array(test, np.int8),
        tally=tally,
        validation=np.array(validation, bool),
        places=rows,
        prompts=first.prompts(),
        published=published,
        elsewhere=np.array(elsewhere, np.int64),
    )
