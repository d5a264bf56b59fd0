"""The files of a source: which there are, how they are opened, and a digest of what they hold."""

import codecs
import contextlib
import dataclasses
import gzip
import hashlib
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, cast

from etils import epath

# Suffix -> format.
FORMATS = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".parquet": "parquet",
}
_PACKED = ".gz"
_ARCHIVE = ".zip"
# What describes a dataset beside its rows.
_DESCRIPTIONS = ("dataset_infos.json", "dataset_info.json", "config.json")
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile)
_DIGEST = re.compile("[0-9a-f]{64}")
# First bytes of what no text begins with -> what it is, and the suffixes it may have.
_OTHER_FORMATS = {
    b"\x1f\x8b": ("gzip data", f"{_PACKED} after the format's, such as .jsonl{_PACKED}"),
    b"PAR1": ("Parquet", ".parquet"),
    b"PK\x03\x04": ("a zip archive", _ARCHIVE),
}


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file that rows are read from.

    Attributes:
      path: the file on disk.
      member: the file inside it, where it is a zip archive.
      name: what errors and reports call it: the path below the source's root.
    """

    path: Path
    name: str
    member: str = ""

    @property
    def stem(self) -> str:
        """The bare name, without directories and suffixes."""
        return Path(self.member or self.path.name).name.split(".")[0]

    @property
    def is_document(self) -> bool:
        """Whether the name says one JSON text, rather than one a line."""
        return ".json" in Path(self.member or self.path.name).suffixes

    @property
    def format(self) -> str:
        """One of the formats of `FORMATS`."""
        return _format(self.member or self.path.name)


def source_files(root: Path, leave_out: Sequence[str] = ()) -> tuple[SourceFile, ...]:
    """The files of a source, sorted by name.

    Args:
      root: a file, or a directory that is searched with all below it. Zip archives stand for the
        files inside them; hidden files, and what describes a dataset, are passed over.
      leave_out: stems of files and archives that are passed over, too.

    Raises:
      ValueError: no file of a known format, or a damaged archive.
    """
    if root.is_dir():
        below = sorted(path for path in root.rglob("*") if path.is_file())
        found = [(path, path.relative_to(root)) for path in below]
    else:
        found = [(root, Path(root.name))]
    files = []
    for path, relative in found:
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or path.name in _DESCRIPTIONS or relative.stem in leave_out:
            continue
        if path.suffix == _ARCHIVE:
            files += _members(path, relative)
        elif _format(path.name):
            files.append(SourceFile(path, relative.as_posix()))
    if not files:
        raise ValueError(
            f"expected {', '.join(FORMATS)} files (the text formats also as {_PACKED}, or in a "
            f"{_ARCHIVE} archive) at {root}, found none; name the file or directory that has them"
        )
    return tuple(files)


def _format(name: str) -> str:
    """The format that a file's name says; empty where it says none."""
    suffixes = Path(name).suffixes
    if suffixes[-1:] == [_PACKED]:
        inner = FORMATS.get("".join(suffixes[-2:-1]), "")
        return "" if inner == "parquet" else inner
    return FORMATS.get("".join(suffixes[-1:]), "")


def _members(path: Path, relative: Path) -> list[SourceFile]:
    """The files of text formats in a zip archive, sorted by name."""
    with reading_errors(relative.as_posix()), zipfile.ZipFile(path) as archive:
        names = sorted(info.filename for info in archive.infolist() if not info.is_dir())
    return [
        SourceFile(path, f"{relative.as_posix()}:{name}", name)
        for name in names
        if _format(name) in ("json", "csv")
        and not Path(name).name.startswith(".")
        # What macOS adds to archives.
        and "__MACOSX" not in Path(name).parts
    ]


@contextlib.contextmanager
def opened(file: SourceFile) -> Iterator[IO[bytes]]:
    """Opens a file of a text format as unpacked bytes, which are never all in memory."""
    with contextlib.ExitStack() as stack:
        if file.member:
            archive = stack.enter_context(zipfile.ZipFile(file.path))
            stream = stack.enter_context(archive.open(file.member))
        else:
            stream = stack.enter_context(open(file.path, "rb"))
        if (file.member or file.path.name).endswith(_PACKED):
            stream = cast(IO[bytes], stack.enter_context(gzip.GzipFile(fileobj=stream)))
        yield stream


def check_text(start: bytes, name: str) -> None:
    """Raises ValueError if a file of a text format begins as no UTF-8 text does."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{name} is UTF-16, and text is read as UTF-8; write it as UTF-8")
    for magic, (found, suffix) in _OTHER_FORMATS.items():
        if start.startswith(magic):
            raise ValueError(f"{name} is {found}, which its name does not say; name it {suffix}")


@contextlib.contextmanager
def reading_errors(name: str, errors: tuple[type[Exception], ...] = _DAMAGED) -> Iterator[None]:
    """Says of a damaged file which it is and what to do.

    Args:
      name: what the error calls the file.
      errors: what a reader raises at a damaged file.
    """
    try:
        yield
    except errors as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{name} is damaged or cut short ({reason}); fetch or write it again"
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
