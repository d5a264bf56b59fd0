"""Errors that come of a lack of the machine, in words, and what to do about each."""

import dataclasses
import errno
import re

_AGAIN = "then give the same command again"


@dataclasses.dataclass(frozen=True)
class Lack:
    """A lack of the machine.

    Attributes:
      what: in words.
      remedy: what to do.
    """

    what: str
    remedy: str


# By the number of a system's error, or by what libraries that wrap it leave of it: its text.
_LACKS = (
    (
        errno.ENOSPC,
        r"no space left on device",
        Lack("the disk is full", f"make room on it, {_AGAIN}"),
    ),
    (
        errno.EDQUOT,
        r"disk quota exceeded",
        Lack("the disk's quota is used up", f"make room or have it raised, {_AGAIN}"),
    ),
    (
        errno.EMFILE,
        r"too many open files(?! in system)",
        Lack("too few files may be open at once", f"raise the limit (ulimit -n 4096), {_AGAIN}"),
    ),
    (
        errno.ENFILE,
        r"too many open files in system",
        Lack("the machine has too many files open", f"end what holds them, {_AGAIN}"),
    ),
    (
        errno.ENOMEM,
        r"out of memory|cannot allocate memory|unable to allocate",
        Lack(
            "there is too little memory",
            "compute less at once (features.microbatch, training.microbatch, evaluation.batch, "
            "data.length), or use a larger machine",
        ),
    ),
)


def lack(error: BaseException | None) -> Lack | None:
    """The lack that an error comes of; None for any other error."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        for number, text, found in _LACKS:
            if isinstance(error, MemoryError) and number == errno.ENOMEM:
                return found
            if isinstance(error, OSError) and error.errno == number:
                return found
            if re.search(text, str(error), re.IGNORECASE):
                return found
        error = error.__cause__ or error.__context__
    return None
