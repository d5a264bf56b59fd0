"""What a machine lacks when something fails for want of it, and what to do about that."""

import errno
import re

_FULL = "make room on the disk, then give the same command again; what is saved goes on from there"
_REMEDIES = (
    (errno.ENOSPC, r"no space left on device", f"the disk is full: {_FULL}"),
    (errno.EDQUOT, r"disk quota exceeded", f"the quota of the disk is used up: {_FULL}"),
    (
        errno.EMFILE,
        r"too many open files",
        "too few files may be open at once: raise the limit (ulimit -n 4096), then give the same "
        "command again",
    ),
    (errno.ENFILE, r"too many open files in system", "this machine has too many files open"),
    (
        errno.ENOMEM,
        r"RESOURCE_EXHAUSTED|cannot allocate memory|out of memory",
        "there is too little memory: make what is computed at once smaller (features.microbatch, "
        "training.microbatch, evaluation.batch, data.length), or use a larger machine",
    ),
)


def remedy(error: BaseException) -> str:
    """What the machine lacks, and what to do; "" for an error that does not come of that.

    Libraries wrap what the system says into errors of their own, or put it into their text.
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        for number, text, found in _REMEDIES:
            if isinstance(link, OSError) and link.errno == number:
                return found
            if isinstance(link, MemoryError) and number == errno.ENOMEM:
                return found
            if re.search(text, str(link), re.IGNORECASE):
                return found
        link = link.__cause__ or link.__context__
    return ""
