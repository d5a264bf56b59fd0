"""What a file is, told by its first bytes: which text encoding, or which form that is no text."""

import codecs
import io
from typing import IO, Any

# First bytes -> what a file is that begins so, and what is to be done about it.
_FORMS = {
    b"\x1f\x8b": ("gzip data", "name it .gz after the format's, such as .jsonl.gz"),
    b"PAR1": ("Parquet", "name it .parquet"),
    b"PARE": ("encrypted Parquet", "write it without encryption"),
    b"ARROW1": ("an Arrow file", "name it .arrow"),
    b"\xff\xff\xff\xff": ("an Arrow stream", "name it .arrow"),
    b"PK\x03\x04": ("a zip archive", "name it .zip"),
    b"PK\x05\x06": ("an empty zip archive", "name a file that holds rows"),
    b"\x28\xb5\x2f\xfd": ("Zstandard data", "unpack it first"),
    b"BZh": ("bzip2 data", "unpack it first"),
    b"\xfd7zXZ\x00": ("xz data", "unpack it first"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it first"),
    b"\xd0\xcf\x11\xe0": ("an old Excel sheet", "save it as CSV"),
    b"SQLite format 3\x00": ("an SQLite database", "write its rows as JSON Lines"),
    b"\x89HDF\r\n": ("HDF5", "write its rows as JSON Lines or Parquet"),
    b"\x93NUMPY": ("a NumPy array", "write its rows as JSON Lines or Parquet"),
    b"\x80\x04\x95": ("a Python pickle", "write its rows as JSON Lines or Parquet"),
    b"version https://git-lfs": ("a Git LFS pointer", "fetch what it points to (git lfs pull)"),
    b"<!DOCTYPE": ("a web page", "fetch the file itself"),
    b"<!doctype": ("a web page", "fetch the file itself"),
    b"<html": ("a web page", "fetch the file itself"),
    b"<?xml": ("XML", "write its rows as JSON Lines"),
}
# Byte order marks; that of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
# How much of a text decides its encoding, and the least part of it that white space and the signs
# of JSON or CSV are. Letters do not count: in the wrong order, Chinese has some of them.
_SAMPLE, _LEAST_SIGNS = 1 << 14, 0.01
_SIGNS = frozenset('{}[]":,;\t\n\r ')
_CHUNK = 1 << 18


def check_text(start: bytes, name: str) -> None:
    """Raises ValueError if a file of a text format begins as no text does."""
    stripped = start.removeprefix(codecs.BOM_UTF8).lstrip()
    for magic, (found, remedy) in _FORMS.items():
        if start.startswith(magic) or (magic[:1] == b"<" and stripped.startswith(magic)):
            raise ValueError(f"{name} is {found}, which its name does not say; {remedy}")


def check_binary(start: bytes, magic: tuple[bytes, ...], name: str, wanted: str) -> None:
    """Raises ValueError if a file of a format that is no text begins as one of another does."""
    if not start or start.startswith(magic):
        return
    check_text(start, name)
    if not any(byte < 9 for byte in start):
        raise ValueError(
            f"{name} is text, and its name says {wanted}; name it by its format (.jsonl, .csv)"
        )


def text_encoding(start: bytes) -> str:
    """The encoding of a text, as the codecs are called: UTF-8, or UTF-16 or UTF-32 of either order.

    Without a byte order mark, the one is chosen in which the text has most of JSON's and CSV's own
    signs.
    """
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            return encoding
    sample = start[:_SAMPLE]
    if b"\0" not in sample:
        return "utf-8"
    shares = {encoding: _sign_share(sample, encoding) for encoding in _MARKS.values()}
    best = max(shares, key=shares.__getitem__)
    return best if shares[best] >= _LEAST_SIGNS else "utf-8"


def _sign_share(sample: bytes, encoding: str) -> float:
    """The part of a sample's characters that are `_SIGNS`; 0 where it is no text at all."""
    try:
        text = codecs.getincrementaldecoder(encoding)("surrogatepass").decode(sample)
    except UnicodeDecodeError:
        return 0.0
    return 0.0 if "\0" in text else sum(c in _SIGNS for c in text) / max(len(text), 1)


class _Recoded(io.RawIOBase):
    """The bytes of a stream, some of which were read already, as UTF-8."""

    def __init__(self, start: bytes, stream: IO[bytes], encoding: str):
        self.ready, self._stream = start, stream
        self._decoder: Any = None
        if encoding != "utf-8":
            self._decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
            self.ready = self._converted(start)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready:
            chunk = self._stream.read(_CHUNK)
            self.ready = self._converted(chunk)
            if not chunk:
                break
        part = self.ready[: len(buffer)]
        buffer[: len(part)] = part
        self.ready = self.ready[len(part) :]
        return len(part)

    def _converted(self, chunk: bytes) -> bytes:
        if self._decoder is None:
            return chunk
        # A lone surrogate becomes bytes that are not UTF-8, which the row is told to have.
        return self._decoder.decode(chunk, final=not chunk).encode("utf-8", "surrogatepass")


def as_utf8(stream: IO[bytes], name: str, size: int) -> tuple[bytes, bool, IO[bytes]]:
    """Looks into a text.

    Args:
      stream: its bytes.
      name: what errors call the file.
      size: how many of them are looked at.

    Returns:
      The first bytes as UTF-8; whether that is all there is; and all of the text as UTF-8. A byte
      order mark stays.

    Raises:
      ValueError: the file is no text.
    """
    start = stream.read(size)
    check_text(start, name)
    raw = _Recoded(start, stream, text_encoding(start))
    return raw.ready, len(start) < size, io.BufferedReader(raw, _CHUNK)


def as_text(stream: IO[bytes]) -> IO[str]:
    """The text of bytes, with surrogates for those that are not UTF-8."""
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
