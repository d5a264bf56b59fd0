"""Several processes make the updates that one makes, and know of each other before they begin."""

import concurrent.futures
import contextlib
import json
import os
import queue
import re
import signal
import socket
import threading
import time

import numpy as np
import pytest

from partitionsel_jax import training
from partitionsel_jax.distributed import peers
from partitionsel_jax.distributed.clusters import Rendezvous
from tests.distributed.launching import ended, environment, free_port, member, rendezvous, start

UPDATES = 20


def changes(form, split):
    return {
        "training.spmd": form,
        "training.split_weights": split,
        "training.updates": UPDATES,
        "training.checkpoint_every": UPDATES,
        "model.remat": "layer",
    }


@pytest.fixture(scope="module")
def alone(corpus_directory, tmp_path_factory):
    """One process with four devices: where it wrote."""
    from tests.tiny_runs import tiny_config

    config = tiny_config()
    config.data.directory = corpus_directory
    config.update_from_flattened_dict(changes("shard_map", False) | {"training.devices": 4})
    folder = tmp_path_factory.mktemp("alone")
    training.train_all(config.to_dict(), folder)
    return folder


@pytest.fixture
def together(alone, corpus_directory, tmp_path):
    """Runs `member` in several processes; returns where they wrote, and what each said."""

    def run(mode, count, devices, form, split):
        started = [
            member(
                *(mode, corpus_directory, tmp_path / "work", changes(form, split)),
                **environment(devices, **told),
            )
            for told in rendezvous(count)
        ]
        with ended(started):
            outputs = [process.communicate(timeout=300)[0] for process in started]
        assert [process.returncode for process in started] == [0] * count, "\n".join(outputs)
        return tmp_path / "work", outputs

    return run


def rows_of(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


# The form with the most that can differ; below, the others make the same updates.
def test_two_processes_train_as_one_does(together, alone):
    folder, outputs = together("train", 2, 2, "shard_map", True)
    mine, theirs = (rows_of(place, "selections.jsonl") for place in (folder, alone))
    assert [(row["step"], row["ids"]) for row in mine] == [
        (row["step"], row["ids"]) for row in theirs
    ]
    mine, theirs = (rows_of(place, "metrics.jsonl") for place in (folder, alone))
    assert [row["step"] for row in mine] == list(range(UPDATES + 1))
    for field, least in (("loss", UPDATES), ("validation_loss", UPDATES // 4)):
        pairs = [(a[field], b[field]) for a, b in zip(mine, theirs, strict=True) if field in b]
        assert len(pairs) >= least
        np.testing.assert_allclose(*zip(*pairs, strict=True), rtol=0, atol=1e-5)
    # Only the first one reports.
    assert "4 devices exchange" in outputs[0]
    assert f"{UPDATES}/{UPDATES}" in outputs[0] and f"{UPDATES}/{UPDATES}" not in outputs[1]


@pytest.fixture
def pair(corpus_directory, tmp_path):
    """Starts two processes, of which the second one has faults; returns their codes and words."""

    def run(faults, then=lambda started: None):
        changed = changes("pmap", False) | {"training.checkpoint_every": 2}
        changed["training.evaluate_every"] = 2
        started = [
            member(
                *("train", corpus_directory, tmp_path / "work", changed, fault),
                **environment(1, **told),
            )
            for told, fault in zip(rendezvous(2), ({}, faults), strict=True)
        ]
        with ended(started):
            then(started)
            outputs = [process.communicate(timeout=120)[0] for process in started]
        return [process.returncode for process in started], outputs

    return run


def test_what_happens_to_one_process_is_known_to_the_other(pair, alone, tmp_path):
    saved = tmp_path / "work" / "checkpoints"
    reached = []

    def after(update, number=None):
        def send(started):
            while not (saved / str(update)).exists():
                assert started[0].poll() is None
                time.sleep(0.02)
            reached.append(time.monotonic())
            if number is not None:
                started[1].send_signal(number)

        return send

    # A slow one is named, and the one that is told to stop tells the other.
    codes, outputs = pair({"read_slowly": 1.5}, after(2, signal.SIGTERM))
    assert codes == [75, 75], outputs
    waits = re.search(r"process 1 waited for its rows .*: (\S+) s, the others (\S+) s", outputs[0])
    assert waits and float(waits[1]) > 2 * float(waits[2])
    newest = max(int(path.name) for path in saved.iterdir())

    # What one cannot read, none uses. One that is killed is missed at once.
    faults = {"misread": [newest], "read_slowly": 0.5}
    codes, outputs = pair(faults, after(6, signal.SIGKILL))
    assert codes == [1, -signal.SIGKILL], outputs
    assert f"checkpoints/{newest} is damaged (another process failed)" in outputs[0]
    assert f"checkpoints/{newest} is damaged (the disk of this" in outputs[1]
    assert f"continues after update {newest - 1 - (newest + 1) % 2}" in outputs[0]
    assert "error: process 1 is gone: see its log" in outputs[0]
    assert "Traceback" not in outputs[0]

    # Where one cannot save the last state, none waits for it: that would be SAVING_S, 300 seconds.
    # What comes before, imports and compilation, takes as long as the machine is busy.
    codes, outputs = pair({"leave_unsaved": [UPDATES]}, after(UPDATES - 2))
    assert time.monotonic() - reached[-1] < 60
    assert codes == [1, 1], outputs
    assert "error: process 1 ended: the last state could not be saved" in outputs[0]
    assert "error: process 1: the last state could not be saved" in outputs[1]
    # Rows are on the disk before a state is saved.
    mine, theirs = (rows_of(place, "selections.jsonl") for place in (tmp_path / "work", alone))
    assert [(row["step"], row["ids"]) for row in mine] == [
        (row["step"], row["ids"]) for row in theirs
    ]


@pytest.mark.parametrize(("count", "devices", "form"), [(4, 1, "pmap"), (2, 2, "shard_map")])
def test_several_processes_make_the_updates_of_one(together, alone, count, devices, form):
    folder, _ = together("step", count, devices, form, False)
    expected = [row["ids"] for row in rows_of(alone, "selections.jsonl")]
    losses = [row["loss"] for row in rows_of(alone, "metrics.jsonl") if "loss" in row]
    for number in range(count):
        seen = json.loads((folder / f"{number}.json").read_text())
        assert [ids for ids, _ in seen] == expected
        np.testing.assert_allclose([loss for _, loss in seen], losses, rtol=0, atol=1e-5)


def call(port, process, count=3, patience=20.0, hosts=()):
    """What a process hears in the roll call: None, or whom it misses."""
    try:
        peers.roll_call(Rendezvous(f"127.0.0.1:{port}", count, process, hosts), patience)
    except ValueError as error:
        return str(error)
    return None


def call_all(port, numbers, **more):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(lambda number: call(port, number, **more), numbers))


def test_all_go_on_once_all_are_there():
    assert call_all(free_port(), [2, 1, 0]) == [None] * 3


def test_who_is_missing_is_named_on_all_that_came():
    began = time.monotonic()
    heard = call_all(free_port(), [0, 2], patience=1.5, hosts=("a", "b", "c"))
    assert time.monotonic() - began < 5
    assert len(set(heard)) == 1 and re.search(
        r"1 of 3 processes did not come to 127.0.0.1:\d+ within 1.5 s: process 1 \(b\)", heard[0]
    )


def test_without_the_first_process_it_is_the_one_that_is_missing():
    (heard,) = call_all(free_port(), [1], patience=0.5)
    assert "within 0.5 s: process 0;" in heard


@pytest.mark.parametrize(
    "noise",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xfe\n",
        b"7\n",
        b"[1]\n",
        b'{"processes": 3}\n',
        b'{"process": null, "processes": 3}\n',
        b'{"process": 9, "processes": 3}\n',
    ],
)
def test_strangers_do_not_disturb(noise):
    port = free_port()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(call, port, 0)
        for _ in range(200):
            with contextlib.suppress(OSError):
                with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
                    stranger.sendall(noise)
                break
            time.sleep(0.02)
        others = [pool.submit(call, port, number) for number in (1, 2)]
        assert [heard.result() for heard in (first, *others)] == [None] * 3


def test_a_silent_stranger_does_not_hold_up_the_others():
    port, began = free_port(), time.monotonic()
    with concurrent.futures.ThreadPoolExecutor() as pool, contextlib.ExitStack() as stack:
        first = pool.submit(call, port, 0)
        time.sleep(0.3)
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
        others = [pool.submit(call, port, number) for number in (1, 2)]
        assert [heard.result() for heard in (first, *others)] == [None] * 3
    assert time.monotonic() - began < 10


def test_processes_that_count_differently_say_so():
    port = free_port()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(call, port, 0, 2, 2.0)
        other = pool.submit(call, port, 1, 3, 2.0)
        assert "1 of 2 processes did not come" in first.result()
        assert "2 processes, and this one 3" in other.result()


def test_a_port_in_use_is_one_line():
    with socket.create_server(("", 0)) as server:
        heard = call(server.getsockname()[1], 0)
    assert "cannot listen on port" in heard and "--coordinator" in heard


def test_an_unreachable_coordinator_ends_the_command_with_one_line(tmp_path):
    command = start(
        "experiments.train",
        "--config=configs/quickstart.py:smoke",
        f"--workdir={tmp_path / 'work'}",
        f"--coordinator=127.0.0.1:{free_port()}",
        *("--processes=2", "--process=1", "--patience=2"),
        **environment(1),
    )
    with ended([command]):
        output = command.communicate(timeout=110)[0]
    assert command.returncode == 1
    assert output.count("\n") == 1 and output.startswith("error: 1 of 2 processes did not come")
    assert not (tmp_path / "work").exists()


@pytest.fixture
def monitored(monkeypatch):
    """A monitor of process 1 on process 0: the other end, the monitor, and the codes of its end."""
    codes = queue.Queue()

    finished = threading.Event()

    def leave(code):
        codes.put(code)
        finished.wait()  # what this stands for does not return

    monkeypatch.setattr(os, "_exit", leave)
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = socket.create_connection(server.getsockname())
        there = server.accept()[0]
    with here, there:
        yield there, peers.PeerMonitor(1, {0: here}), codes
        finished.set()


def test_who_leaves_without_farewell_is_gone(monitored, capsys):
    there, _, codes = monitored
    there.close()
    assert codes.get(timeout=5) == 1
    assert capsys.readouterr().out.startswith("error: process 0 is gone: see its log")


def test_after_a_farewell_nothing_ends(monitored):
    there, monitor, codes = monitored
    monitor.farewell()
    assert json.loads(there.recv(100)) == {"done": True}
    there.sendall(b'{"done": true}\n')
    there.close()
    with pytest.raises(queue.Empty):
        codes.get(timeout=0.3)


def test_why_one_ends_is_said_by_the_others(monitored, capsys):
    there, _, codes = monitored
    there.sendall(b'{"process": 2, "why": "was stopped by SIGTERM", "code": 75}\n')
    assert codes.get(timeout=5) == 75
    assert capsys.readouterr().out == "process 2 was stopped by SIGTERM\n"
