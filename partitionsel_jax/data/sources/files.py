"""The files of a source: which there are, how they are opened, and a digest of what they hold."""

import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

from etils import epath

from partitionsel_jax import hub
from partitionsel_jax.data.sources.published import DESCRIPTIONS, Layout, split_of
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
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, UnicodeDecodeError)
_DIGEST = re.compile("[0-9a-f]{64}")
# A file that is packed by more than so many times, and more than so many bytes, is no text of rows.
_MOST_PACKED, _UNPACKED_FREELY = 500, 1 << 26
# First bytes -> what a file is that begins so, and what is to be done about it.
_UNPACK, _AS_LINES = "unpack it first", "write its rows as JSON Lines"
_AS_TABLE = f"{_AS_LINES} or Parquet"
_OTHER_FORMS = {
    b"\x1f\x8b": ("gzip data", "name it .gz after the format's, such as .jsonl.gz"),
    b"PAR1": ("Parquet", "name it .parquet"),
    b"PARE": ("encrypted Parquet", "write it without encryption"),
    b"ARROW1": ("an Arrow file", "name it .arrow"),
    b"\xff\xff\xff\xff": ("an Arrow stream", "name it .arrow"),
    b"PK\x03\x04": ("a zip archive", "name it .zip"),
    b"PK\x05\x06": ("an empty zip archive", "name a file that holds rows"),
    b"\x28\xb5\x2f\xfd": ("Zstandard data", _UNPACK),
    b"BZh": ("bzip2 data", _UNPACK),
    b"\xfd7zXZ\x00": ("xz data", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _UNPACK),
    b"\xd0\xcf\x11\xe0": ("an old Excel sheet", "save it as CSV"),
    b"SQLite format 3\x00": ("an SQLite database", _AS_LINES),
    b"\x89HDF\r\n": ("HDF5", _AS_TABLE),
    b"\x93NUMPY": ("a NumPy array", _AS_TABLE),
    b"\x80\x04\x95": ("a Python pickle", _AS_TABLE),
    b"version https://git-lfs": ("a Git LFS pointer", "fetch what it points to (git lfs pull)"),
    **dict.fromkeys(
        (b"<!DOCTYPE", b"<!doctype", b"<html"), ("a web page", "fetch the file itself")
    ),
    b"<?xml": ("XML", _AS_LINES),
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
    def stem(self) -> str:
        """The bare name, without directories and suffixes."""
        return Path(self.member or self.path.name).name.split(".")[0]

    @property
    def is_document(self) -> bool:
        """True if the name says one JSON text, rather than one a line."""
        return ".json" in Path((self.member or self.path.name).lower()).suffixes

    @property
    def format(self) -> str:
        """One of the formats of `FORMATS`."""
        return _format(self.member or self.path.name)


def locate(path: str | os.PathLike[str], repository: str, patterns: Sequence[str]) -> Path:
    """The file or directory of a source.

    Args:
      path: a file or directory; or, where nothing is there, a repository as "owner/name" or
        "owner/name@revision", which is downloaded where it is not in the hub's own cache; or "" for
        the one that the kind is published in.
      repository: that one; empty where there is none.
      patterns: which of a repository's files are downloaded.

    Raises:
      ValueError: nothing of that name is here, and what to do.
    """
    name = os.fspath(path) or repository
    if not name:
        raise ValueError("expected the path of a file or directory, got none; name it")
    local = Path(name).expanduser()
    if os.fspath(path) and local.exists():
        return local.resolve()
    if not hub.is_repository(name):
        raise ValueError(
            f"nothing is at {name!r}: expected a file, a directory, or a dataset repository as "
            "owner/name; mend the path"
        )
    return hub.download(
        name,
        patterns,
        kind="dataset",
        subject=f"the dataset {name!r}, which is no file here either",
        remedy=" Or name the path of a copy",
    )


def source_files(root: Path, leave_out: Sequence[str] = ()) -> tuple[SourceFile, ...]:
    """The files of a source, sorted by name.

    Args:
      root: a file, or a directory that is searched with all below it. Zip archives stand for the
        files inside them; hidden files, descriptions of a dataset, and files that its description
        does not list are passed over.
      leave_out: stems of files and archives that are passed over, too.

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
        name = relative.as_posix()
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or path.name in DESCRIPTIONS or relative.stem in leave_out:
            continue
        if (path.is_dir() and not path.is_symlink()) or (layout and not layout.has(path, name)):
            continue
        if layout and path.is_dir():
            raise ValueError(
                f"{path} is a link to a directory, which is not followed; name that directory, or "
                "move it here"
            )
        is_archive = path.suffix.lower() == _ARCHIVE
        if not is_archive and not _format(path.name):
            others.append(name)
            continue
        check_regular(path, name)
        if not path.exists():
            raise ValueError(f"{path} is a link to nothing; fetch what it should point to")
        found = _members(path, name) if is_archive else [SourceFile(path, name)]
        # A file is what its user names it for; an archive is as good as a directory.
        said = layout.split if layout else (lambda name: split_of(name.partition(":")[2]))
        files += [dataclasses.replace(file, split=said(file.name)) for file in found]
    if not files:
        there = f" (which has {', '.join(others[:5])})" if others else ""
        raise ValueError(
            f"expected {', '.join(FORMATS)} files (the text formats also as {_PACKED}, or in a "
            f"{_ARCHIVE} archive) at {root}{there}, found none; name the file or directory that "
            "has them"
        )
    for name in others:
        _check_packing(name)
    return tuple(files)


def _check_packing(name: str) -> None:
    """Raises ValueError if a file of a known format is packed in a way that is not read."""
    *_, inner, outer = ("", "", *Path(name.lower()).suffixes)
    if inner in FORMATS and outer in _PACKINGS and not _format(name):
        raise ValueError(
            f"{name} is packed as {outer}, which {inner} files are not read from; unpack it first"
        )


def _format(name: str) -> str:
    """The format that a file's name says; empty where it says none."""
    *_, inner, outer = ("", "", *Path(name.lower()).suffixes)
    if outer == _PACKED:
        return FORMATS[inner] if FORMATS.get(inner) in TEXT_FORMATS else ""
    return FORMATS.get(outer, "")


def _members(path: Path, name: str) -> list[SourceFile]:
    """The files of text formats in a zip archive, sorted by name."""
    members = []
    with reading_errors(path, name), zipfile.ZipFile(path) as archive:
        for info in sorted(archive.infolist(), key=lambda info: info.filename):
            inside, known = Path(info.filename), _format(info.filename)
            _check_packing(info.filename)
            if known not in ("", *TEXT_FORMATS):
                raise ValueError(f"{name}:{info.filename} lies in an archive; unpack it first")
            # macOS adds its own to archives.
            passed_over = inside.name.startswith(".") or "__MACOSX" in inside.parts
            if known and not info.is_dir() and not passed_over and inside.name not in DESCRIPTIONS:
                members.append(info)
        names = [info.filename for info in members]
        if len(names) > len(set(names)):
            raise ValueError(f"{name} holds several files of one name; unpack it first")
        check_size(sum(info.file_size for info in members), path.stat().st_size, name)
    return [SourceFile(path, f"{name}:{info.filename}", info.filename) for info in members]


@contextlib.contextmanager
def opened(file: SourceFile) -> Iterator[IO[bytes]]:
    """Opens a file of a text format as unpacked bytes, which are never all in memory.

    Raises:
      ValueError: while it is read, something packed in it that unpacks to far more than rows do.
    """
    with contextlib.ExitStack() as stack:
        if file.member:
            archive = stack.enter_context(zipfile.ZipFile(file.path))
            info = archive.getinfo(file.member)
            if info.flag_bits & 1:
                raise ValueError(f"{file.name} is encrypted; unpack the archive first")
            stream, size = stack.enter_context(archive.open(info)), info.compress_size
        else:
            stream = stack.enter_context(open(file.path, "rb"))
            size = os.fstat(stream.fileno()).st_size
        if (file.member or file.path.name).lower().endswith(_PACKED):
            unpacked = stack.enter_context(gzip.GzipFile(fileobj=stream))
            stream = io.BufferedReader(_Bounded(cast(IO[bytes], unpacked), size, file.name))
        yield stream


def check_size(unpacked: int, packed: int, name: str) -> None:
    """Raises ValueError if so many bytes were packed into so few that they are no rows of text."""
    if unpacked > max(_UNPACKED_FREELY, _MOST_PACKED * packed):
        raise ValueError(
            f"{name} unpacks to more than {_MOST_PACKED} times its {packed:,} bytes, which rows of "
            "text do not; if it is meant, unpack it first"
        )


class _Bounded(io.RawIOBase):
    """Unpacked bytes, of which there may be only so many."""

    def __init__(self, stream: IO[bytes], packed: int, name: str):
        self._stream, self._packed, self._name = stream, packed, name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._stream.read(len(buffer))
        check_size(self._stream.tell(), self._packed, self._name)
        buffer[: len(part)] = part
        return len(part)


def check_format(start: bytes, name: str, wanted: str = "", magic: tuple[bytes, ...] = ()) -> None:
    """Raises ValueError if a file begins as one of another format than its name says.

    Args:
      start: its first bytes.
      name: what errors call it.
      wanted, magic: of a format that is no text, its name and how such files begin.
    """
    if wanted and (not start or start.startswith(magic)):
        return
    stripped = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for begin, (found, remedy) in _OTHER_FORMS.items():
        if start.startswith(begin) or (begin[:1] == b"<" and stripped.startswith(begin)):
            raise ValueError(f"{name} is {found}, which its name does not say; {remedy}")
    if wanted and not any(byte < 9 for byte in start):
        raise ValueError(
            f"{name} is text, and its name says .{wanted}; name it by its format (.jsonl, .csv)"
        )


@contextlib.contextmanager
def reading_errors(
    path: Path, name: str, errors: tuple[type[Exception], ...] = _DAMAGED
) -> Iterator[None]:
    """Says of a file that cannot be read which it is and why: damaged, or whatever else.

    Args:
      path, name: the file, and what the error calls it.
      errors: what a reader raises at a damaged file.
    """
    with reading(path, name):
        try:
            yield
        except errors as error:
            if isinstance(error, OSError) and error.filename is not None:
                raise  # it may not be read
            raise ValueError(
                f"{name} is damaged or cut short ({one_line(error)}); fetch or write it again"
            ) from None


def content_digest(files: Sequence[SourceFile], cache: str | os.PathLike[str]) -> str:
    """SHA-256 of the names and the content of files, in order; see also `check_unchanged`.

    A file of gigabytes is not read at every start: the digest of a file is kept under `cache`, and
    holds as long as the file's path, size and time of modification (in nanoseconds) are the same.

    Args:
      files: the files; an archive counts as a whole.
      cache: directory of the digests that are known.
    """
    known = {path: _file_digest(path, epath.Path(cache)) for path in {f.path: "" for f in files}}
    content = [[file.name, known[file.path]] for file in files]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def check_unchanged(
    files: Sequence[SourceFile], digest: str, cache: str | os.PathLike[str]
) -> None:
    """Raises ValueError unless files that were read have the content that they had before.

    Only a file that was touched since is hashed again.

    Args:
      files, cache: as `content_digest` was given them.
      digest: what it returned.
    """
    try:
        if content_digest(files, cache) == digest:
            return
    except OSError:
        pass
    raise changed()


def changed() -> ValueError:
    """The error for a source that is not what it was."""
    return ValueError(
        "expected the source to stay as it is, but it changed while it was read; start again "
        "when nothing writes to it"
    )


def _file_digest(path: Path, cache: epath.Path) -> str:
    """SHA-256 of a file's bytes, from the cache where the file is unchanged."""
    check_regular(path)
    path = path.resolve()
    place = cache / f"{hashlib.sha256(os.fspath(path).encode()).hexdigest()[:32]}.json"
    state = {"path": os.fspath(path), "size": path.stat().st_size, "time": path.stat().st_mtime_ns}
    with contextlib.suppress(OSError, ValueError, RecursionError):
        kept = json.loads(place.read_text())
        if isinstance(kept, dict) and state.items() <= kept.items():
            digest = str(kept.get("digest"))
            if _DIGEST.fullmatch(digest):
                return digest
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    cache.mkdir(parents=True, exist_ok=True)
    # Another process that reads the cache sees the whole entry or none.
    half = place.with_suffix(f".{os.getpid()}")
    half.write_text(json.dumps(state | {"digest": digest}))
    half.replace(place)
    return digest
