"""Intervals and paired tests of a metric over finitely many questions."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

Values = Sequence[float] | np.ndarray

_CHUNK = 1 << 20  # draws held at once


class Interval(NamedTuple):
    """A mean, and the ends of its interval."""

    mean: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class PairedBootstrap:
    """The difference mean(a) - mean(b) over `count` questions; the p-value is two-sided."""

    difference: float
    low: float
    high: float
    p_value: float
    confidence: float
    count: int


@dataclasses.dataclass(frozen=True)
class McNemar:
    """Numbers of questions that both systems, one of them, or neither got right.

    `p_value` is two-sided, of `only_a` and `only_b` being equally likely.
    """

    both: int
    only_a: int
    only_b: int
    neither: int
    p_value: float


def mean_interval(
    values: Values, confidence: float = 0.95, *, samples: int = 10_000, seed: int = 0
) -> Interval:
    """The mean with an interval: Wilson's where all values are 0 or 1, else by the bootstrap.

    The bootstrap sees no spread in a single value, nor in equal ones: both ends are the value
    itself. Below some twenty values its intervals are too short.

    Args:
      values: float[n], one per question; n >= 1.
      confidence: in (0, 1).
      samples: resamples of the bootstrap (percentile).
      seed: of the resamples; the result is a function of the arguments.

    Raises:
      ValueError: no value, one that is not finite, or an argument out of range.

    Sources: Wilson (1927), "Probable inference, the law of succession, and statistical inference";
    Efron and Tibshirani (1993), "An Introduction to the Bootstrap", chapter 13.
    """
    array = _checked(values, "values")
    mean = float(array.mean())
    if ((array == 0.0) | (array == 1.0)).all():
        return Interval(mean, *share_interval(mean, len(array), confidence))
    return Interval(mean, *_bootstrap(array, samples, seed, confidence)[1:])


def share_interval(share: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share; its ends stay in [0, 1], and reach them at 0 and at 1.

    Args:
      share: in [0, 1]; unlike for `scipy.stats.binomtest`, no whole number of `count`, where it is
        a mean over runs.
      count: values that it is the mean of, at least 1.
      confidence: in (0, 1).
    """
    spread = float(special.ndtri(_tails(confidence)[1])) ** 2 / count
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return (0.0 if share == 0 else centre - half), (1.0 if share == 1 else centre + half)


def t_quantile(freedom: int, confidence: float = 0.95) -> float:
    """Student's t with P(|T| <= t) = confidence, for `freedom` >= 1 degrees of freedom.

    A mean of n about normal values lies within t(n - 1) of their standard errors: of two, that is 9
    of their standard deviations, of three 2.5, of five 1.2.
    """
    return float(special.stdtrit(freedom, _tails(confidence)[1]))


def paired_bootstrap(
    a: Values, b: Values, *, samples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> PairedBootstrap:
    """Compares the means of two systems over the same questions.

    The p-value agrees with the percentile interval: twice the share of resampled differences on the
    far side of zero, counted as (1 + number) / (1 + samples). It is never below 2^(1 - n), the
    least that n signs can show, so that one pair shows nothing.

    Args:
      a, b: float[n], the values of each system, question by question; n >= 1.
      samples, seed, confidence: as `mean_interval` takes them.

    Raises:
      ValueError: lengths that disagree, or what `mean_interval` refuses.

    Source: Koehn (2004), "Statistical Significance Tests for Machine Translation Evaluation".
    """
    first, second = _checked_pair(a, b)
    differences = first - second
    means, low, high = _bootstrap(differences, samples, seed, confidence)
    fewer = min(np.count_nonzero(means <= 0.0), np.count_nonzero(means >= 0.0))
    p_value = min(1.0, max(2.0 * (1 + fewer) / (1 + samples), 2.0 ** (1 - len(differences))))
    mean = float(differences.mean())
    return PairedBootstrap(mean, low, high, p_value, confidence, len(differences))


def mcnemar(a: Values, b: Values) -> McNemar:
    """McNemar's exact test of two systems that are right (1) or wrong (0) on the same questions.

    Args:
      a, b: n values of 0 and 1 (or of bool), question by question; n >= 1.

    Raises:
      ValueError: no value, one that is neither 0 nor 1, or lengths that disagree.

    Source: McNemar (1947); the exact p-value is that of a fair coin for the questions on which the
    two disagree, and 1 where there are none.
    """
    pair = first, second = _checked_pair(a, b)
    for name, array in zip("ab", pair, strict=True):
        if len(others := array[(array != 0.0) & (array != 1.0)]):
            raise ValueError(
                f"expected {name} to hold 0 and 1 alone, got {others[0]}; compare other values "
                "with paired_bootstrap"
            )
    neither, only_b, only_a, both = np.bincount((2 * first + second).astype(int), minlength=4)
    p_value = 2 * special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)
    return McNemar(int(both), int(only_a), int(only_b), int(neither), min(1.0, float(p_value)))


def _bootstrap(
    values: np.ndarray, samples: int, seed: int, confidence: float
) -> tuple[np.ndarray, float, float]:
    """The means f64[samples] of resamples with replacement, and the ends of their interval.

    scipy.stats.bootstrap would refuse one value, and take other draws than those behind the figures
    that were published.
    """
    if samples < 1:
        raise ValueError(f"expected at least 1 resample, got {samples}; 10,000 is usual")
    generator, count = np.random.default_rng(seed), len(values)
    rows = max(1, _CHUNK // count)
    means = np.concatenate(
        [
            values[generator.integers(count, size=(min(rows, samples - start), count))].mean(axis=1)
            for start in range(0, samples, rows)
        ]
    )
    low, high = np.quantile(means, _tails(confidence))
    return means, float(low), float(high)


def _tails(confidence: float) -> tuple[float, float]:
    """The probabilities at both ends of an interval."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"expected a confidence in (0, 1), got {confidence}; 0.95 is usual")
    return 0.5 - confidence / 2, 0.5 + confidence / 2


def _checked_pair(a: Values, b: Values) -> tuple[np.ndarray, np.ndarray]:
    first, second = _checked(a, "a"), _checked(b, "b")
    if len(first) != len(second):
        raise ValueError(
            f"expected a and b of one length, got {len(first)} and {len(second)} values; pair them "
            "question by question"
        )
    return first, second


def _checked(values: Values, name: str) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(
            f"expected {name} to be finite numbers in a row, at least one, got the shape "
            f"{array.shape} and {array.flat[:8].tolist()}; a mean of the rest would hide questions"
        )
    return array
