"""How far methods pick the same examples of the same pools: Jaccard indices of their picks."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from partitionsel_jax.reporting import comparison, curves
from partitionsel_jax.reporting.runs import Run

Groups = Mapping[str, Sequence[Run]]


def same_pools(run: Run, other: Run) -> bool:
    """Whether two runs draw from equal pools at every update."""
    return (
        run.seed == other.seed
        and _pool_fields(run) == _pool_fields(other)
        and comparison.comparable(run, other)
    )


def between(run: Run, other: Run) -> curves.Series:
    """Steps i64[S] and |A & B| / |A | B| f64[S] of the picks A and B, of steps that both logged."""
    ours, theirs = run.picks, other.picks
    steps = [step for step in sorted(ours.keys() & theirs.keys()) if ours[step] or theirs[step]]
    shares = [len(ours[s] & theirs[s]) / len(ours[s] | theirs[s]) for s in steps]
    return np.array(steps, np.int64), np.array(shares, np.float64)


def reference(groups: Groups) -> str:
    """The label that the others are compared with over time: the first."""
    return next(iter(groups))


def reader(groups: Groups) -> Callable[[Run], curves.Series]:
    """Gives a run's overlap with the reference's run on the same pools; empty without one."""
    partners = groups[reference(groups)]

    def read(run: Run) -> curves.Series:
        for partner in partners:
            if partner.label != run.label and same_pools(run, partner):
                return between(run, partner)
        return np.empty(0, np.int64), np.empty(0)

    return read


def matrix(groups: Groups) -> np.ndarray:
    """f64[L, L], mean overlap of every two labels over updates and seeds; nan where no pools met.

    On the diagonal is 1.
    """
    names = list(groups)
    found = np.full((len(names), len(names)), np.nan)
    np.fill_diagonal(found, 1.0)
    for row, first in enumerate(names):
        for column in range(row):
            shares = [
                between(run, other)[1]
                for run in groups[first]
                for other in groups[names[column]]
                if same_pools(run, other)
            ]
            values = np.concatenate([np.empty(0), *shares])
            if len(values):
                found[row, column] = found[column, row] = values.mean()
    return found


def chance(runs: Sequence[Run]) -> float | None:
    """About what two independent picks of k from N give, k / (2N - k), if k and N never differ."""
    sizes = {
        (int(pool), int(picks))
        for run in runs
        for pool, picks in zip(
            run.series("pool")[1].sum(1), run.series("selected")[1].sum(1), strict=False
        )
    }
    if len(sizes) != 1:
        return None
    ((pool, picks),) = sizes
    return picks / (2 * pool - picks) if pool else None


def _pool_fields(run: Run) -> tuple[object, object]:
    selection = run.config.get("selection")
    fields = selection if isinstance(selection, Mapping) else {}
    return fields.get("pool"), fields.get("updates_per_pool", 1)
