"""From the name of a model to its files: a path, a preset in the cache, or a repository."""

import difflib
import os
from pathlib import Path

from partitionsel_jax import hub
from partitionsel_jax.models.config import DecoderConfig
from partitionsel_jax.models.pretrained import tiny
from partitionsel_jax.models.pretrained.checkpoint import describe
from partitionsel_jax.models.pretrained.description import CONFIG, check_local
from partitionsel_jax.models.pretrained.presets import PRESETS

# What a checkpoint is read from; a repository may hold the same weights in other formats, and code.
FILES = ("*.json", "*.safetensors", "*.jinja")


def cache_directory() -> Path:
    """Where fetched models lie."""
    return Path("~/.cache/partitionsel_jax/models").expanduser()


def cached(name: str) -> Path | None:
    """The preset's checkpoint in the cache, if it is there."""
    folder = cache_directory() / name
    if (folder / CONFIG).exists():
        return folder
    return next(iter(sorted(folder.glob("*.gguf"))), None)


def as_path(name: str) -> Path | None:
    """The absolute path that a name means; None for a preset, and where nothing is there."""
    path = Path(name).expanduser()
    known = name in PRESETS or name in tiny.TINY
    return None if known or not path.exists() else path.resolve()


def locate(name: str | os.PathLike[str]) -> Path:
    """The directory or GGUF file of a model.

    Args:
      name: a preset, which `experiments.fetch` has brought (the tiny random ones are made when
        they are first asked for); a path, written as "./name" where a preset has that name; or a
        hub's repository as "owner/name" or "owner/name@revision", which is downloaded where it is
        not in the hub's own cache.

    Raises:
      ValueError: nothing of that name is here, and how to get it.
    """
    text = os.fspath(name)
    if text in tiny.TINY:
        return cached(text) or tiny.write(text, cache_directory() / text)
    if text in PRESETS:
        found = cached(text)
        if found is None:
            raise ValueError(
                f"the model {text!r} is not on this machine yet: run "
                f"'python -m experiments.fetch --model={text}'"
            )
        return found
    check_local(text)
    if (path := as_path(text)) is not None:
        return path
    if hub.is_repository(text):
        return download(text)
    near = difflib.get_close_matches(text, [*PRESETS, *tiny.TINY], n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(
        f"no model {text!r}{hint}: expected a checkpoint directory, a .gguf file, a repository as "
        f"owner/name, or one of {sorted(PRESETS)}"
    )


def shape_of(name: str | os.PathLike[str]) -> DecoderConfig:
    """The decoder of a model; of a preset that was not fetched yet, what is known of it."""
    text = os.fspath(name)
    if text in PRESETS and cached(text) is None:
        return PRESETS[text].config
    return describe(locate(name))


def download(repository: str, directory: Path | None = None) -> Path:
    """Downloads a repository's checkpoint; into the hub's own cache unless a directory is given.

    Args:
      repository: "owner/name" or "owner/name@revision".

    Raises:
      ValueError: as `hub.download`.
    """
    return hub.download(
        repository,
        FILES,
        kind="model",
        subject=f"{repository!r}, which is no directory here either",
        directory=directory,
    )
