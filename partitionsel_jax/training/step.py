"""One update as a per-device function: features, selection, weighted step.

Letters of the shape comments: N pool, A anchors, K selected, M feature dimension, P domains,
T tokens. Rows arrive sharded over the devices and everything else is replicated.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from partitionsel_jax import gradients, models
from partitionsel_jax.data.rows import Rows
from partitionsel_jax.models import parameters as trees
from partitionsel_jax.selection import (
    Problem,
    Selection,
    budgets,
    diagnostics,
    select,
)
from partitionsel_jax.selection.budgets import CurriculumState
from partitionsel_jax.selection.problem import make_pool
from partitionsel_jax.training import optimizer as optimizers
from partitionsel_jax.training import spmd
from partitionsel_jax.training.candidates import Candidates, compare, mean_losses
from partitionsel_jax.training.settings import (
    FeatureSettings,
    OptimizerSettings,
    SelectionSettings,
    Settings,
)
from partitionsel_jax.training.state import TrainState

PURPOSES = ("parameters", "selection")


def update_weights(picked_K: jax.Array, learned_K: jax.Array, scheme: str, cap: float) -> jax.Array:
    """Weights of the picks in the update, f32[K]: mean 1 over the picks, 0 at padding.

    Args:
      picked_K: bool[K], False at padding.
      learned_K: f32[K], the selector's weights.
      scheme: "uniform"; "learned" (rescaled to mean 1); "clipped" (learned, at most `cap`).
      cap: the largest weight of "clipped", in units of the mean.
    """
    ones_K = picked_K.astype(jnp.float32)
    if scheme == "uniform":
        return ones_K
    count, total = ones_K.sum(), (learned_K * ones_K).sum()
    scaled_K = jnp.where(total > 0, learned_K * ones_K * count / jnp.maximum(total, 1e-30), ones_K)
    return jnp.minimum(scaled_K, cap) if scheme == "clipped" else scaled_K


def domain_budgets(
    counts_P: jax.Array, settings: SelectionSettings, curriculum: CurriculumState | None = None
) -> jax.Array:
    """This pool's budgets i32[P] under the configured scheme; `curriculum` is its state."""
    if settings.budgets == "curriculum":
        if curriculum is None:
            raise ValueError(
                "budgets='curriculum' need the state of a curriculum, got None; make the training "
                "state with Step.initial"
            )
        chosen = settings.curriculum
        return budgets.curriculum(
            counts_P,
            settings.size,
            curriculum,
            blend=chosen.blend,
            floor=chosen.floor,
            sharpness=chosen.sharpness,
        )
    if settings.budgets == "fixed":
        return budgets.fixed(counts_P, settings.size, jnp.asarray(settings.shares))
    if settings.budgets == "temperature":
        return budgets.temperature(counts_P, settings.size, settings.temperature)
    return {
        "proportional": budgets.proportional,
        "uniform": budgets.uniform,
    }[settings.budgets](counts_P, settings.size)


def _matroid(
    domains_N: jax.Array, budgets_P: jax.Array, settings: SelectionSettings
) -> tuple[jax.Array, jax.Array]:
    """Domains and budgets as the coupling lets them limit the picks."""
    if settings.coupling == "agnostic":
        return jnp.zeros_like(domains_N), jnp.full((1,), settings.size, jnp.int32)
    return domains_N, budgets_P


@dataclasses.dataclass(frozen=True)
class Step:
    """The stages of an update, each a per-device function, and their composition.

    Hashable, so that runs that differ in their seed alone share one compiled program: the seed is
    an argument of the step.

    Args:
      model: the decoder.
      scope: the parameters whose gradients become features.
      features, selection, optimizer: the settings of each stage.
      updates: length of the run, for the learning rate's schedule.
      domains: P.
    """

    model: models.Model
    scope: gradients.Scope
    features: FeatureSettings
    selection: SelectionSettings
    optimizer: OptimizerSettings
    updates: int
    domains: int

    @classmethod
    def create(cls, settings: Settings) -> "Step":
        return cls(
            model=models.Model(settings.model, settings.lora),
            scope=settings.scope,
            features=settings.features,
            selection=settings.selection,
            optimizer=settings.optimizer,
            updates=settings.training.updates,
            domains=len(settings.data.tasks),
        )

    @functools.cached_property
    def schedule(self) -> optax.Schedule:
        chosen = self.optimizer
        return optimizers.make_schedule(
            learning_rate=chosen.learning_rate,
            schedule=chosen.schedule,
            warmup=chosen.warmup,
            updates=self.updates,
        )

    @functools.cached_property
    def transformation(self) -> optax.GradientTransformation:
        chosen = self.optimizer
        return optimizers.make_optimizer(
            self.schedule,
            weight_decay=chosen.weight_decay,
            clip=chosen.clip,
            b1=chosen.b1,
            b2=chosen.b2,
        )

    @staticmethod
    def key(seed: jax.Array | int, purpose: str) -> jax.Array:
        """One of the independent streams of a seed: "parameters" or "selection"."""
        return jax.random.fold_in(jax.random.key(seed), PURPOSES.index(purpose))

    def initial(self, seed: jax.Array | int) -> tuple[TrainState, Any]:
        """The state at step 0 and the frozen parameters of a seed."""
        parameters = self.model.init(self.key(seed, "parameters"))
        adapted = self.model.lora.rank > 0
        trained, frozen = trees.split(
            parameters, lambda path: not adapted or models.is_adapter(path)
        )
        follows = self.selection.budgets == "curriculum"
        curriculum = budgets.curriculum_start(self.domains) if follows else None
        return TrainState.create(trained, self.transformation, curriculum), frozen

    def losses(self, parameters: Any, rows: Rows, stop_below: int = 0) -> jax.Array:
        """f32[B], each row's mean cross-entropy over its response."""
        logits = self.model.apply(parameters, rows.tokens, stop_below)
        return models.response_loss(logits, rows.tokens, rows.response)

    def featurize(self, trained: Any, frozen: Any, pool: Rows, anchors: Rows) -> Candidates:
        """Features of this device's candidates and anchors in one pass, gathered from all."""
        chosen, scope = self.features, self.scope
        everything = trees.join(frozen, trained)

        def loss(scoped, row):
            rows = jax.tree.map(lambda leaf: leaf[None], row)
            return self.losses(scope.insert(everything, scoped), rows, scope.stop_below)[0]

        local = gradients.per_example_features(
            loss,
            scope.extract(everything),
            jax.tree.map(lambda *parts: jnp.concatenate(parts), pool, anchors),
            gradients.make_sketch(chosen.family, chosen.dim, chosen.seed),
            microbatch=chosen.microbatch,
            normalize=chosen.normalize,
        )
        count = pool.tokens.shape[0]
        mine = jax.tree.map(lambda leaf: leaf[:count], local)
        held_out = jax.tree.map(lambda leaf: leaf[count:], local)
        rows, domains_A, mine, held_out = spmd.gather((pool, anchors.domain, mine, held_out))
        return compare(
            rows, domains_A, mine, held_out, settings=self.selection, domains=self.domains
        )

    def forward(
        self, trained: Any, frozen: Any, reference: Any, pool: Rows, anchors: Rows
    ) -> Candidates:
        """What a utility that reads losses alone is given: no gradient is taken."""
        everything = trees.join(frozen, trained)

        def losses(parameters: Any, rows: Rows) -> jax.Array:
            def one(row):
                return self.losses(parameters, jax.tree.map(lambda leaf: leaf[None], row))[0]

            local = jax.lax.map(one, rows, batch_size=self.features.microbatch)
            return spmd.gather(local)

        reference_losses_N = anchor_losses_P = None
        if "reference_losses" in self.selection.reads:
            if reference is None:
                raise ValueError(
                    f"utility={self.selection.utility!r} needs the parameters of a reference "
                    "model, got None; pass them to the step as `reference`."
                )
            reference_losses_N = losses(reference, pool)
        if self.selection.budgets == "curriculum":
            anchor_losses_P = mean_losses(
                losses(everything, anchors), spmd.gather(anchors.domain), self.domains
            )
        return dataclasses.replace(
            self.without_features(pool),
            losses=losses(everything, pool),
            reference_losses=reference_losses_N,
            anchor_losses=anchor_losses_P,
        )

    def without_features(self, pool: Rows) -> Candidates:
        """What a baseline that never looks at the rows is given: the rows alone."""
        count = self.selection.pool
        return Candidates(
            rows=spmd.gather(pool),
            losses=jnp.full(count, jnp.nan),
            gram=jnp.zeros((count, count)),
            alignment=jnp.zeros(count),
            anchor_norm=jnp.zeros(()),
        )

    def choose(
        self, candidates: Candidates, key: jax.Array, curriculum: CurriculumState | None = None
    ) -> tuple[Selection, dict[str, jax.Array]]:
        """Budgets, picks and what is worth logging about them; replicated.

        Args:
          candidates: the pool.
          key: for utilities and rules that draw.
          curriculum: state of curriculum budgets, this step's anchor losses in it.
        """
        chosen = self.selection
        domains_N = candidates.rows.domain
        problem = Problem(
            alignment=candidates.alignment,
            gram=candidates.gram,
            domains=domains_N,
            budgets=jnp.zeros(self.domains, jnp.int32),
            losses=candidates.losses if "losses" in chosen.reads else None,
            anchor_similarity=candidates.anchor_similarity,
            norms=candidates.norms,
            reference_losses=candidates.reference_losses,
        )
        # A candidate that cannot be picked must not earn its domain a budget.
        usable_N = make_pool(problem)[0].candidates
        usable_P = jnp.bincount(jnp.where(usable_N, domains_N, self.domains), length=self.domains)
        budgets_P = domain_budgets(usable_P, chosen, curriculum)
        result = select(
            dataclasses.replace(problem, budgets=budgets_P),
            size=chosen.size,
            utility=chosen.utility,
            coupling=chosen.coupling,
            rule=chosen.rule,
            solver=chosen.solver,
            ridge=chosen.ridge,
            swaps=chosen.swaps,
            step_scale=chosen.step_scale,
            key=key,
        )
        record = {
            "indices": result.indices,
            "weights": result.weights,
            "gains": result.gains,
            "utility": result.utility,
            "certificate": result.certificate,
            "dropped": result.dropped,
            "budgets": budgets_P,
            "pool": jnp.bincount(domains_N, length=self.domains),
            "picks": diagnostics.domain_mix(domains_N, result.indices, self.domains),
            "pool_loss": candidates.losses.mean(where=jnp.isfinite(candidates.losses)),
        }
        if curriculum is not None and candidates.anchor_losses is not None:
            record["anchor_losses"] = candidates.anchor_losses
            record["anchor_gains"] = curriculum.gains
        if chosen.needs_features:
            _, record["conflicting_pairs"] = diagnostics.conflicting_pairs(
                candidates.gram, result.indices
            )
            record["matching_cosine"] = diagnostics.matching_cosine(
                candidates.gram,
                candidates.alignment,
                result.indices,
                result.weights,
                candidates.anchor_norm,
            )
            record["conflicting_weight"] = diagnostics.conflicting_weight(
                candidates.gram, result.indices, result.weights
            )
            record["redundancy"] = diagnostics.redundancy(candidates.gram, result.indices)
            record["top_k_overlap"] = diagnostics.top_k_overlap(
                candidates.alignment, *_matroid(domains_N, budgets_P, chosen), result.indices
            )
        return result, record

    def update(
        self,
        state: TrainState,
        frozen: Any,
        rows: Rows,
        result: Selection,
        curriculum: CurriculumState | None = None,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """The weighted gradient step on this device's share of the picks, summed over devices.

        `curriculum` is what the next state remembers.
        """
        chosen = self.selection
        picked_K = result.indices >= 0
        # Padding repeats the first pick, which is sound: its weight of 0 then leaves no trace.
        index_K = jnp.where(picked_K, result.indices, jnp.maximum(result.indices[0], 0))
        picks = jax.tree.map(lambda leaf: leaf[index_K], rows)
        weights_K = update_weights(picked_K, result.weights, chosen.weights, chosen.weight_cap)
        local, local_weights, local_picked = spmd.share((picks, weights_K, picked_K))
        count = jnp.maximum(picked_K.sum(), 1).astype(jnp.float32)

        def objective(trained):
            losses = self.losses(trees.join(frozen, trained), local)
            return (local_weights * losses).sum() / count, (local_picked * losses).sum() / count

        (_, loss), gradient = jax.value_and_grad(objective, has_aux=True)(state.parameters)
        loss, gradient = jax.lax.psum((loss, gradient), spmd.AXIS)
        norm = optax.tree.norm(gradient)
        changes, optimizer = self.transformation.update(gradient, state.optimizer, state.parameters)
        proposed = TrainState(
            state.step + 1, optax.apply_updates(state.parameters, changes), optimizer, curriculum
        )
        update_norm = optax.tree.norm(changes)
        # A non-finite update is not applied, so that the state that stops the run is sound.
        finite = jnp.isfinite(norm) & jnp.isfinite(loss) & jnp.isfinite(update_norm)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), proposed, state)
        record = {
            "loss": loss,
            "gradient_norm": norm,
            "update_norm": update_norm,
            "learning_rate": self.schedule(state.step),
            "effective_sample_size": diagnostics.effective_sample_size(weights_K),
            "ids": jnp.where(picked_K, picks.id, -1),
            "domains": jnp.where(picked_K, picks.domain, -1),
            "spoilt": picked_K & picks.spoilt,
            "spoilt_picks": jnp.sum(picked_K & picks.spoilt),
            "spoilt_pool": jnp.sum(rows.spoilt),
            "update_weights": weights_K,
        }
        return kept, record

    def __call__(
        self,
        state: TrainState,
        frozen: Any,
        pool: Rows,
        anchors: Rows,
        seed: jax.Array,
        reference: Any = None,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """One whole update.

        Args:
          state, frozen: what `initial` makes, or an update before this one.
          pool, anchors: this device's rows.
          seed: i32[], the run's.
          reference: all parameters of the reference model; None for utilities without one.

        Returns:
          The next state, and what is logged; the same on every device.
        """
        key = jax.random.fold_in(self.key(seed, "selection"), state.step)
        if self.selection.needs_features:
            candidates = self.featurize(state.parameters, frozen, pool, anchors)
        elif self.selection.needs_losses:
            candidates = self.forward(state.parameters, frozen, reference, pool, anchors)
        else:
            candidates = self.without_features(pool)
        curriculum = state.curriculum
        if curriculum is not None and candidates.anchor_losses is not None:
            curriculum = budgets.curriculum_update(
                curriculum, candidates.anchor_losses, decay=self.selection.curriculum.decay
            )
        result, chosen = self.choose(candidates, key, curriculum)
        state, updated = self.update(state, frozen, candidates.rows, result, curriculum)
        return state, chosen | updated
