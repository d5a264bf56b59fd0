"""What gradient features cost beside an ordinary pass: time, memory, compilation, operations."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.suites import passes
from experiments.suites.measuring import at_most, number, ratio, table
from experiments.suites.operations import RowCost
from experiments.suites.passes import CostShape, Pass
from partitionsel_jax import models
from partitionsel_jax.config.sections import FeatureSettings
from partitionsel_jax.data import Rows
from partitionsel_jax.gradients import Features, Scope
from partitionsel_jax.models import parameters as trees
from partitionsel_jax.step import features as row_features

_log = logging.getLogger("partitionsel_jax.benchmark")

KINDS = ("lora", "full")
PRODUCT = "one large matrix product"
MEMORY_TARGET = 1.2

NOTES = """\
* All passes see the same rows in one microbatch and ran by turns. The reference path over all
  parameters holds a whole gradient per row: one row at a time, and with --large only.
* `forward` and `ordinary` (loss and gradient) exist with this project's loss and through logits of
  all tokens. `ratio` is to the faster of the two: of `ordinary` in the same scope, or of `forward`
  for features of the last layers. `memory ratio` is always to the `ordinary` pass that needs less.
* Memory is what the compiled program needs beside its arguments: temporary, and for its results.
  `device peak` is the backend's own count since the process started, read as the passes ran for the
  first time, smallest first; a dash where that did not raise it, or where there is no such count.
* Operations are those of the matrix products, by arithmetic; `of ceiling` is their rate, relative
  to that of one large matrix product in the same run."""


@dataclasses.dataclass(frozen=True)
class Method:
    """A pass, and what it is compared with.

    Attributes:
      name: in the table.
      group: passes of one group are the same work; the fastest of them is a yardstick.
      yardstick: the group that its time is relative to, None for yardsticks.
      memory_yardstick: the group whose smallest member its memory is relative to.
      target: most that the ratio of times should be, or None.
      operations: floating-point operations of it.
      compiled: the program.
    """

    name: str
    group: str
    yardstick: str | None
    memory_yardstick: str
    target: float | None
    operations: int
    compiled: Pass


def run(shape: CostShape, *, repeats: int, large: bool) -> tuple[dict[str, Any], str]:
    """Measures all passes.

    Args:
      shape: where.
      repeats: timed runs of each, >= 1; slow ones get fewer.
      large: also the reference path over all parameters of all layers.

    Returns:
      Numbers, with one of `rows` for every pass; and their table.
    """
    methods = [method for kind in KINDS for method in _methods(shape, kind, large)]
    product = passes.square_product(shape.product, shape.decoder.dtype)
    peaks = _first_runs(methods)
    _log.info("cost: measuring %d passes", len(methods))
    timings = passes.time_by_turns(
        {method.name: method.compiled.run for method in methods} | {PRODUCT: product.run}, repeats
    )
    # The ceiling is the best of a product, so that no share of it is flattered.
    ceiling = 2e3 * shape.product**3 / timings[PRODUCT].fastest
    groups = {
        group: [method for method in methods if method.group == group]
        for group in {method.group for method in methods}
    }
    best = {
        group: min(members, key=lambda method: timings[method.name].median)
        for group, members in groups.items()
    }
    rows = []
    for method in methods:
        timing = timings[method.name]
        yardstick = None if method.yardstick is None else best[method.yardstick]
        smallest = min(
            groups[method.memory_yardstick], key=lambda method: method.compiled.bytes or 0
        )
        rate = 1e3 * method.operations / timing.median
        rows.append(
            {
                "method": method.name,
                "milliseconds": dataclasses.asdict(timing),
                "yardstick": yardstick and yardstick.name,
                "ratio": yardstick and ratio(timing.median, timings[yardstick.name].median),
                "target": method.target,
                "compile_seconds": method.compiled.compile_seconds,
                "bytes": method.compiled.bytes,
                "memory_yardstick": smallest.name,
                "memory_ratio": ratio(method.compiled.bytes, smallest.compiled.bytes),
                "memory_target": MEMORY_TARGET if method.target else None,
                "device_peak_bytes": peaks[method.name],
                "tokens_per_second": 1e3 * shape.rows * shape.tokens / timing.median,
                "operations": method.operations,
                "share_of_ceiling": rate / ceiling,
            }
        )
    numbers = {
        "shape": dataclasses.asdict(shape),
        "operations_per_second_at_most": ceiling,
        "rows": rows,
        "left_out": [] if large else [_reference_name("full", shape, 0)],
    }
    return numbers, _draw(shape, numbers)


def _scope_name(kind: str, shape: CostShape, last: int) -> str:
    return f"{kind}, last {last} of {shape.decoder.layers}" if last else f"{kind}, all layers"


def _reference_name(kind: str, shape: CostShape, last: int) -> str:
    return f"reference: {_scope_name(kind, shape, last)}"


def _methods(shape: CostShape, kind: str, large: bool) -> list[Method]:
    """All passes of a kind of parameters, compiled."""
    config = shape.decoder
    model = models.Model(config, shape.lora if kind == "lora" else models.LoRAConfig())
    parameters = passes.disturb(model.init(jax.random.key(0)))
    whole = Scope(kind, 0, config.layers)
    trained, frozen = trees.split(
        parameters, lambda path: kind == "full" or models.is_adapter(path)
    )
    rows = jax.tree.map(
        jnp.asarray, passes.random_rows(shape.rows, shape.tokens, config.vocab_size)
    )
    cost = RowCost(config, model.lora, shape.tokens, passes.counted(shape.tokens))
    cost_logits = dataclasses.replace(cost, response=shape.tokens)
    forward, ordinary = f"forward, {kind}", f"ordinary, {kind}"

    def chunked(trained: Any, frozen: Any, rows: Rows) -> jax.Array:
        return model.losses(trees.join(frozen, trained), rows.tokens, rows.response).mean()

    def logits(trained: Any, frozen: Any, rows: Rows) -> jax.Array:
        found = model.apply(trees.join(frozen, trained), rows.tokens)
        return models.response_loss(found, rows.tokens, rows.response).mean()

    def features(scope: Scope, path: str, microbatch: int) -> Callable[..., Features]:
        settings = FeatureSettings(
            scope.parameters, scope.last_layers, "two_sided", shape.dim, True, microbatch, path=path
        )

        def compute(trained: Any, frozen: Any, rows: Rows) -> Features:
            everything = trees.join(frozen, trained)
            found = row_features.compute_features(
                model, scope, settings, everything, rows, step=jnp.int32(0)
            )
            return found[0]

        return compute

    def make(
        name: str,
        function: Callable[..., Any],
        operations: int,
        group: str,
        yardstick: str | None = None,
        target: float | None = None,
    ) -> Method:
        _log.info("cost: compiling %s", name)
        program = passes.compile_pass(function, trained, frozen, rows)
        total = shape.rows * operations
        return Method(name, group, yardstick, ordinary, target, total, program)

    methods = [
        make(forward, chunked, cost.forward, forward),
        make(f"{forward}, by logits", logits, cost_logits.forward, forward),
        make(ordinary, jax.value_and_grad(chunked), cost.ordinary(whole), ordinary),
        make(
            f"{ordinary}, by logits",
            jax.value_and_grad(logits),
            cost.ordinary_logits(whole),
            ordinary,
        ),
    ]
    for last in (shape.last_layers, 0):
        scope = Scope(kind, last, config.layers)
        yardstick = forward if last else ordinary
        name = _scope_name(kind, shape, last)
        held_whole = kind == "full" and not last
        if large or not held_whole:
            path = features(scope, "reference", 1 if held_whole else shape.rows)
            named = _reference_name(kind, shape, last)
            methods.append(make(named, path, cost.reference(scope, shape.dim), named, yardstick))
        path = features(scope, "factored", shape.rows)
        target = 1.4 if last else {"lora": 1.1, "full": 0.9}[kind]
        named, work = f"factored: {name}", cost.factored(scope, shape.dim)
        methods.append(make(named, path, work, named, yardstick, target))
    return methods


def _first_runs(methods: list[Method]) -> dict[str, int | None]:
    """Runs every pass once, the smallest first; the device's peak where a pass raised it."""
    peaks: dict[str, int | None] = {}
    before = passes.device_peak()
    for method in sorted(methods, key=lambda method: method.compiled.bytes or 0):
        if before is None:
            peaks[method.name] = None
            continue
        method.compiled.run()
        peak = passes.device_peak()
        peaks[method.name] = peak if peak is not None and peak > before else None
        before = peak
    return peaks


def _draw(shape: CostShape, numbers: dict[str, Any]) -> str:
    lines = []
    for row in numbers["rows"]:
        time = row["milliseconds"]
        lines.append(
            (
                row["method"],
                number(time["median"]),
                f"{number(time['lower'])} … {number(time['upper'])}",
                str(time["runs"]),
                number(row["ratio"], ".2f"),
                at_most(row["target"]),
                number(row["compile_seconds"], ".1f"),
                number(_mebibytes(row["bytes"])),
                number(row["memory_ratio"], ".2f"),
                at_most(row["memory_target"]),
                number(_mebibytes(row["device_peak_bytes"])),
                number(row["tokens_per_second"]),
                number(row["operations"] / 1e9),
                number(100 * row["share_of_ceiling"], ".0f") + " %",
            )
        )
    headings = (
        "pass;ms (median);quartiles;runs;ratio;target;compile s;MiB;memory ratio;target;"
        "device peak MiB;tokens/s;GFLOP;of ceiling"
    )
    config = shape.decoder
    said = (
        f"Cost: {config.layers} layers of width {config.width}, vocabulary {config.vocab_size}, "
        f"{config.dtype}; LoRA rank {shape.lora.rank}; {shape.rows} rows of {shape.tokens} tokens; "
        f"two-sided sketch of dimension {shape.dim}. Ceiling: "
        f"{numbers['operations_per_second_at_most'] / 1e9:.0f} GFLOP/s."
    )
    omitted = "".join(
        f"\n\nLeft out: {name} (--large measures it)." for name in numbers["left_out"]
    )
    return f"{said}\n\n{table(headings.split(';'), lines)}{omitted}\n\n{NOTES}"


def _mebibytes(size: int | None) -> float | None:
    return None if size is None else size / 2**20
