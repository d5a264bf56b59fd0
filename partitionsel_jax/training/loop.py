"""The training loop: from a planned run to its records, checkpoints and summary."""

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from etils import epath

from partitionsel_jax import data, paths
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.config.settings import Settings
from partitionsel_jax.distributed import processes, stopping
from partitionsel_jax.evaluation import DomainLosses
from partitionsel_jax.json_files import NUMBER, check_fields
from partitionsel_jax.step import costs, fidelity
from partitionsel_jax.step import programs as run_programs
from partitionsel_jax.step.state import TrainState, fingerprint
from partitionsel_jax.step.step import Step
from partitionsel_jax.training import corpora, failures, recorded, records, starts, workdir
from partitionsel_jax.training import setup as run_setup
from partitionsel_jax.training.checkpoints import Checkpoints, NotSaved
from partitionsel_jax.training.plan import PlannedRun, expand
from partitionsel_jax.training.records import (
    NonFiniteUpdate,
    NoRecorder,
    Progress,
    Recorder,
    describe_failure,
    is_sound,
)
from partitionsel_jax.training.setup import Setup

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass
class Seconds:
    """Where a run's time went, over all its restarts; evaluations and saves are no training."""

    train: float = 0.0
    evaluation: float = 0.0
    compile: float = 0.0

    def __post_init__(self) -> None:
        """Begins the first lap."""
        self._since = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap, the pauses between taken out."""
        now = time.perf_counter()
        elapsed, self._since = now - self._since, now
        return elapsed

    @contextlib.contextmanager
    def pause(self, evaluates: bool = True) -> Iterator[None]:
        """Takes what is done meanwhile out of the lap; it may count as evaluation."""
        began = time.perf_counter()
        yield
        elapsed = time.perf_counter() - began
        self._since += elapsed
        if evaluates:
            self.evaluation += elapsed


# What is noted of a run in its checkpoints.
_SECONDS = {field.name: NUMBER for field in dataclasses.fields(Seconds)}
_NOTED = {"seconds": _SECONDS, "origin": dict, "test_before?": dict}


def check(run: PlannedRun, root: epath.PathLike) -> None:
    """Checks everything about a run that can be refused without reading its data.

    Raises:
      ValueError: settings or devices that do not fit, or a folder that is another run's, is in use
        or cannot be written.
    """
    root, settings = paths.absolute(root), run.settings
    layout = run_setup.choose_layout(settings)
    data.check_template(settings.data.template, starts.tokenizer(settings))
    starts.check_scorers(settings, None if run.chooser is None else run.chooser.settings)
    corpora.check(settings)
    if settings.selection.recorded and run.chooser is None:
        recorded.check(settings)
    fidelity.check(Step.create(settings), len(layout.devices))
    workdir.check(run, root)
    _by_first(lambda: workdir.check_free(run, root))


def _by_first(work: Callable[[], Any]) -> None:
    """Lets process 0 alone do something; if it is refused, all processes are."""
    refusal: Exception | None = None
    if processes.is_first():
        try:
            work()
        except (OSError, ValueError) as error:
            refusal = error
    if processes.agreed(refusal is not None):
        raise refusal or ValueError("process 0 was refused: see what it says")


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
    return [train(run, root, stop, is_checked=True) for run in runs]


def _settings(run: PlannedRun, root: epath.Path) -> Settings:
    """A run's settings, once the run that it needs is finished.

    Raises:
      ValueError: it is not.
    """
    if run.chooser is None:
        return run.settings
    folder = workdir.folder_of(run.chooser, root)
    if not processes.agreed((folder / "summary.json").exists()):
        raise ValueError(
            f"{run.folder} needs {run.chooser.folder}, which is not finished: there is no "
            f"summary.json in {folder}; train it first"
        )
    settings = run_settings.parse(starts.resolved(run.config, folder))
    if settings.selection.recorded:
        recorded.check(settings)
    return settings


def train(
    run: PlannedRun,
    root: epath.PathLike,
    stop: stopping.NoStop = stopping.NO_STOP,
    *,
    is_checked: bool = False,
) -> dict[str, Any]:
    """Runs, or continues, one planned run; returns its summary.

    A run that was stopped anywhere continues from its newest sound checkpoint and ends with the
    same records (apart from `seconds`) and the same parameters as one that was not. A finished run
    returns its summary at once.

    Args:
      run: from `plan.expand`.
      root: the plan's workdir, a local path or a bucket.
      stop: see `train_all`.
      is_checked: True if `check` has let it pass.

    Raises:
      ValueError: settings, devices, data or workdir that do not fit, before compilation.
      NonFiniteUpdate: the loss or gradient became non-finite.
      NotSaved: the last state could not be saved.
      Stopped: `stop` said so; the state is saved.
    """
    if stop.asked():
        raise stopping.Stopped
    root = paths.absolute(root)
    if not is_checked:
        check(run, root)
    folder, label = workdir.folder_of(run, root), run.folder or run.method
    if processes.agreed((folder / "summary.json").exists()):
        _LOG.info("%s  is finished", label)
        return workdir.read_summary(folder)
    setup = run_setup.prepare(_settings(run, root))
    _check_shared(label, setup.corpus.fingerprint, root)
    _check_proxy(run, setup, root)
    # Only now, so that data that is refused leaves no folder behind.
    _by_first(lambda: workdir.claim(run, root, workdir.describe(setup.layout.devices)))
    with contextlib.ExitStack() as stack:
        _by_first(lambda: stack.enter_context(workdir.locked(folder)))
        chosen = run.settings.training
        checkpoints = Checkpoints(folder / "checkpoints", chosen.keep_checkpoints, chosen.keep_best)
        stack.enter_context(contextlib.closing(checkpoints))
        summary = _train(setup, folder, checkpoints, label, stop)
        checkpoints.finish()
    _by_first(lambda: records.write_json(folder / "summary.json", summary))
    return summary


def _check_shared(label: str, examples: str, root: epath.Path) -> None:
    """Raises ValueError if a run that it will be compared with had other examples."""
    for path in sorted(root.glob("*/*/summary.json")):
        if workdir.read_summary(path.parent)["origin"].get("examples", examples) != examples:
            raise ValueError(
                f"{label}: the examples are not those of {path.parent}, which is finished: was "
                "config.data.path replaced since? Restore it, or start again in a new --workdir"
            )


def _check_proxy(run: PlannedRun, setup: Setup, root: epath.Path) -> None:
    """Raises ValueError if a run that it will be compared with had another model as its proxy."""
    # One of the same plan is another for every seed.
    if not setup.settings.selection.has_proxy or run.chooser is not None:
        return
    ours, weights = _proxy_of(run.config), _proxy_weights(setup)
    for path in sorted(root.glob("*/*/summary.json")):
        if _proxy_of(workdir.read_config(path.parent)["config"]) != ours:
            continue
        theirs = workdir.read_summary(path.parent)["origin"]
        if theirs.get(starts.PROXY_WEIGHTS, weights) != weights:
            raise ValueError(
                f"{run.folder or run.method}: selection.proxy={setup.settings.selection.proxy!r} "
                f"is not the model that selected for {path.parent}, which is finished: were its "
                "files replaced since? Restore them, or start again in a new --workdir"
            )


def _proxy_of(config: Mapping[str, Any]) -> str:
    """The fields of a configuration that decide which parameters its proxy begins with."""
    chosen, about = config["selection"], config.get("proxy") or {}
    names = ("proxy", "proxy_trains", "guard")
    fields = [chosen.get(name) for name in names], about
    # Adapters are drawn by the run's seed.
    drawn = config["seed"] if about.get("lora", {}).get("rank") else None
    return json.dumps((*fields, drawn), sort_keys=True)


def _proxy_weights(setup: Setup) -> int:
    """The fingerprint of the parameters that a proxy begins with."""
    return int(fingerprint((setup.others.proxy, setup.proxy)))


def _train(
    setup: Setup, folder: epath.Path, checkpoints: Checkpoints, label: str, stop: stopping.NoStop
) -> dict[str, Any]:
    """Trains from the newest checkpoint, or from the start; returns the summary."""
    settings = setup.settings
    state, frozen = run_setup.initialise(setup)
    origin = starts.origin(settings, frozen)
    if settings.selection.has_proxy:
        origin[starts.PROXY_WEIGHTS] = _proxy_weights(setup)
    origin["examples"] = setup.corpus.fingerprint
    if settings.filters:
        origin["rows that data.filter leaves"] = int(fingerprint(setup.corpus.train.ids))
    spent, before = Seconds(), None
    restored = checkpoints.restore(state)
    if restored is not None:
        state, noted = restored
        check_fields(noted, _NOTED, f"{label}: a checkpoint")
        _check_origin(label, origin, noted["origin"])
        spent = Seconds(**{part: noted["seconds"][part] for part in _SECONDS})
        before = noted.get("test_before")
        _LOG.info("%s  continues after update %d", label, int(state.step))
    start, last = int(state.step), settings.training.updates

    progress = Progress(label, last, settings.selection.pool)
    shares: dict[str, float] = {}
    upto = start if restored else -1
    twins = None
    if settings.selection.has_guard:
        devices = len(setup.layout.devices)
        twins = costs.twin_costs(settings, devices, setup.validation_rows)
        _LOG.info("%s  the guard's twins are %.2g %% of an update", label, 100 * twins.share)
    recorder = Recorder(folder, upto, progress, twins) if processes.is_first() else NoRecorder()
    with contextlib.closing(recorder):
        if start < last:
            shares = _compile(setup, state, frozen, spent)
            progress.overhead = 1 - shares["update"] if shares else None
        if restored is None:
            with spent.pause():
                recorder.start(run_setup.validate(setup, state.parameters, frozen))
                # Random weights answer nothing, but a pretrained model may.
                if settings.checkpoint:
                    before = run_setup.answer_test(setup, state.parameters, frozen)
        noted = {"origin": origin, "test_before": before}
        fit = _Fit(setup, folder, label, frozen, checkpoints, recorder, spent, noted)
        with stop.held():
            state, losses = fit.run(state, stop)
    with spent.pause():
        test = run_setup.answer_test(setup, state.parameters, frozen)
    verdict = recorder.verdict()
    judged = {} if verdict is None else {"guard": dataclasses.asdict(verdict)}
    return judged | {
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


def _check_origin(label: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises ValueError unless the run goes on from what it started with."""
    if changed := [name for name in expected if found.get(name) != expected[name]]:
        raise ValueError(
            f"{label}: the {' and the '.join(changed)} are not what the run started with: was "
            "config.checkpoint, config.selection.proxy or config.data.path replaced by another? "
            "Restore it, or start again in a new --workdir"
        )


def _compile(setup: Setup, state: TrainState, frozen: Any, spent: Seconds) -> dict[str, float]:
    """Compiles the step; returns its stages' shares, where it has more than the update."""
    pool, anchors = map(setup.layout.rows, setup.pools[int(state.step)])
    inputs = (state, frozen, pool, anchors)
    chosen = setup.settings.selection
    if not chosen.recorded:
        costs.log_proxy(setup.step, setup.layout, state, setup.others)
        costs.log_traffic(setup.step, setup.layout, *inputs, setup.seed, setup.others)
    spent.compile += setup.training_step.compile(*inputs, setup.seed, setup.others)
    if not (chosen.needs_features or chosen.needs_forward):
        return {}
    return run_programs.stage_shares(setup.step, setup.layout, *inputs, setup.others)


@dataclasses.dataclass
class _Fit:
    """The updates that are left of a run, with everything that they write.

    The rows of an update are written while the next one runs, except where an evaluation or a
    checkpoint needs the devices first. A checkpoint is only begun once the rows up to it are on
    disk, so that a restart always finds them. `noted` is saved with every checkpoint.
    """

    setup: Setup
    folder: epath.Path
    label: str
    frozen: Any
    checkpoints: Checkpoints
    recorder: NoRecorder
    spent: Seconds
    noted: dict[str, Any]
    pays: bool | None = None  # the guard's last verdict

    def run(self, state: TrainState, stop: stopping.NoStop) -> tuple[TrainState, DomainLosses]:
        """Returns the last state and its validation losses.

        Raises:
          NonFiniteUpdate, NotSaved, Stopped: as `train`.
        """
        setup, chosen = self.setup, self.setup.settings.training
        start, last = int(state.step), chosen.updates
        devices = len(setup.layout.devices)
        self.flops = costs.count_flops(setup.settings, devices, setup.validation_rows)
        self.waited = 0.0  # seconds for rows, since the last evaluation
        losses: DomainLosses | None = None
        # Number and record of the update that runs.
        running: tuple[int, dict[str, Any]] | None = None
        self.spent.lap()
        reading = data.prefetch(setup.pools, start, last, workers=setup.settings.data.workers)
        with contextlib.closing(reading):
            for step in range(start + 1, last + 1):
                began = time.perf_counter()
                rows = next(reading)
                self.waited += time.perf_counter() - began
                state, record = self._update(step, state, rows)
                if running is not None:
                    self._write(*running, state)
                running = step, record
                ends = stop.asked()
                evaluates = step % chosen.evaluate_every == 0 or step == last
                saves = step % chosen.checkpoint_every == 0 or step == last or ends
                if not (evaluates or saves):
                    continue
                jax.block_until_ready(record)
                losses = self._evaluate(step, state, record) if evaluates else None
                self._write(step, record, state, losses)
                running = None
                if saves:
                    self._save(state, losses, is_last=ends or step == last)
                if ends:
                    _LOG.info("%s  stopped after update %d, which is saved", self.label, step)
                    raise stopping.Stopped
        # Stopped between its last checkpoint and its summary: nothing was left to do above.
        return state, losses or self._evaluate(last, state, {})

    def _update(self, step: int, state: TrainState, rows: Any) -> tuple[TrainState, dict[str, Any]]:
        setup = self.setup
        pool, anchors = map(setup.layout.rows, rows)
        compared = {}
        every = setup.settings.features.fidelity_every
        # At multiples, so that what steps share is old where the two numbers are the same.
        if every and setup.settings.selection.needs_features and step % every == 0:
            with self.spent.pause():
                inputs = (state, self.frozen, pool, anchors, setup.seed, setup.others)
                compared = jax.block_until_ready(setup.fidelity(*inputs))
        state, record = setup.training_step(
            state, self.frozen, pool, anchors, setup.seed, setup.others
        )
        return state, record | compared

    def _evaluate(self, step: int, state: TrainState, record: dict[str, Any]) -> DomainLosses:
        """Validation losses; where it is their turn, questions are answered for the record too."""
        settings = self.setup.settings
        every, last = settings.evaluation.answers_every, settings.training.updates
        with self.spent.pause():
            processes.log_slow(self.waited, "waited for its rows since the last evaluation")
            self.waited = 0.0
            losses = run_setup.validate(self.setup, state.parameters, self.frozen)
            record.update(run_setup.validate_twins(self.setup, state))
            if record and every and (step % every == 0 or step == last):
                record["validation_accuracy"] = run_setup.validation_accuracy(
                    self.setup, state.parameters, self.frozen
                )
        return losses

    def _write(
        self,
        step: int,
        record: dict[str, Any],
        state: TrainState,
        losses: DomainLosses | None = None,
    ) -> None:
        """Writes the rows of an update, once it is done; `state` is that of the last one begun."""
        record = jax.device_get(record)
        record |= {"flops": self.flops.of(int(record["tokens"]))}
        seconds = self.spent.lap()
        self.spent.train += seconds
        # What another run has paid for choosing these rows belongs to their price.
        charges = getattr(self.setup.pools, "costs", ())
        if charges:
            record = recorded.charged(record, charges[step - 1])
        if step == 1 and self.setup.upfront is not None:
            record = recorded.charged(record, self.setup.upfront)
        self.recorder.step(step, record, seconds, losses)
        if is_sound(record):
            self._say_verdict(losses is not None)
            return
        what = describe_failure(record)
        if self.setup.settings.selection.recorded:
            raise NonFiniteUpdate(f"update {step} on recorded picks is not finite: {what}")
        place = failures.dump(self.folder, self.setup, step, state)
        raise NonFiniteUpdate(
            f"update {step} is not finite; `python -m experiments.replay --failure={place}` "
            f"makes it again: {what}"
        )

    def _say_verdict(self, evaluated: bool) -> None:
        """Says what the guard has found, where that has changed."""
        verdict = self.recorder.verdict() if evaluated else None
        if verdict is not None and verdict.pays != self.pays:
            self.pays = verdict.pays
            _LOG.info("%s  guard: %s", self.label, verdict.sentence)

    def _save(self, state: TrainState, losses: DomainLosses | None, is_last: bool) -> None:
        with self.spent.pause(evaluates=False):
            if not processes.agreed(self.recorder.flush()):
                if is_last:
                    raise NotSaved(f"the rows of {self.folder} could not be written: make room")
                return
            extra = {"seconds": dataclasses.asdict(self.spent), **self.noted}
            self.checkpoints.save(state, extra, None if losses is None else losses.mean)
            if is_last:
                self.checkpoints.finish()
