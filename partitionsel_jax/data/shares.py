"""How many rows of a pool come from each domain."""

from collections.abc import Sequence

import numpy as np

from partitionsel_jax.data.streams import generator

MIXES = ("natural", "uniform", "weighted")


def domain_shares(mix: str, weights: Sequence[float], domains: int) -> np.ndarray | None:
    """f64[P], the shares of the domains in a pool; None for as they come.

    Args:
      mix: "natural", "uniform", or "weighted" by `weights`.
      weights: P numbers, at least 0, in any scale; for "weighted" only.
      domains: P.

    Raises:
      ValueError: an unknown mix, or weights that are missing, superfluous or below 0.
    """
    if mix not in MIXES:
        raise ValueError(f"unknown mix {mix!r}; choose one of {', '.join(MIXES)}")
    if mix != "weighted":
        if len(weights):
            raise ValueError(
                f"weights {tuple(weights)} say nothing for the mix {mix!r}; use 'weighted', or "
                "leave them out"
            )
        return None if mix == "natural" else np.full(domains, 1 / domains)
    values = np.asarray(weights, np.float64)
    if values.shape != (domains,):
        raise ValueError(f"expected a weight for each of {domains} domains, got {tuple(weights)}")
    if not np.isfinite(values).all() or (values < 0).any() or values.sum() <= 0:
        raise ValueError(
            f"expected finite weights of at least 0, one of them above, got {tuple(weights)}"
        )
    return values / values.sum()


def most_rows(shares: np.ndarray, size: int) -> np.ndarray:
    """i64[P], the most rows that `domain_counts` ever gives each domain of a pool of `size`."""
    whole, rest = _parts(shares, size)
    return whole + (rest > 0)


def domain_counts(shares: np.ndarray, size: int, seed: int, number: int) -> np.ndarray:
    """i64[P], rows of each domain in a pool; they sum to `size`.

    Every domain gets its share rounded down or up, which of the two by systematic sampling (Madow
    1949): the expectation over pools is the exact share.

    Args:
      shares: f64[P], summing to 1.
      size: N.
      seed, number: of the config and of the pool; the counts are a pure function of them.
    """
    whole, rest = _parts(shares, size)
    start = generator(seed, "domain counts", number).random()
    # One more row where the running sum of the rests passes a point of the grid start + integers.
    passed = np.floor(np.concatenate([[0.0], np.cumsum(rest)]) - start).astype(np.int64)
    passed[-1] = passed[0] + size - whole.sum()
    return whole + np.diff(passed)


def _parts(shares: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole rows of each domain, and the rest in [0, 1)."""
    # Rounded, so that 0.1 + 0.2 of 10 rows are 3 and no more.
    exact = np.round(shares * size, 9)
    whole = np.floor(exact).astype(np.int64)
    return whole, exact - whole
