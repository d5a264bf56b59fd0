"""What every benchmark suite shares: timing, facts about the machine, and tables."""

import dataclasses
import importlib.metadata
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from partitionsel_jax import __version__, text_table

# Seconds of timed runs after which no method is repeated again.
PATIENCE_S = 10.0
# A run shorter than this is preceded by one that is not timed.
BRIEF_S = 0.5
# A timed run is as many calls in a row as take about so long: what a single one takes that is
# shorter says more about how fast a thread wakes up.
CALLS_S = 0.01
PACKAGES = ("jax", "jaxlib", "numpy", "scipy")

table = text_table.markdown


@dataclasses.dataclass(frozen=True)
class Results:
    """What a suite answers.

    Attributes:
      numbers: whatever JSON can hold; what was not measured is None.
      markdown: the same as tables, with what has to be known in order to read them.
    """

    numbers: dict[str, Any]
    markdown: str


@dataclasses.dataclass(frozen=True)
class Timing:
    """Time of a call in milliseconds: quartiles and fastest over so many runs."""

    median: float
    lower: float
    upper: float
    fastest: float
    runs: int

    def times(self, factor: float) -> "Timing":
        """The timing of `factor` as much work."""
        times = (self.median, self.lower, self.upper, self.fastest)
        median, lower, upper, fastest = (factor * time for time in times)
        return Timing(median, lower, upper, fastest, self.runs)


def compiled(function: Callable[..., Any], *arguments: Any) -> tuple[Callable[[], Any], float]:
    """Compiles `function` for `arguments`, ahead of its first run.

    Returns:
      A call of it, which ends when its results are there, and the seconds that compiling took.
    """
    program = jax.jit(function)
    started = time.perf_counter()
    program.lower(*arguments).compile()
    seconds = time.perf_counter() - started
    # Called through `jit`, as in a user's loop: a compiled object is dispatched from Python, which
    # costs more than a small selection.
    return lambda: jax.block_until_ready(program(*arguments)), seconds


def interleave(
    runs: Mapping[str, Callable[[], Any]],
    repeats: int,
    *,
    patience: float = PATIENCE_S,
    least: int = 1,
) -> dict[str, tuple[Timing, Any]]:
    """Times several methods by turns, so that a busy spell of the machine meets them all.

    Args:
      runs: name -> a call of the method, which returns when its result is there.
      repeats: timed runs of each, >= 1, of about `CALLS_S` or of one call; fewer where they would
        take more than `patience`. A first call is not counted, unless it alone took longer.
      patience: seconds.
      least: runs of however slow a method, >= 1, the first of which is then counted.

    Returns:
      name -> timing of a call, and what the first one returned.
    """
    outputs, seconds, planned, brief, calls = {}, {}, {}, {}, {}
    for name, run in runs.items():
        outputs[name], first = _timed(run)
        brief[name] = first < BRIEF_S
        warm = _timed(run)[1] if brief[name] else first
        calls[name] = max(1, int(CALLS_S / max(warm, 1e-9)))
        planned[name] = min(repeats, int(patience / max(first, 1e-9)))
        seconds[name] = [] if planned[name] else [first]
        planned[name] = planned[name] or min(repeats, least) - 1
    rounds = max(planned.values(), default=0)
    for turn in range(rounds):
        # Another method goes first every time: what runs after a large one finds a cold cache.
        names = list(runs)[turn % len(runs) :] + list(runs)[: turn % len(runs)]
        for name in names:
            # Methods with fewer runs than others have them spread evenly.
            if turn * planned[name] // rounds < (turn + 1) * planned[name] // rounds:
                if brief[name]:
                    runs[name]()  # or it would be timed with the caches full of another's data
                seconds[name].append(_timed(runs[name], calls[name])[1])
    return {name: (_timing(seconds[name]), outputs[name]) for name in runs}


def _timed(run: Callable[[], Any], calls: int = 1) -> tuple[Any, float]:
    started = time.perf_counter()
    for _ in range(calls):
        output = run()
    return output, (time.perf_counter() - started) / calls


def _timing(seconds: Sequence[float]) -> Timing:
    times = 1e3 * np.quantile(seconds, (0.5, 0.25, 0.75, 0.0))
    median, lower, upper, fastest = times.tolist()
    return Timing(median, lower, upper, fastest, len(seconds))


def facts() -> dict[str, Any]:
    """Device, host and versions."""
    devices = jax.devices()
    versions = {"partitionsel_jax": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "platform": devices[0].platform,
        "host": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": versions,
    }


def banner(facts: Mapping[str, Any]) -> str:
    """One line of `facts`."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return f"{facts['suite']} on {facts['device']} ({facts['host']}); {versions}"


def check_no_sizes(suite: str, sizes: Sequence[str] | None) -> None:
    """Raises ValueError if sizes were asked for of a suite that has none to choose from."""
    if sizes is not None:
        raise ValueError(f"the {suite} suite has no sizes, got {list(sizes)}; leave --sizes out.")


def number(value: float | None, form: str | None = None) -> str:
    """`value` in a table's cell, three digits if no form is given; a dash where there is none."""
    if value is None:
        return "–"
    return format(value, form or (".0f" if abs(value) >= 100 else ".3g"))


def at_most(target: float | None) -> str:
    """A target in a table's cell."""
    return "–" if target is None else f"≤ {target:g}"


def finite(value: float) -> float | None:
    """`value` for JSON, which knows no NaN."""
    return float(value) if math.isfinite(value) else None


def ratio(value: float | None, other: float | None) -> float | None:
    """value / other; None where one is missing, or `other` 0."""
    return None if value is None or not other else finite(value / other)
