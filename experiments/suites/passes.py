"""Passes that take seconds: the shapes they are measured at, compiled with their memory, timed."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.suites.measuring import Timing, interleave
from partitionsel_jax.data import Rows
from partitionsel_jax.models import PRESETS, DecoderConfig, LoRAConfig

# Seconds of timed runs of one pass, and runs of it however long they are.
PATIENCE_S, LEAST_RUNS = 20.0, 3


@dataclasses.dataclass(frozen=True)
class CostShape:
    """Where the passes are measured.

    Attributes:
      decoder, lora: the model; the full scope is measured on the decoder without adapters.
      rows, tokens: of the one microbatch; half of each row is response.
      last_layers, dim: the smaller scope, and the sketch's dimension.
      product: rows and columns of the square matrices whose product is the ceiling.
    """

    decoder: DecoderConfig
    lora: LoRAConfig
    rows: int
    tokens: int
    last_layers: int = 3
    dim: int = 1024
    product: int = 2048


@dataclasses.dataclass(frozen=True)
class StepShape:
    """Where the whole training step is measured.

    Attributes:
      decoder, lora: the model.
      tokens: of a row, half of them response.
      microbatch: rows in one backward pass, of the features and of the update.
      pool, size, anchors, domains, anchors_every, last_layers, dim: as in a config.
      shallow: layers of the model that compile time is compared with.
    """

    decoder: DecoderConfig
    lora: LoRAConfig
    tokens: int
    microbatch: int
    pool: int = 256
    size: int = 32
    anchors: int = 16
    domains: int = 8
    anchors_every: int = 4
    last_layers: int = 3
    dim: int = 1024
    shallow: int = 4


def _smollm2(accelerated: bool) -> DecoderConfig:
    """SmolLM2-135M's shape."""
    dtype = "bfloat16" if accelerated else "float32"
    return dataclasses.replace(PRESETS["smollm2-135m"].config, dtype=dtype, param_dtype=dtype)


# The published settings.
_LORA = LoRAConfig(rank=16, alpha=96.0, targets=("q", "k", "v", "gate", "up", "down"))


def cost_shape() -> CostShape:
    """SmolLM2-135M with rows that suit the backend."""
    if jax.default_backend() == "cpu":
        return CostShape(_smollm2(False), _LORA, rows=4, tokens=128)
    return CostShape(_smollm2(True), _LORA, rows=16, tokens=512, product=8192)


def step_shape() -> StepShape:
    """SmolLM2-135M with rows that suit the backend."""
    if jax.default_backend() == "cpu":
        return StepShape(_smollm2(False), _LORA, tokens=64, microbatch=4)
    return StepShape(_smollm2(True), _LORA, tokens=512, microbatch=16)


def random_rows(count: int, tokens: int, vocab: int, *, domains: int = 1, seed: int = 0) -> Rows:
    """Rows of random tokens, the second half of each its response; the domains take turns."""
    random = np.random.default_rng(seed)
    place_T = np.arange(tokens)
    number_B = np.arange(count, dtype=np.int32)
    return Rows(
        tokens=random.integers(0, vocab, (count, tokens), dtype=np.int32),
        response=np.repeat((place_T >= tokens // 2)[None, :], count, axis=0),
        domain=number_B % domains,
        id=number_B,
        corrupted=np.zeros(count, bool),
    )


def counted(tokens: int) -> int:
    """Tokens of such a row that its loss counts; the first one is predicted from nothing."""
    return tokens - max(1, tokens // 2)


def disturb(parameters: Any, size: float = 0.01) -> Any:
    """Adapters whose second factor is random, of standard deviation `size`, instead of 0.

    No gradient vanishes then; that of the first factor grows with `size`.
    """
    flat, tree = jax.tree_util.tree_flatten_with_path(parameters)
    key = jax.random.key(0)
    moved = [
        size * jax.random.normal(jax.random.fold_in(key, number), leaf.shape, leaf.dtype)
        if path[-1].key == "lora_b"
        else leaf
        for number, (path, leaf) in enumerate(flat)
    ]
    return jax.tree.unflatten(tree, moved)


@dataclasses.dataclass(frozen=True)
class Pass:
    """A compiled program with its arguments.

    Attributes:
      run: runs it and waits for its results.
      compile_seconds: tracing and compiling.
      bytes: what it needs beside its arguments, temporary and for its results; None where the
        compiler does not say.
    """

    run: Callable[[], Any]
    compile_seconds: float
    bytes: int | None


def compile_pass(function: Callable[..., Any], *arguments: Any) -> Pass:
    """Compiles `function` for `arguments`."""
    started = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    seconds = time.perf_counter() - started
    memory = program.memory_analysis()
    used = None
    if memory is not None:
        used = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Pass(lambda: jax.block_until_ready(program(*arguments)), seconds, used)


def square_product(size: int, dtype: str) -> Pass:
    """One product of two square matrices, 2 size^3 operations."""
    left, right = jax.random.normal(jax.random.key(0), (2, size, size), jnp.dtype(dtype))
    return compile_pass(jnp.matmul, left, right)


def device_peak() -> int | None:
    """Most bytes that the device ever had in use; None where the backend does not count them."""
    statistics = jax.devices()[0].memory_stats()
    return statistics.get("peak_bytes_in_use") if statistics else None


def time_by_turns(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Timing]:
    """Times methods as `measuring.interleave`, with a patience made for slow ones."""

    def without_result(run: Callable[[], Any]) -> Callable[[], None]:
        def call() -> None:
            run()

        return call

    # Whole gradients of all passes would not fit into memory side by side.
    calls = {name: without_result(run) for name, run in runs.items()}
    timed = interleave(calls, repeats, patience=PATIENCE_S, least=LEAST_RUNS)
    return {name: timing for name, (timing, _) in timed.items()}
