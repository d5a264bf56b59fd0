"""Checkpoints of a version before a field of the state came."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from partitionsel_jax.config.sections import OptimizerSettings
from partitionsel_jax.step import optimizer
from partitionsel_jax.step.logit_scores import Memory
from partitionsel_jax.step.state import FeatureCache, TrainState, fingerprint
from partitionsel_jax.training.checkpoints import Checkpoints


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class FormerCache:
    """A `FeatureCache` without its later fields."""

    pool: Any
    anchors: Any
    used: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class FormerState:
    """A `TrainState` without its later fields."""

    step: Any
    parameters: Any
    optimizer: Any
    curriculum: Any
    kept: Any


@pytest.fixture
def state():
    chosen = optimizer.make_optimizer(OptimizerSettings(0.1), lambda _: 1.0)
    cache = FeatureCache(None, None, jnp.arange(4) > 2)
    return TrainState.create({"w": jnp.arange(3.0)}, chosen, kept=cache)


@pytest.fixture
def saved(state, tmp_path):
    """A folder of one checkpoint, as an earlier version left it."""
    cache = FormerCache(None, None, state.kept.used)
    former = FormerState(state.step, state.parameters, state.optimizer, None, cache)
    with ocp.CheckpointManager(tmp_path) as manager:
        about = ocp.args.JsonSave({"fingerprint": int(fingerprint(state)), "extra": {"a": 1}})
        whole = ocp.args.Composite(state=ocp.args.StandardSave(former), about=about)
        manager.save(0, args=whole)
    return tmp_path


def test_a_field_that_came_later_is_none(state, saved):
    blank = jax.tree.map(jnp.zeros_like, state)
    found, extra = Checkpoints(saved, keep=1).restore(blank)
    assert extra == {"a": 1} and jax.tree.structure(found) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, found, state)


def test_a_field_that_is_needed_and_not_there_is_refused(state, saved):
    cache = dataclasses.replace(state.kept, memory=Memory.empty(2))
    with pytest.raises(ValueError, match=r"none of the checkpoints \[0\] .* can be read"):
        Checkpoints(saved, keep=1).restore(dataclasses.replace(state, kept=cache))
