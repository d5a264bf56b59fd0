"""A user's rows as tokens, each with the place in the files where it was read.

Tokens lie one row after the other, without padding: of the texts nothing is kept, since the rows
that are chosen are read again.
"""

import array
import collections
import dataclasses
import functools
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from partitionsel_jax.data.fitting import remembered
from partitionsel_jax.data.own_anchors import OwnAnchors
from partitionsel_jax.data.rows import Encoded, Rows, encode_batch
from partitionsel_jax.data.sources.files import SourceFile, content_digest, locate, source_files
from partitionsel_jax.data.sources.layouts import TEST, VALIDATION
from partitionsel_jax.data.sources.naming import find_columns
from partitionsel_jax.data.sources.scanning import Tally, check_columns, good_rows
from partitionsel_jax.data.sources.schemas import Columns, Row, Schema, schema_of
from partitionsel_jax.data.templates import prompt_of
from partitionsel_jax.data.tokenizers import Tokenizer

_LOG = logging.getLogger(__name__)

# Rows that are tokenised at a time.
_CHUNK = 1024


@dataclasses.dataclass(frozen=True)
class Files:
    """Files of rows, and how they are read.

    Attributes:
      files: in order.
      schema: which columns hold what.
      columns: the same, as the user may name them.
    """

    files: tuple[SourceFile, ...]
    schema: Schema
    columns: Columns

    @classmethod
    def find(cls, path: str, kind: str, given: Mapping[str, str]) -> "Files":
        """Finds the files at a path or in a hub's repository; columns by their usual names.

        Raises:
          ValueError: nothing there, files of no known format, or columns that are not found.
        """
        published = schema_of(kind, Columns())
        files = source_files(locate(path, published.repository, published.patterns))
        columns = find_columns(files, given) if kind == "instructions" else Columns()
        schema = schema_of(kind, columns)
        files = tuple(file for file in files if file.stem not in schema.leave_out)
        check_columns(files, schema)
        return cls(files, schema, columns)

    @property
    def about(self) -> dict[str, Any]:
        """A digest of the files' content, and which columns are read, as JSON values."""
        return {
            "files": content_digest(self.files),
            "columns": dataclasses.asdict(self.columns),
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """N rows in the order in which they were read.

    Attributes:
      tokens: i32[sum of lengths].
      ends: i64[N], where in `tokens` each row ends.
      prompts: i32[N], how many tokens of each are its prompt's.
      domains: i32[N], places in `names`.
      files: i32[N], places in the source's files.
      numbers: i64[N], of the rows in their files, from 1.
      names: of the domains, sorted.
      counts: what happened to rows of the files, and why -> how many.
    """

    tokens: np.ndarray
    ends: np.ndarray
    prompts: np.ndarray
    domains: np.ndarray
    files: np.ndarray
    numbers: np.ndarray
    names: tuple[str, ...]
    counts: dict[str, int]

    def __len__(self) -> int:
        """Gives N."""
        return len(self.ends)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, i64[N]."""
        return np.diff(self.ends, prepend=0)

    def rows(self, indices: np.ndarray, width: int, pad: int) -> Rows:
        """The rows at `indices`, none longer than `width`, padded to it."""
        tokens = np.full((len(indices), width), pad, np.int32)
        place = np.arange(width)
        lengths = self.lengths[indices]
        for row, (end, length) in enumerate(zip(self.ends[indices], lengths, strict=True)):
            tokens[row, :length] = self.tokens[end - length : end]
        response = (place >= self.prompts[indices, None]) & (place < lengths[:, None])
        nothing = np.zeros(len(indices), bool)
        return Rows(
            tokens, response, self.domains[indices], indices.astype(np.int32), corrupted=nothing
        )


def read_table(
    source: Files,
    tokenizer: Tokenizer,
    length: int,
    template: str,
    anchors: OwnAnchors | None = None,
    directory: str | None = None,
) -> Table:
    """Reads and tokenises all rows of a source that may be trained on.

    Left out, and counted, are rows that cannot be read, that their publishers meant for validation
    or testing, that ask what an anchor asks, whose response does not fit into a row, or whose
    prompt the template refuses.

    Args:
      source: the files.
      tokenizer, length, template: see `encode_batch`.
      anchors: rows that no row may ask the same as; None without any.
      directory: where the result is kept for the next time; None for nowhere.

    Raises:
      ValueError: a damaged file, more than 1 % bad rows, or no rows that are left.
    """
    known = "" if anchors is None else anchors.fingerprint
    content = (source.about, tokenizer.fingerprint, length, template, known)

    def find() -> dict[str, np.ndarray]:
        return _read(source, tokenizer, length, template, anchors)

    found = remembered(directory, "rows", content, find)
    counts = dict(zip(found["reasons"].tolist(), found["reason_rows"].tolist(), strict=True))
    fields = ("tokens", "ends", "prompts", "domains", "files", "numbers")
    arrays = {name: found[name] for name in fields}
    table = Table(**arrays, names=tuple(found["names"].tolist()), counts=counts)
    if not len(table):
        reasons = ", ".join(f"{rows} {reason}" for reason, rows in counts.items())
        raise ValueError(f"expected rows to choose from, got none: {reasons}; mend the files")
    for reason, rows in counts.items():
        _LOG.warning("rows  %d %s", rows, reason)
    return table


def _read(
    source: Files,
    tokenizer: Tokenizer,
    length: int,
    template: str,
    anchors: OwnAnchors | None,
) -> dict[str, np.ndarray]:
    tally, counts = Tally(), collections.Counter[str]()
    places = {file.name: number for number, file in enumerate(source.files)}
    asked = None if anchors is None else anchors.index()
    domains: dict[str, int] = {}
    tokens = array.array("i")
    columns = [array.array("q") for _ in range(5)]

    def usable() -> Iterator[tuple[Row, int, int]]:
        for row in good_rows(source.files, source.schema, (), tally):
            if row.meant in (VALIDATION, TEST):
                counts[f"left out: meant for {row.meant}"] += 1
            elif asked is not None and asked.match(*row.prompt):
                counts["left out: ask what an anchor asks"] += 1
            else:
                file, number = tally.place
                yield row, places[file], number

    for chunk in _chunks(usable()):
        prompts = [prompt_of(row.question, row.messages) for row, _, _ in chunk]
        responses = [row.response for row, _, _ in chunk]
        found = encode_batch(prompts, responses, tokenizer, length, template)
        for (row, file, number), encoded in zip(chunk, found, strict=True):
            if not isinstance(encoded, Encoded):
                refused = isinstance(encoded, ValueError)
                why = "the template refuses them" if refused else "do not fit into --length"
                counts[f"left out: {why}"] += 1
                continue
            counts["kept: a prompt lost its beginning"] += bool(encoded.cut)
            tokens.extend(encoded.prompt)
            tokens.extend(encoded.response)
            domain = domains.setdefault(row.domain, len(domains))
            values = (len(tokens), len(encoded.prompt), domain, file, number)
            for column, value in zip(columns, values, strict=True):
                column.append(value)
    tally.check()
    counts.update({f"left out: {reason}": rows for reason, rows in tally.bad.counts.items()})
    counts.update({f"left out: of {what}": rows for what, rows in tally.skipped.counts.items()})
    ends, prompt_sizes, domain_N, file_N, numbers = (np.array(column) for column in columns)
    names = sorted(domains)
    order = np.array([names.index(name) for name in domains], np.int32)
    reasons = {reason: rows for reason, rows in counts.items() if rows}
    return {
        "tokens": np.array(tokens, np.int32),
        "ends": ends.astype(np.int64),
        "prompts": prompt_sizes.astype(np.int32),
        "domains": order[domain_N.astype(np.int64)] if len(order) else domain_N.astype(np.int32),
        "files": file_N.astype(np.int32),
        "numbers": numbers.astype(np.int64),
        "names": np.array(names, str),
        "reasons": np.array([*reasons], str),
        "reason_rows": np.array([*reasons.values()], np.int64),
    }


def _chunks(rows: Iterator[tuple[Row, int, int]]) -> Iterator[list[tuple[Row, int, int]]]:
    chunk: list[tuple[Row, int, int]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
