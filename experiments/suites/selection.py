"""Selection against the published algorithm and against SciPy: time, utility, certificate.

* Every method selected from the same problem in the same process, by turns, the Gram matrix given.
  Time is from the call to the result, compiled before (its own column). A run is as many calls in a
  row as take 10 ms, one at least, and follows a call that is not timed if calls take less than half
  a second; quartiles are over the runs, in milliseconds a call; a method that takes over 10 s ran
  once.
* `published` is the paper's Algorithm 2: rule residual_random, 128 accelerated gradient steps over
  the pool after every pick. It computes no certificate, so none is in its time. `published over
  this` is how many times as long as a method it took.
* Utility is U(w) of the picks and weights returned, in float64. The KKT residual is the largest
  violation of the refit's optimality conditions, in float64, relative to the picks' largest
  alignment.
* Certificates of methods that compute none are their utility over the bound that `greedy` found.
* `extrapolated`: 16 picks from the same pool were timed, and the time scaled by K/16. A pick costs
  the same whenever it is made; the start-up, scaled along with it, makes this at most 2 % too long.
  There are then no picks whose utility could be told.
* Problems: unit features in 512 dimensions with a signal common to pool and anchors and a centre
  per domain; 16 anchors; proportional budgets. SciPy runs on the host's CPU.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import nnls

from experiments.suites import measuring, workloads
from experiments.suites.measuring import Options, Part, compile_program, table
from partitionsel_jax import selection

# Dimension M of the features, and anchors.
DIM, ANCHORS = 512, 16
# N candidates, K picks, P domains.
SHAPES = (
    *((64, 8, 4), (256, 32, 4), (256, 32, 8)),
    *((512, 64, 8), (1024, 128, 8), (4096, 512, 16)),
)
# Growth with N at fixed K and P.
POOLS, PICKS, DOMAINS = (256, 512, 1024, 2048, 4096), 32, 8
# Pools whose Gram matrix is never made.
LARGE = ((4096, 512, 16), (16_384, 1024, 16))
# Entries of K that the published algorithm may read per step, summed over the picks, before a CPU
# would be at it for minutes. Beyond, so many picks are timed, and the time is scaled.
PATIENT_ENTRIES = 1e9
PROBE_PICKS = 16

# Arguments of `select`. Programs in `UNCERTIFIED` answer picks and weights alone, so that the
# compiler leaves the certificate out: the published algorithm has none, and is not charged for one.
GREEDY, SCIPY, PUBLISHED = "greedy", "SciPy OMP + NNLS, greedy", "published"
OURS: dict[str, dict[str, Any]] = {
    GREEDY: {},
    "greedy, no certificate": {},
    "greedy, swaps=1": {"swaps": 1},
    "residual_random": {"rule": "residual_random"},
}
THEIRS: dict[str, dict[str, Any]] = {
    PUBLISHED: {"solver": "published", "rule": "residual_random"},
    "published, greedy rule": {"solver": "published"},
}
UNCERTIFIED = {"greedy, no certificate", *THEIRS}

COLUMNS = (
    "pool picks domains method milliseconds extrapolated published_over_this compile_seconds:.2f "
    "utility:.6g utility_over_scipy:.6f certificate:.4f kkt_residual:.1e"
)


class Instance(NamedTuple):
    """A problem, on the device, and the float32 vectors f32[N, M] and f32[M] that pose it."""

    picks: int
    problem: selection.Problem
    features: np.ndarray
    anchor: np.ndarray


def run(options: Options) -> Iterator[Part]:
    """Measures `SHAPES` and the growth with N, or sizes as NxKxP alone; `LARGE` if asked.

    Raises:
      ValueError: sizes that are malformed or impossible.
    """
    shapes = SHAPES if options.sizes is None else parse(options.sizes)
    rows = [row for shape in shapes for row in compare(shape, OURS | THEIRS, options.repeats)]
    yield Part({"dim": DIM, "rows": rows}, (table(COLUMNS, rows), measuring.notes(__doc__)))
    if options.sizes is None:
        yield growth(options.repeats)
    if options.large:
        ours = {name: OURS[name] for name in OURS if "swaps" not in name}
        rows = [row for shape in LARGE for row in compare(shape, ours, options.repeats, gram=False)]
        said = "Large pools, from features: no N × N array."
        yield Part({"large": rows}, (said, table(COLUMNS, rows)))


def parse(sizes: Iterable[str]) -> list[tuple[int, int, int]]:
    """Shapes from NxKxP; ValueError for anything else."""
    shapes = []
    for text in sizes:
        match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text.strip())
        pool, picks, domains = map(int, match.groups()) if match else (0, 0, 0)
        if not (1 <= picks <= pool and domains >= 1):
            raise ValueError(
                f"sizes must be NxKxP, pool x picks x domains with 1 <= K <= N and P >= 1, got "
                f"{text!r}; write e.g. --sizes=256x32x8,1024x128x8."
            )
        shapes.append((pool, picks, domains))
    if not shapes:
        raise ValueError("sizes must name at least one problem, got none; leave --sizes out.")
    return shapes


def make_instance(shape: Sequence[int], *, gram: bool = True, seed: int = 0) -> Instance:
    """A pool with a gradient signal common to pool and anchors, with its Gram matrix or without.

    The pool does not depend on the picks K.
    """
    pool, picks, domains = shape
    rng = np.random.default_rng(seed)
    centres, signal = rng.normal(size=(domains, DIM)), rng.normal(size=DIM)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        domain = rng.integers(0, domains, count)
        vectors = rng.normal(size=(count, DIM)) + 0.3 * centres[domain] + 0.3 * signal
        return domain, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    domain, vectors = draw(pool)
    features, anchor = vectors.astype(np.float32), draw(ANCHORS)[1].mean(axis=0).astype(np.float32)
    # Products on the host, so that every device gets the same numbers.
    problem = selection.Problem(
        alignment=jnp.asarray(features @ anchor),
        gram=jnp.asarray(features @ features.T) if gram else None,
        domains=jnp.asarray(domain, jnp.int32),
        budgets=selection.budgets.proportional(jnp.bincount(domain, length=domains), picks),
        features=None if gram else jnp.asarray(features),
    )
    return Instance(picks, problem, features, anchor)


def pursue(instance: Instance) -> tuple[np.ndarray, np.ndarray]:
    """Greedy matching pursuit under the matroid, refitted by SciPy's NNLS: picks and weights."""
    features, anchor = instance.features.astype(np.float64), instance.anchor.astype(np.float64)
    domains, left = np.asarray(instance.problem.domains), np.array(instance.problem.budgets)
    alignment = features @ anchor
    picks: list[int] = []
    residual, weights, free = alignment, np.zeros(0), np.ones(len(domains), bool)
    for _ in range(instance.picks):
        feasible = free & (left[domains] > 0)
        if not feasible.any():
            break
        pick = int(np.argmax(np.where(feasible, residual, -np.inf)))
        picks.append(pick)
        free[pick] = False
        left[domains[pick]] -= 1
        weights, _ = nnls(features[picks].T, anchor, maxiter=10_000)
        residual = alignment - features @ (features[picks].T @ weights)
    return np.array(picks), weights


def judge(instance: Instance, indices: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Utility U(w) and KKT residual of an answer, in float64, of the float32 features.

    Args:
      instance: with K picks.
      indices: int[K], -1 for none.
      weights: f[K]; ValueError unless they are finite.
    """
    if not np.isfinite(weights).all():
        raise ValueError(f"weights must be finite, got {weights}.")
    picks, weights = indices[indices >= 0], weights[indices >= 0].astype(np.float64)
    rows, anchor = instance.features[picks].astype(np.float64), instance.anchor.astype(np.float64)
    target, residual = rows @ anchor, rows @ (anchor - rows.T @ weights)
    stationarity = np.abs(residual[weights > 0]).max(initial=0.0)
    violation = max(stationarity, residual.max(initial=0.0), -weights.min(initial=0.0))
    return float(weights @ (target + residual)) / 2, float(violation / np.abs(target).max())


def compare(
    shape: Sequence[int], methods: Mapping[str, Any], repeats: int, *, gram: bool = True
) -> list[dict[str, Any]]:
    """One row of numbers for every method and for SciPy."""
    pool, picks, domains = shape
    instance = make_instance(shape, gram=gram)
    slow = workloads.on_cpu() and pool**2 * picks > PATIENT_ENTRIES
    probed = THEIRS.keys() & methods.keys() if slow else set()
    fewer = min(PROBE_PICKS, picks)
    probe = make_instance((pool, fewer, domains), gram=gram) if probed else instance
    answers: dict[str, tuple] = {}
    compiled = {
        name: _compile(name, choices, probe if name in probed else instance, answers)
        for name, choices in methods.items()
    }
    runs = {name: run for name, (run, _) in compiled.items()}
    runs[SCIPY] = lambda: answers.update({SCIPY: (*pursue(instance), None)})
    timings = measuring.by_turns(runs, repeats)
    timings |= {name: measuring.scaled(timings[name], picks / fewer) for name in probed}
    judged = {
        name: judge(instance, *map(np.asarray, answers[name][:2])) for name in runs.keys() - probed
    }
    bound = judged[GREEDY][0] / float(answers[GREEDY][2])
    published = timings[PUBLISHED]["median"] if PUBLISHED in timings else None
    rows = []
    for name, timing in timings.items():
        utility, residual = judged.get(name, (None, None))
        certificate = None if name in probed else answers[name][2]
        if certificate is None and utility is not None and name in (*THEIRS, SCIPY):
            certificate = utility / bound
        rows.append(
            {
                **{"pool": pool, "picks": picks, "domains": domains},
                **{"from": "gram" if gram else "features", "method": name, "milliseconds": timing},
                "extrapolated": name in probed,
                "published_over_this": published and published / timing["median"],
                "compile_seconds": compiled[name][1] if name in compiled else None,
                "utility": utility,
                "utility_over_scipy": utility and utility / judged[SCIPY][0],
                "certificate": None if certificate is None else float(certificate),
                "kkt_residual": residual,
            }
        )
    return rows


def _compile(
    name: str, choices: Mapping[str, Any], instance: Instance, answers: dict[str, tuple]
) -> tuple[Callable[[], None], float]:
    """A run that puts (indices, weights, certificate or None) under `name`; seconds to compile."""

    def select(problem: selection.Problem, key: jax.Array) -> tuple:
        result = selection.select(problem, size=instance.picks, key=key, **choices)
        certificate = None if name in UNCERTIFIED else result.certificate
        return result.indices, result.weights, certificate

    program = compile_program(name, select, instance.problem, jax.random.key(0))
    return lambda: answers.update({name: program.run()}), program.compile_seconds


def growth(repeats: int) -> Part:
    """Time over N at fixed K and P, and the exponents e of the fits time = c N^e."""
    milliseconds: dict[str, list[float]] = {}
    for pool in POOLS:
        runs = {}
        for source, gram in (("Gram matrix", True), ("features", False)):
            instance = make_instance((pool, PICKS, DOMAINS), gram=gram)
            for name in (GREEDY, "greedy, no certificate"):
                runs[f"{name}; {source}"], _ = _compile(name, OURS[name], instance, {})
        for name, timing in measuring.by_turns(runs, repeats).items():
            milliseconds.setdefault(name, []).append(timing["median"])
    exponents = {
        name: float(np.polyfit(np.log(POOLS), np.log(times), 1)[0])
        for name, times in milliseconds.items()
    }
    sizes = [f"N={pool}" for pool in POOLS]
    rows = [
        {"method": name, "exponent": exponents[name], **dict(zip(sizes, times, strict=True))}
        for name, times in milliseconds.items()
    ]
    drawn = table(" ".join(["method", *sizes, "exponent:.2f"]), rows)
    numbers = {"picks": PICKS, "domains": DOMAINS, "pools": POOLS}
    numbers |= {"milliseconds": milliseconds, "exponents": exponents}
    said = f"Growth with N at K={PICKS}, P={DOMAINS}, K from what is named: milliseconds (median)."
    return Part({"growth": numbers}, (said, drawn))
