"""From what the user calls a source to its files: a path here, or a dataset repository of a hub."""

import os
from collections.abc import Sequence
from pathlib import Path

from partitionsel_jax import hub


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
