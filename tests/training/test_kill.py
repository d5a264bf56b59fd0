"""Ten SIGKILLs at random moments lose nothing, repeat nothing and change no bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

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


def test_killed_runs_end_like_undisturbed_ones(start, tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    finish(start(tmp_path / "compiles"))
    began = time.monotonic()
    finish(start(undisturbed))
    whole = time.monotonic() - began

    moments = random.Random(0)
    survived = 0
    for _ in range(KILLS):
        process = start(killed)
        time.sleep(moments.uniform(0.3, 1.0) * whole)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        survived += process.returncode == 0
        if (killed / "summary.json").exists():
            # It came through before the signal: the drill goes on with a new victim.
            assert records(killed) == records(undisturbed)
            killed = tmp_path / f"{killed.name}-again"
    finish(start(killed))

    metrics, selections = records(killed)
    assert [row["step"] for row in metrics] == list(range(121))
    assert (metrics, selections) == records(undisturbed)
    ends = [json.loads((place / "summary.json").read_text()) for place in (killed, undisturbed)]
    assert ends[0]["fingerprint"] == ends[1]["fingerprint"]
    assert ends[0]["test"] == ends[1]["test"]
    assert survived < KILLS
