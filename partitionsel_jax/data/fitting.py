"""The pass over every record that finds which rows fit, and how long their prompts are.

A corpus that lies on disk keeps the result beside its records, so that one of hundreds of thousands
of rows is tokenised once and not at every start.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from partitionsel_jax.data.rows import encode_batch
from partitionsel_jax.data.templates import Prompt, prompt_of
from partitionsel_jax.data.tokenizers import Tokenizer

# Raised whenever other rows, or other near-duplicates, could come of the same records.
_VERSION = 4
_CHUNK = 1024
_NAMED = 10


class Named(NamedTuple):
    """A number of rows that something is to be said of, and the first of them.

    Attributes:
      rows: how many.
      first: where the first ten of them were read, such as "train.json row 17", or their ids where
        they come of no file.
      reason: what is to be said of the first of them, if anything.
    """

    rows: int
    first: tuple[str, ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        more = ", ..." if self.rows > len(self.first) else ""
        return f"{self.rows} ({', '.join(self.first)}{more})" if self.rows else "0"


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
    """The rows of a split that fit, in order of their ids, and those that do not.

    Attributes:
      records: the split's data source.
      ids: i64[n].
      positions: i64[n], of their records.
      domains: i32[n].
      prompts: i32[n], tokens of each prompt in its row.
      cut: i64[c], positions of the rows of which a part of the prompt was cut.
      left_out: i64[l], positions of the rows that do not fit.
      refused: i64[r], positions of the rows whose prompt the template refuses.
      reasons: str[r], why.
    """

    records: Any
    ids: np.ndarray
    positions: np.ndarray
    domains: np.ndarray
    prompts: np.ndarray
    cut: np.ndarray
    left_out: np.ndarray
    refused: np.ndarray
    reasons: np.ndarray

    def named(self, what: str) -> Named:
        """Counts and names the rows that are "cut", "left_out" or "refused"."""
        positions = getattr(self, what)
        first = tuple(
            record.get("place", b"").decode() or f"id {int(record['id'])}"
            for record in (read(self.records, positions[:_NAMED]) if len(positions) else ())
        )
        reason = "".join(self.reasons[:1]) if what == "refused" else ""
        return Named(len(positions), first, reason)


def scan(
    records: Any,
    tokenizer: Tokenizer,
    length: int,
    template: str,
    directory: str | os.PathLike[str] | None = None,
    name: str = "",
) -> Scan:
    """Tokenises every record of a split once; the directory, if one is given, keeps the result."""
    content = name, len(records), tokenizer.fingerprint, length, template
    find = functools.partial(_scan, records, tokenizer, length, template)
    return Scan(records, **remembered(directory, name, content, find))


def remembered(
    directory: str | os.PathLike[str] | None,
    name: str,
    content: Sequence[Any],
    find: Callable[[], dict[str, Any]],
) -> dict[str, np.ndarray]:
    """Reads arrays from a file; finds and writes them where it is not there, or damaged.

    Args:
      directory: of such files; None for nowhere.
      name: what the file's name begins with.
      content: all that the arrays depend on, as JSON values.
      find: computes them.
    """
    if directory is None:
        return find()
    digest = hashlib.sha256(json.dumps([_VERSION, *content]).encode()).hexdigest()[:16]
    path = epath.Path(directory) / f"{name}-{digest}.npz"
    if path.exists():
        with (
            contextlib.suppress(zipfile.BadZipFile, ValueError, OSError, EOFError),
            np.load(io.BytesIO(path.read_bytes())) as kept,
        ):
            return {name: kept[name] for name in kept.files}
    found = find()
    buffer = io.BytesIO()
    np.savez(buffer, **found)
    # Written beside it and renamed, so that no reader sees half of it.
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(buffer.getvalue())
        partial.replace(path)
    except OSError:
        # On a read-only disk it is found again at every start.
        partial.unlink(missing_ok=True)
    return found


def _scan(records: Any, tokenizer: Tokenizer, length: int, template: str) -> dict[str, Any]:
    """Finds all fields of a `Scan` but the records."""
    rows: list[tuple[int, int, int, int]] = []
    cut: list[int] = []
    left_out: list[int] = []
    reasons: dict[int, str] = {}
    for positions in chunks(np.arange(len(records))):
        prompts: list[Prompt] = []
        responses: list[str] = []
        for record in (chunk := read(records, positions)):
            question, messages = record["question"], record.get("messages", b"")
            prompts.append(prompt_of(question.decode(), messages.decode()))
            responses.append(record["response"].decode())
        found = encode_batch(prompts, responses, tokenizer, length, template)
        for position, record, encoded in zip(positions.tolist(), chunk, found, strict=True):
            if isinstance(encoded, ValueError):
                reasons[position] = str(encoded)
            elif encoded is None:
                left_out.append(position)
            else:
                size = len(encoded.prompt)
                rows.append((int(record["id"]), position, int(record["domain"]), size))
                cut += [position] * bool(encoded.cut)
    ids, places, domains, sizes = np.array(sorted(rows), np.int64).reshape(-1, 4).T
    return {
        "ids": ids,
        "positions": places,
        "domains": domains.astype(np.int32),
        "prompts": sizes.astype(np.int32),
        "cut": np.array(cut, np.int64),
        "left_out": np.array(left_out, np.int64),
        "refused": np.array([*reasons], np.int64),
        "reasons": np.array([*reasons.values()], str),
    }


def read(records: Any, positions: Sequence[int] | np.ndarray) -> Sequence[Mapping[str, Any]]:
    """Reads the records at `positions` at once: one read each would take twice as long."""
    try:
        return records.__getitems__([int(position) for position in positions])
    except RuntimeError as error:  # what array_record raises, whatever the damage
        reason = str(error).partition("\n")[0][:200]
        raise ValueError(
            f"the prepared records cannot be read ({reason}): delete their folder under "
            "data.directory, and they are prepared again"
        ) from None


def chunks(positions: np.ndarray) -> Iterator[np.ndarray]:
    """Gives the positions in order, so many at a time as are worth one read."""
    for start in range(0, len(positions), _CHUNK):
        yield positions[start : start + _CHUNK]
