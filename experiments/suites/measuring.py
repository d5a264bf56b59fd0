"""Tools of all suites: compiling, timing by turns, and numbers as tables."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from partitionsel_jax import text_table

# A run shorter than this many seconds follows a call that is not timed.
BRIEF_S = 0.5
# A timed run is as many calls in a row as take about so long: a single call that is shorter says
# more about how fast a thread wakes up.
CALLS_S = 0.01

# Milliseconds of a call: "median", "lower" and "upper" quartile, "fastest", and "runs".
Timing = dict[str, float]

log = logging.getLogger("partitionsel_jax.benchmark")


class Options(NamedTuple):
    """The problems or parts to measure (None: all), timed runs of each, and long ones or not."""

    sizes: Sequence[str] | None = None
    repeats: int = 30
    large: bool = False


class Part(NamedTuple):
    """A part of an answer: what JSON can hold, under keys of its own, and the same as Markdown."""

    numbers: dict[str, Any]
    texts: Sequence[str]


class Program(NamedTuple):
    """A compiled program with its arguments; `bytes` are needed beside them, results included."""

    run: Callable[[], Any]
    compile_seconds: float
    bytes: int


def compile_program(name: str, function: Callable[..., Any], *arguments: Any) -> Program:
    """Compiles `function` for `arguments`; its run returns when its results are there."""
    log.info("compiling %s", name)
    program = jax.jit(function)
    started = time.perf_counter()
    memory: Any = program.lower(*arguments).compile().memory_analysis()
    seconds = time.perf_counter() - started
    needed = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    # Called through `jit`, as in a user's loop: a compiled object is dispatched from Python, which
    # costs more than a small selection.
    return Program(lambda: jax.block_until_ready(program(*arguments)), seconds, needed)


def by_turns(
    runs: Mapping[str, Callable[[], Any]], repeats: int, patience: float = 10.0, least: int = 1
) -> dict[str, Timing]:
    """Times several methods by turns, so that a busy spell of the machine meets them all.

    Args:
      runs: name -> a call of the method, which returns when its result is there.
      repeats: timed runs of each, >= 1, of about `CALLS_S` or of one call; fewer where they would
        take more than `patience`. A first call is not counted, unless it alone took longer.
      patience: seconds.
      least: runs of however slow a method, >= 1, the first of which is then counted.
    """
    log.info("measuring %s", ", ".join(runs))
    seconds: dict[str, list[float]] = {}
    planned, brief, calls = {}, {}, {}
    for name, run in runs.items():
        first = _seconds(run)
        brief[name] = first < BRIEF_S
        warm = _seconds(run) if brief[name] else first
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
                seconds[name].append(_seconds(runs[name], calls[name]))
    return {name: _timing(taken) for name, taken in seconds.items()}


def slow_by_turns(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Timing]:
    """Times methods that take seconds: at least three runs of each."""
    return by_turns(runs, repeats, patience=20.0, least=3)


def scaled(timing: Timing, factor: float) -> Timing:
    """The timing of `factor` times as much work."""
    return {name: value * (1 if name == "runs" else factor) for name, value in timing.items()}


def _seconds(run: Callable[[], Any], calls: int = 1) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - started) / calls


def _timing(seconds: Sequence[float]) -> Timing:
    names = ("median", "lower", "upper", "fastest")
    times = 1e3 * np.quantile(seconds, (0.5, 0.25, 0.75, 0.0))
    return dict(zip(names, times.tolist(), strict=True)) | {"runs": len(seconds)}


def table(columns: str, rows: Iterable[Mapping[str, Any]]) -> str:
    """A Markdown table of some fields of rows.

    Args:
      columns: the fields, with a format where three digits are not the right ones: "a b:.6f".
      rows: with those fields. A `Timing` is three columns, a mean with its spread one.
    """
    return text_table.of_records([_cells(columns, row) for row in rows])


def _cells(columns: str, row: Mapping[str, Any]) -> dict[str, str]:
    cells = {}
    for column in columns.split():
        name, _, form = column.partition(":")
        value, heading = row[name], name.replace("_", " ")
        if isinstance(value, Mapping) and "median" in value:
            cells["ms (median)"] = number(value["median"])
            cells["quartiles"] = f"{number(value['lower'])} … {number(value['upper'])}"
            cells["runs"] = number(value["runs"])
        elif isinstance(value, Mapping):
            cells[heading] = f"{value['mean']:.3f} ± {value['spread']:.3f}"
        else:
            cells[heading] = number(value, form)
    return cells


def number(value: Any, form: str = "") -> str:
    """A cell: three digits unless a format is given, millions and billions by name, – for None."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, str) or form:
        return format(value, form)
    for size, name in ((1e9, " G"), (1e6, " M")):
        if abs(value) >= size:
            return number(float(value) / size) + name
    return format(value, "" if isinstance(value, int) else ".0f" if abs(value) >= 100 else ".3g")


def notes(doc: str | None) -> str:
    """The notes that a suite's tables need: its docstring after the first line."""
    return (doc or "").partition("\n\n")[2]


def verdicts(lines: str, numbers: Mapping[str, Any]) -> str:
    """A table of "what | measured {field} | target" a line, filled in from `numbers`."""
    rows = [line.format_map(numbers).split(" | ") for line in lines.splitlines()]
    return text_table.markdown(("", "measured", "target"), rows)
