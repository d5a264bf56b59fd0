"""Workloads of the suites: steps of a configuration, random rows, and selection from features."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import common
from partitionsel_jax import selection
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.config.settings import Settings
from partitionsel_jax.data import Rows
from partitionsel_jax.distributed import spmd
from partitionsel_jax.models import PRESETS
from partitionsel_jax.step.step import Step

# LoRA as in the published settings.
LORA = {"rank": 16, "alpha": 96.0, "targets": ("q", "k", "v", "gate", "up", "down")}


def settings_of(domains: int, **sections: Mapping[str, Any]) -> Settings:
    """The default configuration with other fields, for random rows of so many domains."""
    config = common.default()
    config.data.tasks.update({f"task_{number}": {} for number in range(domains)})
    for section, fields in sections.items():
        config[section].update(fields)
    return run_settings.parse(config.to_dict())


def shape_of(settings: Settings) -> dict[str, Any]:
    """The settings that shape a measurement, for JSON."""
    names = ("model", "lora", "features", "selection")
    found = {name: dataclasses.asdict(getattr(settings, name)) for name in names}
    return found | {"tokens": settings.data.length, "domains": len(settings.data.names)}


def said(settings: Settings) -> str:
    """The same in a line."""
    model, features = settings.model, settings.features
    return (
        f"{model.layers} layers of width {model.width}, vocabulary {model.vocab_size}, "
        f"{model.dtype}; LoRA rank {settings.lora.rank}; rows of {settings.data.length} tokens; "
        f"two-sided sketch of dimension {features.dim}, last {features.last_layers} layers"
    )


def on_cpu() -> bool:
    """Returns whether the suites run on a CPU, where they take smaller problems."""
    return jax.default_backend() == "cpu"


def smollm2() -> dict[str, Any]:
    """SmolLM2-135M's shape as fields of config.model, in the numbers that suit the backend."""
    shape = dataclasses.asdict(PRESETS["smollm2-135m"].config)
    names = ("vocab_size", "layers", "width", "mlp_width", "heads", "kv_heads", "head_dim")
    dtype = "float32" if on_cpu() else "bfloat16"
    return {name: shape[name] for name in names} | {"dtype": dtype, "param_dtype": dtype}


def random_rows(settings: Settings, count: int, seed: int = 0) -> Rows:
    """Rows of random tokens, the second half of each its response; the domains take turns."""
    tokens, random = settings.data.length, np.random.default_rng(seed)
    number_B = np.arange(count, dtype=np.int32)
    return Rows(
        tokens=random.integers(0, settings.model.vocab_size, (count, tokens), dtype=np.int32),
        response=np.repeat((np.arange(tokens) >= tokens // 2)[None, :], count, axis=0),
        domain=number_B % len(settings.data.names),
        id=number_B,
        corrupted=np.zeros(count, bool),
    )


def disturb(parameters: Any, size: float = 0.01) -> Any:
    """Adapters whose second factor is random, of standard deviation `size`, instead of 0.

    No gradient vanishes then; that of the first factor grows with `size`.
    """
    flat, tree = jax.tree_util.tree_flatten_with_path(parameters)
    key = jax.random.key(0)
    for place, (path, leaf) in enumerate(flat):
        if path[-1].key == "lora_b":
            moved = jax.random.normal(jax.random.fold_in(key, place), leaf.shape, leaf.dtype)
            flat[place] = path, size * moved
    return jax.tree.unflatten(tree, [leaf for _, leaf in flat])


def start(step: Step) -> tuple[Any, Any]:
    """State and frozen parameters of a run's first step, with adapters that are not 0."""
    state, frozen = step.initial(0)
    return dataclasses.replace(state, parameters=disturb(state.parameters)), frozen


def program(step: Step, layout: spmd.Layout | None = None) -> spmd.Program:
    """(state, frozen, pool, anchors, seed) -> (state, record), by default on one device."""
    return (layout or spmd.Layout.first(1)).map(step.__call__, step.KINDS[:5], returns_first=True)


def pool_and_anchors(settings: Settings, layout: spmd.Layout | None = None) -> list[Any]:
    """Random rows as a step takes them."""
    counts = settings.selection.pool, settings.selection.anchors
    place = (layout or spmd.Layout.first(1)).rows
    return [place(random_rows(settings, count, seed)) for seed, count in enumerate(counts)]


def problem_of(
    pool_NxM: jax.Array, anchors_AxM: jax.Array, domains_N: jax.Array, domains: int, size: int
) -> selection.Problem:
    """The problem that a step poses to `select`, with proportional budgets for `size` picks."""
    return selection.Problem(
        alignment=jnp.dot(pool_NxM, anchors_AxM.mean(axis=0), precision="highest"),
        gram=jnp.dot(pool_NxM, pool_NxM.T, precision="highest"),
        domains=domains_N,
        budgets=selection.budgets.proportional(jnp.bincount(domains_N, length=domains), size),
    )


def selecting(settings: Settings) -> Any:
    """(pool f32[N, M], anchors f32[A, M], domains i32[N]) -> a step's selection from features."""
    size, domains = settings.selection.size, len(settings.data.names)

    def select(pool_NxM: jax.Array, anchors_AxM: jax.Array, domains_N: jax.Array) -> Any:
        problem = problem_of(pool_NxM, anchors_AxM, domains_N, domains, size)
        return selection.select(problem, size=size)

    return select
