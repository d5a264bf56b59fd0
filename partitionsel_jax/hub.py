"""Repositories of the Hugging Face hub: their names, and their download."""

import re
from collections.abc import Sequence
from pathlib import Path

_REPOSITORY = re.compile(r"(?!\.)[\w.-]+/[\w.-]+(@[\w./-]+)?")


def is_repository(name: str) -> bool:
    """Returns whether a name has the form of "owner/name" or "owner/name@revision"."""
    return bool(_REPOSITORY.fullmatch(name))


def parted(repository: str) -> tuple[str, str | None]:
    """Splits "owner/name@revision" into the repository's name and its revision."""
    name, _, revision = repository.partition("@")
    return name, revision or None


def download(
    repository: str,
    patterns: Sequence[str],
    *,
    kind: str,
    subject: str,
    remedy: str = "",
    directory: Path | None = None,
) -> Path:
    """Downloads files of a repository; into the hub's own cache unless a directory is given.

    Args:
      repository: "owner/name" or "owner/name@revision".
      patterns: which of its files.
      kind: "model" or "dataset".
      subject: what errors say cannot be downloaded.
      remedy: more advice at the end of such an error.
      directory: where the files go.

    Raises:
      ValueError: no `huggingface_hub`, no such repository, no access, or no network.
    """
    try:
        import huggingface_hub as hub
    except ImportError:
        raise ValueError(
            f"downloading {repository!r} from a hub needs the package huggingface_hub: pip install "
            "huggingface_hub"
        ) from None
    name, revision = parted(repository)
    try:
        folder = hub.snapshot_download(
            name,
            repo_type=kind,
            revision=revision,
            allow_patterns=list(patterns),
            local_dir=directory,
        )
    except Exception as error:  # of the network, of HTTP, or of the hub's own making
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"cannot download {subject} ({type(error).__name__}: {reason}): is there a network, is "
            f"the name right, and does it ask for a licence and a login (hf auth login)?{remedy}"
        ) from None
    return Path(folder)
