"""How far the arithmetic is from a compiler's layout of memory, and from a step timed here."""

import importlib.util
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from partitionsel_jax.config.settings import Settings
from partitionsel_jax.data.rows import Rows
from partitionsel_jax.distributed import spmd
from partitionsel_jax.planning.hardware import GIGA, find
from partitionsel_jax.planning.predictions import Record, memory_of, planned
from partitionsel_jax.step import costs
from partitionsel_jax.step.step import Step

# Sides of a TPU slice.
_DIMENSIONS = {"v5e": 2, "v5p": 3}
# So many square products of this size are what a device's peak is taken to be.
_PRODUCT, _TIMES, _REPEATS = 2048, 20, 5
# A model whose step takes seconds on a CPU; rows are cut, too.
_SMALL: dict[str, Any] = {
    **{"vocab_size": 8192, "layers": 6, "width": 384, "mlp_width": 1024, "heads": 6},
    **{"kv_heads": 2, "head_dim": 64, "dtype": "float32", "param_dtype": "float32"},
}
_LENGTH, _POOLS = 128, (32, 64, 128)


def compile_step(
    config: Mapping[str, Any], target: str, pool: int | None = None, split_weights: bool = True
) -> tuple[Record, Record]:
    """Memory of a step of a config as a compiler lays it out, and by arithmetic, in GB.

    It is compiled of shapes alone; neither data nor weights are read.

    For a TPU slice by the TPU's own compiler, which the package libtpu brings (no TPU is needed).
    Or by the CPU's for simulated devices, in float32 throughout: the CPU computes bfloat16 by way
    of float32 copies of whole weights, which no accelerator makes.

    Args:
      config, pool, split_weights: see `planned`.
      target: a TPU slice, see `hardware.find`; or cpu-COUNT, which needs so many simulated devices.

    Raises:
      ValueError: another target, one whose compiler is missing, or what `planned` raises.
    """
    devices = _devices(target)
    model = dict(config["model"])
    if devices[0].platform == "cpu":
        model |= {"dtype": "float32", "param_dtype": "float32", "attention": "xla"}
    config, count = {**config, "model": model}, len(devices)
    settings = planned(config, devices=count, pool=pool, split_weights=split_weights)
    step, layout = Step.create(settings, count), spmd.Layout(devices, "shard_map", split_weights)
    program = layout.map(step.__call__, Step.KINDS, donate=(0,), returns_first=True)
    chosen = settings.selection
    rows = (costs.rows(n, settings.data.length) for n in (chosen.pool, chosen.anchors))
    seed = jax.ShapeDtypeStruct((), np.int32)
    started = time.perf_counter()
    state, frozen, others = costs.shapes(step)
    lowered = program.lower(state, frozen, *rows, seed, others)
    found = lowered.compile().memory_analysis()
    arguments, temporary = found.argument_size_in_bytes / GIGA, found.temp_size_in_bytes / GIGA
    point = {"compiled for": target, "pool": chosen.pool}
    arithmetic = memory_of(settings)
    shape = {"layers": settings.model.layers, "dtype": settings.model.param_dtype}
    sizes = {"arguments, GB": arguments, "temporary, GB": temporary}
    sizes |= {"together, GB": arguments + temporary, "by arithmetic, GB": arithmetic["together"]}
    compiled = {"weights": arithmetic["weights"], **shape, **sizes}
    return {**point, **compiled, "compiling, s": time.perf_counter() - started}, point | arithmetic


def _devices(target: str) -> tuple[jax.Device, ...]:
    """The devices to compile for, simulated or described."""
    kind, _, count = target.partition("-")
    if kind == "cpu" and count.isdigit():
        devices = jax.devices("cpu")
        if not 0 < int(count) <= len(devices):
            raise ValueError(
                f"{target}: {len(devices)} devices are simulated; for more set XLA_FLAGS="
                f"--xla_force_host_platform_device_count={count}"
            )
        return tuple(devices[: int(count)])
    slice_ = find(target)
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


def _grid(count: int, dimensions: int) -> str:
    """The sides of a slice: 16 -> 4x4 or 2x2x4."""
    doublings = round(math.log2(count))
    if 2**doublings != count:
        raise ValueError(f"TPU slices have a power of 2 of chips, not {count}")
    sides = (2 ** ((doublings + place) // dimensions) for place in range(dimensions))
    return "x".join(map(str, sides))


def calibrate(config: Mapping[str, Any], utilisation: float, response: float) -> list[Record]:
    """Steps of a small model on one device of this machine, as predicted and as timed.

    Args:
      config: see `planned`; of its step, but with a small model and short rows.
      utilisation, response: see `predict`.
    """
    small = {"checkpoint": "", "model": {**config["model"], **_SMALL, "attention": "xla"}}
    # The model selects for itself.
    alone = {"proxy": "", "proxy_trains": False, "guard": False}
    small["selection"] = {**config["selection"], **alone}
    small["features"] = {**config["features"], "cache_rows": 0}
    small["data"] = {**config["data"], "length": _LENGTH, "template": "plain"}
    left, right = jax.random.normal(jax.random.key(0), (2, _PRODUCT, _PRODUCT))
    multiply = jax.jit(jnp.matmul)
    found = []
    for pool in _POOLS:
        settings = planned({**config, **small}, devices=1, pool=pool)
        products = sum(stage.products for stage in costs.stages(settings, response))
        step, times = _step(settings, response), []
        for _ in range(_REPEATS + 1):
            # By turns, so that a busy spell meets both.
            multiplied = _seconds(lambda: [multiply(left, right) for _ in range(_TIMES)])
            times.append((_seconds(step), multiplied))
        # The first call compiles.
        seconds, multiplying = map(statistics.median, zip(*times[1:], strict=True))
        peak = _TIMES * 2.0 * _PRODUCT**3 / multiplying
        predicted = products / (peak * utilisation)
        found.append(
            {
                **{"pool": pool, "operations, 1e9": products / GIGA, "peak, 1e9 / s": peak / GIGA},
                **{"measured, s": seconds, "utilisation": products / seconds / peak},
                f"predicted at {utilisation:g}, s": predicted,
                "predicted / measured": predicted / seconds,
            }
        )
    return found


def _step(settings: Settings, response: float) -> Callable[[], Any]:
    """A call of the whole step on random rows."""
    step, chosen, length = Step.create(settings), settings.selection, settings.data.length
    layout = spmd.Layout.first(1, "shard_map")
    state, frozen = layout.place(step.initial(0))
    program = layout.map(step.__call__, Step.KINDS[:-1], returns_first=True)
    random = np.random.default_rng(0)

    def rows(count: int) -> Any:
        mask = np.broadcast_to(np.arange(length) >= (1 - response) * length, (count, length))
        tokens = random.integers(0, settings.model.vocab_size, mask.shape, dtype=np.int32)
        number = np.arange(count, dtype=np.int32)
        return layout.rows(Rows(tokens, mask, np.zeros_like(number), number, number < 0))

    inputs = (state, frozen, rows(chosen.pool), rows(chosen.anchors), np.int32(0))
    return lambda: program(*inputs)


def _seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - started
