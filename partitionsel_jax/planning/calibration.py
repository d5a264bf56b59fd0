"""How far predictions are from a step that is measured here."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from partitionsel_jax import data
from partitionsel_jax.config.settings import Settings
from partitionsel_jax.distributed import spmd
from partitionsel_jax.planning.runs import planned
from partitionsel_jax.step.operations import stages_of
from partitionsel_jax.step.step import Step

# So many square products of this size are what the device's peak is taken to be.
PRODUCT, TIMES = 2048, 20
# A model whose step takes seconds on a CPU; rows are cut, too.
_SHAPE: dict[str, Any] = {
    **{"vocab_size": 8192, "layers": 6, "width": 384, "mlp_width": 1024, "heads": 6},
    **{"kv_heads": 2, "head_dim": 64, "dtype": "float32", "param_dtype": "float32"},
}
_LENGTH = 128
REPEATS = 5


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A step on one device of this machine.

    Attributes:
      pool: its candidates.
      products: its operations, as counted.
      peak: operations a second of a large product, timed by turns with the step.
      seconds: that the step takes; medians of a few.
    """

    pool: int
    products: float
    peak: float
    seconds: float

    @property
    def utilisation(self) -> float:
        """Share of the peak; a prediction that assumes U is off by the factor utilisation / U."""
        return self.products / self.seconds / self.peak


def measure(
    config: Mapping[str, Any], pools: Sequence[int] = (32, 64, 128), response: float = 0.5
) -> list[Calibration]:
    """Steps with these pools, counted and timed.

    Args:
      config: see `runs.planned`; of its step, but with a small model and short rows.
      pools: numbers of candidates.
      response: share of a row's tokens that its loss counts.
    """
    model = {**config["model"], **_SHAPE, "attention": "xla"}
    config = {**config, "checkpoint": "", "model": model}
    config["data"] = {**config["data"], "length": _LENGTH, "template": "plain"}
    left, right = jax.random.normal(jax.random.key(0), (2, PRODUCT, PRODUCT))
    multiply = jax.jit(jnp.matmul)

    def product() -> Any:
        return [multiply(left, right) for _ in range(TIMES)]

    found = []
    for pool in pools:
        settings = planned(config, devices=1, pool=pool)
        counts = stages_of(settings, response)
        products = counts.features.products + counts.update.products
        seconds, multiplying = _by_turns(_step(settings, response), product)
        peak = TIMES * 2.0 * PRODUCT**3 / multiplying
        found.append(Calibration(pool, products, peak, seconds))
    return found


def _step(settings: Settings, response: float) -> Callable[[], Any]:
    """A call of the whole step on random rows."""
    step, chosen, length = Step.create(settings), settings.selection, settings.data.length
    layout = spmd.Layout.first(1, "shard_map")
    state, frozen = layout.place(step.initial(0))
    program = layout.map(step.__call__, Step.KINDS[:-1], returns_first=True)
    random = np.random.default_rng(0)

    def rows(count: int) -> Any:
        shape = (count, length)
        return data.Rows(
            tokens=random.integers(0, settings.model.vocab_size, shape, dtype=np.int32),
            response=np.arange(length)[None] >= np.full((count, 1), (1 - response) * length),
            domain=np.zeros(count, np.int32),
            id=np.arange(count, dtype=np.int32),
            corrupted=np.zeros(count, bool),
        )

    inputs = (state, frozen, *(layout.rows(rows(n)) for n in (chosen.pool, chosen.anchors)))
    return lambda: program(*inputs, np.int32(0))


def _by_turns(*runs: Callable[[], Any]) -> list[float]:
    """Median seconds of calls, timed by turns, so that a busy spell meets them all."""
    taken: list[list[float]] = [[] for _ in runs]
    for turn in range(REPEATS + 1):
        for times, run in zip(taken, runs, strict=True):
            started = time.perf_counter()
            jax.block_until_ready(run())
            if turn:  # the first one compiles
                times.append(time.perf_counter() - started)
    return [statistics.median(times) for times in taken]
