"""From a workdir to its report: read, compare, draw, write."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import matplotlib
from etils import epath
from matplotlib.figure import Figure

from partitionsel_jax.reporting import (
    canvas,
    comparison,
    loss_charts,
    render,
    selection_charts,
    tables,
    theme,
    wording,
)
from partitionsel_jax.reporting.canvas import Heading, Layout
from partitionsel_jax.reporting.page import Section, page
from partitionsel_jax.reporting.runs import Run, read_runs


@dataclasses.dataclass(frozen=True)
class Report:
    """A report that was written.

    Attributes:
      directory: holds report.html, summary.csv, curves.csv, and a PNG and an SVG of each chart.
      headline: one row a label, the baseline's last.
      caveats: what is unfinished, damaged, unpaired or kept apart, one sentence each.
    """

    directory: epath.Path
    headline: tuple[comparison.Row, ...]
    caveats: tuple[str, ...]

    @property
    def page(self) -> epath.Path:
        return self.directory / "report.html"

    @property
    def table(self) -> str:
        """The headline as an aligned plain-text table."""
        return tables.as_text(self.headline)


@dataclasses.dataclass(frozen=True)
class _Chart:
    """A chart of the report.

    Attributes:
      name: of its files.
      heading: above it in the page.
      caption: below it in the page.
      draw: gives the figure, or None where there is nothing to show.
      title: in the image, where it is not the heading.
      has_legend: whether the labels' strokes are explained above it.
    """

    name: str
    heading: str
    caption: str
    draw: Callable[[Heading, Layout], Figure | None]
    title: str = ""
    has_legend: bool = True


def build(workdir: epath.PathLike) -> Report:
    """Writes the report of all runs in a workdir into its directory `report`.

    Args:
      workdir: a directory (or bucket) that holds one run, or a tree of runs.

    Returns:
      Where it was written, and its headline.

    Raises:
      ValueError: there is no run, or a run's config.json or summary.json cannot be read.
    """
    runs = read_runs(workdir)
    groups = comparison.by_label(runs)
    rows = comparison.headline(runs)
    compared = any(not row.is_baseline for row in rows)
    strokes = theme.strokes({row.label: row.is_baseline and compared for row in rows})
    directory = epath.Path(workdir) / "report"
    directory.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(theme.RC):
        drawn = [
            _write(chart, strokes, wording.facts(runs), directory)
            for chart in _charts(groups, rows)
        ]
    sections = [section for section in drawn if section is not None]
    contents = {
        "summary.csv": tables.summary_csv(rows),
        "curves.csv": tables.curves_csv(runs),
        "report.html": page(groups, rows, strokes, sections),
    }
    for name, text in contents.items():
        (directory / name).write_text(text, encoding="utf-8")
    return Report(directory, rows, tuple(wording.caveats(groups, rows)))


def _charts(
    groups: Mapping[str, Sequence[Run]], rows: Sequence[comparison.Row]
) -> tuple[_Chart, ...]:
    seeds = "Line: mean over seeds; band: lowest to highest seed."
    if all(len(runs) == 1 for runs in groups.values()):
        seeds = "One seed each, so no band."
    elif len(groups) <= canvas.MOST_WITH_SEEDS:
        seeds += " Thin lines: the seeds."
    return (
        _Chart(
            "validation_loss",
            "Validation loss",
            f"{seeds} Dashed: final loss of the baseline; markers: where the others first reach "
            "it, paired by seed. Training time leaves out compilation and evaluation. Where the "
            "first 5 % of the updates would flatten the rest, they lie above the frame.",
            functools.partial(loss_charts.validation_loss, groups, rows),
            title=wording.headline_title(rows),
        ),
        _Chart(
            "validation_loss_per_domain",
            "Validation loss per domain",
            f"{seeds} Every panel has its own scale.",
            functools.partial(loss_charts.validation_loss_per_domain, groups),
        ),
        _Chart(
            "domain_mix",
            "Domain mix of the picks",
            "Share of each domain among the picks of all seeds, averaged over a window of a "
            "twentieth of the run. The bar shows the mix of all candidates in the pools.",
            functools.partial(selection_charts.domain_mix, groups),
            has_legend=False,
        ),
        _Chart(
            "spoilt_share",
            "Spoilt rows among the picks",
            f"{seeds} Averaged over a window of a twentieth of the run. Dashed: share of spoilt "
            "rows in the candidate pool, what picking at random would give.",
            functools.partial(selection_charts.spoilt_share, groups),
        ),
        _Chart(
            "selection_diagnostics",
            "Utility, certificate and diagnostics",
            f"{seeds} Averaged over a window of a twentieth of the run. Utilities compare only "
            "between methods with the same objective; methods that compute none are left out.",
            functools.partial(selection_charts.diagnostics, groups),
        ),
    )


def _write(
    chart: _Chart, strokes: Mapping[str, theme.Stroke], facts: str, directory: epath.Path
) -> Section | None:
    """Writes a chart's files and returns its section; without a chart, removes older files."""
    heading = Heading(chart.title or chart.heading, facts, strokes if chart.has_legend else {})
    files = [directory / f"{chart.name}.{ending}" for ending in ("png", "svg")]
    image, desk, phone = (
        chart.draw(heading, layout) for layout in (canvas.FILE, canvas.PAGE, canvas.PHONE)
    )
    if image is None or desk is None or phone is None:
        for file in files:
            file.unlink(missing_ok=True)
        return None
    files[0].write_bytes(render.png(image))
    files[1].write_text(render.svg(image), encoding="utf-8")
    return Section(
        heading=chart.heading,
        desk=render.inline_svg(desk, f"{chart.name}-desk", chart.heading),
        phone=render.inline_svg(phone, f"{chart.name}-phone", chart.heading),
        caption=chart.caption,
    )
