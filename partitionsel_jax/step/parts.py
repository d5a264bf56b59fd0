"""The parts of a step: model, scope of the features, settings, and the state it starts from."""

import dataclasses
import functools
from typing import Any, Self

import jax
import jax.numpy as jnp
import optax

from partitionsel_jax import gradients, models
from partitionsel_jax.config.sections import FeatureSettings, OptimizerSettings, SelectionSettings
from partitionsel_jax.config.settings import Settings
from partitionsel_jax.data.rows import Rows
from partitionsel_jax.distributed import spmd
from partitionsel_jax.models import parameters as trees
from partitionsel_jax.selection import budgets
from partitionsel_jax.step import optimizer as optimizers
from partitionsel_jax.step.state import FeatureCache, Guard, Learner, TrainState

PURPOSES = ("parameters", "selection", "dropout")


@dataclasses.dataclass(frozen=True)
class Parts:
    """Everything that an update consists of.

    Hashable, so that runs that differ in nothing but seed and learning rate share one compiled
    program: the seed is an argument of the step, and the learning rate lies in its state.

    Args:
      model: the decoder that is trained.
      chooser: the decoder that selects: the same, or a proxy.
      scope: the parameters of the chooser whose gradients become features.
      features, selection, optimizer: the settings of each stage.
      updates: length of the run, for the learning rate's schedule.
      domains: P.
      microbatch: selected rows in one backward pass of the update; 0 for all that a device has.
      widths: tokens that microbatches of short rows may have instead of all.
    """

    model: models.Model
    chooser: models.Model
    scope: gradients.Scope
    features: FeatureSettings
    selection: SelectionSettings
    optimizer: OptimizerSettings
    updates: int
    domains: int
    microbatch: int = 0
    widths: tuple[int, ...] = ()

    @classmethod
    def create(cls, settings: Settings, devices: int = 1) -> Self:
        """The step of these settings; `devices` split the weights where they are to be split."""
        model, chooser = (
            models.Model(*each).split(spmd.AXIS, devices)
            if settings.training.split_weights
            else models.Model(*each)
            for each in ((settings.model, settings.lora), settings.chooser)
        )
        return cls(
            model=model,
            chooser=chooser,
            scope=settings.scope,
            features=settings.features,
            selection=settings.selection,
            optimizer=settings.optimizer,
            updates=settings.training.updates,
            domains=len(settings.data.names),
            microbatch=settings.training.microbatch,
            widths=settings.data.buckets,
        )

    @functools.cached_property
    def schedule(self) -> optax.Schedule:
        """Update count -> share of the peak learning rate."""
        return optimizers.make_schedule(self.optimizer, self.updates)

    @functools.cached_property
    def transformation(self) -> optax.GradientTransformationExtraArgs:
        """The optimizer, whose update is given the gradient's norm."""
        return optimizers.make_optimizer(self.optimizer, self.schedule)

    @functools.cached_property
    def coordinates(self) -> int:
        """How many coordinates a gradient in scope has."""
        parameters = jax.eval_shape(self.chooser.init, jax.random.key(0))
        scoped = jax.eval_shape(self.scope.extract, parameters)
        return sum(leaf.size for leaf in scoped.values())

    @property
    def shares(self) -> bool:
        """True if steps share pools or anchors."""
        chosen = self.selection
        return chosen.shares_pool or (chosen.needs_features and self.features.anchors_every > 1)

    @staticmethod
    def key(seed: jax.Array | int, purpose: str) -> jax.Array:
        """One of the independent streams of a seed, named in `PURPOSES`."""
        return jax.random.fold_in(jax.random.key(seed), PURPOSES.index(purpose))

    def initial(
        self,
        seed: jax.Array | int,
        base: dict[str, Any] | None = None,
        proxy: dict[str, Any] | None = None,
    ) -> tuple[TrainState, Any]:
        """The state at step 0 and the frozen parameters.

        Args:
          seed: the run's, of all parameters that are drawn.
          base: those of a pretrained model, without adapters; None to draw them as well.
          proxy: what a proxy that trains, or its twins, begin with: those of its parameters that
            training changes.
        """
        key, adapted = self.key(seed, "parameters"), self.model.lora.rank > 0
        if base is None:
            trained, frozen = divide(self.model, self.model.init(key))
        else:
            trained, frozen = (new_adapters(self.model, key), base) if adapted else (base, {})
        chosen = self.selection
        follows = chosen.budgets == "curriculum" and not chosen.recorded
        curriculum = budgets.curriculum_start(self.domains) if follows else None
        cache = learner = guard = None
        if self.shares:
            dim = self.features.dim or self.coordinates
            cache = FeatureCache.empty(chosen, self.features, dim, self.domains)
        if chosen.trains_proxy:
            learner = self._copy(proxy)
        if chosen.has_guard:
            twin = None if chosen.trains_proxy else self._copy(proxy)
            used = jnp.zeros(chosen.pool, bool) if chosen.shares_pool else None
            guard = Guard(twin, self._copy(proxy), used)
        state = TrainState.create(
            *(trained, self.transformation),
            curriculum=curriculum,
            kept=cache,
            proxy=learner,
            guard=guard,
        )
        return state, frozen

    def _copy(self, proxy: dict[str, Any] | None) -> Learner:
        """A copy of the proxy that trains; the step takes the buffers of its state."""
        rate = self.selection.proxy_learning_rate or self.optimizer.learning_rate
        settings = dataclasses.replace(self.optimizer, learning_rate=rate)
        optimizer = optimizers.make_optimizer(settings, self.schedule)
        return Learner(jax.tree.map(jnp.copy, proxy), optimizer.init(proxy))


def divide(model: models.Model, parameters: Any) -> tuple[Any, Any]:
    """The parameters that training changes (the adapters, where there are some), and the others."""
    adapted = model.lora.rank > 0
    return trees.split(parameters, lambda path: not adapted or models.is_adapter(path))


def gathering_of(model: models.Model) -> models.Gathering:
    """How a model's trained parameters lie on the devices."""
    return model.gathering or models.Gathering(spmd.AXIS)


@functools.partial(jax.jit, static_argnums=0)
def new_adapters(model: models.Model, key: jax.Array) -> Any:
    """New adapters alone: what else `init` draws is never computed."""
    return trees.split(model.init(key), models.is_adapter)[0]


def row_losses(
    model: models.Model, parameters: Any, rows: Rows, tap: models.Tap = models.NO_TAP
) -> jax.Array:
    """f32[B], each row's mean cross-entropy over its response."""
    return model.losses(parameters, rows.tokens, rows.response, tap=tap)
