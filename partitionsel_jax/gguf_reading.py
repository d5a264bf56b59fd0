"""Opening GGUF files (llama.cpp's format), for their tensors and for their tokenizer alike."""

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gguf import GGUFReader


def open_gguf(path: str | os.PathLike[str]) -> "GGUFReader":
    """The reader of a file; the same one while the file stays as it is.

    Raises:
      ValueError: a file that is missing, damaged, or of another format.
    """
    path = Path(path)  # a local one, since the file is mapped into memory
    if not path.is_file():
        raise ValueError(f"{path} is missing, or no file")
    status = path.stat()
    return _opened(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=4)
def _opened(path: Path, *state: int) -> "GGUFReader":
    """Remembered, since listing a vocabulary takes seconds."""
    del state
    # Imported late: many a run never sees such a file.
    import gguf

    try:
        return gguf.GGUFReader(path)
    except Exception as error:  # whatever a damaged header makes the reader raise
        raise ValueError(
            f"{path} cannot be read ({error}): it is cut short, damaged, or no GGUF file; "
            "fetch it again"
        ) from None
