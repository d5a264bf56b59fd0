"""The state that changes from update to update, the features that steps share, and fingerprints.

Letters of the shape comments: N pool, M feature dimension, P domains.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from partitionsel_jax.config.sections import FeatureSettings, SelectionSettings
from partitionsel_jax.gradients import Features
from partitionsel_jax.selection.budgets import CurriculumState
from partitionsel_jax.step.anchors import Anchors

# Of an update's record, finite where it is sound; the last ones where a proxy trains, too.
NORMS = ("loss", "gradient_norm", "update_norm")
PROXY_NORMS = tuple(f"proxy_{name}" for name in NORMS)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FeatureCache:
    """Features that later steps use again, on every device; None where they do not.

    Attributes:
      pool: features of the N rows of the pool, while several updates share it.
      anchors: what is known of the anchors, while several steps share them.
      used: bool[N], the rows of the pool that updates before this one have selected.
    """

    pool: Features | None
    anchors: Anchors | None
    used: jax.Array | None

    @classmethod
    def empty(
        cls, selection: SelectionSettings, settings: FeatureSettings, dim: int, domains: int
    ) -> "FeatureCache":
        """The cache before the first step, for features of M = `dim`."""
        pool = anchors = used = None
        if selection.shares_pool:
            used = jnp.zeros(selection.pool, bool)
        if selection.shares_pool and selection.needs_features:
            # A buffer each, since the step takes those of its state.
            losses, norms = jnp.zeros(selection.pool), jnp.zeros(selection.pool)
            pool = Features(jnp.zeros((selection.pool, dim)), losses, norms)
        if settings.anchors_every > 1 and selection.needs_features:
            count = selection.anchors if "anchor_similarity" in selection.reads else 0
            anchors = Anchors.nothing(dim, domains, count)
        return cls(pool, anchors, used)


class Learner(NamedTuple):
    """A model that learns.

    Attributes:
      parameters: the trained ones (all of them, or the adapters), a nested dict.
      optimizer: optax state.
    """

    parameters: Any
    optimizer: Any


class Guard(NamedTuple):
    """Twins, two copies of the proxy that show what selection buys.

    Attributes:
      selected: trains on the selected rows; None where the proxy itself does.
      random: trains on as many rows of the same pools, drawn at random.
      used: bool[N], rows of the pool that were drawn before; None where no updates share a pool.
    """

    selected: Learner | None
    random: Learner
    used: jax.Array | None = None


class Others(NamedTuple):
    """Arrays that a step reads beside its rows and does not change; None for those that it ignores.

    Attributes:
      reference: all parameters of the reference model of `reducible_loss`.
      proxy: of the model that selects in the trained one's stead: all, or, where it trains, those
        of its parameters that it does not train.
      anchor_shares: f32[P], each domain's share of all rows that anchors are drawn from.
    """

    reference: Any = None
    proxy: Any = None
    anchor_shares: Any = None


NO_OTHERS = Others()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The whole state of a run; everything else is a function of (state, step, seed).

    Attributes:
      step: i32[], updates done.
      parameters: the trained parameters (all of them, or the adapters), a nested dict.
      optimizer: optax state.
      curriculum: what curriculum budgets remember of the anchors' losses; None for other budgets.
      kept: what steps share of their pools and anchors; None where every step has its own.
      proxy: the model that selects, where it trains as well; else None.
      guard: twins of the proxy; None without a guard.
    """

    step: jax.Array
    parameters: Any
    optimizer: Any
    curriculum: CurriculumState | None = None
    kept: FeatureCache | None = None
    proxy: Learner | None = None
    guard: Guard | None = None

    @classmethod
    def create(
        cls, parameters: Any, optimizer: optax.GradientTransformation, **more: Any
    ) -> "TrainState":
        """The state at step 0; `more` are the other attributes."""
        start = jnp.zeros((), jnp.int32)
        return cls(start, parameters, optimizer.init(parameters), **more)


def norms_of(record: Mapping[str, Any]) -> list[Any]:
    """The numbers of an update's record that have to be finite."""
    return [record[name] for name in (*NORMS, *PROXY_NORMS) if name in record]


def is_sound(record: Mapping[str, Any]) -> jax.Array:
    """bool[], True if an update was finite and had a candidate to select."""
    norms = jnp.stack([jnp.asarray(value, jnp.float32) for value in norms_of(record)])
    return jnp.all(jnp.isfinite(norms)) & (jnp.sum(jnp.asarray(record["selected"])) > 0)


def before(state: TrainState) -> TrainState:
    """The state that a failed update started from; one that has not halted is itself."""
    return dataclasses.replace(state, step=jnp.where(state.step < 0, -1 - state.step, state.step))


@jax.jit
def fingerprint(tree: Any) -> jax.Array:
    """A u32[] checksum of every bit of a tree of numeric arrays.

    Integer arithmetic throughout, hence equal whatever the device count or the order of the sums.
    Any single changed value changes it.
    """
    total = jnp.uint32(0)
    for number, leaf in enumerate(jax.tree.leaves(tree)):
        leaf = jnp.asarray(leaf).reshape(-1)
        if leaf.dtype == jnp.bool_:
            leaf = leaf.astype(jnp.uint8)
        width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[leaf.dtype.itemsize]
        words = jax.lax.bitcast_convert_type(leaf, width).astype(jnp.uint32)
        # Odd multipliers are invertible modulo 2**32: no change of one word can cancel itself.
        place = 2 * jnp.arange(words.size, dtype=jnp.uint32) + 1
        total = total * jnp.uint32(31) + jnp.sum(words * place, dtype=jnp.uint32) + number
    return total
