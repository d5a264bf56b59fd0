"""One update as a per-device function: features, selection, weighted step.

Letters of the shape comments: N pool, A anchors, K selected, M feature dimension, P domains,
T tokens. Rows arrive sharded over the devices and everything else is replicated.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from partitionsel_jax import gradients, models
from partitionsel_jax.config.sections import FeatureSettings, OptimizerSettings, SelectionSettings
from partitionsel_jax.config.settings import Settings
from partitionsel_jax.data.rows import Rows
from partitionsel_jax.distributed import spmd
from partitionsel_jax.gradients.buckets import Buckets
from partitionsel_jax.gradients.microbatches import map_microbatches
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
from partitionsel_jax.step import anchors as held_out
from partitionsel_jax.step import features as row_features
from partitionsel_jax.step import optimizer as optimizers
from partitionsel_jax.step import picks
from partitionsel_jax.step.accumulation import accumulated
from partitionsel_jax.step.candidates import Candidates, RowInfo, compare
from partitionsel_jax.step.features import FeatureCache, TokenCounts
from partitionsel_jax.step.schemes import domain_budgets, matroid, update_weights
from partitionsel_jax.step.state import TrainState

PURPOSES = ("parameters", "selection", "dropout")


@dataclasses.dataclass(frozen=True)
class Step:
    """The stages of an update, each a per-device function, and their composition.

    Hashable, so that runs that differ in nothing but seed and learning rate share one compiled
    program: the seed is an argument of the step, and the learning rate lies in its state.

    Args:
      model: the decoder.
      scope: the parameters whose gradients become features.
      features, selection, optimizer: the settings of each stage.
      updates: length of the run, for the learning rate's schedule.
      domains: P.
      microbatch: picks in one backward pass of the update; 0 for all that a device has.
      widths: tokens that microbatches of short rows may have instead of all.
    """

    # Of the arguments of `__call__`, for whoever maps it over devices.
    KINDS: ClassVar[tuple[spmd.Kind, ...]] = (
        *("weights", "weights"),
        *("rows", "rows"),
        *("replicated", "weights"),
    )

    model: models.Model
    scope: gradients.Scope
    features: FeatureSettings
    selection: SelectionSettings
    optimizer: OptimizerSettings
    updates: int
    domains: int
    microbatch: int = 0
    widths: tuple[int, ...] = ()

    @classmethod
    def create(cls, settings: Settings, devices: int = 1) -> "Step":
        """The step of these settings; `devices` split the weights where they are to be split."""
        model = models.Model(settings.model, settings.lora)
        if settings.training.split_weights:
            model = model.split(spmd.AXIS, devices)
        return cls(
            model=model,
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
        chosen = self.optimizer
        return optimizers.make_schedule(
            schedule=chosen.schedule, warmup=chosen.warmup, updates=self.updates
        )

    @functools.cached_property
    def transformation(self) -> optax.GradientTransformationExtraArgs:
        chosen = self.optimizer
        return optimizers.make_optimizer(
            self.schedule,
            learning_rate=chosen.learning_rate,
            weight_decay=chosen.weight_decay,
            clip=chosen.clip,
            b1=chosen.b1,
            b2=chosen.b2,
        )

    @property
    def _gathering(self) -> models.Gathering:
        """How the trained parameters lie on the devices."""
        return self.model.gathering or models.Gathering(spmd.AXIS)

    @functools.cached_property
    def coordinates(self) -> int:
        """How many coordinates a gradient in scope has."""
        parameters = jax.eval_shape(self.model.init, jax.random.key(0))
        scoped = jax.eval_shape(self.scope.extract, parameters)
        return sum(leaf.size for leaf in scoped.values())

    @staticmethod
    def key(seed: jax.Array | int, purpose: str) -> jax.Array:
        """One of the independent streams of a seed, named in `PURPOSES`."""
        return jax.random.fold_in(jax.random.key(seed), PURPOSES.index(purpose))

    def initial(
        self, seed: jax.Array | int, base: dict[str, Any] | None = None
    ) -> tuple[TrainState, Any]:
        """The state at step 0 and the frozen parameters.

        Args:
          seed: the run's, of all parameters that are drawn.
          base: those of a pretrained model, without adapters; None to draw them as well.
        """
        key, adapted = self.key(seed, "parameters"), self.model.lora.rank > 0
        if base is None:
            trained, frozen = trees.split(
                self.model.init(key), lambda path: not adapted or models.is_adapter(path)
            )
        else:
            trained, frozen = (self._fresh_adapters(key), base) if adapted else (base, {})
        follows = self.selection.budgets == "curriculum" and not self.selection.recorded
        curriculum = budgets.curriculum_start(self.domains) if follows else None
        kept = self._nothing_kept()
        return TrainState.create(trained, self.transformation, curriculum, kept), frozen

    @functools.partial(jax.jit, static_argnums=0)
    def _fresh_adapters(self, key: jax.Array) -> Any:
        """New adapters alone: what else `init` draws is never computed."""
        return trees.split(self.model.init(key), models.is_adapter)[0]

    @property
    def _shares(self) -> bool:
        """Whether steps share pools or anchors."""
        chosen = self.selection
        return chosen.shares_pool or (chosen.needs_features and self.features.anchors_every > 1)

    def _nothing_kept(self) -> FeatureCache | None:
        """What steps share, before the first of them."""
        if not self._shares:
            return None
        dim = self.features.dim or self.coordinates
        return FeatureCache.nothing(self.selection, self.features, dim, self.domains)

    def losses(self, parameters: Any, rows: Rows, tap: models.Tap = models.NO_TAP) -> jax.Array:
        """f32[B], each row's mean cross-entropy over its response."""
        return self.model.losses(parameters, rows.tokens, rows.response, tap=tap)

    def _buckets(self, rows: Rows) -> Buckets:
        return row_features.buckets_of(rows, self.widths, gathering=self.model.gathering)

    def _fresh(self, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Whether a step has a pool, and anchors, that no step before it had."""
        return (
            step % self.selection.updates_per_pool == 0,
            step % self.features.anchors_every == 0,
        )

    def featurize(
        self, state: TrainState, frozen: Any, pool: Rows, anchors: Rows
    ) -> tuple[Candidates, FeatureCache | None, TokenCounts]:
        """Features of this device's candidates and anchors in one pass, gathered from all.

        Those that an earlier step computed are taken from what it kept. Also returns what later
        steps may take, and this device's work.
        """
        count, total = pool.tokens.shape[0], pool.tokens.shape[0] + anchors.tokens.shape[0]
        kept = state.kept
        fresh_pool, fresh_anchors = self._fresh(state.step)
        follows = self.features.preconditioner != "none"
        if follows:
            # The first moments come with the first update: what was kept knows a geometry of none.
            first = state.step == 1
            fresh_pool, fresh_anchors = fresh_pool | first, fresh_anchors | first
        span = None
        if kept is not None:
            span = jnp.where(fresh_pool, 0, count), jnp.where(fresh_anchors, total, count)
        local, work = row_features.compute(
            self.model,
            self.scope,
            self.features,
            trees.join(frozen, state.parameters),
            jax.tree.map(lambda *parts: jnp.concatenate(parts), pool, anchors),
            step=state.step,
            second_moments=row_features.second_moments_of(state.optimizer) if follows else None,
            decay=self.optimizer.b2,
            widths=self.widths,
            split=count,
            span=span,
        )
        features = jax.tree.map(lambda leaf: leaf[:count], local)
        of_anchors = jax.tree.map(lambda leaf: leaf[count:], local)
        chosen, vectors_axM = self.selection, of_anchors.vectors
        labels, features, facts, vectors_AxM = spmd.gather(
            (
                RowInfo.of(pool),
                features,
                held_out.AnchorStats.of(of_anchors, anchors.domain),
                vectors_axM if chosen.compares_anchors else None,
            )
        )
        summary = held_out.summarise(
            facts,
            vectors_axM,
            mean=chosen.anchor_mean,
            domains=self.domains,
            vectors_AxM=vectors_AxM,
            axis_name=spmd.AXIS,
        )
        if kept is not None:
            if kept.pool is not None:
                features = _either(fresh_pool, features, kept.pool)
                kept = dataclasses.replace(kept, pool=features)
            if kept.anchors is not None:
                summary = _either(fresh_anchors, summary, kept.anchors)
                kept = dataclasses.replace(kept, anchors=summary)
        candidates = compare(labels, features, summary, chosen)
        return candidates, kept, work

    def forward(
        self, trained: Any, frozen: Any, reference: Any, pool: Rows, anchors: Rows
    ) -> tuple[Candidates, TokenCounts]:
        """What a utility that reads losses alone is given: no gradient is taken."""
        everything = trees.join(frozen, trained)

        passes = []

        def losses(parameters: Any, rows: Rows) -> jax.Array:
            buckets, size = self._buckets(rows), self.features.microbatch
            passes.append(TokenCounts.of(buckets, size))
            one = functools.partial(self.losses, parameters)
            found = map_microbatches(one, rows, size, buckets=buckets)
            return jnp.where(row_features.has_response(rows), found, jnp.nan)

        reference_losses = anchor_losses = anchor_losses_P = None
        if "reference_losses" in self.selection.reads:
            if reference is None:
                raise ValueError(
                    f"utility={self.selection.utility!r} needs the parameters of a reference "
                    "model, got None; pass them to the step as `reference`."
                )
            reference_losses = losses(reference, pool)
        if self.selection.budgets == "curriculum":
            anchor_losses = losses(everything, anchors)
        known = RowInfo.of(pool), row_features.has_response(pool), losses(everything, pool)
        labels, counted_N, losses_N, reference_losses_N, anchor_losses_A, domains_A = spmd.gather(
            (*known, reference_losses, anchor_losses, anchors.domain)
        )
        if anchor_losses_A is not None:
            anchor_losses_P = held_out.mean_losses(anchor_losses_A, domains_A, self.domains)
        candidates = dataclasses.replace(
            Candidates.without_features(labels, counted_N),
            losses=losses_N,
            reference_losses=reference_losses_N,
            anchor_losses=anchor_losses_P,
        )
        return candidates, functools.reduce(TokenCounts.and_also, passes)

    def look(
        self, state: TrainState, frozen: Any, pool: Rows, anchors: Rows, reference: Any = None
    ) -> tuple[Candidates, FeatureCache | None, TokenCounts | None]:
        """As `featurize`, by no more than what the utility reads."""
        if self.selection.needs_features:
            return self.featurize(state, frozen, pool, anchors)
        if self.selection.needs_losses:
            seen, work = self.forward(state.parameters, frozen, reference, pool, anchors)
            return seen, state.kept, work
        return self.without_features(pool), state.kept, None

    def without_features(self, pool: Rows) -> Candidates:
        """What a baseline that never looks at gradients is given: labels, and which to leave."""
        counted = row_features.has_response(pool)
        return Candidates.without_features(*spmd.gather((RowInfo.of(pool), counted)))

    def choose(
        self,
        candidates: Candidates,
        key: jax.Array,
        curriculum: CurriculumState | None = None,
        used_N: jax.Array | None = None,
    ) -> tuple[Selection, dict[str, jax.Array]]:
        """Budgets, picks and what is worth logging about them; replicated.

        Args:
          candidates: the pool.
          key: for utilities and rules that draw.
          curriculum: state of curriculum budgets, this step's anchor losses in it.
          used_N: bool[N], candidates that an earlier update has picked, or None.
        """
        chosen = self.selection
        domains_N = candidates.labels.domain
        if used_N is not None:
            domains_N = jnp.where(used_N, -1, domains_N)
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
            "dropped_ids": jnp.where((domains_N >= 0) & ~usable_N, candidates.labels.id, -1),
            "budgets": budgets_P,
            "pool": jnp.bincount(candidates.labels.domain, length=self.domains),
            "selected": diagnostics.domain_mix(domains_N, result.indices, self.domains),
            "pool_loss": candidates.losses.mean(where=jnp.isfinite(candidates.losses)),
        }
        if curriculum is not None and candidates.anchor_losses is not None:
            record["anchor_losses"] = candidates.anchor_losses
            record["anchor_gains"] = curriculum.gains
        if chosen.needs_features:
            assert candidates.anchors_dropped is not None  # as there are features
            record["anchors_dropped"] = candidates.anchors_dropped
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
                candidates.alignment, *matroid(domains_N, budgets_P, chosen), result.indices
            )
        return result, record

    def update(
        self,
        state: TrainState,
        frozen: Any,
        pool: Rows,
        labels: RowInfo,
        result: Selection,
        curriculum: CurriculumState | None = None,
        kept: FeatureCache | None = None,
        key: jax.Array | None = None,
        work: TokenCounts | None = None,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """The weighted gradient step on this device's share of the picks, summed over devices.

        `pool` are this device's rows, `labels` those of all. `curriculum` and `kept` are what the
        next state remembers; `key` is the update's, for dropout; `work` is what this device has
        computed before it.
        """
        lora, layers = self.model.lora, self.model.config.layers
        chosen = self.selection
        picked_K = result.indices >= 0
        # Padding repeats the first pick, which is sound: its weight of 0 then leaves no trace.
        index_K = jnp.where(picked_K, result.indices, jnp.maximum(result.indices[0], 0))
        picked = jax.tree.map(lambda leaf: leaf[index_K], labels)
        weights_K = update_weights(picked_K, result.weights, chosen.weights, chosen.weight_cap)
        count = jnp.maximum(picked_K.sum(), 1).astype(jnp.float32)

        def objective(trained, part):
            rows, weights, counted = part
            tap = models.dropping(lora, key, rows.id, layers)
            losses = self.losses(trees.join(frozen, trained), rows, tap)
            return (weights * losses).sum() / count, (counted * losses).sum() / count

        weights = spmd.share((weights_K, picked_K.astype(jnp.float32)))
        local = picks.deal(pool, labels, index_K), *weights
        buckets, size = self._buckets(local[0]), self.microbatch
        loss, gradient = accumulated(objective, state.parameters, local, size, buckets)
        done = TokenCounts.of(buckets, size or len(local[1]))
        done = done if work is None else done.and_also(work)
        # With the loss: a sum that waits for nothing may meet the gathering of weights in another
        # order on each simulated device, and then none goes on. Counts are exact up to 2^24.
        sums = jnp.stack([loss, *(count.astype(jnp.float32) for count in done)])
        loss, *counts = jax.lax.psum(sums, spmd.AXIS)
        real, computed = (count.astype(jnp.int32) for count in counts)
        gradient = self._gathering.summed(gradient)
        norm = self._gathering.norm(gradient)
        changes, optimizer = self.transformation.update(
            gradient, state.optimizer, state.parameters, norm=norm
        )
        parameters = optax.apply_updates(state.parameters, changes)
        proposed = TrainState(state.step + 1, parameters, optimizer, curriculum, kept)
        update_norm = self._gathering.norm(changes)
        # A non-finite update is not applied, so that the state that stops the run is sound.
        finite = jnp.isfinite(norm) & jnp.isfinite(loss) & jnp.isfinite(update_norm)
        after = _either(finite, proposed, state)
        record = {
            "loss": loss,
            "gradient_norm": norm,
            "update_norm": update_norm,
            "learning_rate": self.schedule(state.step) * optimizers.peak_of(state.optimizer),
            "effective_sample_size": diagnostics.effective_sample_size(weights_K),
            "ids": jnp.where(picked_K, picked.id, -1),
            "domains": jnp.where(picked_K, picked.domain, -1),
            "corrupted": picked_K & picked.corrupted,
            "corrupted_selected": jnp.sum(picked_K & picked.corrupted),
            "corrupted_pool": jnp.sum(labels.corrupted),
            "update_weights": weights_K,
            "tokens": computed,
            "padding": 1 - real / computed,
        }
        return after, record

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
        if state.kept is None and self._shares:
            raise ValueError(
                "features.anchors_every and selection.updates_per_pool need a state that keeps "
                "what steps share, got None; make the training state with Step.initial"
            )
        key, dropout = (
            jax.random.fold_in(self.key(seed, purpose), state.step)
            for purpose in ("selection", "dropout")
        )
        fresh_pool, fresh_anchors = self._fresh(state.step)
        candidates, kept, work = self.look(state, frozen, pool, anchors, reference)
        curriculum = state.curriculum
        if curriculum is not None and candidates.anchor_losses is not None:
            moved = budgets.curriculum_update(
                curriculum, candidates.anchor_losses, decay=self.selection.curriculum.decay
            )
            # The same anchor losses again say nothing of what was learnt since.
            curriculum = _either(fresh_anchors, moved, curriculum)
        used_N = None
        if kept is not None and kept.used is not None:
            used_N = kept.used & ~fresh_pool
        result, chosen = self.choose(candidates, key, curriculum, used_N)
        if kept is not None and used_N is not None:
            # Out of bounds, hence nowhere, for padding.
            place_K = jnp.where(result.indices >= 0, result.indices, used_N.size)
            kept = dataclasses.replace(kept, used=used_N.at[place_K].set(True, mode="drop"))
        state, updated = self.update(
            state, frozen, pool, candidates.labels, result, curriculum, kept, dropout, work
        )
        return state, chosen | updated


def _either(condition: jax.Array, this: Any, that: Any) -> Any:
    """One of two pytrees of the same structure."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), this, that)
