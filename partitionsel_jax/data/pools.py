"""Which examples a step sees: pools and anchors as a pure function of (seed, step)."""

import contextlib
import dataclasses
import functools
import signal
from collections.abc import Generator, Sequence
from typing import Any, Protocol

import numpy as np
from absl import flags

from partitionsel_jax.data.corpus import Corpus
from partitionsel_jax.data.rows import Rows
from partitionsel_jax.data.streams import generator

MIXES = ("natural", "uniform", "weighted")
_THREADS = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Pools:
    """`pools[t]` is the pool and the anchors of step t, whatever was read before.

    Guarantees:
      * a pure function of the corpus, the sizes, the seed and t: no state to save, and any number
        of processes agree;
      * each process reads its own part, and the parts, one behind the other, are the whole;
      * training rows come in shuffled epochs: within one no row comes twice, every epoch has a new
        order, and a tail shorter than a pool is dropped. With shares of the domains that are not
        the natural ones, every domain has epochs of its own, of which each pool takes the domain's
        share, rounded down or up; what rounding leaves is dropped too;
      * so do the anchors: in every domain on its own when they are balanced (equally many of each
        domain, domain by domain), in one order over all of them otherwise.

    The orders are NumPy permutations, one per epoch. grain's index shuffle needs no table, but over
    a few dozen anchors it takes milliseconds an index and is visibly uneven.

    Attributes:
      corpus: the sources.
      pool_size: N, rows of a pool.
      anchor_size: A, anchors of a step.
      seed: the config's seed.
      anchor_balance: whether every domain gives A / P anchors.
      pool_every, anchor_every: so many steps in a row see the same pool, the same anchors.
      mix, weights: shares of the domains in a pool; see `domain_shares`.
      process, processes: which of how many equal parts of the rows this process reads.

    Raises:
      ValueError: a size below 1 or above what the source holds, A that P does not divide when
        anchors are balanced, a number of steps below 1, shares that `domain_shares` refuses or
        that want more rows of a domain than there are, or sizes that `processes` does not divide.
    """

    corpus: Corpus
    pool_size: int
    anchor_size: int
    seed: int
    anchor_balance: bool = True
    pool_every: int = 1
    anchor_every: int = 1
    mix: str = "natural"
    weights: Sequence[float] = ()
    process: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        """Checks the sizes against the corpus."""
        for name in ("pool_every", "anchor_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1 steps, got {getattr(self, name)}")
        if not 0 <= self.process < self.processes:
            raise ValueError(
                f"expected a process in 0 .. {self.processes - 1}, got {self.process}; processes "
                "count from 0"
            )
        for name, size, source, of_what in (
            ("a pool", self.pool_size, self.corpus.train, "training rows"),
            ("an anchor", self.anchor_size, self.corpus.anchors, "anchor rows"),
        ):
            _check_size(name, size, len(source), of_what)
            if size % self.processes:
                raise ValueError(
                    f"expected {name} size that {self.processes} processes divide, got {size}; "
                    f"use {size + -size % self.processes}"
                )
        domains = self.corpus.domains
        if self._shares is not None:
            most = most_rows(self._shares, self.pool_size)
            for name, wanted, rows in zip(domains, most, self._train_groups, strict=True):
                if wanted > len(rows):
                    raise ValueError(
                        f"domain {name} has {len(rows)} training rows, and its share of a pool of "
                        f"{self.pool_size} is {wanted}: lower its weight, or shrink the pool"
                    )
        if not self.anchor_balance:
            return
        each, rest = divmod(self.anchor_size, len(domains))
        if rest:
            nearest = [n for n in (each * len(domains), (each + 1) * len(domains)) if n]
            raise ValueError(
                f"expected an anchor size that is a multiple of the {len(domains)} domains, got "
                f"{self.anchor_size}; use {' or '.join(map(str, nearest))}, or "
                "anchor_balance=False"
            )
        for name, rows in zip(domains, self._anchor_groups, strict=True):
            _check_size("a balanced anchor", each, len(rows), f"anchors of domain {name}")

    def __getitem__(self, step: int) -> tuple[Rows, Rows]:
        """Reads this process's part of the pool (N rows) and of the anchors (A rows) of a step.

        Args:
          step: counts from 0.

        Raises:
          ValueError: a negative step.
        """
        pool, anchors = (np.split(part, self.processes) for part in self.members(step))
        return (
            self.corpus.train.rows(pool[self.process]),
            self.corpus.anchors.rows(anchors[self.process]),
        )

    def members(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns a step's indices into `corpus.train` (i64[N]) and `corpus.anchors` (i64[A]).

        Raises:
          ValueError: a negative step.
        """
        if step < 0:
            raise ValueError(f"expected a step >= 0, got {step}; steps count from the first one")
        each = self.anchor_size // len(self._anchor_groups)
        anchors = [
            _batch(rows, each, step // self.anchor_every, self.seed, "anchor order", group)
            for group, rows in enumerate(self._anchor_groups)
        ]
        return self._pool(step // self.pool_every), np.concatenate(anchors)

    def _pool(self, number: int) -> np.ndarray:
        """Returns the rows of a pool, which counts from 0: i64[N]."""
        if self._shares is None:
            train = np.arange(len(self.corpus.train))
            return _batch(train, self.pool_size, number, self.seed, "pool order")
        most = most_rows(self._shares, self.pool_size)
        counts = domain_counts(self._shares, self.pool_size, self.seed, number)
        groups = zip(self._train_groups, most, counts, strict=True)
        parts = [
            _batch(rows, int(size), number, self.seed, "domain order", domain)[:count]
            for domain, (rows, size, count) in enumerate(groups)
            if size
        ]
        order = generator(self.seed, "order in the pool", number).permutation(self.pool_size)
        return np.concatenate(parts)[order]

    @functools.cached_property
    def _shares(self) -> np.ndarray | None:
        return domain_shares(self.mix, self.weights, len(self.corpus.domains))

    @functools.cached_property
    def _train_groups(self) -> list[np.ndarray]:
        return _groups(self.corpus.train.domains, len(self.corpus.domains))

    @functools.cached_property
    def _anchor_groups(self) -> list[np.ndarray]:
        """The anchors that are shuffled together: each domain's, or all of them."""
        domains = self.corpus.anchors.domains
        if not self.anchor_balance:
            return [np.arange(len(domains))]
        return _groups(domains, len(self.corpus.domains))


def _groups(domain: np.ndarray, domains: int) -> list[np.ndarray]:
    return [np.flatnonzero(domain == i) for i in range(domains)]


def _batch(
    rows: np.ndarray, size: int, step: int, seed: int, purpose: str, group: int = 0
) -> np.ndarray:
    """Takes the step's `size` of `rows`, in order, from the epoch's permutation of them."""
    epoch, place = divmod(step, len(rows) // size)
    order = _order(len(rows), seed, purpose, group, epoch)
    return rows[order[place * size : (place + 1) * size]]


# Neighbouring steps share their epochs, so that a step seldom draws a permutation.
@functools.lru_cache(maxsize=64)
def _order(size: int, seed: int, purpose: str, group: int, epoch: int) -> np.ndarray:
    order = generator(seed, purpose, group, epoch).permutation(size)
    order.setflags(write=False)
    return order


def _check_size(what: str, size: int, available: int, of_what: str) -> None:
    if not 1 <= size <= available:
        raise ValueError(
            f"expected {what} size in 1 .. {available}, the number of {of_what}, got {size}; "
            "change it, or prepare more rows"
        )


def domain_shares(mix: str, weights: Sequence[float], domains: int) -> np.ndarray | None:
    """Returns the shares of the domains in a pool, f64[P]; None for as they come.

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
    """Returns the most rows, i64[P], that `domain_counts` gives each domain of `size` rows."""
    whole, rest = _parts(shares, size)
    return whole + (rest > 0)


def domain_counts(shares: np.ndarray, size: int, seed: int, number: int) -> np.ndarray:
    """Returns the rows of each domain in a pool, i64[P]; they sum to `size`.

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
    """Splits what each domain's share comes to into whole rows and a rest in [0, 1)."""
    # Rounded, so that 0.1 + 0.2 of 10 rows are 3 and no more.
    exact = np.round(shares * size, 9)
    whole = np.floor(exact).astype(np.int64)
    return whole, exact - whole


class ByStep(Protocol):
    """A source of a pytree for each step, whatever was read before: `Pools`, for one."""

    def __getitem__(self, step: int, /) -> Any:
        """Returns a pytree of arrays."""


def prefetch(
    pools: ByStep, start: int, stop: int, buffer: int = 4, workers: int = 0
) -> Generator[Any, None, None]:
    """Yields pools[start], ..., pools[stop - 1], read ahead in the background by grain.

    The values do not depend on who reads them. Closing the iterator, or leaving it to the garbage
    collector, ends the readers.

    Args:
      pools: what to read.
      start, stop: the range of steps.
      buffer: steps that are read ahead, by each worker; at least 1.
      workers: processes that read, 0 for threads of this one. Processes are worth their start where
        tokenising the rows takes longer than a step.

    Raises:
      ValueError: at once, for a range, a buffer or a number of workers out of bounds. Later, while
        iterating, whatever reading a step raises, when that step is due.
    """
    if not 0 <= start <= stop:
        raise ValueError(f"expected steps 0 <= start <= stop, got {start} and {stop}")
    if buffer < 1:
        raise ValueError(f"expected to read at least 1 step ahead, got a buffer of {buffer}")
    if workers < 0:
        raise ValueError(f"expected 0 or more workers, got {workers}")
    return _read_ahead(pools, start, stop, buffer, workers)


def _read_ahead(
    pools: ByStep, start: int, stop: int, buffer: int, workers: int
) -> Generator[Any, None, None]:
    if start == stop:
        return
    import grain

    options = grain.ReadOptions(num_threads=min(_THREADS, buffer), prefetch_buffer_size=buffer)
    steps = grain.MapDataset.range(start, stop).map(pools.__getitem__)
    dataset = steps.to_iter_dataset(options)
    if workers:
        # grain's processes ask for flags, which only a program that has some ever parses.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=buffer),
            worker_init_fn=_leave_signals_to_the_parent,
        )
    with contextlib.closing(iter(dataset)) as iterator:
        yield from iterator


def _leave_signals_to_the_parent(worker: int, workers: int) -> None:
    """Ignores signals: all processes of a job get them, and these are needed until it has saved."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
