"""The first pass over a source: bad rows, and the few numbers a row that the splits depend on."""

import array
import collections
import dataclasses
import hashlib
import os
from collections.abc import Callable, Container, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from partitionsel_jax.data.sources.duplicates import Prompt, normalise
from partitionsel_jax.data.sources.files import SourceFile, locate, source_files
from partitionsel_jax.data.sources.published import TEST, VALIDATION
from partitionsel_jax.data.sources.reading import column_names, read
from partitionsel_jax.data.sources.rows import TOO_DEEP, BadRow, SkippedRow
from partitionsel_jax.data.sources.schemas import (
    DOMAINS,
    Columns,
    Row,
    Schema,
    listed,
    schema_of,
)
from partitionsel_jax.data.streams import derive

# The largest part of the rows that may be bad.
BAD_SHARE = 0.01
_NAMED = 10
# The sample that boilerplate is looked for in: questions of every domain, at least.
_SAMPLE = 64
_MOST_DOMAINS = 1000
# The name under which rows of domains that nobody asked for are counted.
_OTHER_DOMAINS = "other domains"
# Rows of each domain that a survey shows, and files whose columns it tells.
_SHOWN, _SURVEYED = 2, 20

# A file's name and the row's number in it.
Place = tuple[str, int]


def spelt(place: Place) -> str:
    """A place in words."""
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
    """Rows that were read, and those of them that are none of the corpus.

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
    named: list[str] = dataclasses.field(default_factory=list)
    ignored: Places = dataclasses.field(default_factory=Places)
    unread: Sequence[str] = ()

    def add_bad(self, reason: str) -> None:
        """Counts the row that was read last as a bad one."""
        self.bad.add(reason, self.place)
        if len(self.named) < _NAMED:
            self.named.append(f"{spelt(self.place)}: {reason}")

    def check_domains(self, wanted: Sequence[str], found: Container[str]) -> None:
        """Raises ValueError if a domain that is wanted has no rows."""
        absent = [name for name in wanted if name not in found]
        if not absent:
            return
        hints = []
        for name in absent:
            alike = [o for o in sorted(self.passed_over) if _plain(o) == _plain(name)]
            if alike:
                hints.append(f"; {name!r} is written {listed(map(repr, alike))} there")
        others = sorted({name for name in wanted if name in found} | self.passed_over)
        raise ValueError(
            f"expected rows of every domain of {DOMAINS}, got none of "
            f"{listed(map(repr, absent))}; the domains that have rows are "
            f"{listed(map(repr, others)) or 'none at all'}{''.join(hints[:_NAMED])}; list only "
            "domains that are there, spelt as they are"
        )

    def check(self) -> None:
        """Raises ValueError if there are no rows, or too many bad ones."""
        if not self.read:
            raise ValueError("expected rows, got files without any; name files that have some")
        bad = sum(self.bad.counts.values())
        if bad > BAD_SHARE * self.read:
            raise ValueError(
                f"expected at most {BAD_SHARE:.0%} bad rows, got {bad} of {self.read} "
                f"({'; '.join(self.named)}); mend them, or name the columns that the files have"
            )

    def report(self) -> dict[str, Any]:
        """The counts as JSON can hold them."""
        places = {name: getattr(self, name).report() for name in ("skipped", "bad", "ignored")}
        return {"read": self.read, **places, "unread": list(self.unread)}


def _plain(name: str) -> str:
    """A domain's name without what is easily overlooked: case, and white space around it."""
    return name.strip().casefold()


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
    """N good rows, numbered in order of reading, and what is kept of them.

    Attributes:
      domains: the names.
      domain: i32[N], indices into them.
      group: i64[N], a hash of the question that the row was made of, under the data seed.
      test: i8[N], whether its publishers meant the row for testing; -1 where they do not say.
      validation: bool[N], whether they meant it for validation.
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
    validation: np.ndarray
    tally: Tally
    places: Places = dataclasses.field(repr=False)
    prompts: Mapping[int, Prompt] = dataclasses.field(repr=False)
    published: Sequence[Prompt] = dataclasses.field(repr=False)
    elsewhere: np.ndarray = dataclasses.field(repr=False)


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
                row = schema.parse(fields, stem)
                # What a row says of itself holds.
                if file.split and not row.test and not row.validation:
                    row = row._replace(test=file.split == TEST, validation=file.split == VALIDATION)
                if wanted and row.domain not in wanted:
                    if schema.domains and row.domain not in schema.domains:
                        raise BadRow("unknown domain")
                    unwanted(row)
                    if len(tally.passed_over) < _MOST_DOMAINS:
                        tally.passed_over.add(row.domain)
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
    tally, rows, first = Tally(), Places(), FirstPrompts(max(keep, _SAMPLE))
    key = derive(seed, "split").to_bytes(16, "big")
    places = {name: place for place, name in enumerate(domains)}
    domain, group, elsewhere = array.array("i"), array.array("q"), array.array("q")
    test, validation = array.array("b"), array.array("b")
    published: list[Prompt] = []

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
        validation=np.array(validation, bool),
        tally=tally,
        places=rows,
        prompts=first.prompts(),
        published=published,
        elsewhere=np.array(elsewhere, np.int64),
    )


@dataclasses.dataclass(frozen=True)
class Survey:
    """A source as it is, whether or not a corpus can be made of it.

    Attributes:
      domains: name -> good rows.
      columns: file -> its columns.
      tally: what was read, and what of it is no row.
      shown: place and row of the first ones of every domain.
      stopped: what ended the reading before the end; else empty.
    """

    domains: Mapping[str, int]
    columns: Mapping[str, Sequence[str]]
    tally: Tally
    shown: Sequence[tuple[str, Row]]
    stopped: str = ""


def survey(kind: str, path: str | os.PathLike[str], columns: Columns) -> Survey:
    """Reads a source and counts what is in it; bad rows and damaged files do not end it.

    Args:
      kind, path, columns: see `prepare_files`.

    Raises:
      ValueError: there is nothing to read.
    """
    schema = schema_of(kind, columns)
    files = source_files(locate(path, schema.repository, schema.patterns), schema.leave_out)
    names: dict[str, Sequence[str]] = {}
    counts: collections.Counter[str] = collections.Counter()
    shown: list[tuple[str, Row]] = []
    tally, stopped = Tally(), ""
    try:
        for file in files[:_SURVEYED]:
            names[file.name] = column_names(file)
        for row in good_rows(files, schema, (), tally):
            counts[row.domain] += 1
            if counts[row.domain] <= _SHOWN:
                shown.append((spelt(tally.place), row))
    except (ValueError, OSError) as error:
        stopped = str(error)
    return Survey(dict(sorted(counts.items())), names, tally, shown, stopped)
