"""Many runs one after the other: which of them, in what order, and what if one of them fails."""

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from partitionsel_jax import paths
from partitionsel_jax.distributed import processes, stopping
from partitionsel_jax.machine_errors import lack
from partitionsel_jax.step import programs
from partitionsel_jax.sweeps.tuning import choose
from partitionsel_jax.training import loop, workdir
from partitionsel_jax.training.checkpoints import NotSaved
from partitionsel_jax.training.plan import Plan, PlannedRun, Point, survey
from partitionsel_jax.training.records import NonFiniteUpdate

_LOG = logging.getLogger(__name__)

# What a run may end with that says all there is to say; of anything else, the traceback is shown.
_EXPECTED = (ValueError, OSError, NonFiniteUpdate, NotSaved)


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of `count` parts of an ablation's runs, the `number`th from 1."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Reads "2/8".

        Raises:
          ValueError: anything that is no such part.
        """
        number, slash, count = text.partition("/")
        if slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
            return cls(int(number), int(count))
        raise ValueError(
            f"--shard={text} is no part of the runs: expected I/N with I from 1 to N, e.g. 1/4"
        )

    def of(self, whole: Sequence[Any]) -> list[Any]:
        """Neighbours, which share compiled programs; the parts' lengths differ by one at most."""
        start, stop = (len(whole) * part // self.count for part in (self.number - 1, self.number))
        return list(whole[start:stop])


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How an ablation ended.

    Attributes:
      finished: runs that have a summary, from now or from before.
      failures: a line for each run that failed, and for each that could not be begun for it.
    """

    finished: int
    failures: tuple[str, ...]


def ablate(
    config: Mapping[str, Any],
    root: epath.PathLike,
    stop: stopping.NoStop = stopping.NO_STOP,
    shard: Shard = Shard(),
) -> Outcome:
    """Trains every run of a configuration, or of a part of it; see `plan.survey`.

    * All runs are checked before the first one starts; finished ones are skipped, and those that
      were stopped continue.
    * A run that fails is named, and the others go on.
    * Where the configuration tunes something, every point is tuned first, and its values are kept
      in `tuning/POINT/chosen.json`. A trial that diverges is no failure: its values are not chosen.
    * Parts are the same whenever the configuration is. Parts of a configuration that tunes are
      whole points. They may share a workdir or have their own.

    Args:
      config: nested mappings, as `ConfigDict.to_dict()` gives them.
      root: the workdir.
      stop: asked after every update; see `stopping.listening`.
      shard: the part.

    Raises:
      ValueError: whatever can be refused before the first run.
      Stopped: `stop` said so; the run's state is saved.
    """
    root = paths.absolute(root)
    plan, runs = _dealt(config, shard)
    for run in runs:
        if _is_known(run, plan):
            loop.check(run, root)
    if not runs:
        _LOG.info("no run is left for part %d of %d", shard.number, shard.count)
    series = _Series(plan, runs, root, stop)
    try:
        for chain in shard.of(plan.chains) if plan.trial_seeds else ():
            for point in chain:
                series.tune(point)
        for run in () if plan.trial_seeds else runs:
            series.attempt(run)
    except stopping.Stopped:
        _LOG.info("ablation stopped: %s", series.state())
        raise
    return Outcome(series.finished, tuple(series.failures))


def planned(config: Mapping[str, Any], shard: Shard = Shard()) -> list[PlannedRun]:
    """The runs that `ablate` would make, with the config's values where they are to be tuned.

    Raises:
      ValueError: as `plan.survey`.
    """
    return _dealt(config, shard)[1]


def _dealt(config: Mapping[str, Any], shard: Shard) -> tuple[Plan, list[PlannedRun]]:
    """The plan of a configuration, and the runs of a part of it, trials included."""
    plan = survey(config)
    for line in plan.left_out:
        _LOG.info("%s", line)
    if not plan.trial_seeds:
        # What one run selects for others stays with it.
        units = [(chain[0].name, seed) for chain in plan.chains for seed in plan.seeds]
        part = set(shard.of(units))
        return plan, [
            point.run(seed, {})
            for point in plan.points
            for seed in plan.seeds
            if ((point.chooser or point).name, seed) in part
        ]
    runs: list[PlannedRun] = []
    for chain in shard.of(plan.chains):
        for point in chain:
            runs += plan.trials(point)
            runs += [point.run(seed, {}) for seed in plan.seeds]
    return plan, runs


class _Series:
    """Runs one after the other, with a count of them."""

    def __init__(
        self, plan: Plan, planned: Sequence[PlannedRun], root: epath.Path, stop: stopping.NoStop
    ):
        self._plan, self._root, self._stop, self._total = plan, root, stop, len(planned)
        self._left = [_group(run) for run in planned]
        self._seconds: dict[str, float] = {}
        # What tuning has chosen for the points that select for others, and the runs that failed.
        self._chosen: dict[str, Mapping[str, Any]] = {}
        self._failed_runs: set[str] = set()
        self.finished, self.failures = 0, list[str]()
        for run in planned:
            folder = workdir.folder_of(run, root)
            if (folder / "summary.json").exists():
                with contextlib.suppress(ValueError):
                    self._took(run, workdir.read_summary(folder))

    def attempt(self, run: PlannedRun) -> dict[str, Any] | None:
        """The summary of a run; None where it failed, or was a trial that diverged."""
        name = run.folder or run.method
        was_finished = (workdir.folder_of(run, self._root) / "summary.json").exists()
        programs.make_room()
        try:
            if run.chooser is not None and run.chooser.folder in self._failed_runs:
                raise ValueError(f"{run.chooser.folder}, which selects for it, has failed")
            is_checked = _is_known(run, self._plan)
            summary = loop.train(run, self._root, self._stop, is_checked=is_checked)
        except Exception as error:
            if jax.process_count() > 1 and not isinstance(error, NonFiniteUpdate):
                raise  # perhaps on this process alone, and the others wait for it
            self._failed(run, name, error)
            return None
        finally:
            self._left.remove(_group(run))
        self.finished += 1
        self._took(run, summary)
        if not was_finished:
            self._tell()
        return summary

    def tune(self, point: Point) -> None:
        """Tunes a point where it has a grid, then runs it."""
        chosen: dict[str, Any] = {}
        of_chooser = self._chosen.get(point.chooser.name, {}) if point.chooser else {}
        if trials := self._plan.trials(point, of_chooser):
            before = len(self.failures)
            found = [(self.attempt(run) or {}).get("validation_loss") for run in trials]
            losses = [math.inf if loss is None else loss for loss in found]
            reason = "" if len(self.failures) == before else "a trial of it failed"
            if not reason and not any(map(math.isfinite, losses)):
                reason = "all of its trials diverged: try smaller values in config.tune.grid"
            if reason:
                for seed in self._plan.seeds:
                    self._left.remove(_group(point.run(seed, {})))
                    self._failed_runs.add(point.run(seed, {}).folder)
                self.failures.append(f"{point.name}: not run, since {reason}")
                _LOG.error("%s", self.failures[-1])
                return
            if point.grid:
                chosen = choose(point, trials, losses, self._root)
        self._chosen[point.name] = chosen
        for seed in self._plan.seeds:
            self.attempt(point.run(seed, chosen, of_chooser))

    def _failed(self, run: PlannedRun, name: str, error: Exception) -> None:
        self._failed_runs.add(run.folder)
        what = " ".join(str(error).split()) or type(error).__name__
        if (lacking := lack(error)) and lacking.remedy not in what:
            what = f"{lacking.what} ({what}): {lacking.remedy}"
        if run.trial and isinstance(error, NonFiniteUpdate):
            _LOG.warning("%s  diverged, and is not chosen: %s", name, what)
        else:
            self.failures.append(f"{name}: {what}")
            unknown = not (lacking or isinstance(error, _EXPECTED))
            _LOG.error("%s  failed: %s", name, what, exc_info=error if unknown else None)
        self._tell()

    def _took(self, run: PlannedRun, summary: Mapping[str, Any]) -> None:
        seconds = summary.get("seconds", {})
        known = (seconds.get(part) or 0.0 for part in ("train", "evaluation", "compile"))
        self._seconds[_group(run)] = sum(known)

    def _tell(self) -> None:
        if processes.is_first():
            _LOG.info("ablation  %s", self.state())

    def state(self) -> str:
        """How far the runs are, and when they may end."""
        parts = [f"{self.finished} of {self._total} runs done"]
        if self.failures:
            parts.append(f"{len(self.failures)} failed")
        if self._left and self._seconds:
            usual = float(np.mean(list(self._seconds.values())))
            rest = sum(self._seconds.get(group, usual) for group in self._left)
            clock = time.strftime("%H:%M:%S", time.gmtime(rest % 86400))
            days = f"{int(rest // 86400)} d " if rest >= 86400 else ""
            parts.append(f"{len(self._left)} left, ETA {days}{clock}")
        return ", ".join(parts)


def _is_known(run: PlannedRun, plan: Plan) -> bool:
    """True unless what else a run holds is known once it is tuned."""
    return run.trial or not plan.trial_seeds


def _group(run: PlannedRun) -> str:
    """Names the point of a run: its runs should take equally long."""
    return run.folder.rpartition("/")[0]
