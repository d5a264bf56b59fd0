"""A small model after a little training, and rows that it has not seen.

Gradients at random weights say little about those that a run meets.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import quickstart
from experiments.suites import passes
from partitionsel_jax import gradients, models
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.data import Rows
from partitionsel_jax.distributed import spmd
from partitionsel_jax.models import parameters as trees
from partitionsel_jax.training import setup as run_setup

FAMILIES = tuple(name for name in gradients.FAMILIES if name != "identity")
# Of the adapters' second factors: about what some hundred updates at a rate of 1e-4 make of 0.
ADAPTER_SIZE = 0.03
LORA = models.LoRAConfig(rank=8, alpha=16.0)


@dataclasses.dataclass(frozen=True)
class FidelityShape:
    """What is compared, and on what.

    Attributes:
      config: a training configuration as nested mappings, of a model without adapters.
      updates: by random picks, before gradients are taken.
      pools: how many the measures are averaged over.
      families, dims, seeds: of the sketches; so many seeds.
      last_layers, tokens, ages: of the cheaper features; ages in updates.
      lora: the adapters on the trained model.
    """

    config: Mapping[str, Any]
    updates: int = 40
    pools: int = 4
    families: tuple[str, ...] = FAMILIES
    dims: tuple[int, ...] = (64, 256, 1024, 4096)
    seeds: int = 5
    last_layers: tuple[int, ...] = (2, 1)
    tokens: tuple[int, ...] = (64, 48)
    ages: tuple[int, ...] = (1, 4, 16)
    lora: models.LoRAConfig = LORA


def fidelity_shape() -> FidelityShape:
    """The quickstart's model and data."""
    return FidelityShape(quickstart.get_config().to_dict())


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model after its updates, and rows that it has not seen.

    Attributes:
      setup: of the run.
      parameters: after all updates.
      earlier: so many updates earlier, by age.
      pool, anchors: rows of all pools, one after the other.
    """

    setup: run_setup.Setup
    parameters: Any
    earlier: Mapping[int, Any]
    pool: Rows
    anchors: Rows


def train(shape: FidelityShape) -> Trained:
    """Trains on random picks.

    Raises:
      ValueError: a config that does not fit or has adapters, or ages beyond the updates.
    """
    if max(shape.ages, default=0) > shape.updates:
        raise ValueError(
            f"ages must be at most updates={shape.updates}, got {shape.ages}; train for longer."
        )
    settings = run_settings.parse(shape.config)
    if settings.lora.rank:
        raise ValueError(
            f"config.lora.rank must be 0, got {settings.lora.rank}: the comparison itself puts "
            "adapters on the trained model; see FidelityShape.lora."
        )
    random = dataclasses.replace(settings.selection, utility="random", swaps=0)
    setup = run_setup.prepare(dataclasses.replace(settings, selection=random), spmd.Layout.first(1))
    state, frozen = run_setup.initialise(setup)
    earlier = {}
    for step in range(shape.updates):
        if shape.updates - step in shape.ages:
            # A copy, since the step takes its state's buffers.
            earlier[shape.updates - step] = jax.tree.map(jnp.copy, state.parameters)
        pool, anchors = map(setup.layout.rows, setup.pools[step])
        state, _ = setup.training_step(state, frozen, pool, anchors, setup.seed, None)
    unseen = [setup.pools[shape.updates + number] for number in range(shape.pools)]
    pool, anchors = (
        Rows(*(np.concatenate(leaves) for leaves in zip(*parts, strict=True)))
        for parts in zip(*unseen, strict=True)
    )
    setup = dataclasses.replace(
        setup, settings=settings, step=dataclasses.replace(setup.step, selection=settings.selection)
    )
    return Trained(setup, state.parameters, earlier, pool, anchors)


def with_adapters(shape: FidelityShape, trained: Trained) -> tuple[models.Model, Any]:
    """The trained model with random adapters."""
    model = models.Model(trained.setup.step.model.config, shape.lora)
    adapters, _ = trees.split(model.init(jax.random.key(0)), models.is_adapter)
    return model, trees.join(trained.parameters, passes.disturb(adapters, ADAPTER_SIZE))
