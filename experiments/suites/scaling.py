"""Weak scaling of the training step: rows per device fixed, devices added.

* Numbers are a device's, by `compiled.cost_analysis()` of the whole step, not timed: simulated
  devices share one processor. What a device computes is to stay the same, apart from the selection,
  which every device does for the whole pool: 32 candidates, 4 picks and 4 anchors of 64 tokens on
  each device, the default model.
* The compiler counts the body of a loop once: one of the layers, and one pick of the selection. The
  selection, Gram matrix included, is compiled by itself, and its share is of the total.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.suites import workloads
from experiments.suites.measuring import Options, Part, log, notes, table
from partitionsel_jax.distributed import spmd
from partitionsel_jax.step.step import Step

DEVICES = (1, 2, 4, 8)
# How the step is mapped, and whether the devices split the weights.
FORMS = (("pmap", False), ("shard_map", False), ("shard_map", True))
# Rows of each device, and their tokens.
POOL, SIZE, ANCHORS, LENGTH = 32, 4, 4, 64

COLUMNS = (
    "form split_weights devices pool flops:.5g without_selection:.5g "
    "own_relative_to_one_device:.4f selection_share:.2%"
)


def flops(devices: int, form: str, split: bool) -> tuple[float, float]:
    """Floating-point operations of one device: of the whole step, and of the selection in it."""
    settings = workloads.settings_of(
        4,
        data={"length": LENGTH},
        model={"remat": "layer"},
        # Loops count once, so there are none over rows.
        features={"microbatch": POOL + ANCHORS},
        selection={"pool": devices * POOL, "size": devices * SIZE, "anchors": devices * ANCHORS},
        training={"spmd": form, "split_weights": split},
    )
    step, layout = Step.create(settings, devices), spmd.Layout.first(devices, form, split)
    state, rows = jax.eval_shape(step.initial, 0), workloads.pool_and_anchors(settings, layout)
    whole = workloads.program(step, layout).lower(*state, *rows, np.int32(0))
    vectors = (jnp.zeros((devices * count, settings.features.dim)) for count in (POOL, ANCHORS))
    domains_N = jnp.zeros(devices * POOL, jnp.int32)
    alone = jax.jit(workloads.selecting(settings)).lower(*vectors, domains_N)
    counted: list[Any] = [one.compile().cost_analysis() for one in (whole, alone)]
    return counted[0]["flops"], counted[1]["flops"]


def run(options: Options) -> Iterator[Part]:
    """Counts the step in every form, on 1 to 8 devices.

    Raises:
      ValueError: fewer devices than are compared.
    """
    if len(jax.devices()) < DEVICES[-1]:
        raise ValueError(
            f"the scaling suite compares up to {DEVICES[-1]} devices, and there are "
            f"{len(jax.devices())}: on a CPU, simulate them with "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={DEVICES[-1]}"
        )
    rows: list[dict[str, Any]] = []
    alone = 1.0
    for (form, split), devices in itertools.product(FORMS, DEVICES):
        log.info("%s%s on %d devices", form, ", split" if split else "", devices)
        total, selecting = flops(devices, form, split)
        own = total - selecting
        alone = own if devices == DEVICES[0] else alone
        row = {"form": form, "split_weights": split, "devices": devices, "pool": POOL * devices}
        row |= {"flops": total, "selection_flops": selecting, "without_selection": own}
        row |= {"own_relative_to_one_device": own / alone, "selection_share": selecting / total}
        rows.append(row)
    yield Part({"scaling": rows}, (table(COLUMNS, rows), notes(__doc__)))
