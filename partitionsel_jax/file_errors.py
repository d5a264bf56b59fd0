"""One place where everything that can go wrong while a file is read becomes one line.

Files come from anywhere: cut short, edited by hand, or made to do harm. A parser may raise whatever
it likes at them, and a program that reads one says which file it was and why it cannot be used.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

# Opening a pipe waits for its other end for ever.
_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextlib.contextmanager
def reading(path: str | os.PathLike[str], name: str = "") -> Iterator[None]:
    """Raises whatever goes wrong while a file is read as one line that names the file.

    An OSError that names its file passes as it is, and so does a ValueError that has the file's
    name in it. Any parser may be in the body.

    Args:
      path: the file, on disk or in a bucket.
      name: what the message calls it; the path if empty.

    Raises:
      ValueError: the path is a pipe, a socket or a device, or the body raised any other exception.
    """
    name = name or os.fspath(path)
    check_regular(path, name)
    try:
        yield
    except Exception as error:
        # Parsers raise OSErrors of their own, which know no file.
        if isinstance(error, OSError) and error.filename is not None:
            raise
        if isinstance(error, ValueError) and name in str(error):
            raise
        raise ValueError(f"{name} cannot be read ({one_line(error)})") from error


def check_regular(path: str | os.PathLike[str], name: str = "") -> None:
    """Raises ValueError if a path is there and is neither a file nor a directory."""
    try:
        kind = _SPECIAL.get(stat.S_IFMT(Path(path).stat().st_mode))
    except (OSError, ValueError):
        return  # not there, in a bucket, or no path at all: opening it says so
    if kind:
        raise ValueError(f"expected {name or os.fspath(path)} to be a file, got {kind}")


def one_line(error: BaseException) -> str:
    """Returns an exception's text in one line, with its type where the text says too little."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    text = " ".join(str(error).split())[:300]
    if isinstance(error, ValueError | OSError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
