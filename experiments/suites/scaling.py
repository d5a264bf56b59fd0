"""Weak scaling of the training step, by the compiler's count: rows per device fixed, devices added.

What a device computes is to stay the same, apart from the selection, which every device does for
the whole pool. Counted, not timed: simulated devices share one processor.
"""

import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import common
from experiments.suites.measuring import Results, check_no_sizes, table
from experiments.suites.passes import random_rows
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.distributed import spmd
from partitionsel_jax.gradients import Features
from partitionsel_jax.step import anchors as held_out
from partitionsel_jax.step.candidates import RowInfo, compare
from partitionsel_jax.step.step import Step

DEVICES = (1, 2, 4, 8)
# How the step is mapped, and whether the devices split the weights.
FORMS = (("pmap", False), ("shard_map", False), ("shard_map", True))
# Of each device.
POOL, SIZE, ANCHORS = 32, 4, 4
LENGTH, DOMAINS = 64, 4

_log = logging.getLogger("partitionsel_jax.benchmark")


def step_of(devices: int, form: str, split: bool) -> tuple[Step, spmd.Layout]:
    """The default configuration with so many times a device's rows."""
    config = common.default()
    config.data.tasks.update({f"task_{number}": {} for number in range(DOMAINS)})
    config.data.length = LENGTH
    # Loops count once, so there are none over rows.
    config.features.microbatch = POOL + ANCHORS
    chosen = {"pool": POOL, "size": SIZE, "anchors": ANCHORS}
    config.selection.update({name: rows * devices for name, rows in chosen.items()})
    config.training.update({"spmd": form, "split_weights": split})
    config.model.remat = "layer"
    step = Step.create(run_settings.parse(config.to_dict()), devices)
    return step, spmd.Layout.first(devices, form, split)


def flops(step: Step, layout: spmd.Layout) -> tuple[float, float]:
    """Floating-point operations of one device: of the whole step, and of the selection in it."""
    chosen = step.selection
    program = layout.map(step.__call__, step.KINDS[:5], returns_first=True)
    state, frozen = jax.eval_shape(step.initial, 0)
    pool, anchors = (
        random_rows(count, LENGTH, step.model.config.vocab_size, domains=DOMAINS)
        for count in (chosen.pool, chosen.anchors)
    )
    rows = map(layout.rows, (pool, anchors))
    whole = program.lower(state, frozen, *rows, np.int32(0)).compile()

    def select(labels: RowInfo, domains_A: jax.Array, mine: Features, anchors: Features) -> Any:
        mean = chosen.anchor_mean
        found = held_out.from_features(anchors, domains_A, mean=mean, domains=step.domains)
        return step.select(compare(labels, mine, found, chosen), jax.random.key(0))

    def features(count: int) -> Features:
        nothing = jnp.zeros(count)
        return Features(jnp.zeros((count, step.features.dim)), nothing, nothing)

    vectors = features(chosen.pool), features(chosen.anchors)
    alone = jax.jit(select).lower(RowInfo.of(pool), anchors.domain, *vectors)
    return _flops(whole), _flops(alone.compile())


def _flops(compiled: Any) -> float:
    return float(compiled.cost_analysis()["flops"])


def run(*, sizes: list[str] | None, repeats: int, large: bool) -> Results:
    """The table, and the same as numbers.

    Raises:
      ValueError: sizes, or fewer devices than are compared.
    """
    check_no_sizes("scaling", sizes)
    if len(jax.devices()) < DEVICES[-1]:
        raise ValueError(
            f"the scaling suite compares up to {DEVICES[-1]} devices, and there are "
            f"{len(jax.devices())}: on a CPU, simulate them with "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={DEVICES[-1]}"
        )
    found, rows = [], []
    for form, split in FORMS:
        first = None
        for devices in DEVICES:
            total, selection = flops(*step_of(devices, form, split))
            own = total - selection
            first = first or own
            found.append(
                {
                    "form": form,
                    "split_weights": split,
                    "devices": devices,
                    "pool": POOL * devices,
                    "flops": total,
                    "selection_flops": selection,
                    "own_relative_to_one_device": own / first,
                }
            )
            name = f"{form}, split" if split else form
            cells = (f"{own / 1e6:.1f}", f"{own / first:.4f}", f"{selection / total:.2%}")
            rows.append((name, str(devices), str(POOL * devices), f"{total / 1e6:.1f}", *cells))
            _log.info("%s  %d devices  %s", name, devices, "  ".join(cells))
    headings = ("form", "devices", "pool", "MFLOP", "without selection", "relative", "selection")
    return Results({"scaling": found}, "\n\n".join((table(headings, rows), _note())))


def _note() -> str:
    return (
        "Per device, by `compiled.cost_analysis()` of the whole step: "
        f"{POOL} candidates, {SIZE} picks and {ANCHORS} anchors of {LENGTH} tokens on each device, "
        "the default model. The compiler counts the body of a loop once: one of the layers, and "
        "one pick of the selection. The selection, Gram matrix included, is compiled by itself, "
        "and its share is of the total."
    )
