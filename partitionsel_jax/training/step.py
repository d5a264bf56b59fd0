"""One PartitionSel update as a per-device function: features, selection, weighted step.

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
    UTILITIES,
    Problem,
    Selection,
    budgets,
    diagnostics,
    select,
)
from partitionsel_jax.training import optimizer as optimizers
from partitionsel_jax.training import spmd
from partitionsel_jax.training.settings import (
    FeatureSettings,
    OptimizerSettings,
    SelectionSettings,
    Settings,
)
from partitionsel_jax.training.state import TrainState

PURPOSES = ("parameters", "selection")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Candidates:
    """The pool as the selector sees it, on every device.

    Attributes:
      rows: the N rows themselves.
      losses: f32[N].
      gram: f32[N, N], alignment: f32[N]; see `selection.Problem`.
      anchor_norm: f32[], norm of the anchor direction.
    """

    rows: Rows
    losses: jax.Array
    gram: jax.Array
    alignment: jax.Array
    anchor_norm: jax.Array


def anchor_direction(
    vectors_AxM: jax.Array, domains_A: jax.Array, domains: int, mean: str
) -> jax.Array:
    """Mean of the anchors' features, f32[M]; anchors with a non-finite feature are left out.

    With no anchor left it is NaN, so that nothing is selected by it.

    Args:
      vectors_AxM: f32[A, M].
      domains_A: i32[A].
      domains: P.
      mean: "plain", or "balanced" to give every domain with an anchor the same weight.
    """
    finite_A = jnp.all(jnp.isfinite(vectors_AxM), axis=1)
    weights_A = finite_A.astype(jnp.float32)
    if mean == "balanced":
        counts_P = jax.ops.segment_sum(weights_A, domains_A, domains)
        weights_A = weights_A / jnp.maximum(counts_P, 1.0)[domains_A]
    weights_A = weights_A / weights_A.sum()
    clean_AxM = jnp.where(finite_A[:, None], vectors_AxM, 0.0)
    return jnp.dot(weights_A, clean_AxM, precision="highest")


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


def pick_gains(result: Selection, alignment_N: jax.Array, utility: str) -> jax.Array:
    """What each pick brings, f32[K]; 0 at padding.

    Half of w_i s_i where weights are refitted, which sums to the utility reached (at the refit's
    optimum U = <w, s> / 2); the alignment s_i where they are not.
    """
    share = 0.5 * result.weights if UTILITIES[utility].refits else 1.0
    return jnp.where(result.indices >= 0, share * alignment_N[result.indices], 0.0)


def domain_budgets(counts_P: jax.Array, settings: SelectionSettings) -> jax.Array:
    """This pool's budgets i32[P] under the configured scheme."""
    if settings.budgets == "fixed":
        return budgets.fixed(counts_P, settings.size, jnp.asarray(settings.shares))
    if settings.budgets == "temperature":
        return budgets.temperature(counts_P, settings.size, settings.temperature)
    return {
        "proportional": budgets.proportional,
        "uniform": budgets.uniform,
    }[settings.budgets](counts_P, settings.size)


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
        vectors_NxM, losses_N, rows = spmd.gather(
            (local.vectors[:count], local.losses[:count], pool)
        )
        anchors_AxM, domains_A = spmd.gather((local.vectors[count:], anchors.domain))
        anchor_M = anchor_direction(
            anchors_AxM, domains_A, self.domains, self.selection.anchor_mean
        )
        product = functools.partial(jnp.dot, precision="highest")
        return Candidates(
            rows=rows,
            losses=losses_N,
            gram=product(vectors_NxM, vectors_NxM.T),
            alignment=product(vectors_NxM, anchor_M),
            anchor_norm=jnp.linalg.norm(anchor_M),
        )

    def without_features(self, pool: Rows) -> Candidates:
        """What a baseline that never looks at gradients is given: the rows alone."""
        count = self.selection.pool
        return Candidates(
            rows=spmd.gather(pool),
            losses=jnp.full(count, jnp.nan),
            gram=jnp.zeros((count, count)),
            alignment=jnp.zeros(count),
            anchor_norm=jnp.zeros(()),
        )

    def choose(
        self, candidates: Candidates, key: jax.Array
    ) -> tuple[Selection, dict[str, jax.Array]]:
        """Budgets, picks and what is worth logging about them; replicated."""
        chosen = self.selection
        domains_N = candidates.rows.domain
        # A candidate that cannot be picked must not earn its domain a budget.
        usable_N = jnp.isfinite(candidates.alignment) & jnp.isfinite(jnp.diag(candidates.gram))
        usable_P = jnp.bincount(jnp.where(usable_N, domains_N, self.domains), length=self.domains)
        budgets_P = domain_budgets(usable_P, chosen)
        problem = Problem(
            alignment=candidates.alignment,
            gram=candidates.gram,
            domains=domains_N,
            budgets=budgets_P,
        )
        result = select(
            problem,
            size=chosen.size,
            utility=chosen.utility,
            coupling=chosen.coupling,
            rule=chosen.rule,
            ridge=chosen.ridge,
            swaps=chosen.swaps,
            step_scale=chosen.step_scale,
            key=key,
        )
        record = {
            "indices": result.indices,
            "weights": result.weights,
            "gains": pick_gains(result, candidates.alignment, chosen.utility),
            "utility": result.utility,
            "certificate": result.certificate,
            "dropped": result.dropped,
            "budgets": budgets_P,
            "pool": jnp.bincount(domains_N, length=self.domains),
            "picks": diagnostics.domain_mix(domains_N, result.indices, self.domains),
            "pool_loss": candidates.losses.mean(where=jnp.isfinite(candidates.losses)),
        }
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
        return result, record

    def update(
        self, state: TrainState, frozen: Any, rows: Rows, result: Selection
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """The weighted gradient step on this device's share of the picks, summed over devices."""
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
            state.step + 1, optax.apply_updates(state.parameters, changes), optimizer
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
        self, state: TrainState, frozen: Any, pool: Rows, anchors: Rows, seed: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """One whole update: (state, frozen, this device's rows, seed) -> (state, record)."""
        key = jax.random.fold_in(self.key(seed, "selection"), state.step)
        if self.selection.needs_features:
            candidates = self.featurize(state.parameters, frozen, pool, anchors)
        else:
            candidates = self.without_features(pool)
        result, chosen = self.choose(candidates, key)
        state, updated = self.update(state, frozen, candidates.rows, result)
        return state, chosen | updated
