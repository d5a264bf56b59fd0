"""Runs that are killed or stopped at random moments lose nothing, repeat nothing, change no bit."""

import dataclasses
import os
import signal

import pytest

from tests.distributed import drill, launching


@pytest.fixture(scope="module")
def trainer(tmp_path_factory, corpus_directory):
    return drill.Trainer(corpus_directory, str(tmp_path_factory.mktemp("compiled")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("drill")


# One of two processes: see test_processes.py, and drill.py for many.
def test_a_disturbed_run_ends_like_an_undisturbed_one(trainer, folder):
    seen = drill.drill(trainer, folder, kills=2, terms=1)
    assert not seen.problems
    assert sum(seen.counts.values()) == 3
    # At least one has hit a save.
    assert any(where == "save" for _, where in seen.counts)


def test_a_signal_to_all_of_a_job_leaves_its_readers_alone(trainer, folder, tmp_path):
    expected = drill.undisturbed(trainer, folder)
    trainer = dataclasses.replace(trainer, changes={"data.workers": 1})
    (process,) = trainer.start(tmp_path / "run")
    with launching.ended([process]):
        drill.wait_until(lambda: f" 1/{drill.UPDATES}" in drill.said(tmp_path / "run"), [process])
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
        code = process.wait(timeout=drill.PATIENCE_S)
    said = drill.said(tmp_path / "run")
    assert code == 75, said
    assert "which is saved" in said
    assert "Traceback" not in said
    drill.finish(trainer, tmp_path / "run")
    assert drill.differences(tmp_path / "run", expected) == []
