"""Ten SIGKILLs at random moments lose nothing, repeat nothing and change no bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

ROOT = Path(__file__).parents[2]
KILLS = 10


@pytest.fixture(scope="module")
def start(tmp_path_factory, corpus_directory):
    """Starts a training process on a workdir; one device, compilations shared."""
    cache = tmp_path_factory.mktemp("compiled")
    environment = dict(os.environ)
    environment.pop("XLA_FLAGS", None)
    environment |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def run(workdir):
        command = [sys.executable, "-m", "tests.training.victim", corpus_directory, str(workdir)]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return run


def finish(process):
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def records(workdir):
    metrics = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for row in metrics:
        row.pop("seconds", None)
    return metrics, (workdir / "selections.jsonl").read_text()


def parameters(workdir):
    """The arrays of the last checkpoint, by path."""
    state = ocp.PyTreeCheckpointer().restore(workdir / "checkpoints" / "400" / "state")
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def await_training(process, workdir):
    """Returns once the process has written its first row, or has ended."""
    metrics = workdir / "metrics.jsonl"
    began = time.time()
    while process.poll() is None and time.time() < began + 120:
        # Opening the file rewrites it; rows of this process come after that.
        if metrics.exists() and metrics.stat().st_mtime > began and metrics.stat().st_size:
            return
        time.sleep(0.02)


def test_killed_runs_end_like_undisturbed_ones(start, tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    began = time.monotonic()
    finish(start(undisturbed))
    whole = min(10.0, time.monotonic() - began)

    moments = random.Random(0)
    outputs, landed = [], 0
    for number in range(KILLS):
        process = start(killed)
        if number % 2:
            # Any moment of start-up is as likely as one of training: make sure of the latter.
            await_training(process, killed)
            time.sleep(moments.uniform(0.0, 1.5))
        else:
            time.sleep(moments.uniform(0.1, 1.0) * whole)
        process.send_signal(signal.SIGKILL)
        outputs.append(process.communicate(timeout=60)[0])
        landed += process.returncode == -signal.SIGKILL
    outputs.append(finish(start(killed)))

    assert landed == KILLS or (killed / "summary.json").exists()
    # The drill must have hit training itself, and not start-up or the finished run alone.
    assert sum("continues after update" in output for output in outputs) >= 2
    metrics, selections = records(killed)
    assert [row["step"] for row in metrics] == list(range(401))
    assert (metrics, selections) == records(undisturbed)
    ours, theirs = parameters(killed), parameters(undisturbed)
    assert ours.keys() == theirs.keys() and len(ours) > 20
    for path, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[path], err_msg=path)
    tests = [
        json.loads((place / "summary.json").read_text())["test"] for place in (killed, undisturbed)
    ]
    assert tests[0] == tests[1]
