"""Reading the pools of steps ahead, by grain."""

import contextlib
import dataclasses
import signal
from collections.abc import Generator
from typing import Any, Protocol

from absl import flags

_THREADS = 2


class ByStep(Protocol):
    """A source of a pytree for each step, whatever was read before: `Pools`, for one."""

    def __getitem__(self, step: int, /) -> Any:
        """A pytree of arrays."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _Steps:
    """The steps of a range as a random-access source."""

    pools: ByStep
    steps: range

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Any:
        return self.pools[self.steps[index]]


def prefetch(
    pools: ByStep, start: int, stop: int, buffer: int = 4, workers: int = 0
) -> Generator[Any, None, None]:
    """Yields pools[start], ..., pools[stop - 1], read ahead in the background.

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
    return _read_ahead(_Steps(pools, range(start, stop)), buffer, workers)


def _read_ahead(steps: _Steps, buffer: int, workers: int) -> Generator[Any, None, None]:
    """The generator behind `prefetch`."""
    if not len(steps):
        return
    import grain

    options = grain.ReadOptions(num_threads=min(_THREADS, buffer), prefetch_buffer_size=buffer)
    dataset = grain.MapDataset.source(steps).to_iter_dataset(options)
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
    """Whoever stops a job signals all of its processes, and these are needed until it has saved."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
