"""Parts of a run: everything that its first update needs, and the evaluations that use the same."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from partitionsel_jax import data, evaluation
from partitionsel_jax.config.settings import Settings
from partitionsel_jax.distributed import spmd
from partitionsel_jax.evaluation import guard
from partitionsel_jax.models import parameters as trees
from partitionsel_jax.step import programs as run_programs
from partitionsel_jax.step import twins
from partitionsel_jax.step.state import NO_OTHERS, Others, TrainState
from partitionsel_jax.step.step import Step
from partitionsel_jax.training import corpora, filtering, recorded, starts


@dataclasses.dataclass(frozen=True)
class Setup:
    """Parts that a run works with once everything is checked and read.

    Attributes:
      settings: the whole configuration.
      corpus, pools: the data, and which rows of it each step sees (of a run that trains on
        recorded picks, see `recorded.Recording`).
      layout: what the programs run on, and how.
      step: the update's stages.
      others: parameters of a reference model and of a proxy, on all devices.
      proxy: what a proxy that trains, or its twins, begin with; else None.
      upfront: what was spent on choosing before the first update, in the form of
        `recorded.costs_of`: the training of a proxy or of a model that filters, and the filter;
        None where nothing was.
    """

    settings: Settings
    corpus: data.Corpus
    pools: data.ByStep
    layout: spmd.Layout
    step: Step
    others: Others = NO_OTHERS
    proxy: Any = None
    upfront: Mapping[str, Any] | None = None

    @functools.cached_property
    def training_step(self) -> spmd.Program:
        return run_programs.training_step(self.step, self.layout)

    @functools.cached_property
    def fidelity(self) -> spmd.Program:
        return run_programs.fidelity_check(self.step, self.layout)

    @functools.cached_property
    def evaluators(self) -> run_programs.Evaluators:
        return run_programs.evaluators(self.step.model, self.layout)

    @property
    def seed(self) -> np.int32:
        return np.int32(self.settings.seed)

    @functools.cached_property
    def validation_rows(self) -> data.Rows:
        source = self.corpus.validation
        return source.rows(range(len(source)))

    def shard(self, rows: Any) -> Any:
        """Rows that every process has, over all devices."""
        return self.layout.rows(self.layout.part(rows))


def choose_layout(settings: Settings) -> spmd.Layout:
    """The devices of a run, and how its arrays lie on them.

    Raises:
      ValueError: more devices asked for than there are, or not all of several processes', or rows
        that they do not divide.
    """
    # A process's devices need not have neighbouring numbers.
    available = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    count = settings.training.devices or len(available)
    if count > len(available):
        raise ValueError(f"training.devices={count}, but there are {len(available)}")
    if jax.process_count() > 1 and count != len(available):
        raise ValueError(
            f"training.devices={count}, but {jax.process_count()} processes have "
            f"{len(available)}, and each runs on all of its own: set training.devices=0"
        )
    if settings.model.attention == "cudnn" and available[0].platform != "gpu":
        raise ValueError(
            f"model.attention='cudnn' needs an NVIDIA GPU, and this machine has "
            f"{available[0].platform}: set model.attention='xla'"
        )
    chosen = settings.selection
    for name, rows in (
        ("selection.pool", chosen.pool),
        ("selection.anchors", chosen.anchors),
        ("selection.size", chosen.size),
        ("evaluation.batch", settings.evaluation.batch),
    ):
        if rows % count:
            raise ValueError(
                f"{name}={rows} is not divisible by the {count} devices of "
                f"{jax.process_count()} process(es): "
                f"use {rows + count - rows % count}, or set training.devices"
            )
    chosen_form = settings.training
    return spmd.Layout(tuple(available[:count]), chosen_form.spmd, chosen_form.split_weights)


def prepare(settings: Settings, layout: spmd.Layout | None = None) -> Setup:
    """Reads the data and names the programs of a run; nothing is compiled yet.

    Args:
      settings: the whole configuration.
      layout: where the run's arrays lie, if not as `choose_layout` has it.

    Raises:
      ValueError: devices, data or another model that do not fit.
    """
    layout = layout or choose_layout(settings)
    corpus = corpora.load(settings)
    starts.check_scored_rows(settings, corpus.fingerprint)
    spent = []
    for folder, updates in starts.trainings(settings).items():
        spent += recorded.costs_of(folder, updates, folder)
    if settings.filters:
        corpus, cost = filtering.apply(settings, corpus, layout)
        spent.append(cost)
    step = Step.create(settings, len(layout.devices))
    chosen = settings.selection
    proxy, fixed = starts.load_proxy(settings)
    if chosen.has_proxy and not chosen.trains_proxy:
        fixed = trees.join(fixed, proxy)
    others = Others(starts.load_reference(settings), fixed, anchor_shares(corpus))
    others = layout.place(others)
    load_pools = recorded.load if settings.selection.recorded else draw_pools
    pools: data.ByStep = load_pools(settings, corpus, layout)
    learns = chosen.trains_proxy or chosen.has_guard
    begins, upfront = proxy if learns else None, recorded.summed(spent)
    return Setup(settings, corpus, pools, layout, step, others, begins, upfront)


def anchor_shares(corpus: data.Corpus) -> np.ndarray:
    """f32[P], each domain's share of all rows that anchors are drawn from."""
    counts = np.bincount(corpus.anchors.domains, minlength=len(corpus.domains))
    return (counts / counts.sum()).astype(np.float32)


def draw_pools(settings: Settings, corpus: data.Corpus, layout: spmd.Layout) -> data.Pools:
    """Draws this process's part of the pools and anchors that a run selects from."""
    return data.Pools(
        corpus,
        pool_size=settings.selection.pool,
        anchor_size=settings.selection.anchors,
        seed=settings.seed,
        anchor_balance=settings.selection.anchor_balance,
        pool_every=settings.selection.updates_per_pool,
        anchor_every=settings.features.anchors_every,
        mix=settings.data.mix,
        weights=settings.data.weights,
        process=layout.process,
        processes=layout.processes,
    )


def initialise(setup: Setup) -> tuple[TrainState, Any]:
    """The state at step 0 and the frozen parameters, on all devices."""
    base = starts.weights(setup.settings)
    return setup.layout.place(setup.step.initial(setup.settings.seed, base, setup.proxy))


def validate(setup: Setup, trained: Any, frozen: Any) -> evaluation.DomainLosses:
    """Losses on the scored validation rows, which are never anchors."""
    return _losses(setup, setup.evaluators.losses, trained, frozen, setup.validation_rows)


def validate_twins(setup: Setup, state: TrainState) -> dict[str, float]:
    """Mean losses of the guard's twins on the scored validation rows, by their names in a record.

    The twins were told nothing of these rows: they are never anchors.
    """
    if state.guard is None:
        return {}
    fixed = twins.fixed_parameters(setup.step, setup.others.proxy)
    losses = run_programs.evaluators(setup.step.chooser, setup.layout).losses
    selected = state.guard.selected or state.proxy
    assert selected is not None  # a proxy that trains is the twin itself
    return {
        name: _losses(setup, losses, twin.parameters, fixed, setup.validation_rows).mean
        for name, twin in zip(guard.LOSSES, (selected, state.guard.random), strict=True)
    }


def validation_accuracy(setup: Setup, trained: Any, frozen: Any) -> float:
    """Share of the scored validation questions that are answered right."""
    return _answers(setup, trained, frozen, setup.corpus.validation)["accuracy"]


def answer_test(setup: Setup, trained: Any, frozen: Any) -> dict[str, Any] | None:
    """Loss and accuracy on the test split; None for runs that leave it alone."""
    if not setup.settings.evaluation.test:
        return None
    source = setup.corpus.test
    rows = source.rows(range(len(source)))
    losses = _losses(setup, setup.evaluators.losses, trained, frozen, rows)
    answers = _answers(setup, trained, frozen, source)
    return {"loss": losses.mean, "loss_per_domain": losses.per_domain, **answers}


def _losses(
    setup: Setup, losses: spmd.Program, trained: Any, frozen: Any, rows: data.Rows
) -> evaluation.DomainLosses:
    return evaluation.domain_losses(
        lambda piece: losses(trained, frozen, setup.shard(piece)),
        rows,
        batch=setup.settings.evaluation.batch,
        domains=setup.step.domains,
        widths=setup.settings.data.buckets,
        every=not setup.settings.data.target_domains,
    )


def _answers(setup: Setup, trained: Any, frozen: Any, source: data.Source) -> dict[str, Any]:
    stops = np.asarray(source.tokenizer.stop_ids, np.int32)
    return evaluation.answer_accuracy(
        lambda *rows: setup.evaluators.generate(trained, frozen, *map(setup.shard, rows), stops),
        source,
        corpora.scorers(setup.settings),
        batch=setup.settings.evaluation.batch,
    )
