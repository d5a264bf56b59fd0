"""Ends training at random moments, starts it again, and compares what comes of it.

    python -m tests.distributed.drill --kills=50 --terms=20 --processes=1,2 --seed=0

Runs are interrupted by SIGKILL and SIGTERM until there were so many of each, for every number of
processes: while they start, while they train, and inside a save. Of several processes one is hit,
or all are. A run that comes to its end is compared with an undisturbed one, and the next one
begins. The command fails unless every step is in the records exactly once, the records are those of
the undisturbed run but for seconds, and the final parameters are equal bit for bit.
"""

import argparse
import collections
import dataclasses
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.distributed import launching

UPDATES = 120
CHANGES = {
    "training.updates": UPDATES,
    "training.evaluate_every": 30,
    "training.checkpoint_every": 8,
}
# Spreads a run over seconds without work for the processor, so that moments differ.
FAULTS = {"read_slowly": 0.05}
# Seconds that a process may go on after it was told to stop, or after another one was killed.
PATIENCE_S = 60


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Starts the processes of a run.

    Attributes:
      corpora: folder of the prepared data.
      cache: folder of the compiled programs.
      processes: how many train together.
      changes: fields of the configuration that differ from `CHANGES`.
    """

    corpora: str
    cache: str
    processes: int = 1
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def start(self, workdir):
        """The processes; what they say goes to WORKDIR.log."""
        log = Path(f"{workdir}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        variables = {
            "JAX_COMPILATION_CACHE_DIR": self.cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        with log.open("w") as file:
            return [
                launching.member(
                    *("train", self.corpora, workdir, CHANGES | self.changes, FAULTS),
                    stdout=file,
                    **launching.environment(1, **variables, **told),
                )
                for told in launching.rendezvous(self.processes)
            ]


def finish(trainer, workdir):
    """Trains to the end; raises RuntimeError with what was said if that fails."""
    started = trainer.start(workdir)
    with launching.ended(started):
        codes = [process.wait(timeout=240) for process in started]
    if any(codes):
        raise RuntimeError(f"{workdir} ended with {codes}: {said(workdir)}")


def undisturbed(trainer, folder):
    """The run below `folder` that nothing has happened to; made when it is not there."""
    workdir = folder / f"undisturbed{trainer.processes}"
    if not (workdir / "summary.json").exists():
        finish(trainer, workdir)
    return workdir


def said(workdir):
    """What the processes of a run have printed since it was last started."""
    return Path(f"{workdir}.log").read_text()


@dataclasses.dataclass
class Seen:
    """What a drill has come to: of each signal, how often at which moment.

    `slowest` are the most seconds that a process went on after its end was due, and `problems`
    whatever is not as it should be.
    """

    counts: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    runs: int = 0
    slowest: float = 0.0
    problems: list = dataclasses.field(default_factory=list)

    def landed(self, number):
        return sum(count for (name, _), count in self.counts.items() if name == name_of(number))


def name_of(number):
    return signal.Signals(number).name


def drill(trainer, folder, kills, terms, seed=0, log=print):
    """Interrupts runs below `folder` until so many signals have hit; returns `Seen`."""
    moments, seen = random.Random(seed), Seen()
    expected = undisturbed(trainer, folder)
    due = [signal.SIGKILL] * kills + [signal.SIGTERM] * terms
    moments.shuffle(due)
    # Saves are as likely as all else together.
    kinds = [("save", "training", "save", "start")[place % 4] for place in range(len(due))]
    while due:
        workdir = folder / f"run{seen.runs}"
        while due and not (workdir / "summary.json").exists():
            place = len(due) - 1
            if interrupt(trainer, workdir, due[place], kinds[place], moments, seen):
                log(
                    f"{trainer.processes} processes: {name_of(due.pop())} {kinds[place]}, "
                    f"{newest(workdir)} updates are saved"
                )
        finish(trainer, workdir)
        seen.runs += 1
        found = differences(workdir, expected)
        seen.problems += [f"{workdir.name}: {problem}" for problem in found]
        log(f"{workdir.name} is done: {'; '.join(found) or 'as the undisturbed one'}")
    return seen


def interrupt(trainer, workdir, number, kind, moments, seen):
    """One start and its end by a signal; False where the run was done before."""
    before, began = saves(workdir), time.time()
    started = trainer.start(workdir)
    with launching.ended(started):
        wait_for(kind, started, workdir, before, began, moments)
        hit = started if moments.random() < 0.3 else [moments.choice(started)]
        if any(process.poll() is not None for process in started):
            for process in started:
                process.wait(timeout=PATIENCE_S)
            return False
        saving = saves(workdir) - before
        for process in hit:
            process.send_signal(number)
        if number == signal.SIGTERM:  # as `timeout` does, which sends it to the group as well
            time.sleep(moments.uniform(0.0, 1.0))
            for process in hit:
                process.send_signal(number)
        since = time.monotonic()
        for process in started:
            process.wait(timeout=PATIENCE_S)
        seen.slowest = max(seen.slowest, time.monotonic() - since)
    if number == signal.SIGKILL:
        # What a save has left behind is proof that it was not complete.
        saving = saves(workdir) - before
    seen.counts[name_of(number), "save" if saving else "other"] += 1
    check_codes(workdir, started, hit, number, seen)
    return True


def check_codes(workdir, started, hit, number, seen):
    """Notes processes that ended otherwise than they should."""
    # Before all had met, they are missed instead.
    lost = re.search(r"process [01] is gone|did not come", said(workdir))
    if number == signal.SIGKILL and len(hit) < len(started) and not lost:
        seen.problems.append(f"{workdir.name}: nobody is missed: {said(workdir)[-2000:]}")
    for process in started:
        if process in hit and number == signal.SIGKILL:
            expected = {-signal.SIGKILL}
        elif number == signal.SIGKILL:
            expected = {1}
        else:
            # 0: told to stop during its last moments.
            expected = {0, 75}
            if not said(workdir):
                # Python had not come to the code that listens: nothing was begun.
                expected.add(-number)
        if process.returncode not in expected:
            seen.problems.append(
                f"{workdir.name}: a process ended with {process.returncode} after "
                f"{name_of(number)}: {said(workdir)[-2000:]}"
            )


def wait_for(kind, started, workdir, before, began, moments):
    """Returns at a moment of this kind, or when a process has ended."""
    if kind == "start":
        deadline = time.monotonic() + moments.uniform(0.1, 8.0)
        wait_until(lambda: time.monotonic() > deadline, started)
        return
    metrics = workdir / "metrics.jsonl"
    # Opening the file rewrites it; rows of this process come after that.
    wait_until(
        lambda: metrics.exists() and metrics.stat().st_mtime > began and metrics.stat().st_size,
        started,
    )
    deadline = time.monotonic() + moments.uniform(0.0, 4.0)
    wait_until(lambda: time.monotonic() > deadline, started)
    if kind == "save":
        wait_until(lambda: saves(workdir) - before, started)
        time.sleep(moments.uniform(0.0, 0.03))


def wait_until(true, started):
    while not true() and all(process.poll() is None for process in started):
        time.sleep(0.001)


def saves(workdir):
    """Names of the saves that have not come to their end."""
    try:
        names = os.listdir(workdir / "checkpoints")
    except FileNotFoundError:
        return set()
    return {name for name in names if not name.isdigit()}


def newest(workdir):
    try:
        names = os.listdir(workdir / "checkpoints")
    except FileNotFoundError:
        return 0
    return max((int(name) for name in names if name.isdigit()), default=0)


def differences(workdir, undisturbed):
    """What is not as in an undisturbed run, in words."""
    import numpy as np

    found = []
    for name, first in (("metrics.jsonl", 0), ("selections.jsonl", 1)):
        mine, theirs = (rows(place / name) for place in (workdir, undisturbed))
        steps = collections.Counter(row["step"] for row in mine)
        expected = range(first, UPDATES + 1)
        lost, repeated = set(expected) - steps.keys(), [s for s in steps if steps[s] > 1]
        if lost or repeated or list(steps) != list(expected):
            found.append(f"{name}: steps {sorted(lost)} lost, {repeated} repeated, or out of order")
        elif mine != theirs:
            found.append(f"{name}: other rows")
    mine, theirs = (parameters(place) for place in (workdir, undisturbed))
    if mine.keys() != theirs.keys() or len(mine) <= 20:
        found.append("other parameters")
    found += [
        f"{path} differs"
        for path, leaf in mine.items()
        if path in theirs and not np.array_equal(leaf, theirs[path], equal_nan=True)
    ]
    tests = [json.loads((place / "summary.json").read_text()) for place in (workdir, undisturbed)]
    found += [f"other {name}" for name in ("test", "fingerprint") if not same(tests, name)]
    return found


def same(summaries, name):
    return summaries[0][name] == summaries[1][name]


def rows(path):
    """A file's rows but for seconds."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


def parameters(workdir):
    """The arrays of the last checkpoint, by path."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    place = workdir / "checkpoints" / str(UPDATES) / "state"
    with ocp.PyTreeCheckpointer() as reader:
        # Whole, wherever they were.
        whole = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
            reader.metadata(place).item_metadata.tree,
        )
        state = reader.restore(place, restore_args=whole)
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--terms", type=int, default=20)
    parser.add_argument("--processes", default="1,2", help="numbers of processes, e.g. 1,2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default=None, help="where to work; a new one unless named")
    options = parser.parse_args()
    folder = Path(options.folder or tempfile.mkdtemp(prefix="drill"))
    failed = False
    for count in map(int, options.processes.split(",")):
        place = folder / str(count)
        place.mkdir(parents=True)
        trainer = Trainer(str(folder / "corpora"), str(folder / "compiled"), count)
        seen = drill(trainer, place, options.kills, options.terms, options.seed)
        for (name, where), times in sorted(seen.counts.items()):
            inside = "inside a save" if where == "save" else "elsewhere"
            print(f"{count} processes: {times} {name} {inside}")
        print(f"{count} processes: {seen.runs} runs, slowest end {seen.slowest:.1f} s")
        print("\n".join(seen.problems) or f"{count} processes: every run as the undisturbed one")
        failed = failed or bool(seen.problems)
    sys.exit(failed)


if __name__ == "__main__":
    # As in the tests: simulated devices and programs that compile quickly.
    import tests.conftest  # noqa: F401

    sys.stdout.reconfigure(line_buffering=True)
    main()
