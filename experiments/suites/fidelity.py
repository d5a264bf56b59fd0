"""How well cheap features stand in for exact gradients: errors, and whether the picks agree.

* On pools that a small trained model has not seen, gradients of all parameters are the truth: those
  at random weights say little about what a run meets. Features have unit norm. Errors are relative,
  in the Frobenius norm, of the Gram matrix of the pool and of its alignment with the anchors' mean;
  the overlap is the share of the picks from exact gradients that are picked again. Utility, budgets
  and anchors are those of `configs/self_selection.py`.
* Sketches: mean over pools and seeds of the sketch, ± the standard deviation over seeds of the mean
  over pools. `two_sided` came out of the factored path; the other families sketched the very
  gradients that are exact.
* Cheaper features are not sketched, so that what each leaves out is seen on its own: mean over
  pools ± the standard deviation over them. Old features were computed so many updates ago. Adapters
  are random: the first factor as initialised, the second of standard deviation 0.03.
"""

import dataclasses
import functools
import io
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments.suites import workloads
from experiments.suites.measuring import Part, log, notes, table
from partitionsel_jax import gradients, models, selection
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.config.sections import FeatureSettings
from partitionsel_jax.data import Rows
from partitionsel_jax.distributed import spmd
from partitionsel_jax.models import parameters as trees
from partitionsel_jax.selection import diagnostics
from partitionsel_jax.step import features as row_features
from partitionsel_jax.training import setup as run_setup

# Updates by random picks before gradients are taken, and pools that the measures are means over.
UPDATES, POOLS = 40, 4
FAMILIES = tuple(name for name in gradients.FAMILIES if name != "identity")
DIMS, SEEDS = (64, 256, 1024, 4096), 5
# What makes features cheaper: layers, tokens of a row, age in updates.
LAST_LAYERS, TOKENS, AGES = (2, 1), (64, 48), (1, 4, 16)
# Adapters whose second factor is about what some hundred updates at a rate of 1e-4 make of 0.
LORA, ADAPTER_SIZE = models.LoRAConfig(rank=8, alpha=16.0), 0.03

MEASURES = ("gram_error", "alignment_error", "pick_overlap")


class Trained(NamedTuple):
    """A model after its updates, and rows that it has not seen.

    Attributes:
      setup: of the run.
      aged: parameters so many updates before the end.
      rows: those of all pools, and the anchors of all pools behind them.
    """

    setup: run_setup.Setup
    aged: Mapping[int, Any]
    rows: Rows

    @property
    def candidates(self) -> int:
        """How many rows are candidates."""
        return POOLS * self.setup.settings.selection.pool

    def features(
        self, weights: Any, model: models.Model | None = None, seed: int = 0, **changed: Any
    ) -> jax.Array:
        """f32[B, m] of all rows; exact gradients but for the settings that are `changed`."""
        exact: dict[str, Any] = {"parameters": "full", "last_layers": 0, "path": "reference"}
        exact |= {"family": "identity", "dim": 0, "normalize": False}
        settings = dataclasses.replace(self.setup.settings.features, **(exact | changed))
        model = model or self.setup.step.model
        return _features(model, settings, weights, self.rows, jnp.int32(seed))

    def compare(self, vectors: jax.Array, exact: jax.Array) -> dict[str, Any]:
        """`MEASURES`, f64[POOLS] each, of features against exact gradients."""
        domains, size = self.setup.step.domains, self.setup.settings.selection.size
        # Candidates and anchors of each pool, of either.
        parts = [
            part.reshape(POOLS, -1, part.shape[-1])
            for each in (vectors, exact)
            for part in (each[: self.candidates], each[self.candidates :])
        ]
        domains_N = self.rows.domain[: self.candidates].reshape(POOLS, -1)
        found = _compare(domains, size, domains_N, *parts)
        return {name: np.asarray(value, float) for name, value in zip(MEASURES, found, strict=True)}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _features(
    model: models.Model, settings: FeatureSettings, weights: Any, rows: Rows, seed: Any
) -> jax.Array:
    scope = gradients.Scope(settings.parameters, settings.last_layers, model.config.layers)
    # The seed is an argument, so that all seeds share a program.
    seeded, step = dataclasses.replace(settings, seed=seed), jnp.int32(0)
    return row_features.compute_features(model, scope, seeded, weights, rows, step=step)[0].vectors


@functools.partial(jax.jit, static_argnums=(0, 1))
@functools.partial(jax.vmap, in_axes=(None, None, 0, 0, 0, 0, 0))
def _compare(domains: int, size: int, domains_N: Any, *parts: jax.Array) -> tuple[jax.Array, ...]:
    """The measures of one pool, of its and its anchors' features against their gradients."""
    ours, theirs = (
        workloads.problem_of(
            gradients.unit(pool), gradients.unit(anchors), domains_N, domains, size
        )
        for pool, anchors in (parts[:2], parts[2:])
    )
    picks, truth = (selection.select(one, size=size).indices for one in (ours, theirs))
    return (
        diagnostics.relative_error(jnp.asarray(ours.gram), jnp.asarray(theirs.gram)),
        diagnostics.relative_error(ours.alignment, theirs.alignment),
        diagnostics.pick_overlap(picks, truth),
    )


def measure(config: Mapping[str, Any]) -> Part:
    """Measures sketches and cheaper features after training by a config without adapters."""
    log.info("training for %d updates", UPDATES)
    trained = train(config)
    exact = trained.features(trained.aged[0])
    chosen = trained.setup.settings.selection
    sketches, cheaper = list(_sketches(trained, exact)), list(_cheaper(trained, exact))
    numbers = {
        **{"updates": UPDATES, "pools": POOLS, "coordinates": exact.shape[1]},
        **{name: getattr(chosen, name) for name in ("pool", "size", "anchors")},
        **{"sketches": sketches, "cheaper": cheaper},
    }
    said = (
        f"Fidelity: the model of `configs/self_selection.py` after {UPDATES} updates of random "
        f"picks, {exact.shape[1]:,} parameters; pools {POOLS}, each of {chosen.pool} rows, "
        f"{chosen.size} picks and {chosen.anchors} anchors; sketch seeds {SEEDS}. Random picks "
        f"would overlap by {chosen.size / chosen.pool:.3f}."
    )
    measures = " ".join(MEASURES)
    tables = (
        table(f"family dim {measures}", sketches),
        table(f"features against {measures}", cheaper),
    )
    return Part({"fidelity": numbers}, (said, *tables, notes(__doc__)))


def train(config: Mapping[str, Any]) -> Trained:
    """Trains on random picks.

    Raises:
      ValueError: a config that does not fit or has adapters.
    """
    settings = run_settings.parse(config)
    if settings.lora.rank:
        raise ValueError(
            f"config.lora.rank must be 0, got {settings.lora.rank}: the comparison itself puts "
            "adapters on the trained model."
        )
    random = dataclasses.replace(settings.selection, utility="random", swaps=0)
    setup = run_setup.prepare(dataclasses.replace(settings, selection=random), spmd.Layout.first(1))
    state, frozen = run_setup.initialise(setup)
    aged = {}
    for step in range(UPDATES):
        if UPDATES - step in AGES:
            # A copy, since the step takes its state's buffers.
            aged[UPDATES - step] = jax.tree.map(jnp.copy, state.parameters)
        pool, anchors = map(setup.layout.rows, setup.pools[step])
        state, _ = setup.training_step(state, frozen, pool, anchors, setup.seed, setup.others)
    unseen = zip(*(setup.pools[UPDATES + number] for number in range(POOLS)), strict=True)
    parts = [each for kind in unseen for each in kind]
    rows = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return Trained(setup, aged | {0: state.parameters}, rows)


def _sketches(trained: Trained, exact: jax.Array) -> Iterator[dict[str, Any]]:
    """Rows of every family and dimension."""
    for family in FAMILIES:
        log.info("%s", family)
        for dim in DIMS:
            found = []
            for seed in range(SEEDS):
                if family in gradients.FACTORED:
                    changed: dict[str, Any] = {"path": "factored", "family": family, "dim": dim}
                    vectors = trained.features(trained.aged[0], seed=seed, **changed)
                else:
                    # These families see a gradient as one long vector, so it may come as one.
                    vectors = gradients.make_sketch(family, dim, seed)(exact)
                measured = trained.compare(vectors, exact)
                found.append({name: values.mean() for name, values in measured.items()})
            yield {"family": family, "dim": dim} | _summary(found)


def _cheaper(trained: Trained, exact: jax.Array) -> Iterator[dict[str, Any]]:
    """Rows of features that are cheaper than exact ones."""

    def row(features: str, against: str, vectors: jax.Array, truth: jax.Array) -> dict[str, Any]:
        log.info("%s", features)
        found = _summary(trained.compare(vectors, truth))
        return {"features": features, "against": against} | found

    everything, parameters, count = "all parameters", trained.aged[0], trained.candidates
    for last in LAST_LAYERS:
        layers = "the last layer" if last == 1 else f"the last {last} layers"
        yield row(layers, everything, trained.features(parameters, last_layers=last), exact)
    for tokens in TOKENS:
        cut = trained.features(parameters, tokens=tokens)
        yield row(f"rows cut to {tokens} tokens", everything, cut, exact)
    for age in AGES:
        old = trained.features(trained.aged[age])
        updates = "1 update" if age == 1 else f"{age} updates"
        for whose, parts in (("pool's", (old, exact)), ("anchors'", (exact, old))):
            mixed = jnp.concatenate([parts[0][:count], parts[1][count:]])
            yield row(f"the {whose}, {updates} old", everything, mixed, exact)
    model = models.Model(trained.setup.step.model.config, LORA)
    adapters, _ = trees.split(model.init(jax.random.key(0)), models.is_adapter)
    adapted = trees.join(parameters, workloads.disturb(adapters, ADAPTER_SIZE))
    whole, lora, second = (
        trained.features(adapted, model, parameters=kind) for kind in ("full", "lora", "lora_b")
    )
    yield row("LoRA", f"{everything} and adapters", lora, whole)
    yield row("LoRA-B", f"{everything} and adapters", second, whole)
    yield row("LoRA-B", "LoRA", second, lora)


def _summary(measured: Any) -> dict[str, dict[str, float]]:
    """Mean and standard deviation of every measure."""
    found = pd.DataFrame(measured).agg(["mean", "std"]).rename({"std": "spread"})
    return found.to_dict()


def draw(numbers: Mapping[str, Any]) -> bytes | None:
    """Pick overlap against sketch dimension as PNG; None where sketches were not measured."""
    found = numbers.get("fidelity")
    if not found or not found["sketches"]:
        return None
    frame = pd.json_normalize(found["sketches"])
    mean, spread = (
        frame.pivot(index="dim", columns="family", values=f"pick_overlap.{name}")
        for name in ("mean", "spread")
    )
    axes = mean.plot(
        yerr=spread,
        marker="o",
        logx=True,
        ylim=(0, 1.02),
        figsize=(9.6, 4.8),
        xlabel="sketch dimension",
        ylabel="pick overlap with exact gradients",
        title=f"{found['size']} of {found['pool']} rows, mean over {found['pools']} pools; bars: "
        "standard deviation over seeds of the sketch",
    )
    axes.set_xticks(mean.index, [f"{dim:,}" for dim in mean.index], minor=False)
    buffer = io.BytesIO()
    axes.figure.savefig(buffer, format="png", dpi=200)
    return buffer.getvalue()
