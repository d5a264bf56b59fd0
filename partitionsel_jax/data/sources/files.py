"""The files of a source: which there are, how they are opened, and a digest of what they hold."""

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from partitionsel_jax import hub
from partitionsel_jax.data.sources.layouts import DESCRIPTIONS, Layout, split_of
from partitionsel_jax.file_errors import check_regular, one_line, reading

# Suffix -> format.
FORMATS = {
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "json"),
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    ".parquet": "parquet",
    ".arrow": "arrow",
}
TEXT_FORMATS = ("json", "csv")
_PACKED, _ARCHIVE = ".gz", ".zip"
# The files of a hub's repository that are downloaded.
PATTERNS = (*(f"*{suffix}" for suffix in (*FORMATS, _PACKED, _ARCHIVE)), "README.md")
# The ways in which files are packed; only the first is read.
_PACKINGS = (_PACKED, ".zst", ".zstd", ".bz2", ".xz", ".lz4", ".br", ".7z", ".rar")
# A file that is packed by more than so many times, and more than so many bytes, is no text of rows.
_MOST_PACKED, _UNPACKED_FREELY = 500, 1 << 26
ARROW_STREAM = b"\xff\xff\xff\xff"
_MAGIC = {"parquet": (b"PAR1",), "arrow": (b"ARROW1", ARROW_STREAM)}
# First bytes -> what a file is that begins so, and what is to be done about it.
_OTHER_FORMS = {
    b"\x1f\x8b": ("gzip data", "name it .gz after the format's, such as .jsonl.gz"),
    b"PAR1": ("Parquet", "name it .parquet"),
    b"PARE": ("encrypted Parquet", "write it without encryption"),
    b"ARROW1": ("an Arrow file", "name it .arrow"),
    ARROW_STREAM: ("an Arrow stream", "name it .arrow"),
    b"PK\x03\x04": ("a zip archive", "name it .zip"),
    b"\x28\xb5\x2f\xfd": ("Zstandard data", "unpack it first"),
    b"BZh": ("bzip2 data", "unpack it first"),
    b"\xfd7zXZ\x00": ("xz data", "unpack it first"),
    b"\xd0\xcf\x11\xe0": ("an old Excel sheet", "save it as CSV"),
    b"SQLite format 3\x00": ("an SQLite database", "write its rows as JSON Lines"),
    b"version https://git-lfs": ("a Git LFS pointer", "fetch what it points to (git lfs pull)"),
    b"<!DOCTYPE": ("a web page", "fetch the file itself"),
    b"<!doctype": ("a web page", "fetch the file itself"),
    b"<html": ("a web page", "fetch the file itself"),
}


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file that rows are read from.

    Attributes:
      path: the file on disk.
      name: what errors and reports call it: the path below the source's root.
      member: the file inside it, where it is a zip archive.
      split: "train", "validation" or "test" where it is named so in its directory; else empty.
    """

    path: Path
    name: str
    member: str = ""
    split: str = ""

    @property
    def bare(self) -> Path:
        """The name of what holds the rows, without directories."""
        return Path(Path(self.member or self.path).name)

    @property
    def stem(self) -> str:
        """The bare name without suffixes."""
        return self.bare.name.split(".")[0]

    @property
    def is_document(self) -> bool:
        """True if the name says one JSON text, rather than one a line."""
        return ".json" in map(str.lower, self.bare.suffixes)

    @property
    def format(self) -> str:
        """One of the formats of `FORMATS`."""
        return _format(self.bare.name)


def locate(path: str | os.PathLike[str], repository: str, patterns: Sequence[str]) -> Path:
    """Finds the file or directory of a source; raises ValueError where nothing is.

    Where nothing is at the path, it is taken for a hub's repository, as "owner/name" or
    "owner/name@revision", whose files of these patterns are downloaded; "" stands for `repository`,
    which the kind is published in.
    """
    name = os.fspath(path) or repository
    local = Path(name).expanduser()
    if os.fspath(path) and local.exists():
        return local.resolve()
    if not hub.is_repository(name):
        raise ValueError(
            f"nothing is at {name!r}: expected a file, a directory, or a dataset repository as "
            "owner/name; mend the path"
        )
    subject, remedy = f"the dataset {name!r}, which is no file here either", " Or name a copy"
    return hub.download(name, patterns, kind="dataset", subject=subject, remedy=remedy)


def source_files(root: Path, leave_out: Sequence[str] = ()) -> tuple[SourceFile, ...]:
    """Lists the files of a source, a file or all below a directory, sorted by name.

    Zip archives stand for the files inside them. Hidden files, descriptions of a dataset, files
    that its description does not list, and those of the stems in `leave_out` are passed over.

    Raises:
      ValueError: no file of a known format, one that is there and no file (a pipe, a link to
        nothing), a damaged archive, or a file that is named for several splits.
    """
    check_regular(root)
    layout = Layout(root) if root.is_dir() else None
    files: list[SourceFile] = []
    others: list[str] = []
    for path in sorted(root.rglob("*")) if layout else [root]:
        relative = path.relative_to(root) if layout else Path(root.name)
        name, is_archive = relative.as_posix(), path.suffix.lower() == _ARCHIVE
        is_hidden = any(part.startswith(".") for part in relative.parts)
        if is_hidden or path.name in DESCRIPTIONS or relative.stem in leave_out:
            continue
        if (path.is_dir() and not path.is_symlink()) or (layout and not layout.has(path, name)):
            continue
        if layout and path.is_dir():
            raise ValueError(
                f"{path} is a link to a directory, which is not followed; name that directory, or "
                "move it here"
            )
        if not is_archive and not _format(name):
            others.append(name)
            continue
        check_regular(path, name)
        if not path.exists():
            raise ValueError(f"{path} is a link to nothing; fetch what it should point to")
        for file in _members(path, name) if is_archive else [SourceFile(path, name)]:
            # A file is what its user names it for; an archive is as good as a directory.
            split = layout.split(file.name) if layout else split_of(file.member)
            files.append(dataclasses.replace(file, split=split))
    if not files:
        there = f" (which has {', '.join(others[:5])})" if others else ""
        raise ValueError(
            f"expected {', '.join(FORMATS)} files (the text formats also as {_PACKED}, or in a "
            f"{_ARCHIVE} archive) at {root}{there}, found none; name the file or directory that "
            "has them"
        )
    return tuple(files)


def _format(name: str) -> str:
    """The format that a file's name says, empty where it says none."""
    *_, inner, outer = ("", "", *Path(name.lower()).suffixes)
    if inner not in FORMATS or outer not in _PACKINGS:
        return FORMATS.get(outer, "")
    if outer == _PACKED and FORMATS[inner] in TEXT_FORMATS:
        return FORMATS[inner]
    raise ValueError(
        f"{name} is packed as {outer}, which {inner} files are not read from; unpack it first"
    )


def _members(path: Path, name: str) -> list[SourceFile]:
    """The files of text formats in a zip archive, sorted by name."""
    members: dict[str, zipfile.ZipInfo] = {}
    with reading_errors(path, name), zipfile.ZipFile(path) as archive:
        for info in sorted(archive.infolist(), key=lambda info: info.filename):
            inside, known = Path(info.filename), _format(info.filename)
            if known not in ("", *TEXT_FORMATS):
                raise ValueError(f"{name}:{info.filename} lies in an archive; unpack it first")
            # macOS adds its own to archives.
            is_hidden = inside.name.startswith(".") or "__MACOSX" in inside.parts
            if known and not info.is_dir() and not is_hidden and inside.name not in DESCRIPTIONS:
                if info.filename in members:
                    raise ValueError(f"{name} holds several files of one name; unpack it first")
                members[info.filename] = info
        check_size(sum(m.file_size for m in members.values()), path.stat().st_size, name)
    return [SourceFile(path, f"{name}:{member}", member) for member in members]


@contextlib.contextmanager
def opened(file: SourceFile) -> Iterator[Any]:
    """Opens a file of a text format as unpacked bytes, which are never all in memory."""
    with contextlib.ExitStack() as stack:
        stream: Any = stack.enter_context(open(file.path, "rb"))
        size = file.path.stat().st_size
        if file.member:
            archive = stack.enter_context(zipfile.ZipFile(stream))
            info = archive.getinfo(file.member)
            if info.flag_bits & 1:
                raise ValueError(f"{file.name} is encrypted; unpack the archive first")
            stream, size = stack.enter_context(archive.open(info)), info.compress_size
        if file.bare.suffix.lower() == _PACKED:
            stream = stack.enter_context(_Bounded(stream, size, file.name))
        yield stream


def check_size(unpacked: int, packed: int, name: str) -> None:
    """Raises ValueError if so many bytes were packed into so few that they are no rows of text."""
    if unpacked > max(_UNPACKED_FREELY, _MOST_PACKED * packed):
        raise ValueError(
            f"{name} unpacks to more than {_MOST_PACKED} times its {packed:,} bytes, which rows of "
            "text do not; if it is meant, unpack it first"
        )


class _Bounded(gzip.GzipFile):
    """Packed text, whose unpacked bytes may be only so many."""

    def __init__(self, stream: IO[bytes], packed: int, name: str):
        super().__init__(fileobj=stream)
        self._limits = packed, name

    def read1(self, size: int = -1) -> bytes:
        """Reads at most one buffer of bytes, as `io.TextIOWrapper` does."""
        part = super().read1(size)
        check_size(self.tell(), *self._limits)
        return part


def check_format(start: bytes, file: SourceFile) -> None:
    """Raises ValueError if a file, by its first bytes, is of another format than its name says."""
    magic = _MAGIC.get(file.format)
    if magic and (not start or start.startswith(magic)):
        return
    begun = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for begin, (found, remedy) in _OTHER_FORMS.items():
        if begun.startswith(begin):
            raise ValueError(f"{file.name} is {found}, which its name does not say; {remedy}")
    if magic and not any(byte < 9 for byte in start):
        raise ValueError(
            f"{file.name} is text, and its name says .{file.format}; name it by its format "
            "(.jsonl, .csv)"
        )


@contextlib.contextmanager
def reading_errors(path: Path, name: str) -> Iterator[None]:
    """Says of a file that cannot be read which it is, why, and what to do."""
    with reading(path, name):
        try:
            yield
        except Exception as error:
            if name in str(error) or getattr(error, "filename", None) is not None:
                raise
            raise unreadable(name, error) from None


def unreadable(name: str, reason: str | Exception, row: int | None = None) -> ValueError:
    """Makes the error for a file that cannot be read, or read on at a row."""
    why = reason if isinstance(reason, str) else getattr(reason, "msg", one_line(reason))
    place = "" if row is None else f" at row {row}"
    return ValueError(
        f"{name} cannot be read{place} ({why}): if it is damaged or cut short, fetch or write it "
        "again"
    )


def content_digest(files: Sequence[SourceFile]) -> str:
    """Makes a SHA-256 of the names and the content of files, in order.

    An archive counts as a whole. A process hashes a file again only where its size or its time of
    modification changed.
    """
    content = []
    for file in files:
        check_regular(file.path)
        stat = file.path.stat()
        digest = _file_digest(file.path.resolve(), stat.st_size, stat.st_mtime_ns)
        content.append([file.name, digest])
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def changed() -> ValueError:
    """Makes the error for a source that is not what it was."""
    return ValueError(
        "expected the source to stay as it is, but it changed while it was read; start again "
        "when nothing writes to it"
    )


@functools.cache
def _file_digest(path: Path, size: int, time: int) -> str:
    """SHA-256 of a file's bytes, which are the same while its size and time of change are."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
