"""The training loop: from a planned run to its records, checkpoints and summary."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from etils import epath

from partitionsel_jax import data
from partitionsel_jax.evaluation import DomainLosses
from partitionsel_jax.json_files import read_json
from partitionsel_jax.training import (
    corpora,
    fidelity,
    pretrained,
    processes,
    records,
    workdir,
)
from partitionsel_jax.training import programs as run_programs
from partitionsel_jax.training import settings as run_settings
from partitionsel_jax.training import setup as run_setup
from partitionsel_jax.training.checkpoints import Checkpoints
from partitionsel_jax.training.plan import PlannedRun, expand
from partitionsel_jax.training.recorder import Recorder, Silent, check_sound
from partitionsel_jax.training.setup import Setup
from partitionsel_jax.training.state import TrainState, fingerprint
from partitionsel_jax.training.step import Step

_LOG = logging.getLogger(__name__)


class Clock:
    """Seconds of training alone: evaluations and saves are pauses."""

    def __init__(self):
        self._since = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap, the pauses between taken out."""
        now = time.perf_counter()
        elapsed, self._since = now - self._since, now
        return elapsed

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began


@dataclasses.dataclass
class Seconds:
    """Where a run's time went, over all its restarts."""

    train: float = 0.0
    evaluation: float = 0.0
    compile: float = 0.0

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.evaluation += time.perf_counter() - began


def check(run: PlannedRun, root: epath.PathLike) -> None:
    """Everything about a run that can be refused without reading its data.

    Raises:
      ValueError: settings or devices that do not fit, or a folder that is another run's.
    """
    root = workdir.absolute(root)
    settings = run_settings.parse(run.config)
    layout = run_setup.choose_layout(settings)
    pretrained.check(settings)
    corpora.check(settings)
    fidelity.check(Step.create(settings), len(layout.devices))
    workdir.check(run, root)


def train_all(config: Mapping[str, Any], root: epath.PathLike) -> list[dict[str, Any]]:
    """Trains every run of a configuration; all are checked before the first one starts.

    Args:
      config: nested mappings, as `ConfigDict.to_dict()` gives them.
      root: the workdir.

    Returns:
      The summaries, in the plan's order.
    """
    runs = expand(config)
    for run in runs:
        check(run, root)
    return [train(run, root) for run in runs]


def train(run: PlannedRun, root: epath.PathLike) -> dict[str, Any]:
    """Runs, or continues, one planned run; returns its summary.

    A run that was stopped anywhere continues from its newest sound checkpoint and ends with the
    same records (apart from `seconds`) and the same parameters as one that was not. A finished run
    returns its summary at once.

    Args:
      run: from `plan.expand`.
      root: the plan's workdir, a local path or a bucket.

    Raises:
      ValueError: settings, devices, data or workdir that do not fit, before compilation.
      NonFiniteUpdate: the loss or gradient became non-finite.
    """
    root = workdir.absolute(root)
    check(run, root)
    settings = run_settings.parse(run.config)
    layout = run_setup.choose_layout(settings)
    finished = workdir.folder_of(run, root) / "summary.json"
    label = run.folder or run.method
    if processes.agreed(finished.exists()):
        _LOG.info("%s  is finished", label)
        return read_json(finished)
    setup = run_setup.prepare(settings, layout)
    _check_shared(label, setup.corpus.fingerprint, root)
    # Only now, so that data that is refused leaves no folder behind.
    folder = workdir.folder_of(run, root)
    if processes.is_first():
        workdir.claim(run, root, workdir.describe(layout.devices))
    processes.wait()
    checkpoints = Checkpoints(folder / "checkpoints", settings.training.keep_checkpoints)
    with contextlib.closing(checkpoints):
        summary = _train(setup, folder, checkpoints, label)
    if processes.is_first():
        records.write_json(folder / "summary.json", summary)
    processes.wait()
    return summary


def _train(
    setup: Setup, folder: epath.Path, checkpoints: Checkpoints, label: str
) -> dict[str, Any]:
    settings = setup.settings
    state, frozen = run_setup.initialise(setup)
    restored = checkpoints.restore(state)
    spent = Seconds()
    origin = pretrained.origin(setup.settings, frozen) | {"examples": setup.corpus.fingerprint}
    before = None
    if restored is not None:
        state, spent = restored[0], Seconds(**restored[1]["seconds"])
        _check_origin(label, origin, restored[1]["origin"])
        before = restored[1]["test_before"]
        _LOG.info("%s  continues after update %d", label, int(state.step))
    start, last = int(state.step), settings.training.updates

    progress = records.Progress(label, last, settings.selection.pool)
    shares: dict[str, float] = {}
    upto = start if restored else -1
    recorder = Recorder(folder, upto, progress) if processes.is_first() else Silent()
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
        state, losses = _fit(setup, folder, state, frozen, checkpoints, recorder, spent, kept)
    with spent.evaluating():
        test = run_setup.answer_test(setup, state.parameters, frozen)
    return {
        "updates": last,
        "validation_loss": losses.mean,
        "validation_loss_per_domain": losses.per_domain,
        "test": test,
        "test_before": before,
        "fingerprint": int(fingerprint(state)),
        "origin": origin,
        "seconds": dataclasses.asdict(spent)
        | {f"{stage}_share": share for stage, share in shares.items()},
    }


def _check_shared(label: str, examples: str, root: epath.Path) -> None:
    """Raises ValueError if a run that it will be compared with had other examples."""
    for path in sorted(root.glob("*/*/summary.json")):
        if read_json(path)["origin"]["examples"] != examples:
            raise ValueError(
                f"{label}: the examples are not those of {path.parent}, which is finished: was "
                "config.data.path replaced since? Restore it, or start again in a new --workdir"
            )


def _check_origin(label: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises ValueError unless the run goes on from what it started with."""
    if changed := [name for name in expected if found[name] != expected[name]]:
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
    spent.compile += setup.training_step.compile(*inputs, setup.seed, setup.reference)
    chosen = setup.settings.selection
    if not (chosen.needs_features or chosen.needs_losses):
        return {}
    return run_programs.stage_shares(setup.step, setup.layout, *inputs, setup.reference)


def _fit(
    setup: Setup,
    folder: epath.Path,
    state: TrainState,
    frozen: Any,
    checkpoints: Checkpoints,
    recorder: Recorder | Silent,
    spent: Seconds,
    kept: dict[str, Any],
) -> tuple[TrainState, DomainLosses]:
    """The updates that are left; returns the last state and its validation losses.

    The rows of an update are written while the next one runs, except where an evaluation or a
    checkpoint needs the devices first. A checkpoint is only begun once the rows up to it are on
    disk, so that a restart always finds them. `kept` is saved with every checkpoint.
    """
    chosen = setup.settings.training
    needed = setup.settings.selection.needs_features
    every = setup.settings.features.fidelity_every if needed else 0
    start, last = int(state.step), chosen.updates
    losses: DomainLosses | None = None
    running: tuple[int, Any] | None = None
    clock = Clock()

    def write(step: int, record: Any, losses: DomainLosses | None = None) -> None:
        record = jax.device_get(record)
        seconds = clock.lap()
        spent.train += seconds
        recorder.step(step, record, seconds, losses)
        check_sound(step, record, folder)

    reading = data.prefetch(setup.pools, start, last, workers=setup.settings.data.workers)
    for step, rows in enumerate(reading, start + 1):
        pool, anchors = map(setup.layout.rows, rows)
        compared = {}
        # At multiples, so that what steps share is old where the two numbers are the same.
        if every and step % every == 0:
            with clock.pause(), spent.evaluating():
                inputs = (state, frozen, pool, anchors, setup.seed)
                compared = jax.block_until_ready(setup.fidelity(*inputs))
        state, record = setup.training_step(
            state, frozen, pool, anchors, setup.seed, setup.reference
        )
        record |= compared
        if running is not None:
            write(*running)
        running = (step, record)
        evaluates = step % chosen.evaluate_every == 0 or step == last
        saves = step % chosen.checkpoint_every == 0 or step == last
        if not (evaluates or saves):
            continue
        jax.block_until_ready(record)
        if evaluates:
            with clock.pause(), spent.evaluating():
                losses = run_setup.validate(setup, state.parameters, frozen)
        write(*running, losses if evaluates else None)
        running = None
        if saves:
            with clock.pause():
                recorder.flush()
                checkpoints.save(state, {"seconds": dataclasses.asdict(spent), **kept})
    if losses is None:
        # Stopped between its last checkpoint and its summary: nothing was left to do above.
        with spent.evaluating():
            losses = run_setup.validate(setup, state.parameters, frozen)
    return state, losses
