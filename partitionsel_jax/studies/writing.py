"""RESULTS.md and its charts, from the studies that are there."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib
from etils import epath
from matplotlib.figure import Figure

from partitionsel_jax.json_files import write_text
from partitionsel_jax.reporting import canvas, theme
from partitionsel_jax.studies import charts, choosing, claims, measures, records, tables
from partitionsel_jax.studies.claims import HOUSE, RANDOM
from partitionsel_jax.studies.records import Study
from partitionsel_jax.text_table import markdown

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
  runs of one seed, with their interval in brackets, and are bold where it leaves out zero. None is
  corrected for the number of comparisons: of twenty true zeros, one will look like a difference.
* **To target** is what a run had spent when its validation curve, linear between evaluations, first
  reached the final loss of the table's baseline (random picks, if it has them) with the same seed,
  relative to what the baseline had spent there: the mean and its interval where all seeds got
  there, else the median and how many did.
* **At equal FLOPs** is the validation loss when a run had spent what its baseline spent altogether,
  less the baseline's final loss. The learning rate of the more expensive run has
  not yet fallen by then, so that this comparison is against it; runs that are planned to be short
  are in (j).
* **Test accuracy** is the share of test questions whose final answer is right by the rule of its
  task. Studies without it were made while some scorers gave full marks to wrong answers; what they
  said was dropped, and stands here again once their runs are made again.
* **Seconds** are of training alone. Runs were made two at a time, a core each.
* **FLOPs** are counted in the traced update: features, selection and update; see the README."""


def update(studies: epath.PathLike, page: epath.PathLike) -> list[str]:
    """Writes the page, and the charts beside the studies.

    Args:
      studies: a folder SCALE/CLAIM for each study, as `records.write` leaves them.
      page: the file to write; its links are relative to its folder.

    Returns:
      What was written.

    Raises:
      ValueError: there is no study, or one cannot be read.
    """
    root, page = epath.Path(studies), epath.Path(page)
    found = {
        scale: {
            claim: records.read(root / scale / claim)
            for claim in claims.SECTIONS
            if (root / scale / claim).exists()
        }
        for scale in SCALES
    }
    found = {scale: of_scale for scale, of_scale in found.items() if of_scale}
    if not found:
        raise ValueError(
            f"no study in {os.fspath(root)}: expected folders SCALE/CLAIM with a scale of "
            f"{list(SCALES)}; collect one with --workdir=DIR --claim=NAME"
        )
    written = []
    sections = {
        scale: {claim: claims.section(study) for claim, study in of_scale.items()}
        for scale, of_scale in found.items()
    }
    parts = [_opening(sections)]
    for scale, of_scale in found.items():
        pictures = []
        with matplotlib.rc_context(theme.RC):
            for chart in _charts(of_scale):
                path = root / scale / f"{chart.name}.png"
                path.write_bytes(canvas.png(chart.draw()))
                written.append(os.fspath(path))
                pictures.append((chart, os.path.relpath(path, page.parent)))
        parts += _scale(scale, of_scale, sections[scale], pictures)
    parts += ["## How it was done", _HOW, _owed(found)]
    write_text(page, "\n\n".join(filter(None, parts)) + "\n")
    return [os.fspath(page), *written]


@dataclasses.dataclass(frozen=True)
class _Chart:
    """A chart of the page.

    Attributes:
      name: of its file.
      claim: the section that it stands in.
      title: what it shows.
      draw: makes it.
    """

    name: str
    claim: str
    title: str
    draw: Callable[[], Figure]


def _charts(studies: Mapping[str, Study]) -> Iterator[_Chart]:
    title = "Validation loss of PartitionSel and of random picks"
    if study := studies.get("noise"):
        facts = f"{study.about['size']} of {study.about['pool']} candidates; {_averaged(study)}"
        problems: dict[str, dict[str, Any]] = {
            "Clean": {"kind": "none"},
            "30 % garbled": {"kind": "garbled", "share": 0.3},
        }
        rows = {
            name: {
                method: measures.select(study.results, method, **axes) for method in (HOUSE, RANDOM)
            }
            for name, axes in problems.items()
        }
        if all(group for groups in rows.values() for group in groups.values()):
            main = rows, title, facts, ("updates", "flops")
            yield _Chart("main", "noise", title, functools.partial(charts.learning_curves, *main))
        of_shares = "Final validation loss against the share of corrupted answers"
        against = functools.partial(charts.against_share, study, of_shares, facts)
        yield _Chart("noise", "noise", of_shares, against)
    if methods := studies.get("methods"):
        panels = {
            f"{size} picks of {methods.about['pool']}": claims.by_method(
                measures.select(methods.results, size=size)
            )
            for size in sorted({run.axes["selection.size"] for run in methods.results if run.axes})
        }
        of_methods = "Final validation loss, less that of random picks"
        clean = f"clean data; {_averaged(methods)}"
        differences = functools.partial(charts.differences, panels, of_methods, clean)
        yield _Chart("methods", "methods", of_methods, differences)
    if cost := studies.get("cost"):
        of_cost = "Validation loss, and what it cost"
        shown = (claims.PRESET, HOUSE, "random-short", RANDOM)
        problem = {"30 % garbled": {name: measures.select(cost.results, name) for name in shown}}
        if all(problem["30 % garbled"].values()):
            costed = problem, of_cost, _averaged(cost), ("updates", "flops", "seconds")
            yield _Chart(
                "cost", "cost", of_cost, functools.partial(charts.learning_curves, *costed)
            )


def _averaged(study: Study) -> str:
    return f"mean over seeds {tables.seeds(study.results)}, 95 % intervals"


def _opening(sections: Mapping[str, Mapping[str, claims.Section]]) -> str:
    rows = [
        (verdict.claim, scale, verdict.outcome, verdict.evidence)
        for scale, of_scale in sections.items()
        for section in of_scale.values()
        for verdict in section.verdicts
    ]
    return "\n\n".join(
        [
            "# Results",
            "Written by `python -m experiments.results` from the CSV files beside its charts; not "
            "edited by hand. How to make the runs again is in `configs/reproduce`.",
            "## Which claims held",
            markdown(("claim", "scale", "outcome", "evidence"), rows),
        ]
    )


def _scale(
    scale: str,
    studies: Mapping[str, Study],
    sections: Mapping[str, claims.Section],
    pictures: Sequence[tuple[_Chart, str]],
) -> Iterator[str]:
    yield f"## Scale `{scale}`: {SCALES[scale]}"
    if advice := choosing.table(studies):
        yield "**What to choose**"
        yield advice
    for claim, study in studies.items():
        section = sections[claim]
        yield f"### {section.title}"
        yield section.about
        yield _provenance(study)
        for chart, path in pictures:
            if chart.claim == claim:
                yield f"![{chart.title}]({path})"
        for heading, table in section.tables.items():
            if heading:
                yield f"**{heading}**"
            yield table


def _provenance(study: Study) -> str:
    commits = sorted({run.about["commit"] for run in study.results})
    versions = sorted({run.about["jax"] for run in study.results})
    return (
        f"{len(study.results)} runs of seeds {tables.seeds(study.results)}: "
        f"`{study.about['command']}`; {study.about['hardware']}; jax {', '.join(versions)}; "
        f"commit {', '.join(commits)}."
    )


def _owed(found: Mapping[str, Mapping[str, Study]]) -> str:
    missing = {
        scale: [claim for claim in claims.SECTIONS if claim not in found.get(scale, {})]
        for scale in SCALES
    }
    lines = [
        f"* `{scale}` ({what}): {tables.joined(missing[scale])}"
        for scale, what in SCALES.items()
        if missing[scale]
    ]
    if not lines:
        return ""
    command = "python -m experiments.ablate --config=configs/reproduce/CLAIM.py:scale=SCALE"
    return "\n\n".join(
        ["## Not run yet", f"`{command} --workdir=DIR` makes the runs of each:", "\n".join(lines)]
    )
