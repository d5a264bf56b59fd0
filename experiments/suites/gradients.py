"""Cost of gradient features beside an ordinary pass, and (`fidelity`) how faithful they are.

* All passes see the same rows in one microbatch and ran by turns. The reference path over all
  parameters holds a whole gradient per row: one row at a time, and with --large only.
* `forward` and `ordinary` (loss and gradient) exist with this project's loss and through logits of
  all tokens. `ratio` is to the faster of the two: of `ordinary` in the same scope, or of `forward`
  for features of the last layers. `memory ratio` is always to the `ordinary` pass that needs less.
* Memory is what the compiled program needs beside its arguments: temporary, and for its results.
* Operations are those of the matrix products, counted in the traced pass; `share of ceiling` is
  their rate, relative to that of one large matrix product in the same run.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval

from configs import self_selection
from experiments.suites import fidelity, measuring, workloads
from experiments.suites.measuring import Options, Part, notes, table
from partitionsel_jax import models
from partitionsel_jax.config.sections import FeatureSettings
from partitionsel_jax.config.settings import Settings
from partitionsel_jax.data import Rows
from partitionsel_jax.gradients import Features, Scope
from partitionsel_jax.models import parameters as trees
from partitionsel_jax.step import costs
from partitionsel_jax.step import features as row_features

PARTS = ("cost", "fidelity")
draw = fidelity.draw
# Rows and columns of the square matrices whose product is the ceiling.
SIDE = 2048
MEMORY_TARGET = 1.2

COLUMNS = (
    "method milliseconds ratio target compile_seconds bytes memory_ratio memory_target "
    "tokens_per_second operations share_of_ceiling"
)


def default() -> Settings:
    """SmolLM2-135M's shape, features of the last layers, and rows that suit the backend."""
    rows, tokens = (4, 128) if workloads.on_cpu() else (16, 512)
    features = {"parameters": "lora", "last_layers": 3, "dim": 1024, "microbatch": rows}
    model, data = workloads.smollm2(), {"length": tokens}
    return workloads.settings_of(1, model=model, lora=workloads.LORA, features=features, data=data)


def run(options: Options) -> Iterator[Part]:
    """Measures the parts named as sizes, or both.

    Raises:
      ValueError: sizes that are no parts.
    """
    chosen = parse(options.sizes)
    if "cost" in chosen:
        yield measure(default(), options)
    if "fidelity" in chosen:
        yield fidelity.measure(self_selection.get_config().to_dict())


def parse(sizes: Sequence[str] | None) -> list[str]:
    """The parts to measure, each once; ValueError for anything else."""
    named = PARTS if sizes is None else [size.strip() for size in sizes]
    if not named or not set(named) <= set(PARTS):
        raise ValueError(
            f"sizes of the gradients suite must be some of {list(PARTS)}, got {sizes}; write "
            "e.g. --sizes=cost, or leave --sizes out."
        )
    return [part for part in PARTS if part in named]


def measure(settings: Settings, options: Options) -> Part:
    """Measures all passes; with `large` also the reference path over all parameters and layers."""
    passes = [row for kind in ("lora", "full") for row in _passes(settings, kind, options.large)]
    programs: dict[str, measuring.Program] = {row["method"]: row.pop("program") for row in passes}
    sides = jax.random.normal(jax.random.key(0), (2, SIDE, SIDE)).astype(settings.model.dtype)
    product = measuring.compile_program("one large product", jnp.matmul, *sides)
    runs = {name: program.run for name, program in programs.items()}
    timings = measuring.slow_by_turns(runs | {"product": product.run}, options.repeats)
    # The ceiling is the best of a product, so that no share of it is flattered.
    ceiling = 2e3 * SIDE**3 / timings["product"]["fastest"]
    medians = {name: timing["median"] for name, timing in timings.items()}
    sizes = {name: program.bytes for name, program in programs.items()}
    tokens = settings.features.microbatch * settings.data.length

    def least(costs: Mapping[str, float], yardstick: str) -> str:
        return min((yardstick, f"{yardstick}, by logits"), key=costs.__getitem__)

    rows = []
    for row in passes:
        name, yardstick = row["method"], row["yardstick"]
        faster = yardstick and least(medians, yardstick)
        smaller = least(sizes, f"ordinary, {row.pop('kind')}")
        measured = {
            **{"milliseconds": timings[name], "yardstick": faster, "bytes": sizes[name]},
            "ratio": faster and medians[name] / medians[faster],
            "compile_seconds": programs[name].compile_seconds,
            "memory_ratio": sizes[name] / sizes[smaller],
            "memory_target": MEMORY_TARGET if row["target"] else None,
            "tokens_per_second": 1e3 * tokens / medians[name],
            "share_of_ceiling": 1e3 * row["operations"] / medians[name] / ceiling,
        }
        rows.append(row | measured)
    left_out = [] if options.large else ["reference: full, all layers"]
    omitted = [f"Left out: {name} (--large measures it)." for name in left_out]
    numbers = {"shape": workloads.shape_of(settings), "operations_per_second_at_most": ceiling}
    numbers |= {"rows": rows, "left_out": left_out}
    said = (
        f"Cost: {workloads.said(settings)}; microbatches of {settings.features.microbatch}. "
        f"Ceiling: {ceiling / 1e9:.0f} GFLOP/s."
    )
    return Part({"cost": numbers}, (said, table(COLUMNS, rows), *omitted, notes(__doc__)))


def _passes(settings: Settings, kind: str, large: bool) -> Iterator[dict[str, Any]]:
    """All passes over a kind of parameters: rows with the program and what is known before."""
    config, size, tokens = settings.model, settings.features.microbatch, settings.data.length
    model = models.Model(config, settings.lora if kind == "lora" else models.LoRAConfig())
    trained, frozen = trees.split(
        workloads.disturb(model.init(jax.random.key(0))),
        lambda path: kind == "full" or models.is_adapter(path),
    )
    rows = jax.tree.map(jnp.asarray, workloads.random_rows(settings, size))

    def chunked(trained: Any, frozen: Any, rows: Rows) -> jax.Array:
        return model.losses(trees.join(frozen, trained), rows.tokens, rows.response).mean()

    def logits(trained: Any, frozen: Any, rows: Rows) -> jax.Array:
        found = model.apply(trees.join(frozen, trained), rows.tokens)
        return models.response_loss(found, rows.tokens, rows.response).mean()

    def features(chosen: FeatureSettings, trained: Any, frozen: Any, rows: Rows) -> Features:
        scope = Scope(kind, chosen.last_layers, config.layers)
        everything, step = trees.join(frozen, trained), jnp.int32(0)
        return row_features.compute_features(model, scope, chosen, everything, rows, step=step)[0]

    def row(name: str, function: Callable[..., Any], microbatch: int = size, **known: Any) -> dict:
        # The one loop of unknown length is over blocks of the tokens that the loss counts.
        counted = microbatch * (tokens - max(1, tokens // 2))
        rounds = -(-counted // config.chunks.token_block(microbatch * (tokens - 1)))
        traced = jax.make_jaxpr(function)(trained, frozen, rows).jaxpr
        # Products that no result needs are traced, and left out by the compiler.
        traced, _ = partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))
        return {
            "method": name,
            "kind": kind,
            "program": measuring.compile_program(name, function, trained, frozen, rows),
            "operations": costs.count_traced(traced, devices=1, rounds=rounds).products,
            "yardstick": None,
            "target": None,
        } | known

    for how, loss in (("", chunked), (", by logits", logits)):
        yield row(f"forward, {kind}{how}", loss)
        yield row(f"ordinary, {kind}{how}", jax.value_and_grad(loss))
    for last in (settings.features.last_layers, 0):
        where = f"{kind}, last {last} of {config.layers}" if last else f"{kind}, all layers"
        targets = {"reference": None, "factored": 1.4 if last else {"lora": 1.1, "full": 0.9}[kind]}
        for path, target in targets.items():
            # A whole gradient per row.
            held = kind == "full" and not last and path == "reference"
            if held and not large:
                continue
            scoped: dict[str, Any] = {"parameters": kind, "last_layers": last, "path": path}
            scoped |= {"microbatch": 1 if held else size}
            chosen = dataclasses.replace(settings.features, **scoped)
            yardstick = f"forward, {kind}" if last else f"ordinary, {kind}"
            compute = functools.partial(features, chosen)
            known = {"yardstick": yardstick, "target": target}
            yield row(f"{path}: {where}", compute, chosen.microbatch, **known)
