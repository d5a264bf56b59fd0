"""Which examples a step sees: pools and anchors as a pure function of (seed, step)."""

import dataclasses
import functools
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from partitionsel_jax.data.corpus import Corpus
from partitionsel_jax.data.rows import Rows
from partitionsel_jax.data.streams import generator


@dataclasses.dataclass(frozen=True, eq=False)
class Pools:
    """`pools[t]` is the pool and the anchors of step t, whatever was read before.

    Guarantees:
      * a pure function of the corpus, the sizes, the seed and t: no state to save, and any number
        of processes agree;
      * training rows come in shuffled epochs: within one no row comes twice, every epoch has a new
        order, and a tail shorter than a pool is dropped;
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

    Raises:
      ValueError: a size below 1 or above what the source holds, A that P does not divide when
        anchors are balanced, or a number of steps below 1.
    """

    corpus: Corpus
    pool_size: int
    anchor_size: int
    seed: int
    anchor_balance: bool = True
    pool_every: int = 1
    anchor_every: int = 1

    def __post_init__(self) -> None:
        """Checks the sizes against the corpus."""
        for name in ("pool_every", "anchor_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1 steps, got {getattr(self, name)}")
        _check_size("pool", self.pool_size, len(self.corpus.train), "training rows")
        _check_size("anchor", self.anchor_size, len(self.corpus.anchors), "anchor rows")
        if not self.anchor_balance:
            return
        domains = len(self.corpus.domains)
        each, rest = divmod(self.anchor_size, domains)
        if rest:
            nearest = [n for n in (each * domains, (each + 1) * domains) if n]
            raise ValueError(
                f"expected an anchor size that is a multiple of the {domains} domains, got "
                f"{self.anchor_size}; use {' or '.join(map(str, nearest))}, or "
                "anchor_balance=False"
            )
        for name, rows in zip(self.corpus.domains, self._anchor_groups, strict=True):
            _check_size("balanced anchor", each, len(rows), f"anchors of domain {name}")

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every training row, but for a dropped tail, was in a pool once."""
        return len(self.corpus.train) // self.pool_size * self.pool_every

    def __getitem__(self, step: int) -> tuple[Rows, Rows]:
        """The pool (N rows) and the anchors (A rows) of a step, which counts from 0.

        Raises:
          ValueError: a negative step.
        """
        pool, anchors = self.members(step)
        return self.corpus.train.rows(pool), self.corpus.anchors.rows(anchors)

    def members(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The step's indices into `corpus.train` (i64[N]) and `corpus.anchors` (i64[A]).

        Raises:
          ValueError: a negative step.
        """
        if step < 0:
            raise ValueError(f"expected a step >= 0, got {step}; steps count from the first one")
        train = np.arange(len(self.corpus.train))
        pool = _batch(train, self.pool_size, step // self.pool_every, self.seed, "pool order")
        each = self.anchor_size // len(self._anchor_groups)
        anchors = [
            _batch(rows, each, step // self.anchor_every, self.seed, "anchor order", group)
            for group, rows in enumerate(self._anchor_groups)
        ]
        return pool, np.concatenate(anchors)

    @functools.cached_property
    def _anchor_groups(self) -> list[np.ndarray]:
        """The anchors that are shuffled together: each domain's, or all of them."""
        domains = self.corpus.anchors.domains
        if not self.anchor_balance:
            return [np.arange(len(domains))]
        return [np.flatnonzero(domains == i) for i in range(len(self.corpus.domains))]


def prefetch(
    pools: Pools, start: int, stop: int, buffer: int = 4
) -> Generator[tuple[Rows, Rows], None, None]:
    """Yields pools[start], ..., pools[stop - 1], read ahead by one background thread.

    Closing the iterator, or leaving it to the garbage collector, ends the thread.

    Args:
      pools: what to read.
      start, stop: the range of steps.
      buffer: steps that are read ahead; at least 1.

    Raises:
      ValueError: at once, for a range or a buffer out of bounds. Later, while iterating, whatever
        reading a step raises, when that step is due.
    """
    if not 0 <= start <= stop:
        raise ValueError(f"expected steps 0 <= start <= stop, got {start} and {stop}")
    if buffer < 1:
        raise ValueError(f"expected to read at least 1 step ahead, got a buffer of {buffer}")
    return _read_ahead(pools, range(start, stop), buffer)


def _read_ahead(
    pools: Pools, steps: range, buffer: int
) -> Generator[tuple[Rows, Rows], None, None]:
    """The generator behind `prefetch`."""
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
    try:
        ahead: deque[Future[tuple[Rows, Rows]]] = deque()
        for step in steps:
            ahead.append(executor.submit(pools.__getitem__, step))
            if len(ahead) > buffer:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _batch(
    rows: np.ndarray, size: int, step: int, seed: int, purpose: str, group: int = 0
) -> np.ndarray:
    """The step's `size` of `rows`, taken in order from the epoch's permutation of them."""
    epoch, place = divmod(step, len(rows) // size)
    order = _order(len(rows), seed, purpose, group, epoch)
    return rows[order[place * size : (place + 1) * size]]


# Neighbouring steps share their epochs, so that a step seldom draws a permutation.
@functools.lru_cache(maxsize=64)
def _order(size: int, seed: int, purpose: str, group: int, epoch: int) -> np.ndarray:
    """i64[size], the epoch's permutation."""
    order = generator(seed, purpose, group, epoch).permutation(size)
    order.setflags(write=False)
    return order


def _check_size(what: str, size: int, available: int, of_what: str) -> None:
    """Raises ValueError unless 1 <= size <= available."""
    if not 1 <= size <= available:
        raise ValueError(
            f"expected a {what} size in 1 .. {available}, the number of {of_what}, got {size}; "
            "change it, or prepare more rows"
        )
