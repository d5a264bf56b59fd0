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

from partitionsel_jax.data.sources.published import DESCRIPTIONS, Layout, split_of
from partitionsel_jax.file_errors import check_regular, one_line, reading

# Suffix -> format.
FORMATS = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
TEXT_FORMATS = ("json", "csv")
_PACKED = ".gz"
_ARCHIVE = ".zip"
# What files are packed as; of these, one is read.
_PACKINGS = (_PACKED, ".zst", ".zstd", ".bz2", ".xz", ".lz4", ".br", ".7z", ".rar")
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, UnicodeDecodeError)
_DIGEST = re.compile("[0-9a-f]{64}")
# What is packed by more than so many times, and more than so many bytes then, is no text of rows.
_MOST_PACKED, _UNPACKED_FREELY = 500, 1 << 26


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file that rows are read from.

    Attributes:
      path: the file on disk.
      member: the file inside it, where it is a zip archive.
      name: what errors and reports call it: the path below the source's root.
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
        """Whether the name says one JSON text, rather than one a line."""
        return ".json" in Path((self.member or self.path.name).lower()).suffixes

    @property
    def format(self) -> str:
        """One of the formats of `FORMATS`."""
        return _format(self.member or self.path.name)


def source_files(root: Path, leave_out: Sequence[str] = ()) -> tuple[SourceFile, ...]:
    """The files of a source, sorted by name.

    Args:
      root: a file, or a directory that is searched with all below it. Zip archives stand for the
        files inside them; hidden files, what describes a dataset, and what its description does not
        list are passed over.
      leave_out: stems of files and archives that are passed over, too.

    Raises:
      ValueError: no file of a known format, one that is there and no file (a pipe, a link to
        nothing), a damaged archive, or a file that is named for several splits.
    """
    check_regular(root)
    layout = Layout(root) if root.is_dir() else None
    if layout:
        below = sorted(root.rglob("*"))
        found = [(path, path.relative_to(root)) for path in below]
        for path in layout.missing():
            raise ValueError(f"{path} is missing, which the state.json beside it lists; save again")
    else:
        found = [(root, Path(root.name))]
    files, others = [], []
    for path, relative in found:
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or path.name in DESCRIPTIONS or relative.stem in leave_out:
            continue
        if path.is_dir() and not path.is_symlink():
            continue
        if layout and not layout.is_part(path, relative):
            continue
        if layout and path.is_dir():
            raise ValueError(
                f"{path} is a link to a directory, which is not followed; name that directory, or "
                "move it here"
            )
        is_archive = path.suffix.lower() == _ARCHIVE
        if is_archive or _format(path.name):
            check_regular(path, relative.as_posix())
            if not path.exists():
                raise ValueError(f"{path} is a link to nothing; fetch what it should point to")
        if is_archive:
            files += _members(path, relative)
        elif _format(path.name):
            files.append(SourceFile(path, relative.as_posix()))
        else:
            others.append(relative.as_posix())
    if not files:
        there = f" (which has {', '.join(others[:5])})" if others else ""
        raise ValueError(
            f"expected {', '.join(FORMATS)} files (the text formats also as {_PACKED}, or in a "
            f"{_ARCHIVE} archive) at {root}{there}, found none; name the file or directory that "
            "has them"
        )
    for name in others:
        _check_packing(name)
    if layout:
        return tuple(dataclasses.replace(f, split=layout.split(f.name)) for f in files)
    # A file is what its user names it for; an archive is as good as a directory.
    return tuple(
        dataclasses.replace(file, split=split_of(file.member) if file.member else "")
        for file in files
    )


def _check_packing(name: str) -> None:
    """Raises ValueError if a file of a known format is packed as none is read."""
    *_, inner, outer = ("", "", *Path(name.lower()).suffixes)
    if inner in FORMATS and outer in _PACKINGS and not _format(name):
        raise ValueError(
            f"{name} is packed as {outer}, which {inner} files are not read from; unpack it first"
        )


def _format(name: str) -> str:
    """The format that a file's name says; empty where it says none."""
    suffixes = Path(name.lower()).suffixes
    if suffixes[-1:] == [_PACKED]:
        inner = FORMATS.get("".join(suffixes[-2:-1]), "")
        return inner if inner in TEXT_FORMATS else ""
    return FORMATS.get("".join(suffixes[-1:]), "")


def _members(path: Path, relative: Path) -> list[SourceFile]:
    """The files of text formats in a zip archive, sorted by name."""
    name = relative.as_posix()
    with reading_errors(path, name), zipfile.ZipFile(path) as archive:
        infos = sorted(archive.infolist(), key=lambda info: info.filename)
        members = [
            info
            for info in infos
            if not info.is_dir()
            and _format(info.filename) in TEXT_FORMATS
            and not Path(info.filename).name.startswith(".")
            and Path(info.filename).name not in DESCRIPTIONS
            # What macOS adds to archives.
            and "__MACOSX" not in Path(info.filename).parts
        ]
        for info in infos:
            _check_packing(info.filename)
            if _format(info.filename) not in ("", *TEXT_FORMATS):
                raise ValueError(f"{name}:{info.filename} lies in an archive; unpack it first")
        names = [info.filename for info in members]
        if len(names) > len(set(names)):
            raise ValueError(f"{name} holds several files of one name; unpack it first")
        check_unpacked(sum(info.file_size for info in members), path.stat().st_size, name)
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


def check_unpacked(unpacked: int, packed: int, name: str) -> None:
    """Raises ValueError if so many bytes were packed into so few that they are no rows of text."""
    if unpacked > max(_UNPACKED_FREELY, _MOST_PACKED * packed):
        raise ValueError(
            f"{name} unpacks to more than {_MOST_PACKED} times its {packed:,} bytes, which rows of "
            "text do not; if it is meant, unpack it first"
        )


class _Bounded(io.RawIOBase):
    """Unpacked bytes, of which there may be only so many."""

    def __init__(self, stream: IO[bytes], packed: int, name: str):
        self._stream, self._packed, self._name, self._read = stream, packed, name, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._stream.read(len(buffer))
        self._read += len(part)
        check_unpacked(self._read, self._packed, self._name)
        buffer[: len(part)] = part
        return len(part)


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
    known = {file.path: "" for file in files}
    for path in known:
        known[path] = _file_digest(path, epath.Path(cache))
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
        unchanged = content_digest(files, cache) == digest
    except OSError:
        unchanged = False
    if not unchanged:
        raise changed()


def changed() -> ValueError:
    """What to say of a source that is not what it was."""
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
