"""The step compiled for devices that are not here, of shapes alone: what memory it would take.

For a TPU slice by the TPU's own compiler, which the package libtpu brings (no TPU is needed). Or by
the CPU's for simulated devices, in float32 throughout: the CPU computes bfloat16 by way of float32
copies of whole weights, which no accelerator makes.
"""

import dataclasses
import importlib.util
import math
import os
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from partitionsel_jax.distributed import spmd
from partitionsel_jax.planning import hardware
from partitionsel_jax.planning.memory import Memory, memory_of
from partitionsel_jax.planning.runs import planned
from partitionsel_jax.step.operations import rows
from partitionsel_jax.step.step import Step


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What a compiler says of one device.

    Attributes:
      target: what it was compiled for.
      devices, pool: of the step.
      split: whether the weights are.
      layers, dtype: of the model; the dtype of weights and activations.
      arguments: bytes of weights, state and rows.
      temporary: bytes beside them.
      arithmetic: what `memory_of` says.
      seconds: that compiling took.
    """

    target: str
    devices: int
    pool: int
    split: bool
    layers: int
    dtype: str
    arguments: int
    temporary: int
    arithmetic: Memory
    seconds: float

    @property
    def total(self) -> int:
        return self.arguments + self.temporary


def compile_step(
    config: Mapping[str, Any], target: str, pool: int | None = None, split_weights: bool = True
) -> Compiled:
    """Compiles a step of a config; neither data nor weights are read.

    Args:
      config, pool, split_weights: see `runs.planned`.
      target: a TPU slice, see `hardware.find`; or cpu-COUNT, which needs so many simulated devices.

    Raises:
      ValueError: another target, one whose compiler is missing, or what `runs.planned` raises.
    """
    devices = _devices(target)
    model = dict(config["model"])
    if devices[0].platform == "cpu":
        model |= {"dtype": "float32", "param_dtype": "float32", "attention": "xla"}
    count = len(devices)
    settings = planned(
        {**config, "model": model}, devices=count, pool=pool, split_weights=split_weights
    )
    step = Step.create(settings, count)
    layout = spmd.Layout(devices, "shard_map", split_weights)
    program = layout.map(step.__call__, Step.KINDS[:-1], donate=(0,), returns_first=True)
    chosen, length = settings.selection, settings.data.length
    shapes = (*jax.eval_shape(step.initial, 0), rows(chosen.pool, length))
    shapes = (*shapes, rows(chosen.anchors, length), jax.ShapeDtypeStruct((), np.int32))
    started = time.perf_counter()
    found = program.lower(*shapes).compile().memory_analysis()
    return Compiled(
        target=target,
        devices=count,
        pool=chosen.pool,
        split=split_weights,
        layers=settings.model.layers,
        dtype=settings.model.param_dtype,
        arguments=found.argument_size_in_bytes,
        temporary=found.temp_size_in_bytes,
        arithmetic=memory_of(settings),
        seconds=time.perf_counter() - started,
    )


def _devices(target: str) -> tuple[jax.Device, ...]:
    """What to compile for."""
    kind, _, count = target.partition("-")
    if kind == "cpu" and count.isdigit():
        devices = jax.devices("cpu")
        if not 0 < int(count) <= len(devices):
            raise ValueError(
                f"{target}: {len(devices)} devices are simulated; for more set XLA_FLAGS="
                f"--xla_force_host_platform_device_count={count}"
            )
        return tuple(devices[: int(count)])
    slice_ = hardware.find(target)
    if kind not in _DIMENSIONS:
        raise ValueError(
            f"only TPU slices and cpu-COUNT can be compiled for without the devices, not {target}"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"the compiler for {target} is missing: pip install libtpu, or use cpu-{slice_.devices}"
        )
    from jax.experimental import topologies

    # Otherwise it asks the machine that it runs on, which is no TPU's host, what it is.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    topology = f"{kind}:{_grid(slice_.devices, _DIMENSIONS[kind])}"
    described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    return tuple(described.devices)


_DIMENSIONS = {"v5e": 2, "v5p": 3}


def _grid(count: int, dimensions: int) -> str:
    """The sides of a slice: 16 -> 4x4 or 2x2x4."""
    doublings = round(math.log2(count))
    if 2**doublings != count:
        raise ValueError(f"TPU slices have a power of 2 of chips, not {count}")
    sides = (2 ** ((doublings + place) // dimensions) for place in range(dimensions))
    return "x".join(map(str, sides))
