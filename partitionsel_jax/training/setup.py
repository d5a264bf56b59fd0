"""Everything a run needs before its first update, and the evaluations that use the same parts."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from partitionsel_jax import data, evaluation
from partitionsel_jax.training import corpora, pretrained, spmd
from partitionsel_jax.training import programs as run_programs
from partitionsel_jax.training import reference as references
from partitionsel_jax.training.settings import Settings
from partitionsel_jax.training.state import TrainState
from partitionsel_jax.training.step import Step


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a run works with once everything is checked and read.

    Attributes:
      settings: the whole configuration.
      corpus, pools: the data, and which rows of it each step sees.
      devices: what the programs run on.
      step: the update's stages.
      reference: all parameters of the reference model, on all devices; None without one.
    """

    settings: Settings
    corpus: data.Corpus
    pools: data.Pools
    devices: tuple[jax.Device, ...]
    step: Step
    reference: Any = None

    @functools.cached_property
    def training_step(self) -> spmd.Program:
        return run_programs.training_step(self.step, self.devices)

    @functools.cached_property
    def fidelity(self) -> spmd.Program:
        return run_programs.fidelity_check(self.step, self.devices)

    @functools.cached_property
    def evaluators(self) -> run_programs.Evaluators:
        return run_programs.evaluators(self.step.model, self.devices)

    @property
    def seed(self) -> jax.Array:
        return jnp.int32(self.settings.seed)

    @functools.cached_property
    def validation_rows(self) -> data.Rows:
        source = self.corpus.validation
        return source.rows(range(len(source)))

    def shard(self, rows: Any) -> Any:
        return spmd.shard(rows, len(self.devices))


def choose_devices(settings: Settings) -> tuple[jax.Device, ...]:
    """The devices of a run.

    Raises:
      ValueError: several processes, more devices asked for than there are, or rows that they do
        not divide.
    """
    if jax.process_count() > 1:
        raise ValueError(
            f"training runs in one process, and this one is one of {jax.process_count()}: start it "
            "once, on a machine with all the devices"
        )
    available = jax.devices()
    count = settings.training.devices or len(available)
    if count > len(available):
        raise ValueError(f"training.devices={count}, but this machine has {len(available)}")
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
                f"{name}={rows} is not divisible by the {count} devices: "
                f"use {rows + count - rows % count}, or set training.devices"
            )
    return tuple(available[:count])


def prepare(settings: Settings, devices: tuple[jax.Device, ...]) -> Setup:
    """Reads the data and names the programs of a run; nothing is compiled yet.

    Raises:
      ValueError: data or a reference model that do not fit.
    """
    corpus = corpora.load(settings)
    step = Step.create(settings)
    reference = None
    if "reference_losses" in settings.selection.reads:
        reference = spmd.replicate(references.load(settings), devices)
    pools = data.Pools(
        corpus,
        pool_size=settings.selection.pool,
        anchor_size=settings.selection.anchors,
        seed=settings.seed,
        anchor_balance=settings.selection.anchor_balance,
        pool_every=settings.selection.updates_per_pool,
        anchor_every=settings.features.anchors_every,
        mix=settings.data.mix,
        weights=settings.data.weights,
    )
    return Setup(settings, corpus, pools, devices, step, reference)


def initialise(setup: Setup) -> tuple[TrainState, Any]:
    """The state at step 0 and the frozen parameters, on all devices."""
    base = pretrained.weights(setup.settings)
    return spmd.replicate(setup.step.initial(setup.seed, base), setup.devices)


def validate(setup: Setup, trained: Any, frozen: Any) -> evaluation.DomainLosses:
    """Losses on the scored validation rows, which are never anchors."""
    return _losses(setup, trained, frozen, setup.validation_rows)


def answer_test(setup: Setup, trained: Any, frozen: Any) -> dict[str, Any]:
    """Loss and exact-match accuracy on the test split."""
    source = setup.corpus.test
    losses = _losses(setup, trained, frozen, source.rows(range(len(source))))
    stops = np.asarray(source.tokenizer.stop_ids, np.int32)

    def generate(tokens, lengths):
        rows = setup.shard(tokens), setup.shard(lengths)
        return setup.evaluators.generate(trained, frozen, *rows, stops)

    accuracy = evaluation.answer_accuracy(
        generate,
        source,
        corpora.scorers(setup.settings),
        batch=setup.settings.evaluation.batch,
    )
    return {"loss": losses.mean, "loss_per_domain": losses.per_domain, **accuracy}


def _losses(setup: Setup, trained: Any, frozen: Any, rows: data.Rows) -> evaluation.DomainLosses:
    return evaluation.domain_losses(
        lambda piece: setup.evaluators.losses(trained, frozen, setup.shard(piece)),
        rows,
        batch=setup.settings.evaluation.batch,
        domains=setup.step.domains,
        widths=setup.settings.data.buckets,
    )
