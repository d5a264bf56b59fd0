"""What clusters do to a run, injected: signals, full disks, NaNs, second starts, other devices."""

import contextlib
import dataclasses
import json
import os
import random
import resource
import signal
import subprocess
import threading
import time

import jax
import numpy as np
import pytest
from etils import epath

from partitionsel_jax import distributed, training
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.data.pools import Pools
from partitionsel_jax.distributed import stopping
from partitionsel_jax.step.state import fingerprint
from partitionsel_jax.training import loop, records, workdir
from partitionsel_jax.training import setup as run_setup
from partitionsel_jax.training.checkpoints import Checkpoints
from tests import commands
from tests.distributed.launching import environment, member
from tests.tiny_runs import rows, without_seconds


def same_records(folder, other):
    return without_seconds(folder) == without_seconds(other) and rows(
        folder, "selections.jsonl"
    ) == rows(other, "selections.jsonl")


def planned(config):
    (run,) = training.expand(config.to_dict())
    return run


class After(stopping.NoStop):
    """Asks to stop after so many updates; it is asked once before the first."""

    def __init__(self, updates):
        self._left = updates + 1

    def asked(self):
        self._left -= 1
        return self._left <= 0


# Signals


@pytest.mark.parametrize("updates", [1, 4, 8])
def test_a_run_that_is_asked_to_stop_saves_and_continues(finished, tmp_path, updates):
    summary, folder, config = finished
    run = planned(config)
    with pytest.raises(distributed.Stopped) as stopped:
        training.train(run, tmp_path, After(updates))
    assert stopped.value.code == stopping.EXIT_CODE == 75
    assert str(updates) in os.listdir(tmp_path / "checkpoints")
    assert [row["step"] for row in rows(tmp_path, "metrics.jsonl")] == list(range(updates + 1))
    assert not (tmp_path / "summary.json").exists()
    with pytest.raises(distributed.Stopped):  # still asked, before anything is prepared
        training.train(run, tmp_path, After(-1))
    again = training.train(run, tmp_path)
    assert again["fingerprint"] == summary["fingerprint"]
    assert same_records(tmp_path, folder)


def start(corpus, folder):
    return member(
        *("train", corpus, folder, {"training.devices": 1}, {"read_slowly": 0.5}), **environment(1)
    )


def test_signals_end_a_process_with_a_code_of_their_own(corpus_directory, finished, tmp_path):
    process = start(corpus_directory, tmp_path)
    said = [process.stdout.readline()]
    while said[-1] and "  1/8" not in said[-1]:
        said.append(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)  # as `timeout` does
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 75, "".join(said) + rest
    assert "SIGTERM: stopping after this update" in rest and "which is saved" in rest
    newest = max(int(name) for name in os.listdir(tmp_path / "checkpoints"))
    assert [row["step"] for row in rows(tmp_path, "metrics.jsonl")] == list(range(newest + 1))
    # Before its first update there is nothing to wait for.
    process = start(corpus_directory, tmp_path)
    while not (tmp_path / "lock").exists() or not _is_locked(tmp_path):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 75, rest
    assert "SIGINT" in rest
    assert (
        training.train(planned(finished[2]), tmp_path)["fingerprint"]
        == (finished[0]["fingerprint"])
    )
    assert same_records(tmp_path, finished[1])


def _is_locked(folder):
    try:
        with workdir.locked(epath.Path(folder)):
            return False
    except ValueError:
        return True


def test_the_second_signal_does_not_wait(monkeypatch, capsys):
    class Ended(BaseException):
        pass

    def end(code):
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    stop = stopping.Stop(0, 1)
    with pytest.raises(Ended, match="75"):
        stop.tell(signal.SIGTERM)
    with stop.held():
        assert not stop.asked()
        stop.tell(signal.SIGTERM)
        assert stop.asked()
        with pytest.raises(Ended, match=str(128 + signal.SIGINT)):
            stop.tell(signal.SIGINT)
    assert "ended at once by a second SIGINT" in capsys.readouterr().out


def test_a_signal_that_comes_twice_within_a_second_is_one(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(os, "_exit", lambda code: now.append(code))
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    stop = stopping.Stop(0, 1)
    with stop.held():
        for moment in (100.0, 100.0, 101.0):
            now[0] = moment
            stop.tell(signal.SIGTERM)
        assert stop.asked() and now[1:] == []
        now[0] = 102.0
        stop.tell(signal.SIGTERM)
        assert now[1:] == [128 + signal.SIGTERM]


# What JAX and Python say of a fork among threads; the child here does nothing.
@pytest.mark.filterwarnings("ignore:os.fork", "ignore:This process .* is multi-threaded")
def test_signals_are_given_back_and_forked_processes_have_their_own():
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    with stopping.listening():
        assert [signal.getsignal(number) for number in stopping.SIGNALS] != before
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before


@pytest.mark.parametrize("seed", range(8))
def test_all_processes_stop_at_the_same_update(monkeypatch, seed):
    """Processes that collectives keep within an update of each other; one or two are told."""
    store, changed = {}, threading.Condition()

    def put(key, value):
        with changed:
            store.setdefault(key, value)
            changed.notify_all()

    def get(key, timeout_ms):
        with changed:
            assert changed.wait_for(lambda: key in store, timeout=20)
            return store[key]

    monkeypatch.setattr(stopping, "store_put", put)
    monkeypatch.setattr(stopping, "store_get", get)
    moments, count = random.Random(seed), 3
    stops = [stopping.Stop(process, count) for process in range(count)]
    collective, ended = threading.Barrier(count), {}

    def train(process):
        for update in range(5000):
            collective.wait(timeout=20)
            if stops[process].asked():
                ended[process] = update
                return

    threads = [threading.Thread(target=train, args=(process,)) for process in range(count)]
    threads += [threading.Thread(target=stop.listen) for stop in stops]
    with contextlib.ExitStack() as stack:
        for stop in stops:
            stack.enter_context(stop.held())
        for thread in threads:
            thread.start()
        for process in moments.sample(range(count), moments.choice([1, 2])):
            time.sleep(moments.uniform(0, 0.05))
            stops[process].tell(signal.SIGTERM)
        for thread in threads:
            thread.join(timeout=30)
    assert len(ended) == count and len(set(ended.values())) == 1
    assert ended[0] < 4999


# Disks


@contextlib.contextmanager
def full_disk():
    """No file grows beyond a few bytes: what is written meanwhile fails in whichever thread."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def end_of(manager):
    """Waits until nothing writes for the manager any more, well or not."""
    with contextlib.suppress(Exception):
        manager.wait_until_finished()
    # What `close` waits for beyond that: the arrays, when it was the notes beside them that failed.
    with contextlib.suppress(Exception):
        manager.close()


def fail_to_save(monkeypatch, steps):
    """The disk is full while the states after these updates are written."""
    whole = Checkpoints.save

    def save(self, state, *rest):
        if int(state.step) not in steps:
            return whole(self, state, *rest)
        self._settle()  # the save before had room
        with full_disk():
            whole(self, state, *rest)
            # An error is raised once in each thread that waits: leave the main thread its own.
            waiting = threading.Thread(target=end_of, args=(self._manager,))
            waiting.start()
            waiting.join()

    monkeypatch.setattr(Checkpoints, "save", save)


# What orbax's threads still had to do when the disk was full.
orphaned = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@orphaned
def test_a_state_that_cannot_be_saved_is_no_end(
    finished, tmp_path, train, monkeypatch, project_log
):
    summary, folder, config = finished
    with monkeypatch.context() as patch:
        fail_to_save(patch, {3})
        again, _ = train(config, tmp_path)
    warnings = [message for message in project_log.messages if "could not be saved" in message]
    assert len(warnings) == 1 and "the state after update 3" in warnings[0]
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["6", "8"]
    assert again["fingerprint"] == summary["fingerprint"] and same_records(tmp_path, folder)


@orphaned
def test_a_last_state_that_cannot_be_saved_is_an_error_and_the_run_goes_on_later(
    finished, tmp_path, train, monkeypatch
):
    summary, folder, config = finished
    with monkeypatch.context() as patch:
        fail_to_save(patch, {6, 8})
        with pytest.raises(training.NotSaved, match=r"goes on from update 3"):
            train(config, tmp_path)
    again, _ = train(config, tmp_path)
    assert again["fingerprint"] == summary["fingerprint"] and same_records(tmp_path, folder)


def test_rows_wait_for_a_full_disk(finished, tmp_path, train, monkeypatch, project_log):
    summary, folder, config = finished
    whole = loop.Recorder.flush
    full = iter([True, False, False])

    def flush(self):
        if not next(full):
            return whole(self)
        with full_disk():
            return whole(self)

    monkeypatch.setattr(loop.Recorder, "flush", flush)
    again, _ = train(config, tmp_path)
    assert any("rows cannot be written" in message for message in project_log.messages)
    # There is no checkpoint without the rows up to it.
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["6", "8"]
    assert again["fingerprint"] == summary["fingerprint"] and same_records(tmp_path, folder)


def test_the_best_checkpoints_stay_beside_the_newest(finished, tmp_path, train):
    config = finished[2].copy_and_resolve_references()
    config.training.update({"evaluate_every": 2, "checkpoint_every": 1})
    config.training.update({"keep_checkpoints": 1, "keep_best": 2})
    # Losses that are chosen, since those of a sound run only fall.
    losses = iter([9.0, 2.0, 3.0, 1.0, 4.0])
    with pytest.MonkeyPatch.context() as patch:
        whole = loop.run_setup.validate

        def validate(*rest):
            found = whole(*rest)
            chosen = next(losses)
            return type(found)(mean=chosen, per_domain=found.per_domain)

        patch.setattr(loop.run_setup, "validate", validate)
        with pytest.raises(distributed.Stopped):
            training.train(planned(config), tmp_path, After(3))
        train(config, tmp_path)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["2", "6", "8"]


def prepared(config, form, devices, split):
    """A setup on other devices, in another form, with the state before its first update."""
    config = config.copy_and_resolve_references()
    config.training.update({"spmd": form, "devices": devices, "split_weights": split})
    settings = run_settings.parse(config.to_dict())
    setup = run_setup.prepare(settings)
    return config, setup, *run_setup.initialise(setup)


def updates(setup, state, frozen, count):
    records = []
    for step in range(int(state.step), int(state.step) + count):
        parts = map(setup.layout.rows, setup.pools[step])
        state, record = setup.training_step(state, frozen, *parts, setup.seed, setup.others)
        records.append(jax.device_get(record))
    return state, records


def test_a_checkpoint_continues_on_other_devices_in_other_forms(tiny, tmp_path):
    tiny.model.remat = "layer"
    # The cheapest to compile of the utilities whose picks depend on the parameters.
    tiny.selection.update({"utility": "loss"})
    _, setup, state, frozen = prepared(tiny, "pmap", 1, False)
    _, expected = updates(setup, state, frozen, 6)
    forms = [
        ("shard_map", 4, True),
        ("pmap", 1, False),
        ("pmap", 8, False),
    ]
    found = []
    for form in forms:
        config, setup, state, frozen = prepared(tiny, *form)
        workdir.check(planned(config), tmp_path)
        workdir.claim(planned(config), tmp_path, "")
        checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
        if found:
            state, _ = checkpoints.restore(state)
        assert int(state.step) == len(found)
        state, records = updates(setup, state, frozen, 2)
        found.extend(records)
        checkpoints.save(state, {})
        checkpoints.finish()
        checkpoints.close()
    for mine, theirs in zip(found, expected, strict=True):
        assert mine["ids"].tolist() == theirs["ids"].tolist()
        np.testing.assert_allclose(mine["loss"], theirs["loss"], rtol=1e-5)


# Rows and updates that are not finite


def test_a_candidate_that_is_not_finite_is_left_out_and_named_once(
    finished, tmp_path, train, monkeypatch, project_log
):
    whole, without = Pools.__getitem__, 3

    def getitem(self, step):
        pool, anchors = whole(self, step)
        # A row without a response has no gradient.
        return pool._replace(response=pool.response & (pool.id != without)[:, None]), anchors

    monkeypatch.setattr(Pools, "__getitem__", getitem)
    config = finished[2].copy_and_resolve_references()
    _, folder = train(config, tmp_path)
    found = [row["dropped_ids"] for row in rows(folder, "metrics.jsonl")[1:]]
    assert [row["dropped"] for row in rows(folder, "metrics.jsonl")[1:]] == list(map(len, found))
    assert 1 < found.count([without]) < 8 and found.count([]) + found.count([without]) == 8
    assert all(without not in row["ids"] for row in rows(folder, "selections.jsonl"))
    said = [message for message in project_log.messages if "leaves out 1 candidates" in message]
    assert len(said) == 1 and said[0].endswith(f"examples [{without}]")


def poisoned(monkeypatch, at):
    """The parameters before update `at` are too large for its gradient to be finite."""
    whole = loop._Fit._update

    def update(self, step, state, part):
        if step == at:
            large = jax.tree.map(lambda leaf: leaf * np.float32(1e25), state.parameters)
            state = dataclasses.replace(state, parameters=large)
            poisoned.fingerprint = int(fingerprint(state))
        return whole(self, step, state, part)

    monkeypatch.setattr(loop._Fit, "_update", update)


# The rows of update 3 are written before its checkpoint, those of update 5 while 6 runs.
@pytest.mark.parametrize("at", [3, 5])
def test_a_non_finite_update_can_be_made_again(finished, tmp_path, train, monkeypatch, at):
    config = finished[2]
    with monkeypatch.context() as patch:
        poisoned(patch, at)
        with pytest.raises(training.NonFiniteUpdate, match=rf"update {at} .*failure/{at}`") as said:
            train(config, tmp_path)
    picked = rows(tmp_path, "selections.jsonl")[-1]
    assert picked["step"] == at and f"picked examples {picked['ids']}" in str(said.value)
    assert rows(tmp_path, "metrics.jsonl")[-1]["step"] == at - 1

    place = tmp_path / "failure" / str(at)
    again = training.replay(place)
    assert not records.is_sound(again) and again["ids"].tolist() == picked["ids"]
    assert sorted(again["dropped_ids"]) == sorted(setup_ids(config, at))
    # The state is the very one before the update, though another was begun after it.
    about = json.loads((place / "state" / str(at - 1) / "about" / "metadata").read_text())
    assert about["fingerprint"] == poisoned.fingerprint


def setup_ids(config, step):
    settings = run_settings.parse(config.to_dict())
    setup = run_setup.prepare(settings)
    return setup.pools[step - 1][0].id.tolist()


def test_what_is_no_failure_cannot_be_made_again(tmp_path):
    with pytest.raises(ValueError, match="is no failed update: name WORKDIR/failure/NUMBER"):
        training.replay(tmp_path)


# Workdirs


def test_a_second_run_on_one_workdir_is_refused(finished, tmp_path, train):
    config = finished[2]
    with pytest.raises(distributed.Stopped):
        training.train(planned(config), tmp_path, After(3))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with workdir.locked(epath.Path(tmp_path)):
        with pytest.raises(ValueError, match="another process is training in"):
            train(config, tmp_path)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    train(config, tmp_path)


def test_a_workdir_that_cannot_be_written_is_refused_at_once(tiny, tmp_path, train, monkeypatch):
    monkeypatch.setattr(run_setup, "prepare", lambda *_: pytest.fail("the data was prepared"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--workdir: .*/file is a file"):
        train(tiny, tmp_path / "file" / "run")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(ValueError, match=rf"--workdir: {tmp_path} cannot be written"):
        train(tiny, tmp_path / "run" / "inner")


@contextlib.contextmanager
def read_only(folder):
    """A folder that even root cannot write to, by whichever means this system allows."""
    if os.geteuid():
        folder.chmod(0o555)
        undo = ["chmod", "755", folder]
    elif _runs("mount", "-t", "tmpfs", "-o", "ro,size=4k", "tmpfs", folder):
        undo = ["umount", folder]
    elif _runs("chattr", "+i", folder):
        undo = ["chattr", "-i", folder]
    else:
        pytest.skip("root may neither mount nor make a folder immutable here")
    try:
        yield
    finally:
        subprocess.run(undo, check=True)


def _runs(*command):
    try:
        return not subprocess.run(command, capture_output=True).returncode
    except FileNotFoundError:
        return False


def test_a_read_only_workdir_is_one_line(tmp_path):
    with read_only(tmp_path):
        ended = commands.run(
            "train", "--config=configs/quickstart.py:smoke", f"--workdir={tmp_path / 'run'}"
        )
    assert ended.returncode == 1
    assert ended.stdout + ended.stderr == (
        f"error: --workdir: {tmp_path} cannot be written: mount it writable, or choose another\n"
    )


# What is not public


def test_what_has_no_public_name_is_where_it_was():
    """If this fails, JAX has moved what `stopping` and `clusters` reach for: find its new place."""
    from jax._src import clusters, distributed
    from jax._src.lib import _jax

    assert hasattr(distributed.global_state, "client")
    for name in ("key_value_set", "blocking_key_value_get"):
        assert hasattr(_jax.DistributedRuntimeClient, name)
    for name in ("OmpiCluster", "SlurmCluster", "GkeTpuCluster", "GceTpuCluster"):
        assert issubclass(getattr(clusters, name), clusters.ClusterEnv)
