"""From what the user calls a source to its files: a path here, or a dataset repository of a hub."""

import importlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


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
    if not _REPOSITORY.fullmatch(name) or name.startswith("."):
        raise ValueError(
            f"nothing is at {name!r}: expected a file, a directory, or a dataset repository as "
            "owner/name; mend the path"
        )
    return _download(name, patterns)


def _download(name: str, patterns: Sequence[str]) -> Path:
    """The directory that a repository was downloaded to."""
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError:
        raise ValueError(
            f"{name!r} is nothing here, and downloading from a hub needs the package "
            "huggingface_hub: pip install 'partitionsel_jax[hub]'"
        ) from None
    repository, _, revision = name.partition("@")
    try:
        folder = hub.snapshot_download(
            repository,
            repo_type="dataset",
            revision=revision or None,
            allow_patterns=list(patterns),
        )
    except Exception as error:  # of the network, of HTTP, or of the hub's own making
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(
            f"cannot download the dataset {name!r}, which is no file here either "
            f"({type(error).__name__}: {reason}): is there a network, is the name right, and does "
            "it ask for a licence and a login (hf auth login)? Or name the path of a copy"
        ) from None
    return Path(folder)
