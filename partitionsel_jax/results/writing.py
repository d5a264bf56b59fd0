"""RESULTS.md and its charts, from the studies that are there."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import matplotlib
from etils import epath
from matplotlib.figure import Figure

from partitionsel_jax.json_files import write_text
from partitionsel_jax.reporting import render, theme
from partitionsel_jax.results import charts, claims, measures, records, tables
from partitionsel_jax.results.claims import HOUSE, RANDOM
from partitionsel_jax.results.records import Study
from partitionsel_jax.text_table import markdown

PAGE = "RESULTS.md"
# Scales in the order of the page, and what they are.
SCALES = {
    "bytes": "a byte-level Llama of 0.2M parameters on eight reasoning-gym tasks",
    "smollm2": "SmolLM2-135M-Instruct with adapters on eight reasoning-gym tasks",
    "metamath": "Qwen2.5-3B with adapters on MetaMathQA",
    "molecules": "Llama-3.2-3B with adapters on Mol-Instructions",
}
# The problem of the main chart that has something to gain.
_SPOILT = {"kind": "garbled", "share": 0.3}

_HOW = """\
* **Seeds.** Every point is trained with the seeds named at its table, which chose no setting.
* **Learning rate.** Where a table's learning rates were tuned, every point chose its own from one
  grid, by the final validation loss of a seed that is not reported; `trials.csv` has all that was
  tried. The test split was read once, at the end of each run.
* **±** is half of Student's 95 % interval of the mean over seeds; differences are taken between
  runs of one seed, with their interval in brackets, and are bold where it leaves out zero. None is
  corrected for the number of comparisons: of twenty true zeros, one will look like a difference.
* **To target** is what a run had spent when its validation curve, linear between evaluations, first
  reached the final loss of random picks with the same seed, relative to what random picks had spent
  there: the mean and its interval where all seeds got there, else the median and how many did.
* **At equal FLOPs** is the validation loss when a run had spent what its partner with random picks
  spent altogether, less that partner's final loss. Its learning rate has not yet fallen by then, as
  random's has, so that this comparison is against selection; runs that are planned to be short are
  in (j).
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
            if (root / scale / claim / records.RUNS).exists()
        }
        for scale in SCALES
    }
    found = {scale: of_scale for scale, of_scale in found.items() if of_scale}
    if not found:
        raise ValueError(
            f"no study in {os.fspath(root)}: expected SCALE/CLAIM/{records.RUNS} with a scale of "
            f"{list(SCALES)}; collect one with --workdir=DIR --claim=NAME"
        )
    written = []
    parts = [_opening(found)]
    for scale, of_scale in found.items():
        pictures = []
        with matplotlib.rc_context(theme.RC):
            for chart in _charts(of_scale):
                path = root / scale / f"{chart.name}.png"
                path.write_bytes(render.png(chart.draw()))
                written.append(os.fspath(path))
                pictures.append((chart, os.path.relpath(path, page.parent)))
        parts += _scale(scale, of_scale, pictures)
    parts += ["## How it was done", _HOW, _owed(found)]
    write_text(page, "\n\n".join(parts) + "\n")
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
    if study := studies.get("spoilt"):
        rows = {
            "Clean": _two(study, kind="none"),
            "30 % garbled": _two(study, **_SPOILT),
        }
        rows = {problem: groups for problem, groups in rows.items() if groups}
        facts = f"{_size(study)}; mean over seeds {tables.seeds(study.results)}, 95 % intervals"
        if rows:
            title = "Validation loss of PartitionSel and of random picks"
            yield _Chart(
                "main",
                "spoilt",
                title,
                lambda: charts.learning_curves(rows, title, facts, ("updates", "flops")),
            )
        title_share = "Final validation loss against spoilt answers"
        yield _Chart(
            "spoilt", "spoilt", title_share, lambda: charts.against_share(study, title_share, facts)
        )
    if methods := studies.get("methods"):
        panels = {}
        for size in sorted({r.axes["selection.size"] for r in methods.results if r.axes}):
            groups = {
                name: group
                for name in sorted({run.method for run in methods.results})
                if (group := measures.select(methods.results, name, size=size))
            }
            panels[f"{size} picks of {methods.about['pool']}"] = groups
        title_methods = "Final validation loss, less that of random picks"
        seeds = f"clean data; mean over seeds {tables.seeds(methods.results)}, 95 % intervals"
        yield _Chart(
            "methods",
            "methods",
            title_methods,
            lambda: charts.differences(panels, title_methods, seeds),
        )


def _two(study: Study, **axes: object) -> dict[str, list[records.Result]]:
    groups = {name: measures.select(study.results, name, **axes) for name in (HOUSE, RANDOM)}
    return groups if all(groups.values()) else {}


def _size(study: Study) -> str:
    return f"{study.about['size']} of {study.about['pool']} candidates"


def _opening(found: Mapping[str, Mapping[str, Study]]) -> str:
    rows = [
        (verdict.claim, scale, verdict.outcome, verdict.evidence)
        for scale, studies in found.items()
        for study in studies.values()
        for verdict in claims.section(study).verdicts
    ]
    return "\n\n".join(
        [
            "# Results",
            "Written by `python -m experiments.results` from the CSV files in `docs/study`; not "
            "edited by hand. How to make the runs again is in `configs/reproduce`.",
            "## Which claims held",
            markdown(("claim", "scale", "outcome", "evidence"), rows),
        ]
    )


def _scale(
    scale: str, studies: Mapping[str, Study], pictures: Sequence[tuple[_Chart, str]]
) -> Iterator[str]:
    yield f"## Scale `{scale}`: {SCALES[scale]}"
    yield _choice(studies)
    for claim, study in studies.items():
        section = claims.section(study)
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


def _choice(studies: Mapping[str, Study]) -> str:
    """What came out best in every situation, and what cannot be told from it."""
    rows = []
    for situation, groups in _situations(studies):
        final = measures.number("validation_loss")
        means = {name: measures.mean(group, final) for name, group in groups.items()}
        ranked = sorted((m.mean, name) for name, m in means.items() if m and name != "full")
        if len(ranked) < 2:
            continue
        best = ranked[0][1]
        level = [
            name
            for _, name in ranked[1:]
            if (d := measures.difference(groups[best], groups[name], final)) and not d.sign
        ]
        cheap = {
            name: measures.to_target(group, groups[RANDOM], "flops")
            for name, group in groups.items()
            if name not in (RANDOM, "full")
        }
        priced = sorted((c.median, name) for name, c in cheap.items() if c.median is not None)
        by_cost = "random picks"
        if priced and priced[0][0] < 1:
            by_cost = f"{priced[0][1]} ({priced[0][0]:.2f}×)"
        rows.append((situation, best, ", ".join(level) or tables.NOTHING, by_cost))
    return "**What to choose**\n\n" + markdown(
        (
            "situation",
            "lowest loss at equal updates",
            "not told apart from it",
            "fewest FLOPs to random's final loss",
        ),
        rows,
    )


def _situations(
    studies: Mapping[str, Study],
) -> Iterator[tuple[str, dict[str, list[records.Result]]]]:
    for claim in ("methods", "spoilt", "domains"):
        if claim not in studies:
            continue
        results = studies[claim].results
        points = {tuple(sorted((k, str(v)) for k, v in run.axes.items())): run for run in results}
        for point, example in points.items():
            groups = claims.by_method([r for r in results if r.axes == example.axes])
            if RANDOM in groups and point:
                yield claims.situation(studies[claim], example), groups


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
