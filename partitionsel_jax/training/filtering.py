"""A filter before the run: training rows of high perplexity are in none of its pools.

What runs that select while they train are to be compared with: one forward pass over all rows.
"""

import dataclasses
import logging
import time
from typing import Any

import jax
import numpy as np

from partitionsel_jax import data, models
from partitionsel_jax.config.settings import Settings
from partitionsel_jax.distributed import spmd
from partitionsel_jax.step import costs
from partitionsel_jax.step import programs as run_programs
from partitionsel_jax.training import starts

_LOG = logging.getLogger(__name__)


def apply(
    settings: Settings, corpus: data.Corpus, layout: spmd.Layout
) -> tuple[data.Corpus, dict[str, Any]]:
    """Leaves a share of every domain's training rows out of a corpus, by their perplexity.

    Anchors that are trained on as well are scored as all rows are. The corpus keeps its
    fingerprint: its examples are the same.

    Args:
      settings: of a run that filters.
      corpus: its corpus.
      layout: what the scores are computed on.

    Returns:
      The corpus of the rows that stay, and what finding them has cost: `flops`, `tokens`,
      `padding` and the `seconds` of the pass, compilation left out.

    Raises:
      ValueError: a model that cannot be read, or fewer rows than a pool has.
    """
    model, parameters = starts.load_filter(settings)
    losses, cost = score(model, parameters, corpus.train, layout, settings.features.microbatch)
    chosen = settings.data.filter
    kept = keep(losses, corpus.train.domains, chosen.share, chosen.keep)
    _LOG.info(
        f"filter  {kept.sum()} of {len(kept)} training rows stay: {chosen.model} gives the others "
        f"a perplexity that is {'too high' if chosen.keep == 'lowest' else 'too low or too high'}"
    )
    if settings.selection.pool > kept.sum():
        raise ValueError(
            f"data.filter.share={chosen.share} leaves {kept.sum()} training rows, fewer than "
            f"selection.pool={settings.selection.pool}: lower the share, or shrink the pool"
        )
    return dataclasses.replace(corpus, train=corpus.train.part(kept)), cost


def score(
    model: models.Model, parameters: Any, source: data.Source, layout: spmd.Layout, size: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """The loss of every row under a model, f32[n], and what that has cost; see `apply`.

    Every device computes `size` rows at a time, so that how many devices there are changes no bit.
    """
    layout = dataclasses.replace(layout, split_weights=False)
    program, placed = run_programs.scorer(model, layout), layout.place(parameters)
    total, batch, seconds = len(source), size * len(layout.devices), 0.0
    found = []
    for start in range(0, total, batch):
        began = time.perf_counter()
        # The last batch is filled up with the last row.
        places = np.minimum(np.arange(start, start + batch), total - 1)
        inputs = placed, layout.rows(source.rows(layout.part(places)))
        began += program.compile(*inputs)
        found.append(jax.device_get(program(*inputs)))
        seconds += time.perf_counter() - began
    losses, lengths, answered = (np.concatenate(each)[:total] for each in zip(*found, strict=True))
    passes, tokens = len(found) * len(layout.devices), len(found) * batch * source.length
    response = float(answered.mean()) / (source.length - 1)
    return losses, {
        "flops": passes * costs.count_losses(model, size, source.length, response),
        "tokens": tokens,
        "padding": 1 - float(lengths.sum()) / tokens,
        "seconds": {"step": seconds},
    }


def keep(losses: np.ndarray, domains: np.ndarray, share: float, which: str) -> np.ndarray:
    """The rows that stay, bool[n]: of every domain all but a share, and one at least.

    Args:
      losses: f32[n]; a row whose loss is not finite counts as the highest.
      domains: i32[n].
      share: what is left out, in [0, 1).
      which: "lowest", or "middle", which leaves out as many at both ends (of an odd number, one
        more at the high end).
    """
    kept = np.ones(len(losses), bool)
    ranked = np.where(np.isfinite(losses), losses, np.inf)
    for domain in np.unique(domains):
        rows = np.flatnonzero(domains == domain)
        rows = rows[np.argsort(ranked[rows], kind="stable")]
        out = min(round(share * len(rows)), len(rows) - 1)
        low = out // 2 if which == "middle" else 0
        kept[rows[:low]] = False
        kept[rows[len(rows) - (out - low) :]] = False
    return kept
