"""Benchmark suites by name, all of one signature: (sizes, repeats, large) -> Results."""

import json
import logging
import os

from etils import epath

from experiments.suites import (
    buckets,
    data,
    gradients,
    loading,
    measuring,
    scaling,
    selection,
    step,
)
from experiments.suites.gradients import chart

SUITES = {
    "selection": selection.run,
    "gradients": gradients.run,
    "step": step.run,
    "loading": loading.run,
    "data": data.run,
    "buckets": buckets.run,
    "scaling": scaling.run,
}
# Suites with a chart: numbers -> PNG, or None where the numbers hold nothing to draw.
CHARTS = {"gradients": chart.draw}

_log = logging.getLogger("partitionsel_jax.benchmark")


def run(
    suite: str,
    *,
    sizes: list[str] | None = None,
    repeats: int = 30,
    large: bool = False,
    output: str | None = None,
) -> None:
    """Runs a suite, logs its banner and its table, and writes both and the numbers if asked to.

    Args:
      suite: a key of `SUITES`.
      sizes: the problems to measure, in the suite's own notation; None for all of them.
      repeats: timed runs of each method, >= 1.
      large: whether to measure what takes minutes, too.
      output: folder for SUITE.md, SUITE.json and, if the suite has a chart, SUITE.png; or None.

    Raises:
      ValueError: a suite or sizes that do not exist.
      OSError: a folder that cannot be written.
      ImportError: a baseline's package that is missing.
    """
    if suite not in SUITES:
        raise ValueError(f"suite must be one of {sorted(SUITES)}, got {suite!r}; use --suite=NAME.")
    folder = None if output is None else epath.Path(output)
    if folder is not None:
        # Before the measurements, which may take minutes.
        folder.mkdir(parents=True, exist_ok=True)
    facts = measuring.facts() | {"suite": suite, "repeats": repeats}
    banner = measuring.banner(facts)
    _log.info(banner)
    results = SUITES[suite](sizes=sizes, repeats=repeats, large=large)
    _log.info("\n%s", results.markdown)
    if folder is not None:
        numbers = json.dumps({"facts": facts} | results.numbers, indent=1, allow_nan=False)
        (folder / f"{suite}.json").write_text(numbers + "\n")
        (folder / f"{suite}.md").write_text(f"{banner}\n\n{results.markdown}\n")
        drawn = CHARTS[suite](results.numbers) if suite in CHARTS else None
        if drawn is not None:
            (folder / f"{suite}.png").write_bytes(drawn)
        _log.info("written: %s", os.fspath(folder / f"{suite}.json"))
