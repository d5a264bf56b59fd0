"""From workdirs to their report: read, compare, draw, write."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import matplotlib
from etils import epath
from matplotlib.figure import Figure

from partitionsel_jax.reporting import (
    comparison,
    loss_charts,
    render,
    selection_charts,
    tables,
    theme,
    wording,
)
from partitionsel_jax.reporting.canvas import Heading
from partitionsel_jax.reporting.page import page
from partitionsel_jax.reporting.runs import Run, read_runs

Groups = Mapping[str, Sequence[Run]]


@dataclasses.dataclass(frozen=True)
class Report:
    """A report that was written.

    Attributes:
      directory: holds report.html, the CSV files, and a PNG and an SVG of each chart.
      sets: the headline, one row a label, the baseline's last; of runs that are not validated on
        the same rows, one headline each.
      caveats: what is unfinished, damaged, unpaired or kept apart, one sentence each.
    """

    directory: epath.Path
    sets: tuple[tuple[comparison.Row, ...], ...]
    caveats: tuple[str, ...]

    @property
    def headline(self) -> tuple[comparison.Row, ...]:
        """The rows of all evaluation sets."""
        return tuple(row for rows in self.sets for row in rows)

    @property
    def page(self) -> epath.Path:
        return self.directory / "report.html"

    @property
    def table(self) -> str:
        """The headline as aligned plain text."""
        return tables.as_text(self.sets)


@dataclasses.dataclass(frozen=True)
class _Chart:
    """A chart that is written as image files.

    Attributes:
      name: of its files.
      title: in the image.
      draw: gives the figure, or None where there is nothing to show.
      has_legend: whether the labels' strokes are explained above it.
    """

    name: str
    title: str
    draw: Callable[[Heading], Figure | None]
    has_legend: bool = True


def build(
    workdirs: epath.PathLike | Sequence[epath.PathLike], output: epath.PathLike | None = None
) -> Report:
    """Writes the report of all runs in some workdirs.

    Args:
      workdirs: a directory (or bucket) that holds one run, or a tree of runs; or several of them.
      output: the directory to write to; None for `report` in the workdir, if it is one.

    Returns:
      Where it was written, and its headline.

    Raises:
      ValueError: there is no run in a workdir, a run's config.json or summary.json cannot be read,
        or there are several workdirs and no output.
    """
    several = not isinstance(workdirs, str | epath.PathLike)
    if output is None and several and len(workdirs) > 1:
        raise ValueError(
            f"expected an output for the report of {len(workdirs)} workdirs, got none; "
            "say where it is to go with --output=DIR"
        )
    runs = read_runs(workdirs)
    together = comparison.evaluation_sets(runs)
    sets = [comparison.by_label(found) for found in together]
    headlines = [comparison.headline(found) for found in together]
    rows = [row for headline in headlines for row in headline]
    compared = any(not row.is_baseline for row in rows)
    strokes = theme.strokes({row.label: row.is_baseline and compared for row in rows})
    if output is None:
        output = epath.Path(workdirs[0] if several else workdirs) / "report"
    directory = epath.Path(output)
    directory.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(theme.RC):
        drawn = [
            _write_charts(groups, headline, strokes, directory, f"_set{number}" * (number > 1))
            for number, (groups, headline) in enumerate(zip(sets, headlines, strict=True), start=1)
        ]
    caveats = wording.caveats(sets, headlines)
    contents = {
        "summary.csv": tables.summary_csv(headlines),
        "to_target.csv": tables.to_target_csv(rows),
        "configs.csv": tables.configs_csv(runs),
        "overlap.csv": tables.overlap_csv(sets),
        "curves.csv": tables.curves_csv(runs),
        "report.html": page(sets, headlines, strokes, caveats, set().union(*drawn)),
    }
    for name, text in contents.items():
        (directory / name).write_text(text, encoding="utf-8")
    return Report(directory, tuple(headlines), tuple(caveats))


def _charts(groups: Groups, rows: Sequence[comparison.Row]) -> tuple[_Chart, ...]:
    return (
        _Chart(
            "validation_loss",
            wording.headline_title(rows),
            functools.partial(loss_charts.validation_loss, groups, rows),
        ),
        _Chart(
            "validation_loss_per_domain",
            "Validation loss per domain",
            functools.partial(loss_charts.validation_loss_per_domain, groups),
        ),
        _Chart("accuracy", "Accuracy", functools.partial(loss_charts.accuracy, groups)),
        _Chart(
            "accuracy_per_domain",
            "Test accuracy per domain",
            functools.partial(loss_charts.accuracy_per_domain, rows),
        ),
        _Chart(
            "domain_mix",
            "Domain mix of the picks",
            functools.partial(selection_charts.domain_mix, groups),
            has_legend=False,
        ),
        _Chart(
            "corrupted_share",
            "Corrupted rows among the picks",
            functools.partial(selection_charts.corrupted_share, groups),
        ),
        _Chart(
            "selection_diagnostics",
            "Utility, certificate and diagnostics",
            functools.partial(selection_charts.diagnostics, groups),
        ),
        _Chart(
            "overlap",
            f"Overlap of the picks with those of {next(iter(groups))}",
            functools.partial(selection_charts.overlap, groups),
        ),
        _Chart(
            "stage_shares",
            "Where the time of an update goes",
            functools.partial(selection_charts.stage_shares, rows),
            has_legend=False,
        ),
    )


def _write_charts(
    groups: Groups,
    rows: Sequence[comparison.Row],
    strokes: Mapping[str, theme.Stroke],
    directory: epath.Path,
    suffix: str,
) -> set[str]:
    """Writes the charts of an evaluation set; returns the names of those that show something."""
    facts = wording.facts([run for runs in groups.values() for run in runs])
    own = {label: strokes[label] for label in groups}
    drawn = set()
    for chart in _charts(groups, rows):
        figure = chart.draw(Heading(chart.title, facts, own if chart.has_legend else {}))
        files = [directory / f"{chart.name}{suffix}.{ending}" for ending in ("png", "svg")]
        if figure is None:
            # What an older report has left.
            for file in files:
                file.unlink(missing_ok=True)
            continue
        files[0].write_bytes(render.png(figure))
        files[1].write_text(render.svg(figure), encoding="utf-8")
        drawn.add(chart.name)
    return drawn
