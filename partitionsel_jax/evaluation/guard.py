"""A controlled trial of two small models beside a run, which says whether its selection pays.

Twins start from one proxy and train side by side with a run, one on the rows that it selects and
one on rows drawn at random from the same pools. The first, after u updates, has cost what the
second has after c u, where c is the cost of an update of the run, relative to one on random rows:
with the proxy's own training, spread over the run, and without the twins. So `judge` compares the
loss of the random twin after t updates with that of the other after t / c, at every evaluation of
the second half of the run. Its verdict needs the mean difference to be twice as large as its spread
over these evaluations: twins drift apart and together by chance, for many updates in a row, so that
their number proves nothing.

A shorter run would also lower its learning rate sooner: where c is large, this is hard on
selection.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

# What a run's record calls the mean validation losses of the twins.
SELECTED, RANDOM = LOSSES = ("guard_selected_loss", "guard_random_loss")
# Evaluations in the second half, without which nothing can be told.
FEWEST = 4
# Spreads that a difference has to have.
_CERTAIN = 2.0
# Verdicts in words, by `Verdict.pays`.
SAID = {True: "selection pays here", False: "does not pay: use random", None: "cannot be told"}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The twins' difference at equal FLOPs.

    Attributes:
      pays: True or False where the difference is certain, else None.
      difference: mean of random minus selected, nats per token; nan where it cannot be computed.
      spread: its standard deviation over the evaluations.
      evaluations: how many there are.
      cost: FLOPs of an update, relative to one on random rows.
    """

    pays: bool | None
    difference: float
    spread: float
    evaluations: int
    cost: float

    @property
    def sentence(self) -> str:
        """The verdict in words, with its figures."""
        if self.evaluations < FEWEST or not np.isfinite(self.difference):
            return (
                f"{SAID[None]}: {self.evaluations} evaluations of sound twins in the second half "
                f"of the run are fewer than {FEWEST}, or a twin diverged; evaluate more often"
            )
        side = "below" if self.difference > 0 else "above"
        return (
            f"{SAID[self.pays]} (at equal FLOPs, a small model's validation loss on selected rows "
            f"is {abs(self.difference):.3f} ± {self.spread:.3f} {side} its twin's on random rows; "
            f"an update costs {self.cost:.3g} times one on random rows)"
        )


def judge(
    updates: Sequence[int], selected: Sequence[float], random: Sequence[float], cost: float
) -> Verdict:
    """Compares twins at equal FLOPs.

    Args:
      updates: of the evaluations, ascending.
      selected, random: f[E], validation losses of the twins at these.
      cost: FLOPs of an update, relative to one on random rows; at least 1 in practice.

    Raises:
      ValueError: a cost that is not above 0, or series of different lengths.
    """
    if not cost > 0:
        raise ValueError(f"expected a relative cost above 0, got {cost}: divide FLOPs by FLOPs")
    at, ours, theirs = (np.asarray(each, np.float64) for each in (updates, selected, random))
    if not len(at) == len(ours) == len(theirs):
        raise ValueError(
            f"expected a loss of each twin for every evaluation, got {len(at)} evaluations, "
            f"{len(ours)} and {len(theirs)} losses"
        )
    later = at >= at[-1] / 2 if len(at) else np.zeros(0, bool)
    if later.sum() < FEWEST or not np.isfinite([ours, theirs]).all():
        return Verdict(None, np.nan, np.nan, int(later.sum()), cost)
    # Before the first evaluation nothing is known, and its loss is a bound.
    differences = (theirs - np.interp(at / cost, at, ours))[later]
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    pays = bool(mean > 0) if abs(mean) > _CERTAIN * spread else None
    return Verdict(pays, mean, spread, len(differences), cost)
