"""Shares of right answers to the test questions, with what chance leaves open about them."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from partitionsel_jax.evaluation import statistics
from partitionsel_jax.reporting import curves
from partitionsel_jax.reporting.runs import Run


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """A share of right answers, 0 .. 1, with a 95 % interval.

    The interval goes as far as the wider of two at either end: Student's over seeds, and Wilson's
    over the questions of one run. Seeds answer the same questions, so that more seeds do not make
    the questions more.

    Attributes:
      mean, std: over seeds; the sample standard deviation (n - 1) is None for one seed.
      low, high: ends of the interval.
      questions: that one run answers.
    """

    mean: float
    std: float | None
    low: float
    high: float
    questions: int

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} % ({100 * self.low:.0f} – {100 * self.high:.0f})"


def overall(runs: Sequence[Run]) -> Accuracy | None:
    """The accuracy on all test questions; None where no run knows one."""
    tests = [test for run in runs if (test := run.tested())]
    return _over_seeds(
        [test["accuracy"] for test in tests],
        [sum(test["questions_per_domain"].values()) for test in tests],
    )


def per_domain(runs: Sequence[Run]) -> dict[str, Accuracy]:
    """The accuracy in every domain, by its name; empty where no run knows one."""
    tests = [test for run in runs if (test := run.tested())]
    found = {}
    for name in dict.fromkeys(name for test in tests for name in test["accuracy_per_domain"]):
        in_it = [test for test in tests if name in test["accuracy_per_domain"]]
        accuracy = _over_seeds(
            [test["accuracy_per_domain"][name] for test in in_it],
            [test["questions_per_domain"][name] for test in in_it],
        )
        if accuracy is not None:
            found[name] = accuracy
    return found


def is_outdated(run: Run) -> bool:
    """Whether a run knows an accuracy, and none to trust."""
    test = run.summary.get("test")
    return isinstance(test, Mapping) and test.get("accuracy") is not None and not run.tested()


def _over_seeds(shares: Sequence[float], questions: Sequence[int]) -> Accuracy | None:
    if not shares:
        return None
    mean, count = float(np.mean(shares)), min(questions)
    std = float(np.std(shares, ddof=1)) if len(shares) > 1 else None
    low, high = statistics.share_interval(mean, count)
    half = float(curves.half_width(np.array(shares)))
    low, high = min(low, max(0.0, mean - half)), max(high, min(1.0, mean + half))
    return Accuracy(mean, std, low, high, count)
