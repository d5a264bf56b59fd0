"""How well cheap features stand in for exact gradients: errors, and whether the picks agree.

On pools that a small trained model has not seen, whole gradients of all parameters are the truth.
"""

import dataclasses
import functools
import logging
from collections.abc import Iterable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from experiments.suites.gradients.trained import (
    ADAPTER_SIZE,
    FidelityShape,
    Trained,
    train,
    with_adapters,
)
from experiments.suites.measuring import finite, number, table
from partitionsel_jax import gradients, models
from partitionsel_jax.config.sections import FeatureSettings
from partitionsel_jax.data import Rows
from partitionsel_jax.gradients import Features, Scope, unit
from partitionsel_jax.selection import diagnostics
from partitionsel_jax.step import anchors as held_out
from partitionsel_jax.step import features as row_features
from partitionsel_jax.step.candidates import Candidates, RowInfo, compare

_log = logging.getLogger("partitionsel_jax.benchmark")

# Features f32[B, m] of all pools and of all anchors.
Vectors = tuple[jax.Array, jax.Array]

MEASURES = ("gram_error", "alignment_error", "pick_overlap")

NOTES = f"""\
* Features have unit norm. Errors are relative, in the Frobenius norm, of the Gram matrix of the
  pool and of its alignment with the anchors' mean; the overlap is the share of the picks from exact
  gradients that are picked again. Utility, budgets and anchors are the quickstart's.
* Sketches: mean over pools and seeds of the sketch, ± the standard deviation over seeds of the mean
  over pools. `two_sided` came out of the factored path; the other families sketched the very
  gradients that are exact.
* Cheaper features are not sketched, so that what each leaves out is seen on its own: mean over
  pools ± the standard deviation over them. Old features were computed so many updates ago. Adapters
  are random: the first factor as initialised, the second of standard deviation {ADAPTER_SIZE}."""


class Judge:
    """Compares features of all pools with exact ones: `MEASURES`, f64[pools] each."""

    def __init__(self, trained: Trained, pools: int):
        self._step, self._pools = trained.setup.step, pools
        self._rows, self._anchors = trained.pool, trained.anchors
        # The candidates' shapes do not depend on the features' dimension: compiled once.
        self._choose = jax.jit(lambda candidates, key: self._step.select(candidates, key)[0])
        self._compare = jax.jit(self._compared)

    def _compared(
        self, labels: RowInfo, domains_A: jax.Array, pool: Features, anchors: Features
    ) -> Candidates:
        chosen, domains = self._step.selection, self._step.domains
        found = held_out.from_features(anchors, domains_A, mean=chosen.anchor_mean, domains=domains)
        return compare(labels, pool, found, chosen)

    def _candidates(self, pool: jax.Array, of_anchors: jax.Array) -> list[Candidates]:
        """From f32[pools * N, m] and f32[pools * A, m]."""
        found = []
        for which in range(self._pools):
            rows, anchors, vectors, directions = (
                _part(tree, which, self._pools)
                for tree in (self._rows, self._anchors, pool, of_anchors)
            )
            inputs = RowInfo.of(rows), anchors.domain, _features(vectors), _features(directions)
            found.append(self._compare(*inputs))
        return found

    def __call__(self, vectors: Vectors, exact: Vectors) -> dict[str, np.ndarray]:
        """The measures of (pool, anchors) features against (pool, anchors) gradients."""
        measured: dict[str, list[float]] = {name: [] for name in MEASURES}
        for ours, theirs in zip(self._candidates(*vectors), self._candidates(*exact), strict=True):
            picks, truth = (
                self._choose(candidates, jax.random.key(0)).indices for candidates in (ours, theirs)
            )
            found = (
                diagnostics.relative_error(ours.gram, theirs.gram),
                diagnostics.relative_error(ours.alignment, theirs.alignment),
                diagnostics.pick_overlap(picks, truth),
            )
            for name, value in zip(MEASURES, found, strict=True):
                measured[name].append(float(value))
        return {name: np.array(values) for name, values in measured.items()}


def _part(tree: Any, number: int, count: int) -> Any:
    """Part `number` of `count` equal ones, along the first axis."""

    def cut(leaf: Any) -> Any:
        size = leaf.shape[0] // count
        return leaf[number * size : (number + 1) * size]

    return jax.tree.map(cut, tree)


def _features(vectors: jax.Array) -> Features:
    count = vectors.shape[0]
    return Features(unit(vectors), jnp.zeros(count), jnp.ones(count))


def run(shape: FidelityShape) -> tuple[dict[str, Any], str]:
    """Measures sketches and cheaper features.

    Returns:
      Numbers, `sketches` and `cheaper` among them; and their tables.
    """
    _log.info("fidelity: training for %d updates", shape.updates)
    trained = train(shape)
    judge = Judge(trained, shape.pools)
    exact = _vectors(trained, trained.parameters)
    sketches = [row for rows in _sketches(shape, trained, judge, exact) for row in rows]
    cheaper = list(_cheaper(shape, trained, judge, exact))
    chosen = trained.setup.step.selection
    numbers = {
        "updates": shape.updates,
        "pools": shape.pools,
        "pool": chosen.pool,
        "size": chosen.size,
        "anchors": chosen.anchors,
        "coordinates": exact[0].shape[1],
        "sketches": sketches,
        "cheaper": cheaper,
    }
    return numbers, _draw(shape, numbers)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compute(
    model: models.Model, settings: FeatureSettings, parameters: Any, rows: Rows, seed: jax.Array
) -> jax.Array:
    scope = Scope(settings.parameters, settings.last_layers, model.config.layers)
    # The seed is an argument, so that all seeds share a program.
    seeded = dataclasses.replace(settings, seed=cast(int, seed))
    features, _ = row_features.compute_features(
        model, scope, seeded, parameters, rows, step=jnp.int32(0)
    )
    return features.vectors


def _vectors(
    trained: Trained,
    weights: Any,
    *,
    model: models.Model | None = None,
    seed: int = 0,
    **changed: Any,
) -> Vectors:
    """Features of the pools and of the anchors; exact but for what is `changed`."""
    settings = FeatureSettings(
        parameters="full",
        last_layers=0,
        family="identity",
        dim=0,
        normalize=False,
        microbatch=trained.setup.settings.features.microbatch,
        path="reference",
    )
    found = _compute(
        model or trained.setup.step.model,
        dataclasses.replace(settings, **changed),
        weights,
        jax.tree.map(lambda *parts: np.concatenate(parts), trained.pool, trained.anchors),
        jnp.int32(seed),
    )
    return _divided(found, trained)


def _divided(vectors: jax.Array, trained: Trained) -> Vectors:
    count = len(trained.pool.tokens)
    return vectors[:count], vectors[count:]


def _sketches(
    shape: FidelityShape, trained: Trained, judge: Judge, exact: Vectors
) -> Iterable[list[dict[str, Any]]]:
    """The rows of every family and dimension."""
    gathered = jnp.concatenate(exact)
    for family in shape.families:
        _log.info("fidelity: %s", family)
        rows = []
        for dim in shape.dims:
            measured = []
            for seed in range(shape.seeds):
                if family in gradients.FACTORED:
                    changed: dict[str, Any] = {
                        "path": "factored",
                        "family": family,
                        "dim": dim,
                        "seed": seed,
                    }
                    sketched = _vectors(trained, trained.parameters, **changed)
                else:
                    # These families see a gradient as one long vector, so it may come as one.
                    sketched = _divided(gradients.make_sketch(family, dim, seed)(gathered), trained)
                measured.append(judge(sketched, exact))
            means = {name: [found[name].mean() for found in measured] for name in MEASURES}
            rows.append({"family": family, "dim": dim} | _summary(means))
        yield rows


def _cheaper(
    shape: FidelityShape, trained: Trained, judge: Judge, exact: Vectors
) -> Iterable[dict[str, Any]]:
    """The rows of features that are cheaper than exact ones."""

    def row(features: str, against: str, vectors: Any, truth: Any) -> dict[str, Any]:
        _log.info("fidelity: %s", features)
        return {"features": features, "against": against} | _summary(judge(vectors, truth))

    everything = "all parameters"
    for last in shape.last_layers:
        found = _vectors(trained, trained.parameters, last_layers=last)
        layers = "the last layer" if last == 1 else f"the last {last} layers"
        yield row(layers, everything, found, exact)
    for tokens in shape.tokens:
        found = _vectors(trained, trained.parameters, tokens=tokens)
        yield row(f"rows cut to {tokens} tokens", everything, found, exact)
    for age in shape.ages:
        pool, anchors = _vectors(trained, trained.earlier[age])
        updates = "1 update" if age == 1 else f"{age} updates"
        yield row(f"the pool's, {updates} old", everything, (pool, exact[1]), exact)
        yield row(f"the anchors', {updates} old", everything, (exact[0], anchors), exact)
    model, parameters = with_adapters(shape, trained)
    whole = _vectors(trained, parameters, model=model)
    lora = _vectors(trained, parameters, model=model, parameters="lora")
    second = _vectors(trained, parameters, model=model, parameters="lora_b")
    adapted = f"{everything} and adapters"
    yield row("LoRA", adapted, lora, whole)
    yield row("LoRA-B", adapted, second, whole)
    yield row("LoRA-B", "LoRA", second, lora)


def _summary(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and standard deviation of every measure; the latter is None of a single value."""
    found: dict[str, Any] = {}
    for name, values in measured.items():
        spread = np.std(values, ddof=1) if len(values) > 1 else np.nan
        found[name] = {"mean": finite(np.mean(values)), "spread": finite(spread)}
    return found


def _draw(shape: FidelityShape, numbers: dict[str, Any]) -> str:
    """The tables of both comparisons."""
    measured = ("Gram error", "alignment error", "pick overlap")

    def cells(row: dict[str, Any]) -> tuple[str, ...]:
        return tuple(
            f"{number(row[name]['mean'], '.3f')} ± {number(row[name]['spread'], '.3f')}"
            for name in MEASURES
        )

    sketches = table(
        ("sketch", "dimension", *measured),
        [(row["family"], str(row["dim"]), *cells(row)) for row in numbers["sketches"]],
    )
    cheaper = table(
        ("features", "against those of", *measured),
        [(row["features"], row["against"], *cells(row)) for row in numbers["cheaper"]],
    )
    said = (
        f"Fidelity: the quickstart's model after {numbers['updates']} updates of random picks, "
        f"{numbers['coordinates']:,} parameters; pools {numbers['pools']}, each of "
        f"{numbers['pool']} rows, {numbers['size']} picks and {numbers['anchors']} anchors; sketch "
        f"seeds {shape.seeds}. Random picks would overlap by "
        f"{numbers['size'] / numbers['pool']:.3f}."
    )
    return f"{said}\n\n{sketches}\n\n{cheaper}\n\n{NOTES}"
