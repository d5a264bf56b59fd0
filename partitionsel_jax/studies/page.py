"""From an ablation's workdir to a study, and RESULTS.md with its charts from all studies."""

import dataclasses
import inspect
import os
import platform
import re
from collections.abc import Collection, Mapping
from typing import Any

from etils import epath

from partitionsel_jax.json_files import write_text
from partitionsel_jax.studies import charts, claims, records, tables
from partitionsel_jax.studies.records import Study
from partitionsel_jax.text_table import of_records

# Scales in the order of the page, and what they are.
SCALES = {
    "bytes": "a byte-level Llama of 0.2M parameters on eight reasoning-gym tasks",
    "smollm2": "SmolLM2-135M-Instruct with adapters on eight reasoning-gym tasks",
    "metamath": "Qwen2.5-3B with adapters on MetaMathQA",
    "molecules": "Llama-3.2-3B with adapters on Mol-Instructions",
}

_HOW = """\
* **Seeds.** Every point is trained with the seeds named at its table, which chose no setting.
* **Learning rate.** Where a table's learning rates were tuned, every point chose its own from one
  grid, by the final validation loss of a seed that is not reported; `trials.csv` has all that was
  tried. The test split was read at the end of each run, and before it by pretrained models.
* **±** is half of Student's 95 % interval of the mean over seeds; differences are taken between
  runs of one seed, with their interval in brackets. They are significant, and bold, where it leaves
  out zero. None is corrected for the number of comparisons: of twenty true zeros, one will look
  like a difference.
* **To target** is what a run had spent when its validation curve, linear between evaluations, first
  reached the final loss of the table's baseline (random picks, if it has them) with the same seed,
  relative to what the baseline had spent there: the mean and its interval where all seeds got
  there, else the median and how many did.
* **At equal FLOPs** is the validation loss when a run had spent what its baseline spent altogether,
  less the baseline's final loss. The learning rate of the more expensive run has
  not yet fallen by then, so that this comparison is against it; runs that are planned to be short
  are in (j), (k), (l) and (m).
* **Test accuracy** is the share of test questions whose final answer is right by the rule of its
  task. Studies without it were made while some scorers gave full marks to wrong answers; what they
  said was dropped, and stands here again once their runs are made again.
* **Seconds** are of training alone. Runs of (a) to (j) were made two at a time, a core each, others
  one at a time on both cores.
* **FLOPs** are counted in the traced update: features, selection and update; see the README."""


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
    study = records.collect(workdir, claim)
    _check(study, points)
    about = {
        "command": command or _command(study, scale),
        "hardware": hardware or _hardware(study.runs["device"].iloc[0]),
    }
    study = dataclasses.replace(study, about={**about, **study.about})
    claims.shown(study)  # that it can be shown
    folder = epath.Path(studies) / scale / claim
    records.write(study, folder)
    return folder


def _check(study: Study, points: Collection[tuple[str, Mapping[str, Any]]]) -> None:
    """Raises ValueError unless all of these points were run, no others, by the same seeds."""

    def named(method: str, axes: Mapping[str, Any]) -> str:
        values = sorted((name, value) for name, value in axes.items() if value is not None)
        return " ".join((method, *(f"{name}={value!r}" for name, value in values)))

    seeds: dict[str, list[int]] = {}
    for run in study.runs.to_dict("records"):
        point = named(run["method"], {axis: run[axis] for axis in study.axes})
        seeds.setdefault(point, []).append(run["seed"])
    wanted = {named(*point) for point in points}
    if different := sorted(wanted ^ set(seeds)):
        what = "lacks" if different[0] in wanted else "has, beside those of its config,"
        raise ValueError(
            f"the study {what} {different[0]} ({len(different)} points differ): is it another "
            "config's workdir, or a part of one?"
        )
    usual = sorted(next(iter(seeds.values())))
    if other := [point for point, found in seeds.items() if sorted(found) != usual]:
        raise ValueError(
            f"{other[0]} was run with the seeds {sorted(seeds[other[0]])}, and other points with "
            f"{usual}: all of them are to have the same"
        )


def _command(study: Study, scale: str) -> str:
    """The command that makes such runs."""
    seeds = study.runs["seed"].nunique()
    given = {"scale": scale, "seeds": seeds, "tune": bool(len(study.trials))}
    usual = {"scale": next(iter(SCALES)), "seeds": 5, "tune": True}
    text = ",".join(f"{name}={value}" for name, value in given.items() if value != usual[name])
    config = f"configs/reproduce/{study.claim}.py" + (f":{text}" if text else "")
    return f"python -m experiments.ablate --config={config}"


def _hardware(device: str) -> str:
    """This machine in a few words; `device` is what the runs have noted."""
    about = epath.Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", about.read_text()) if about.exists() else None
    processor = found.group(1).strip() if found else platform.machine()
    cores = f"{os.cpu_count()} cores of {processor}"
    return cores if "cpu" in device else f"{device}, {cores}"


def update(studies: epath.PathLike, page: epath.PathLike) -> list[str]:
    """Writes the page, and the charts beside the studies.

    Args:
      studies: a folder SCALE/CLAIM for each study, as `records.write` leaves them.
      page: the file to write; its links are relative to its folder.

    Returns:
      The paths of what was written.

    Raises:
      ValueError: there is no study, or one cannot be read.
    """
    root, page = epath.Path(studies), epath.Path(page)
    verdicts, parts, missing, written = [], [], [], [os.fspath(page)]
    for scale, what in SCALES.items():
        folders = {claim: root / scale / claim for claim in claims.SECTIONS}
        found = {claim: records.read(f) for claim, f in folders.items() if f.exists()}
        elsewhere = () if scale == next(iter(SCALES)) else claims.AT_BYTES
        if owed := [c for c in claims.SECTIONS if c not in found and c not in elsewhere]:
            missing.append(f"* `{scale}` ({what}): {tables.joined(owed)}")
        if not found:
            continue
        parts.append(f"## Scale `{scale}`: {what}")
        shown = {claim: claims.shown(study) for claim, study in found.items()}
        if advice := claims.choices(
            [table for _, of_claim in shown.values() for table in of_claim]
        ):
            parts += ["**What to choose**", advice]
        for claim, study in found.items():
            of_claim, shown_tables = shown[claim]
            verdicts += [{"claim": v.claim, "scale": scale, **v._asdict()} for v in of_claim]
            title, _, about = (inspect.getdoc(claims.SECTIONS[claim]) or "").partition("\n\n")
            parts += [f"### {title}", " ".join(about.split()), _provenance(study)]
            for name, title, image in charts.of_study(study):
                path = root / scale / f"{name}.png"
                path.write_bytes(image)
                written.append(os.fspath(path))
                parts.append(f"![{title}]({os.path.relpath(path, page.parent)})")
            for table in shown_tables:
                parts += [f"**{table.heading}**"] * bool(table.heading) + [table.text]
    if not verdicts:
        raise ValueError(
            f"no study in {os.fspath(root)}: expected folders SCALE/CLAIM with a scale of "
            f"{list(SCALES)}; collect one with --workdir=DIR --claim=NAME"
        )
    opening = (
        "# Results",
        "Written by `python -m experiments.results` from the CSV files beside its charts; not "
        "edited by hand. How to make the runs again is in `configs/reproduce`.",
        "## Which claims held",
        of_records(verdicts),
    )
    parts = [*opening, *parts, "## How it was done", _HOW]
    if missing:
        command = "python -m experiments.ablate --config=configs/reproduce/CLAIM.py:scale=SCALE"
        parts += ["## Not run yet", f"`{command} --workdir=DIR` makes the runs of each:"]
        parts.append("\n".join(missing))
    write_text(page, "\n\n".join(parts) + "\n")
    return written


def _provenance(study: Study) -> str:
    commits, versions = (", ".join(sorted(set(study.runs[name]))) for name in ("commit", "jax"))
    return (
        f"{len(study.runs)} runs of seeds {tables.seeds(study.runs)}: "
        f"`{study.about['command']}`; {study.about['hardware']}; jax {versions}; "
        f"commit {commits}."
    )
