"""Errors that come of a lack of the machine, in words, and what to do about each."""

import errno
import re
from typing import NamedTuple


class Lack(NamedTuple):
    """A lack of the machine, in words, and what to do about it."""

    what: str
    remedy: str


_AGAIN = "then give the same command again"
# The number of a system's error, and its text, which is what libraries that wrap it leave of it.
_LACKS = {
    (errno.ENOSPC, "no space left on device"): Lack(
        "the disk is full", f"make room on it, {_AGAIN}"
    ),
    (errno.EDQUOT, "disk quota exceeded"): Lack(
        "the disk's quota is used up", f"make room or have it raised, {_AGAIN}"
    ),
    (errno.EMFILE, "too many open files(?! in system)"): Lack(
        "too few files may be open at once", f"raise the limit (ulimit -n 4096), {_AGAIN}"
    ),
    (errno.ENFILE, "too many open files in system"): Lack(
        "the machine has too many files open", f"end what holds them, {_AGAIN}"
    ),
    (errno.ENOMEM, "out of memory|cannot allocate memory|unable to allocate"): Lack(
        "there is too little memory",
        "compute less at once (features.microbatch, training.microbatch, evaluation.batch, "
        "data.length), or use a larger machine",
    ),
}


def lack(error: BaseException | None) -> Lack | None:
    """Returns the lack that an error, or one it was raised from, comes of; else None."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        number = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None)
        for (known, text), found in _LACKS.items():
            if number == known or re.search(text, str(error), re.IGNORECASE):
                return found
        error = error.__cause__ or error.__context__
    return None
