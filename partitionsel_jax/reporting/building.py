"""From workdirs to their report: read, compare, draw, write."""

import dataclasses
from collections.abc import Sequence

from etils import epath

from partitionsel_jax.reporting import charts, comparison, images, labels, tables, wording
from partitionsel_jax.reporting.page import page
from partitionsel_jax.reporting.runs import read_runs


@dataclasses.dataclass(frozen=True)
class Report:
    """A report that was written.

    Attributes:
      directory: holds report.html, the CSV files, and a PNG and an SVG of each chart.
      sets: the headline, one row a label, the baseline's last; one headline for each set of runs
        that are validated on the same rows.
      caveats: everything unfinished, damaged, unpaired or kept apart, one sentence each.
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
    serving = labels.serving(runs)
    together = labels.evaluation_sets([run for run in runs if run.label not in serving])
    sets = [labels.by_label(found) for found in together]
    headlines = [comparison.headline(found) for found in together]
    strokes = charts.strokes([row for headline in headlines for row in headline])
    drawn = [charts.of_curves(*pair) for pair in zip(sets, headlines, strict=True)]
    if output is None:
        output = epath.Path(workdirs[0] if several else workdirs) / "report"
    directory = epath.Path(output)
    directory.mkdir(parents=True, exist_ok=True)
    for number, found in enumerate(zip(sets, headlines, drawn, strict=True), start=1):
        suffix = f"_set{number}" if number > 1 else ""
        # An older report may have left images that this one does not have.
        for name in images.NAMES:
            for ending in ("png", "svg"):
                (directory / f"{name}{suffix}.{ending}").unlink(missing_ok=True)
        for name, ending, content in images.of_set(*found, strokes):
            (directory / f"{name}{suffix}.{ending}").write_bytes(content)
    caveats = (*wording.serving(serving), *wording.caveats(sets, headlines))
    files = tables.csv_files(sets, headlines, runs)
    files["report.html"] = page(sets, headlines, drawn, strokes, caveats)
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
    return Report(directory, tuple(headlines), caveats)
