"""From an ablation's workdir to a study that can be committed."""

import dataclasses
import os
import platform
import re
from collections.abc import Collection, Mapping
from typing import Any

from etils import epath

from partitionsel_jax.studies import claims, records
from partitionsel_jax.studies.records import Study
from partitionsel_jax.studies.writing import SCALES


def keep(
    workdir: epath.PathLike,
    studies: epath.PathLike,
    *,
    scale: str,
    claim: str,
    points: Collection[tuple[str, Mapping[str, Any]]],
    command: str | None = None,
    hardware: str | None = None,
) -> epath.Path:
    """Keeps what the finished runs of an ablation have shown, in `studies/SCALE/CLAIM`.

    Args:
      workdir: of `experiments.ablate`.
      studies: the folder of all studies.
      scale: one of `SCALES`.
      claim: the name of the config in `configs/reproduce`.
      points: method and axes of every point of that config.
      command: what made the runs; None for the config's own command.
      hardware: where they ran; None for this machine.

    Returns:
      The study's folder.

    Raises:
      ValueError: an unknown scale or claim, a study that is not whole or of other points, or what
        `records.collect` refuses. What was kept before is then as it was.
    """
    for what, name, known in (("scale", scale, SCALES), ("claim", claim, claims.SECTIONS)):
        if name not in known:
            raise ValueError(f"expected a {what} of {list(known)}, got {name!r}")
    study = records.collect(workdir, claim, {})
    _check(study, points)
    about = {
        **study.about,
        "command": command or _command(study, scale),
        "hardware": hardware or _hardware(study.results[0].about["device"]),
    }
    study = dataclasses.replace(study, about=about)
    claims.section(study)  # that it can be shown
    folder = epath.Path(studies) / scale / claim
    records.write(study, folder)
    return folder


def _check(study: Study, points: Collection[tuple[str, Mapping[str, Any]]]) -> None:
    """Raises ValueError unless all of these points were run, no others, by the same seeds."""
    seeds: dict[str, list[int]] = {}
    for run in study.results:
        seeds.setdefault(_named(run.method, run.axes), []).append(run.seed)
    wanted = {_named(*point) for point in points}
    if different := sorted(wanted ^ set(seeds)):
        what = "lacks" if different[0] in wanted else "has, beside those of its config,"
        raise ValueError(
            f"the study {what} {different[0]} ({len(different)} points differ): is it another "
            "config's workdir, or a part of one?"
        )
    usual = sorted(next(iter(seeds.values())))
    for point, found in seeds.items():
        if sorted(found) != usual:
            raise ValueError(
                f"{point} was run with the seeds {sorted(found)}, and other points with {usual}: "
                "all of them are to have the same"
            )


def _named(method: str, axes: Mapping[str, Any]) -> str:
    return " ".join((method, *(f"{name}={axes[name]!r}" for name in sorted(axes))))


def _command(study: Study, scale: str) -> str:
    """The command that makes such runs."""
    seeds = len({run.seed for run in study.results})
    given = {"scale": scale, "seeds": seeds, "tune": bool(study.trials)}
    usual = {"scale": next(iter(SCALES)), "seeds": 5, "tune": True}
    text = ",".join(f"{name}={value}" for name, value in given.items() if value != usual[name])
    config = f"configs/reproduce/{study.claim}.py" + (f":{text}" if text else "")
    return f"python -m experiments.ablate --config={config}"


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
