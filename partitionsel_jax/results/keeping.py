"""From an ablation's workdir to a study that can be committed."""

import dataclasses
import os
import platform
import re

from etils import epath

from partitionsel_jax.results import claims, records
from partitionsel_jax.results.writing import SCALES


def keep(
    workdir: epath.PathLike,
    studies: epath.PathLike,
    *,
    scale: str,
    claim: str,
    command: str | None = None,
    hardware: str | None = None,
) -> epath.Path:
    """Keeps what the finished runs of an ablation have shown, in `studies/SCALE/CLAIM`.

    Args:
      workdir: of `experiments.ablate`.
      studies: the folder of all studies.
      scale: one of `SCALES`.
      claim: the name of the config in `configs/reproduce`.
      command: what made the runs; None for the config's own command.
      hardware: where they ran; None for this machine.

    Returns:
      The study's folder.

    Raises:
      ValueError: an unknown scale or claim, or what `records.collect` refuses.
    """
    for what, name, known in (("scale", scale, SCALES), ("claim", claim, claims.SECTIONS)):
        if name not in known:
            raise ValueError(f"expected a {what} of {list(known)}, got {name!r}")
    chosen = "" if scale == next(iter(SCALES)) else f":scale={scale}"
    own = f"python -m experiments.ablate --config=configs/reproduce/{claim}.py{chosen}"
    study = records.collect(workdir, claim, {"command": command or own})
    about = {**study.about, "hardware": hardware or _hardware(study.results[0].about["device"])}
    folder = epath.Path(studies) / scale / claim
    records.write(dataclasses.replace(study, about=about), folder)
    return folder


def _hardware(device: str) -> str:
    """This machine in a few words; `device` is what the runs have noted."""
    try:
        with open("/proc/cpuinfo") as file:
            found = re.search(r"model name\s*: (.*)", file.read())
    except OSError:
        found = None
    processor = found.group(1).strip() if found else platform.machine()
    cores = f"{os.cpu_count()} cores of {processor}"
    return cores if "cpu" in device else f"{device}, {cores}"
