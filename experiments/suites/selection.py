"""Selection against the published algorithm and against SciPy: time, utility, certificate.

Every method selects from the same problem in the same process. Utilities and KKT residuals are
computed in float64 from the picks and weights that a method returned, so that one yardstick
measures all.
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from experiments.suites.measuring import Results, compiled, interleave, ratio, table
from experiments.suites.measuring import number as cell
from experiments.suites.problems import (
    ANCHORS,
    DIM,
    Instance,
    Shape,
    import_nnls,
    judge,
    make_instance,
    parse,
    pursue,
)
from partitionsel_jax import selection

_log = logging.getLogger("partitionsel_jax.benchmark")


SHAPES = tuple(
    Shape(*shape)
    for shape in (
        (64, 8, 4),
        (256, 32, 4),
        (256, 32, 8),
        (512, 64, 8),
        (1024, 128, 8),
        (4096, 512, 16),
    )
)
# Growth with N at fixed K and P.
GROWTH = tuple(Shape(pool, 32, 8) for pool in (256, 512, 1024, 2048, 4096))
# Pools whose Gram matrix is never made.
LARGE = (Shape(4096, 512, 16), Shape(16_384, 1024, 16))
# Entries of K that the published algorithm may read per step, summed over the picks, before a CPU
# would be at it for minutes. Beyond, so many picks are timed, and the time is scaled.
PATIENT_ENTRIES = 1e9
PROBE_PICKS = 16


@dataclasses.dataclass(frozen=True)
class Method:
    """Arguments of `select`, and whether the program ends with a certificate.

    A program that answers picks and weights alone has its certificate left out by the compiler.
    """

    choices: dict[str, Any]
    certified: bool = True

    def program(self, size: int) -> Callable[..., Any]:
        """(problem, key) -> (indices, weights, and the `Selection` if `certified`)."""

        def select(problem: selection.Problem, key: jax.Array) -> tuple:
            result = selection.select(problem, size=size, key=key, **self.choices)
            return result.indices, result.weights, result if self.certified else None

        return select


GREEDY, SCIPY, PUBLISHED = "greedy", "SciPy OMP + NNLS, greedy", "published"
UNCERTIFIED = "greedy, no certificate"
OURS = {
    GREEDY: Method({}),
    UNCERTIFIED: Method({}, certified=False),
    "greedy, swaps=1": Method({"swaps": 1}),
    "residual_random": Method({"rule": "residual_random"}),
}
# The published algorithm has no certificate, and is not charged for one.
THEIRS = {
    PUBLISHED: Method({"solver": "published", "rule": "residual_random"}, certified=False),
    "published, greedy rule": Method({"solver": "published"}, certified=False),
}

NOTES = f"""\
* Time is from the call to the result, compiled before (its own column), the Gram matrix given.
  Methods ran by turns. A run is as many calls in a row as take 10 ms, one at least, and follows a
  call that is not timed if calls take less than half a second; quartiles are over the runs, in
  milliseconds a call; a method that takes over 10 s ran once.
* `published` is the paper's Algorithm 2: rule residual_random, 128 accelerated gradient steps over
  the pool after every pick. It computes no certificate, so none is in its time. `published / this`
  is how many times as long as a method it took.
* Utility is U(w) of the picks and weights returned, in float64. KKT is the largest violation of the
  refit's optimality conditions, in float64, relative to the picks' largest alignment.
* Certificates of methods that compute none are their utility over the bound that `greedy` found.
* `extrapolated`: {PROBE_PICKS} picks from the same pool were timed, and the time scaled by
  K/{PROBE_PICKS}. A pick costs the same whenever it is made; the start-up, scaled along with it,
  makes this at most 2 % too long. There are then no picks whose utility could be told.
* Problems: unit features in {DIM} dimensions with a signal common to pool and anchors and a centre
  per domain; {ANCHORS} anchors; proportional budgets. SciPy runs on the host's CPU."""


def run(*, sizes: Sequence[str] | None, repeats: int, large: bool) -> Results:
    """Measures `SHAPES` and the growth with N, or `sizes` alone.

    Args:
      sizes: problems as NxKxP, or None.
      repeats: timed runs of each method, >= 1; slow ones get fewer.
      large: also `LARGE`, from features.

    Returns:
      Tables; and the numbers under `rows`, `growth` (with `exponents`) and `large`.

    Raises:
      ValueError: sizes that are malformed or impossible.
      ImportError: no SciPy.
    """
    import_nnls()
    shapes = SHAPES if sizes is None else parse(sizes)
    numbers: dict[str, Any] = {"dim": DIM}
    numbers["rows"] = [
        row
        for shape in shapes
        for row in compare(make_instance(shape), OURS | THEIRS, repeats=repeats)
    ]
    parts = [f"{_table(numbers['rows'])}\n\n{NOTES}"]
    if sizes is None:
        numbers["growth"], growth_table = growth(repeats)
        parts.append(growth_table)
    if large:
        ours = {name: OURS[name] for name in (GREEDY, UNCERTIFIED, "residual_random")}
        numbers["large"] = [
            row
            for shape in LARGE
            for row in compare(make_instance(shape, gram=False), ours, repeats=repeats)
        ]
        parts.append(f"Large pools, from features: no N × N array.\n\n{_table(numbers['large'])}")
    return Results(numbers, "\n\n".join(parts))


def compare(
    instance: Instance, methods: dict[str, Method], *, repeats: int
) -> list[dict[str, Any]]:
    """One row of numbers for every method and for SciPy."""
    shape = instance.shape
    probe = instance.with_picks(min(PROBE_PICKS, shape.picks))
    slow = jax.default_backend() == "cpu" and shape.pool**2 * shape.picks > PATIENT_ENTRIES
    probed = THEIRS.keys() & methods.keys() if slow else set()
    _log.info("%s: compiling %d programs", shape, len(methods))
    runs: dict[str, Callable[[], Any]] = {}
    compile_seconds: dict[str, float] = {}
    for name, method in methods.items():
        posed = probe if name in probed else instance
        runs[name], compile_seconds[name] = _compile(method, posed)
    _log.info("%s: measuring", shape)
    measured = interleave(runs | {SCIPY: lambda: (*pursue(instance), None)}, repeats)

    timings, values, residuals = {}, {}, {}
    certificates: dict[str, float | None] = {}
    for name, (timing, (indices, weights, reported)) in measured.items():
        if name in probed:
            timings[name] = timing.times(shape.picks / probe.shape.picks)
            continue
        timings[name] = timing
        values[name], residuals[name] = judge(instance, np.asarray(indices), np.asarray(weights))
        if reported is not None:
            certificates[name] = float(reported.certificate)
    bound = ratio(values[GREEDY], certificates[GREEDY])
    for name in (*THEIRS, SCIPY):
        certificates[name] = ratio(values.get(name), bound)
    published = timings[PUBLISHED].median if PUBLISHED in timings else None
    return [
        shape._asdict()
        | {
            "from": "features" if instance.problem.gram is None else "gram",
            "method": name,
            "milliseconds": dataclasses.asdict(timing),
            "extrapolated": name in probed,
            "published_over_this": ratio(published, timing.median),
            "compile_seconds": compile_seconds.get(name),
            "utility": values.get(name),
            "utility_over_scipy": ratio(values.get(name), values[SCIPY]),
            "certificate": certificates.get(name),
            "kkt_residual": residuals.get(name),
        }
        for name, timing in timings.items()
    ]


def _compile(method: Method, instance: Instance) -> tuple[Callable[[], Any], float]:
    return compiled(method.program(instance.shape.picks), instance.problem, jax.random.key(0))


def growth(repeats: int) -> tuple[dict[str, Any], str]:
    """Time over N at fixed K and P, and the exponents e of the fits time = c N^e."""
    milliseconds: dict[str, list[float]] = {}
    methods = {name: OURS[name] for name in (GREEDY, UNCERTIFIED)}
    for shape in GROWTH:
        _log.info("%s: growth with N", shape)
        runs: dict[str, Callable[[], Any]] = {}
        for source, gram in (("Gram matrix", True), ("features", False)):
            instance = make_instance(shape, gram=gram)
            for name, method in methods.items():
                runs[f"{name}; {source}"], _ = _compile(method, instance)
        for name, (timing, _) in interleave(runs, repeats).items():
            milliseconds.setdefault(name, []).append(timing.median)
    pools = [shape.pool for shape in GROWTH]
    exponents = {
        name: float(np.polyfit(np.log(pools), np.log(times), 1)[0])
        for name, times in milliseconds.items()
    }
    picks, domains = GROWTH[0].picks, GROWTH[0].domains
    lines = [
        (name, *map(cell, times), f"{exponents[name]:.2f}") for name, times in milliseconds.items()
    ]
    drawn = table(("method; K from", *(f"N={pool}" for pool in pools), "exponent"), lines)
    return (
        {
            "picks": picks,
            "domains": domains,
            "pools": pools,
            "milliseconds": milliseconds,
            "exponents": exponents,
        },
        f"Growth with N at K={picks}, P={domains}: milliseconds (median).\n\n{drawn}",
    )


def _table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        time = row["milliseconds"]
        median = cell(time["median"]) + (" (extrapolated)" if row["extrapolated"] else "")
        lines.append(
            (
                str(Shape(row["pool"], row["picks"], row["domains"])),
                row["method"],
                median,
                f"{cell(time['lower'])} … {cell(time['upper'])}",
                cell(time["fastest"]),
                str(time["runs"]),
                cell(row["published_over_this"]),
                cell(row["compile_seconds"], ".2f"),
                cell(row["utility"], ".6g"),
                cell(row["utility_over_scipy"], ".6f"),
                cell(row["certificate"], ".4f"),
                cell(row["kkt_residual"], ".1e"),
            )
        )
    headings = (
        "N x K x P,method,ms (median),quartiles,fastest,runs,published / this,compile s,utility,"
    )
    headings += "/ SciPy,certificate,KKT"
    return table(headings.split(","), lines)
