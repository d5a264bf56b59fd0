"""One update as a per-device function: features -> candidates -> selection -> weighted step.

Letters of the shape comments: N pool, A anchors, K selected, M feature dimension, P domains,
T tokens. Rows arrive sharded over the devices and everything else is replicated.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from partitionsel_jax import models
from partitionsel_jax.data.rows import Rows
from partitionsel_jax.distributed import spmd
from partitionsel_jax.gradients.microbatches import map_microbatches
from partitionsel_jax.models import parameters as trees
from partitionsel_jax.selection import (
    UTILITIES,
    Problem,
    Selection,
    budgets,
    certify,
    diagnostics,
    select,
)
from partitionsel_jax.selection.budgets import CurriculumState
from partitionsel_jax.step import anchors as held_out
from partitionsel_jax.step import optimizer as optimizers
from partitionsel_jax.step import twins
from partitionsel_jax.step.candidates import (
    Candidates,
    RowInfo,
    compare,
    describe,
    domain_budgets,
)
from partitionsel_jax.step.descent import batch_of, descend
from partitionsel_jax.step.features import TokenCounts, buckets_of, compute_features, has_response
from partitionsel_jax.step.logit_scores import logit_scores
from partitionsel_jax.step.parts import Parts, row_losses
from partitionsel_jax.step.state import (
    NO_OTHERS,
    PROXY_NORMS,
    FeatureCache,
    Learner,
    Others,
    TrainState,
)


@dataclasses.dataclass(frozen=True)
class Step(Parts):
    """The stages of an update, each a per-device function, and their composition."""

    # How the arguments of `__call__` lie on the devices, for whoever maps it over them.
    KINDS: ClassVar[tuple[spmd.Kind, ...]] = (
        *("weights", "weights"),
        *("rows", "rows"),
        *("replicated", "weights"),
    )

    def __call__(
        self,
        state: TrainState,
        frozen: Any,
        pool: Rows,
        anchors: Rows,
        seed: jax.Array,
        others: Others = NO_OTHERS,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """One whole update.

        Args:
          state, frozen: what `initial` makes, or an update before this one.
          pool, anchors: this device's rows.
          seed: i32[], the run's.
          others: parameters of a reference model and of a proxy, where they are read.

        Returns:
          The next state, and what is logged; the same on every device.
        """
        if state.kept is None and self.shares:
            raise ValueError(
                "features.anchors_every, features.cache_rows, selection.updates_per_pool and "
                "selection.remembered need a state that keeps what steps share, got None; make the "
                "training state with Step.initial"
            )
        key = jax.random.fold_in(self.key(seed, "selection"), state.step)
        fresh_pool, fresh_anchors = self._fresh(state.step)

        candidates, cache, tokens = self.candidates(state, frozen, pool, anchors, others)

        curriculum = state.curriculum
        if curriculum is not None and candidates.anchor_losses is not None:
            moved = budgets.curriculum_update(
                curriculum, candidates.anchor_losses, decay=self.selection.curriculum.decay
            )
            # The same anchor losses again say nothing of what was learnt since.
            curriculum = _either(fresh_anchors, moved, curriculum)
        used_N = None
        if cache is not None and cache.used is not None:
            used_N = cache.used & ~fresh_pool

        every = self.selection.certificate_every
        certified = every == 1 or (every > 0 and state.step % every == 0)
        result, record = self.select(candidates, key, curriculum, used_N, certified)
        if cache is not None:
            memory = cache.memory and cache.memory.after(candidates.embeddings, result.indices)
            cache = dataclasses.replace(cache, used=_mark(used_N, result), memory=memory)

        rival = None
        if state.guard is not None:
            used_N = None if state.guard.used is None else state.guard.used & ~fresh_pool
            state = dataclasses.replace(state, guard=state.guard._replace(used=used_N))
            problem = self._problem(candidates, curriculum, used_N)
            rival = twins.draw(problem, self.selection, key)

        key = jax.random.fold_in(self.key(seed, "dropout"), state.step)
        state, updated = self.update(
            *(state, frozen, pool, candidates.info, result, curriculum, cache, key, tokens, others),
            rival=rival,
        )
        return state, record | updated

    def candidates(
        self,
        state: TrainState,
        frozen: Any,
        pool: Rows,
        anchors: Rows,
        others: Others = NO_OTHERS,
    ) -> tuple[Candidates, FeatureCache | None, TokenCounts | None]:
        """Computes features, losses or nothing of the rows, as the utility requires."""
        cache, tokens = state.kept, None
        if self.selection.needs_features:
            seen, cache, tokens = self.featurize(state, frozen, pool, anchors, others)
        elif self.selection.needs_forward:
            seen, tokens = self.forward(state, frozen, pool, anchors, others)
        else:
            known = spmd.gather((RowInfo.of(pool), has_response(pool)))
            seen = Candidates.without_features(*known)
        return dataclasses.replace(seen, anchor_shares=others.anchor_shares), cache, tokens

    def _learner(self, state: TrainState, frozen: Any, others: Others) -> tuple[Any, Any]:
        """All parameters of the model that selects, and the optimizer's state that it learns by."""
        if not self.selection.has_proxy:
            return trees.join(frozen, state.parameters), state.optimizer
        if others.proxy is None:
            raise ValueError(
                f"selection.proxy={self.selection.proxy!r} needs that model's parameters, got "
                "None; pass them to the step as `others.proxy`"
            )
        if state.proxy is None:
            return others.proxy, None
        return trees.join(others.proxy, state.proxy.parameters), state.proxy.optimizer

    def featurize(
        self,
        state: TrainState,
        frozen: Any,
        pool: Rows,
        anchors: Rows,
        others: Others = NO_OTHERS,
    ) -> tuple[Candidates, FeatureCache | None, TokenCounts]:
        """Features of this device's candidates and anchors in one pass, gathered from all.

        Those that an earlier step computed are taken from the cache. Also returns what later steps
        may take, and this device's tokens.
        """
        chosen, cache = self.selection, state.kept
        count, total = pool.tokens.shape[0], pool.tokens.shape[0] + anchors.tokens.shape[0]
        fresh_pool, fresh_anchors = self._fresh(state.step)
        parameters, optimizer = self._learner(state, frozen, others)
        second_moments = None
        if self.features.preconditioner != "none":
            second_moments = optax.tree_utils.tree_get(optimizer, "nu")
            # The first moments come with the first update: what was kept knows a geometry of none.
            first = state.step == 1
            fresh_pool, fresh_anchors = fresh_pool | first, fresh_anchors | first
        rows = jax.tree.map(lambda *parts: jnp.concatenate(parts), pool, anchors)
        table = None if cache is None else cache.table
        compute = functools.partial(
            compute_features,
            self.chooser,
            self.scope,
            self.features,
            parameters,
            step=state.step,
            second_moments=second_moments,
            decay=self.optimizer.b2,
            widths=self.widths,
        )
        if cache is None:
            local, tokens = compute(rows, split=count)
        elif table is None:
            span = jnp.where(fresh_pool, 0, count), jnp.where(fresh_anchors, total, count)
            local, tokens = compute(rows, split=count, span=span)
        else:
            known, is_known_B = table.find(rows.id)
            due_B = jnp.where(jnp.arange(total) < count, fresh_pool, fresh_anchors)
            new_B = due_B & ~is_known_B
            local, tokens = self._of_some(compute, rows, new_B)
            local = _rows_of(is_known_B, known, local)
            # Every device keeps the same.
            table = table.with_rows(*spmd.gather((rows.id, local, new_B)))
            cache = dataclasses.replace(cache, table=table)
        features = jax.tree.map(lambda leaf: leaf[:count], local)
        of_anchors = jax.tree.map(lambda leaf: leaf[count:], local)
        stats = held_out.AnchorStats.of(of_anchors, anchors.domain)
        compared = of_anchors.vectors if "anchor_similarity" in chosen.reads else None
        info, features, stats, vectors_AxM = spmd.gather(
            (RowInfo.of(pool), features, stats, compared)
        )
        summary = held_out.summarise(
            stats,
            of_anchors.vectors,
            mean=chosen.anchor_mean,
            domains=self.domains,
            vectors_AxM=vectors_AxM,
            axis_name=spmd.AXIS,
        )

        if cache is not None and cache.pool is not None:
            features = _either(fresh_pool, features, cache.pool)
            cache = dataclasses.replace(cache, pool=features)
        if cache is not None and cache.anchors is not None:
            summary = _either(fresh_anchors, summary, cache.anchors)
            cache = dataclasses.replace(cache, anchors=summary)
        return compare(info, features, summary, chosen), cache, tokens

    def _of_some(self, compute: Any, rows: Rows, chosen_B: jax.Array) -> tuple[Any, TokenCounts]:
        """Features of this device's chosen rows [B], at the cost of these alone; others are 0."""
        # They come first, and the rest is skipped.
        order_B, number = jnp.argsort(~chosen_B, stable=True), chosen_B.sum()
        if self.chooser.gathering is not None:
            # Devices gather weights from each other on the way, hence equally often.
            number = jax.lax.pmax(number, self.chooser.gathering.axis_name)
        rows = jax.tree.map(lambda leaf: leaf[order_B], rows)
        found, tokens = compute(rows, split=number, span=(0, number))
        return jax.tree.map(lambda leaf: jnp.zeros_like(leaf).at[order_B].set(leaf), found), tokens

    def forward(
        self,
        state: TrainState,
        frozen: Any,
        pool: Rows,
        anchors: Rows,
        others: Others = NO_OTHERS,
    ) -> tuple[Candidates, TokenCounts]:
        """The candidates of a utility that reads losses or logits alone: no gradient is taken."""
        everything, _ = self._learner(state, frozen, others)
        reference, passes = others.reference, []

        def losses(parameters: Any, rows: Rows) -> jax.Array:
            buckets, size = self._buckets(self.chooser, rows), self.features.microbatch
            passes.append(TokenCounts.of(buckets, size))
            one = functools.partial(row_losses, self.chooser, parameters)
            found = map_microbatches(one, rows, size, buckets=buckets)
            return jnp.where(has_response(rows), found, jnp.nan)

        reads, pool_losses = self.selection.reads, None
        reference_losses = anchor_losses = anchor_losses_P = None
        if "reference_losses" in reads:
            if reference is None:
                raise ValueError(
                    f"utility={self.selection.utility!r} needs the parameters of a reference "
                    "model, got None; pass them to the step as `others.reference`."
                )
            reference_losses = losses(reference, pool)
        if self.selection.budgets == "curriculum":
            anchor_losses = losses(everything, anchors)
        if "losses" in reads:
            pool_losses = losses(everything, pool)
        scores = None
        if "nuclear_norms" in reads:
            buckets = self._buckets(self.chooser, pool)
            passes.append(TokenCounts.of(buckets, self.features.microbatch))
            scores = logit_scores(
                self.chooser,
                everything,
                pool,
                microbatch=self.features.microbatch,
                buckets=buckets,
                memory=None if state.kept is None else state.kept.memory,
                weight=self.selection.diversity,
            )
        known = RowInfo.of(pool), has_response(pool)
        info, counted_N, found, anchor_losses_A, domains_A = spmd.gather(
            (*known, (pool_losses, reference_losses, scores), anchor_losses, anchors.domain)
        )
        losses_N, reference_losses_N, scores = found
        if anchor_losses_A is not None:
            anchor_losses_P = held_out.mean_losses(anchor_losses_A, domains_A, self.domains)
        candidates = dataclasses.replace(
            Candidates.without_features(info, counted_N),
            reference_losses=reference_losses_N,
            anchor_losses=anchor_losses_P,
            **({} if losses_N is None else {"losses": losses_N}),
            **({} if scores is None else scores._asdict()),
        )
        return candidates, functools.reduce(TokenCounts.plus, passes)

    def select(
        self,
        candidates: Candidates,
        key: jax.Array,
        curriculum: CurriculumState | None = None,
        used_N: jax.Array | None = None,
        certified: jax.Array | bool = True,
    ) -> tuple[Selection, dict[str, jax.Array]]:
        """Budgets, the selection and what is worth logging about it; replicated.

        Args:
          candidates: the pool.
          key: for utilities and rules that draw.
          curriculum: state of curriculum budgets, this step's anchor losses in it.
          used_N: bool[N], candidates that an earlier update has selected, or None.
          certified: whether to compute a certificate, the sharp one; bool[] to decide as it runs.
        """
        chosen = self.selection
        problem = self._problem(candidates, curriculum, used_N)
        result = select(
            problem,
            size=chosen.size,
            utility=chosen.utility,
            coupling=chosen.coupling,
            rule=chosen.rule,
            solver=chosen.solver,
            ridge=chosen.ridge,
            swaps=chosen.swaps,
            step_scale=chosen.step_scale,
            key=key,
            certificate=False,
        )
        if UTILITIES[chosen.utility].refits and certified is not False:
            sharp = functools.partial(
                certify, problem, result, coupling=chosen.coupling, ridge=chosen.ridge
            )
            certificate = (
                sharp()
                if certified is True
                else jax.lax.cond(certified, sharp, lambda: jnp.asarray(jnp.nan, jnp.float32))
            )
            result = dataclasses.replace(result, certificate=certificate)
        return result, describe(candidates, problem.domains, result, chosen, curriculum)

    def _problem(
        self,
        candidates: Candidates,
        curriculum: CurriculumState | None,
        used_N: jax.Array | None,
    ) -> Problem:
        chosen, domains_N = self.selection, candidates.info.domain
        if used_N is not None:
            domains_N = jnp.where(used_N, -1, domains_N)
        if chosen.oracle:
            domains_N = jnp.where(candidates.info.corrupted, -1, domains_N)
        return Problem(
            alignment=candidates.alignment,
            gram=candidates.gram,
            domains=domains_N,
            budgets=functools.partial(
                domain_budgets,
                settings=chosen,
                curriculum=curriculum,
                anchor_shares_P=candidates.anchor_shares,
            ),
            losses=candidates.losses if "losses" in chosen.reads else None,
            anchor_similarity=candidates.anchor_similarity,
            norms=candidates.norms,
            reference_losses=candidates.reference_losses,
            nuclear_norms=candidates.nuclear_norms,
            novelty=candidates.novelty,
            domain_count=self.domains,
        )

    def update(
        self,
        state: TrainState,
        frozen: Any,
        pool: Rows,
        info: RowInfo,
        result: Selection,
        curriculum: CurriculumState | None = None,
        cache: FeatureCache | None = None,
        key: jax.Array | None = None,
        tokens: TokenCounts | None = None,
        others: Others = NO_OTHERS,
        rival: Selection | None = None,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """The weighted gradient step on this device's share of the selection, summed over devices.

        A proxy that trains makes the same step; both updates are applied, or neither.

        Args:
          state, frozen: before the update.
          pool: this device's rows.
          info: of all rows.
          result: what is selected of them.
          curriculum, cache: what the next state remembers.
          key: the update's, for dropout.
          tokens: what this device has computed before it.
          others: the parameters that a proxy which trains does not train.
          rival: rows drawn at random, for the guard's twin that trains on such.
        """
        chosen = self.selection
        batch = batch_of(pool, info, result, chosen.weights, chosen.weight_cap)
        guard = state.guard
        if guard is not None and rival is not None:
            random = batch_of(pool, info, rival)
            guard, tokens = twins.train(self, guard, others.proxy, batch, random, key, tokens)
            guard = guard._replace(used=_mark(guard.used, rival))
        proxy, of_proxy = state.proxy, jnp.zeros(0)
        if proxy is not None:
            proxy, of_proxy, tokens, _ = descend(
                self, self.chooser, proxy, others.proxy, batch, key, tokens
            )
        learner = Learner(state.parameters, state.optimizer)
        learner, measured, _, totals = descend(
            self, self.model, learner, frozen, batch, key, tokens
        )
        loss, norm, update_norm = measured
        real, computed = totals
        proposed = TrainState(state.step + 1, *learner, curriculum, cache, proxy, guard)
        # A non-finite update is not applied, so that the state that stops the run is sound.
        finite = jnp.isfinite(jnp.concatenate([measured, of_proxy])).all()
        after = _either(finite, proposed, state)
        index_K, picked_K, weights_K = batch.places, batch.picked, batch.weights
        picked = jax.tree.map(lambda leaf: leaf[index_K], info)
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
            "corrupted_pool": jnp.sum(info.corrupted),
            "update_weights": weights_K,
            "tokens": computed,
            "padding": 1 - real / computed,
        }
        if proxy is not None:
            record |= dict(zip(PROXY_NORMS, of_proxy, strict=True))
        return after, record

    def _fresh(self, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        """True where a step has a pool, and anchors, that no step before it had."""
        return (
            step % self.selection.updates_per_pool == 0,
            step % self.features.anchors_every == 0,
        )

    def _buckets(self, model: models.Model, rows: Rows) -> Any:
        return buckets_of(rows, self.widths, gathering=model.gathering)


def _rows_of(chosen_B: jax.Array, this: Any, that: Any) -> Any:
    """The chosen rows of one pytree, and the others of another of the same structure."""

    def pick(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(chosen_B.reshape((-1,) + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, this, that)


def _mark(used_N: jax.Array | None, result: Selection) -> jax.Array | None:
    """Adds what is selected to the rows that are used, where any are remembered."""
    if used_N is None:
        return None
    # Out of bounds, hence nowhere, for padding.
    place_K = jnp.where(result.indices >= 0, result.indices, used_N.size)
    return used_N.at[place_K].set(True, mode="drop")


def _either(condition: jax.Array, this: Any, that: Any) -> Any:
    """One of two pytrees of the same structure."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), this, that)
