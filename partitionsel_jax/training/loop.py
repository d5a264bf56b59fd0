"""The training loop: from a planned run to its records, checkpoints and summary."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
from etils import epath

from partitionsel_jax import data, paths
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.distributed import processes, stopping
from partitionsel_jax.evaluation import DomainLosses
from partitionsel_jax.json_files import NUMBER, check_fields
from partitionsel_jax.step import costs, fidelity
from partitionsel_jax.step import programs as run_programs
from partitionsel_jax.step.state import TrainState, fingerprint
from partitionsel_jax.step.step import Step
from partitionsel_jax.training import corpora, failures, pretrained, recorded, records, workdir
from partitionsel_jax.training import setup as run_setup
from partitionsel_jax.training.checkpoints import Checkpoints, NotSaved
from partitionsel_jax.training.plan import PlannedRun, expand
from partitionsel_jax.training.recorder import (
    NonFiniteUpdate,
    NoRecorder,
    Recorder,
    describe_failure,
    is_sound,
)
from partitionsel_jax.training.setup import Setup
from partitionsel_jax.training.timing import Clock, Seconds, Waiting

_LOG = logging.getLogger(__name__)


# What is noted of a run in its checkpoints.
_SECONDS = {field.name: NUMBER for field in dataclasses.fields(Seconds)}
_NOTED = {"seconds": _SECONDS, "origin": dict, "test_before?": dict}

# What process 0 is to do alone may return anything.
T = TypeVar("T")


def check(run: PlannedRun, root: epath.PathLike) -> None:
    """Everything about a run that can be refused without reading its data.

    Raises:
      ValueError: settings or devices that do not fit, or a folder that is another run's, is in use
        or cannot be written.
    """
    root = paths.absolute(root)
    settings = run_settings.parse(run.config)
    layout = run_setup.choose_layout(settings)
    pretrained.check(settings)
    corpora.check(settings)
    if settings.selection.recorded:
        recorded.check(settings)
    fidelity.check(Step.create(settings), len(layout.devices))
    workdir.check(run, root)
    _by_first(lambda: workdir.check_free(run, root))


def _by_first(work: Callable[[], T]) -> T | None:
    """Done by process 0 alone; if it is refused, all processes are."""
    result: T | None = None
    refusal: Exception | None = None
    if processes.is_first():
        try:
            result = work()
        except (OSError, ValueError) as error:
            refusal = error
    if processes.agreed(refusal is not None):
        raise refusal or ValueError("process 0 was refused: see what it says")
    return result


def train_all(
    config: Mapping[str, Any], root: epath.PathLike, stop: stopping.NoStop = stopping.NO_STOP
) -> list[dict[str, Any]]:
    """Trains every run of a configuration; all are checked before the first one starts.

    Args:
      config: nested mappings, as `ConfigDict.to_dict()` gives them.
      root: the workdir.
      stop: asked after every update; see `stopping.listening`.

    Returns:
      The summaries, in the plan's order.
    """
    runs = expand(config)
    for run in runs:
        check(run, root)
    return [train(run, root, stop) for run in runs]


def train(
    run: PlannedRun, root: epath.PathLike, stop: stopping.NoStop = stopping.NO_STOP
) -> dict[str, Any]:
    """Runs, or continues, one planned run; returns its summary.

    A run that was stopped anywhere continues from its newest sound checkpoint and ends with the
    same records (apart from `seconds`) and the same parameters as one that was not. A finished run
    returns its summary at once.

    Args:
      run: from `plan.expand`.
      root: the plan's workdir, a local path or a bucket.
      stop: as of `train_all`.

    Raises:
      ValueError: settings, devices, data or workdir that do not fit, before compilation.
      NonFiniteUpdate: the loss or gradient became non-finite.
      NotSaved: the last state could not be saved.
      Stopped: `stop` said so; the state is saved.
    """
    if stop.asked():
        raise stopping.Stopped
    root = paths.absolute(root)
    check(run, root)
    settings = run_settings.parse(run.config)
    layout = run_setup.choose_layout(settings)
    finished = workdir.folder_of(run, root) / "summary.json"
    label = run.folder or run.method
    if processes.agreed(finished.exists()):
        _LOG.info("%s  is finished", label)
        return workdir.read_summary(finished.parent)
    setup = run_setup.prepare(settings, layout)
    _check_shared(label, setup.corpus.fingerprint, root)
    # Only now, so that data that is refused leaves no folder behind.
    folder = workdir.folder_of(run, root)
    _by_first(lambda: workdir.claim(run, root, workdir.describe(layout.devices)))
    with contextlib.ExitStack() as stack:
        _by_first(lambda: stack.enter_context(workdir.locked(folder)))
        chosen = settings.training
        checkpoints = Checkpoints(folder / "checkpoints", chosen.keep_checkpoints, chosen.keep_best)
        stack.enter_context(contextlib.closing(checkpoints))
        summary = _train(setup, folder, checkpoints, label, stop)
        checkpoints.finish()
    _by_first(lambda: records.write_json(folder / "summary.json", summary))
    return summary


def _train(
    setup: Setup,
    folder: epath.Path,
    checkpoints: Checkpoints,
    label: str,
    stop: stopping.NoStop,
) -> dict[str, Any]:
    settings = setup.settings
    state, frozen = run_setup.initialise(setup)
    restored = checkpoints.restore(state)
    spent = Seconds()
    origin = pretrained.origin(setup.settings, frozen) | {"examples": setup.corpus.fingerprint}
    before = None
    if restored is not None:
        check_fields(restored[1], _NOTED, f"{label}: a checkpoint")
        state, spent = (
            restored[0],
            Seconds(**{part: restored[1]["seconds"][part] for part in _SECONDS}),
        )
        _check_origin(label, origin, restored[1]["origin"])
        before = restored[1].get("test_before")
        _LOG.info("%s  continues after update %d", label, int(state.step))
    start, last = int(state.step), settings.training.updates

    progress = records.Progress(label, last, settings.selection.pool)
    shares: dict[str, float] = {}
    upto = start if restored else -1
    recorder = Recorder(folder, upto, progress) if processes.is_first() else NoRecorder()
    with contextlib.closing(recorder):
        if start < last:
            shares = _compile(setup, state, frozen, start, spent)
            progress.overhead = 1 - shares["update"] if shares else None
        if restored is None:
            with spent.evaluating():
                recorder.start(run_setup.validate(setup, state.parameters, frozen))
                # Random weights answer nothing, but a pretrained model may.
                if setup.settings.checkpoint:
                    before = run_setup.answer_test(setup, state.parameters, frozen)
        kept = {"origin": origin, "test_before": before}
        fit = _Fit(setup, folder, label, frozen, checkpoints, recorder, spent, kept)
        with stop.held():
            state, losses = fit.run(state, stop)
    with spent.evaluating():
        test = run_setup.answer_test(setup, state.parameters, frozen)
    return {
        "updates": last,
        "validation_loss": losses.mean,
        "validation_loss_per_domain": losses.per_domain,
        "test": test,
        "test_before": before,
        "fingerprint": int(fingerprint(state)),
        "parameters_fingerprint": int(fingerprint(state.parameters)),
        "origin": origin,
        "seconds": dataclasses.asdict(spent)
        | {f"{stage}_share": share for stage, share in shares.items()},
    }


def _check_shared(label: str, examples: str, root: epath.Path) -> None:
    """Raises ValueError if a run that it will be compared with had other examples."""
    for path in sorted(root.glob("*/*/summary.json")):
        if workdir.read_summary(path.parent)["origin"].get("examples", examples) != examples:
            raise ValueError(
                f"{label}: the examples are not those of {path.parent}, which is finished: was "
                "config.data.path replaced since? Restore it, or start again in a new --workdir"
            )


def _check_origin(label: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises ValueError unless the run goes on from what it started with."""
    if changed := [name for name in expected if found.get(name) != expected[name]]:
        raise ValueError(
            f"{label}: the {' and the '.join(changed)} are not what the run started with: was "
            "config.checkpoint or config.data.path replaced by another? Restore it, or start again "
            "in a new --workdir"
        )


def _compile(
    setup: Setup, state: TrainState, frozen: Any, start: int, spent: Seconds
) -> dict[str, float]:
    """Compiles the step; returns its stages' shares, where it has more than the update."""
    pool, anchors = map(setup.layout.rows, setup.pools[start])
    inputs = (state, frozen, pool, anchors)
    if not setup.settings.selection.recorded:
        costs.log_traffic(setup.step, setup.layout, *inputs, setup.seed, setup.reference)
    spent.compile += setup.training_step.compile(*inputs, setup.seed, setup.reference)
    chosen = setup.settings.selection
    if not (chosen.needs_features or chosen.needs_losses):
        return {}
    return run_programs.stage_shares(setup.step, setup.layout, *inputs, setup.reference)


@dataclasses.dataclass
class _Fit:
    """The updates that are left of a run, with everything that they write.

    The rows of an update are written while the next one runs, except where an evaluation or a
    checkpoint needs the devices first. A checkpoint is only begun once the rows up to it are on
    disk, so that a restart always finds them. `kept` is saved with every checkpoint.
    """

    setup: Setup
    folder: epath.Path
    label: str
    frozen: Any
    checkpoints: Checkpoints
    recorder: Recorder | NoRecorder
    spent: Seconds
    kept: dict[str, Any]

    def __post_init__(self) -> None:
        """Counts what an update takes, and starts the clocks."""
        setup = self.setup
        self.flops = costs.count_flops(
            setup.settings, len(setup.layout.devices), setup.validation_rows
        )
        self.clock, self.reading = Clock(), Waiting()

    def run(self, state: TrainState, stop: stopping.NoStop) -> tuple[TrainState, DomainLosses]:
        """The last state and its validation losses.

        Raises:
          NonFiniteUpdate, NotSaved, Stopped: as `train`.
        """
        chosen = self.setup.settings.training
        start, last = int(state.step), chosen.updates
        losses: DomainLosses | None = None
        running: _Update | None = None
        reading = data.prefetch(
            self.setup.pools, start, last, workers=self.setup.settings.data.workers
        )
        with contextlib.closing(reading):
            for step in range(start + 1, last + 1):
                with self.reading.measured():
                    rows = next(reading)
                state, record = self._update(step, state, rows)
                if running is not None:
                    self._write(running, state)
                running = _Update(step, rows, record)
                ends = stop.asked()
                evaluates = step % chosen.evaluate_every == 0 or step == last
                saves = step % chosen.checkpoint_every == 0 or step == last or ends
                if not (evaluates or saves):
                    continue
                jax.block_until_ready(record)
                losses = self._validate(state) if evaluates else None
                if evaluates:
                    running = self._answered(running, state)
                self._write(running, state, losses)
                running = None
                if saves:
                    self._save(state, losses, is_last=ends or step == last)
                if ends:
                    _LOG.info("%s  stopped after update %d, which is saved", self.label, step)
                    raise stopping.Stopped
        # Stopped between its last checkpoint and its summary: nothing was left to do above.
        return state, losses or self._validate(state)

    def _update(self, step: int, state: TrainState, rows: Any) -> tuple[TrainState, dict[str, Any]]:
        setup = self.setup
        pool, anchors = map(setup.layout.rows, rows)
        compared = {}
        every = setup.settings.features.fidelity_every
        # At multiples, so that what steps share is old where the two numbers are the same.
        if every and setup.settings.selection.needs_features and step % every == 0:
            with self.clock.pause(), self.spent.evaluating():
                inputs = (state, self.frozen, pool, anchors, setup.seed)
                compared = jax.block_until_ready(setup.fidelity(*inputs))
        state, record = setup.training_step(
            state, self.frozen, pool, anchors, setup.seed, setup.reference
        )
        return state, record | compared

    def _validate(self, state: TrainState) -> DomainLosses:
        with self.clock.pause(), self.spent.evaluating():
            processes.log_slow(
                self.reading.taken(), "waited for its rows since the last evaluation"
            )
            return run_setup.validate(self.setup, state.parameters, self.frozen)

    def _answered(self, update: "_Update", state: TrainState) -> "_Update":
        """The last update, with the validation questions answered where it is their turn."""
        settings = self.setup.settings
        every, last = settings.evaluation.answers_every, settings.training.updates
        if not every or (update.step % every and update.step != last):
            return update
        with self.clock.pause(), self.spent.evaluating():
            share = run_setup.validation_accuracy(self.setup, state.parameters, self.frozen)
        return dataclasses.replace(update, record={**update.record, "validation_accuracy": share})

    def _write(
        self, update: "_Update", state: TrainState, losses: DomainLosses | None = None
    ) -> None:
        """The rows of an update, once it is done; `state` is that of the last one begun."""
        record = jax.device_get(update.record)
        record |= {"flops": self.flops.of(int(record["tokens"]))}
        seconds = self.clock.lap()
        self.spent.train += seconds
        self.recorder.step(update.step, record, seconds, losses)
        if is_sound(record):
            return
        if self.setup.settings.selection.recorded:
            raise NonFiniteUpdate(
                f"update {update.step} on recorded picks is not finite: {describe_failure(record)}"
            )
        place = failures.dump(self.folder, self.setup, update.step, state, update.rows)
        raise NonFiniteUpdate(
            f"update {update.step} is not finite; `python -m experiments.replay --failure={place}` "
            f"makes it again: {describe_failure(record)}"
        )

    def _save(self, state: TrainState, losses: DomainLosses | None, is_last: bool) -> None:
        with self.clock.pause():
            if not processes.agreed(self.recorder.flush()):
                if is_last:
                    raise NotSaved(f"the rows of {self.folder} could not be written: make room")
                return
            extra = {"seconds": dataclasses.asdict(self.spent), **self.kept}
            self.checkpoints.save(state, extra, None if losses is None else losses.mean)
            if is_last:
                self.checkpoints.finish()


@dataclasses.dataclass(frozen=True)
class _Update:
    """One that runs, or has run: its number from 1, what it read, and its record."""

    step: int
    rows: Any
    record: dict[str, Any]
