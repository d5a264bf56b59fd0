"""Choosing values by validation loss, the same way for every point of an ablation."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from partitionsel_jax.distributed import processes
from partitionsel_jax.training import records
from partitionsel_jax.training.plan import TUNING, PlannedRun, Point

_LOG = logging.getLogger(__name__)

CHOSEN = "chosen.json"


def choose(
    point: Point, runs: Sequence[PlannedRun], losses: Sequence[float], root: epath.Path
) -> dict[str, Any]:
    """The values of the lowest mean validation loss; of equal ones, the first.

    What was tried, and what came of it, is written to `tuning/POINT/chosen.json`. A value at the
    end of its list is chosen with a warning: a better one may lie beyond.

    Args:
      point: what is tuned.
      runs: its trials.
      losses: the final validation loss of each; infinite where it diverged.
      root: the workdir.

    Returns:
      Dotted field -> value.
    """
    tried = list(point.grid.combinations())
    each = [
        [loss for run, loss in zip(runs, losses, strict=True) if run.tuned == values]
        for values in tried
    ]
    means = [float(np.mean(of_seeds)) for of_seeds in each]
    best = tried[int(np.argmin(means))]
    text = point.grid.text(best)
    _LOG.info("%s  tuned: %s, mean validation loss %.4f", point.name, text, min(means))
    for field, value in best.items():
        values = point.grid.values[field]
        numbers = all(isinstance(item, (int, float)) and math.isfinite(item) for item in values)
        if numbers and len(set(values)) > 1 and value in (min(values), max(values)):
            _LOG.warning(
                f"{point.name}  {field}={value!r} is at the end of what was tried, "
                f"{sorted(values)}: a better one may lie beyond"
            )
    if processes.is_first():
        folder = root / TUNING / point.name
        folder.mkdir(parents=True, exist_ok=True)
        trials = [
            {"values": values, "validation_loss": mean, "per_seed": of_seeds}
            for values, mean, of_seeds in zip(tried, means, each, strict=True)
        ]
        seeds = sorted({run.seed for run in runs})
        content = {"chosen": best, "seeds": seeds, "trials": trials}
        records.write_json(folder / CHOSEN, content)
    return best
