"""Where the seconds of a run go."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator


class Clock:
    """Seconds of training alone: evaluations and saves are pauses."""

    def __init__(self):
        self._since = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap, the pauses between taken out."""
        now = time.perf_counter()
        elapsed, self._since = now - self._since, now
        return elapsed

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began


@dataclasses.dataclass
class Seconds:
    """Where a run's time went, over all its restarts."""

    train: float = 0.0
    evaluation: float = 0.0
    compile: float = 0.0

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.evaluation += time.perf_counter() - began


class Waiting:
    """Seconds spent waiting for one thing."""

    def __init__(self):
        self._seconds = 0.0

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - began

    def taken(self) -> float:
        """The seconds since this was last asked."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
