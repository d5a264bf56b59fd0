"""The first pass over a source: bad rows, and the few numbers a row that the splits depend on."""

import array
import collections
import dataclasses
import hashlib
import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from partitionsel_jax.data.sources.duplicates import Prompt, normalise
from partitionsel_jax.data.sources.files import SourceFile, locate, source_files
from partitionsel_jax.data.sources.layouts import SPLITS, TEST, VALIDATION
from partitionsel_jax.data.sources.reading import column_names, read
from partitionsel_jax.data.sources.rows import TOO_DEEP, BadRow, SkippedRow
from partitionsel_jax.data.sources.schemas import DOMAINS, Columns, Row, Schema, listed, schema_of
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
    """Writes a place in words."""
    file, number = place
    return f"{file} row {number}"


class Places:
    """Rows counted by what is to be said of them, such as why they are bad.

    Attributes:
      counts: what -> rows.
      first: what -> the places of the first ten of them.
    """

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.first: dict[str, list[Place]] = collections.defaultdict(list)

    def add(self, what: str, place: Place) -> None:
        """Counts a row."""
        self.counts[what] += 1
        if self.counts[what] <= _NAMED:
            self.first[what].append(place)

    def report(self) -> dict[str, Any]:
        """Gives the counts as JSON can hold them."""
        return {
            what: {"rows": count, "first": [list(place) for place in self.first[what]]}
            for what, count in self.counts.items()
        }


class Tally:
    """Rows that were read, and those of them that are none of the corpus."""

    def __init__(self) -> None:
        self.read = 0
        # The place of the row that was read last.
        self.place: Place = ("", 0)
        # Columns that a row may lack, and all have lacked; and those that nobody reads.
        self.absent: set[str] = set()
        self.unread: Sequence[str] = ()
        # Bad rows by reason, unwanted rows by what they are of, and good rows by what they say and
        # nobody reads.
        self.bad, self.skipped, self.ignored = Places(), Places(), Places()
        # Domains of unwanted rows, as many as are worth naming.
        self.passed_over: set[str] = set()

    def check(self) -> None:
        """Raises ValueError if there are no rows, or too many bad ones."""
        if not self.read:
            raise ValueError("expected rows, got files without any; name files that have some")
        bad = self.bad.counts.total()
        if bad > BAD_SHARE * self.read:
            named = sorted((place, why) for why in self.bad.first for place in self.bad.first[why])
            reasons = "; ".join(f"{spelt(place)}: {why}" for place, why in named[:_NAMED])
            raise ValueError(
                f"expected at most {BAD_SHARE:.0%} bad rows, got {bad} of {self.read} ({reasons}); "
                "mend them, or name the columns that the files have"
            )

    def report(self) -> dict[str, Any]:
        """Gives the counts as JSON can hold them."""
        places = {name: getattr(self, name).report() for name in ("skipped", "bad", "ignored")}
        return {"read": self.read, **places, "unread": list(self.unread)}


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
    """N good rows, numbered in order of reading, and what is kept of them.

    Attributes:
      domains: the names.
      domain: i32[N], indices into them.
      group: i64[N], a hash of the question that the row was made of, under the data seed.
      meant: i8[N], the split that its publishers meant the row for, a place in `SPLITS`; -1 where
        they do not say.
      tally: what was read.
      places: the rows of every domain.
      prompts: of the rows of every domain whose groups come first, one of each; they are likely to
        be held out, and a sample of the domain.
      published: group and prompt of all rows that were meant for testing, also those of domains
        that are not wanted.
    """

    domains: tuple[str, ...]
    domain: np.ndarray
    group: np.ndarray
    meant: np.ndarray
    tally: Tally
    places: Places
    prompts: Mapping[int, Prompt]
    published: Sequence[tuple[int, Prompt]]


class FirstPrompts:
    """One prompt of each of the first groups of every domain: of `size` to `2 * size` of them."""

    def __init__(self, size: int):
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
        """Gives row -> prompt of all that are kept."""
        return dict(pair for kept in self._kept.values() for pair in kept.values())


def check_columns(files: Sequence[SourceFile], schema: Schema) -> list[str]:
    """Gives the columns that nobody reads; raises ValueError where a file lacks some of the schema.

    The first rows of every file show its columns.
    """
    unread: dict[str, None] = {}
    for file in files:
        there = column_names(file)
        unread |= dict.fromkeys(name for name in there if name not in schema.read)
        missing = [name for name in schema.columns if name not in there]
        if there and missing:
            raise ValueError(
                f"expected the columns {', '.join(schema.columns)} in {file.name}, got "
                f"{', '.join(there)}: {', '.join(missing)} missing; name the columns that are "
                "there (data.columns; '' for none), or give the published files of the kind"
            )
    return list(unread)


def good_rows(
    files: Sequence[SourceFile],
    schema: Schema,
    domains: Sequence[str],
    tally: Tally,
    unwanted: Callable[[Row], None] = lambda row: None,
) -> Iterator[Row]:
    """Gives the good rows of a source in order, and counts all others in `tally`.

    Only those of the domains are wanted, or all where there are none; `unwanted` is called with
    good rows of others. Raises ValueError at a damaged file.
    """
    wanted = frozenset(domains)
    tally.absent = set(schema.optional)
    for file in files:
        stem = file.stem
        for number, fields, problem in read(file, schema.read):
            tally.read += 1
            tally.place = (file.name, number)
            tally.absent.difference_update(fields)
            try:
                if problem:
                    raise BadRow(problem)
                row = schema.parse(fields, stem)
                # What a row says of itself holds.
                if file.split and row.meant not in (VALIDATION, TEST):
                    row = row._replace(meant=file.split)
                if wanted and row.domain not in wanted:
                    if schema.domains and row.domain not in schema.domains:
                        raise BadRow("unknown domain")
                    unwanted(row)
                    if len(tally.passed_over) < _MOST_DOMAINS:
                        tally.passed_over.add(row.domain)
                    raise SkippedRow(row.domain if schema.domains else _OTHER_DOMAINS)
            except BadRow as reason:
                tally.bad.add(str(reason), tally.place)
            except RecursionError:
                tally.bad.add(TOO_DEEP, tally.place)
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

    The domains are in the order given, or all that there are, sorted. The prompts of `keep` groups
    of each are kept, too.

    Raises:
      ValueError: a damaged file, no rows, too many bad rows, too many domains, or a column or a
        domain that no row has.
    """
    tally, rows, first = Tally(), Places(), FirstPrompts(max(keep, _SAMPLE))
    key = derive(seed, "split").to_bytes(16, "big")
    places = {name: place for place, name in enumerate(domains)}
    domain, group, meant = array.array("i"), array.array("q"), array.array("b")
    published: list[tuple[int, Prompt]] = []
    codes = {"": -1, **{split: code for code, split in enumerate(SPLITS)}}

    def hashed_group(row: Row) -> int:
        digest = hashlib.blake2b(normalise(row.group).encode(), digest_size=8, key=key).digest()
        return int.from_bytes(digest, "big", signed=True)

    def protect(row: Row) -> None:
        if row.meant == TEST:
            published.append((hashed_group(row), row.prompt))

    for number, row in enumerate(good_rows(files, schema, domains, tally, protect)):
        domain.append(places.setdefault(row.domain, len(places)))
        group.append(hashed_group(row))
        meant.append(codes.get(row.meant, 0))
        rows.add(row.domain, tally.place)
        # Test rows are taken from those that are meant for it, validation rows from the others.
        first.add((domain[-1], meant[-1]), group[-1], number, row.prompt)
        protect(row)
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
    if absent := [name for name in domains if not rows.counts[name]]:
        there = sorted({*rows.first, *tally.passed_over})
        raise ValueError(
            f"expected rows of every domain of {DOMAINS}, got none of {listed(map(repr, absent))}; "
            f"the domains that have rows are {listed(map(repr, there)) or 'none at all'}; list "
            "only domains that are there, spelt as they are"
        )
    names = tuple(domains or sorted(places))
    order = np.array([names.index(name) for name in places], np.int32)
    return Scan(
        domains=names,
        domain=order[np.array(domain, np.int32)],
        group=np.array(group, np.int64),
        meant=np.array(meant, np.int8),
        tally=tally,
        places=rows,
        prompts=first.prompts(),
        published=published,
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

    The arguments are those of `prepare_files`. Raises ValueError where there is nothing to read.
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
