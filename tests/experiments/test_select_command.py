"""`python -m experiments.select` as a user types it, and what it says of bad files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from partitionsel_jax import offline

ROOT = Path(__file__).parents[2]
ROWS, DIM = 200, 16


def command(*arguments):
    return [sys.executable, "-m", "experiments.select", *arguments]


def run(*arguments):
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def files(tmp_path):
    """Features, anchors and domains as files; row 3 is not finite."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(ROWS, DIM)).astype(np.float32)
    features[3] = np.nan
    np.save(tmp_path / "F.npy", features)
    np.save(tmp_path / "A.npy", rng.normal(size=(4, DIM)).astype(np.float32))
    np.save(tmp_path / "D.npy", np.arange(ROWS) % 2)
    return tmp_path


def paths(folder):
    return {name: str(folder / f"{name[0].upper()}.npy") for name in ("anchors", "domains")}


def test_the_command_writes_what_select_picks(files):
    flags = [f"--{name}={path}" for name, path in paths(files).items()]
    features = files / "F.npy"
    result = run(f"--features={features}", *flags, "--size=10", "--budgets=fixed:0.7,0.3")
    assert result.returncode == 0, result.stderr
    folder = files / "F.selection"
    assert sorted(entry.name for entry in folder.iterdir()) == [
        *("indices.npy", "summary.json", "weights.npy")
    ]
    indices, weights = np.load(folder / "indices.npy"), np.load(folder / "weights.npy")
    expected = offline.select(
        np.load(features),
        np.load(files / "A.npy"),
        np.load(files / "D.npy"),
        size=10,
        budgets=np.array([7, 3]),
    )
    assert indices.dtype == np.int64 and weights.dtype == np.float32
    np.testing.assert_array_equal(indices, expected.indices)
    np.testing.assert_allclose(weights, expected.weights, rtol=1e-4)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["budgets"] == summary["picks_per_domain"] == [7, 3]
    assert (summary["rows"], summary["size"], summary["dropped"]) == (ROWS, 10, 1)
    assert summary["choices"]["utility"] == "gradient_matching"
    assert summary["features"] == str(features) and summary["versions"]["jax"]
    lines = result.stdout.splitlines()
    assert lines[0].startswith("pass 1: 199 of 200 rows are finite")
    assert sum(line.startswith("pass ") for line in lines) == summary["passes"]

    again = run(f"--features={features}", "--size=3", "--utility=random")
    assert again.returncode == 1 and "holds a selection" in again.stderr
    over = run(f"--features={features}", "--size=3", "--utility=random", "--overwrite")
    assert over.returncode == 0, over.stderr
    assert len(np.load(folder / "indices.npy")) == 3
    assert sorted(entry.name for entry in files.iterdir()) == [
        "A.npy", "D.npy", "F.npy", "F.selection"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size=many"], "size"),
        (["--size=5", "--utilty=random"], "utilty"),
        (["--size=5", "--utility=loss"], "error: utility must be one of"),
        (["--size=201", "--utility=random"], "error: size must be at most the 200 rows"),
        (["--size=5", "--utility=random", f"--seed={2**40}"], "error: seed must lie in 0"),
        (["--size=5", "--utility=random", f"--seed={10**30}"], "error: --seed must be an integer"),
        (
            ["--size=5", "--utility=random", f"--budgets=counts:{10**30}"],
            "error: budgets: counts must be followed by integers with commas between, of at most",
        ),
    ],
)
def test_what_is_wrong_ends_the_command_with_one_line(files, arguments, message):
    result = run(f"--features={files / 'F.npy'}", *arguments)
    assert result.returncode == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (files / "F.selection").exists()


def truncated(folder):
    whole = (folder / "F.npy").read_bytes()
    (folder / "F.npy").write_bytes(whole[: len(whole) // 2])


def only_the_beginning(folder):
    (folder / "F.npy").write_bytes((folder / "F.npy").read_bytes()[:5])


def empty(folder):
    (folder / "F.npy").write_bytes(b"")


def missing(folder):
    (folder / "F.npy").unlink()


def a_directory(folder):
    missing(folder)
    (folder / "F.npy").mkdir()


def text(folder):
    (folder / "F.npy").write_text("0.1,0.2\n0.3,0.4\n")


def objects(folder):
    np.save(folder / "F.npy", np.array([{}, None], object), allow_pickle=True)


def several(folder):
    with (folder / "F.npy").open("wb") as file:
        np.savez(file, a=np.zeros((2, 2)))


def holding(name, shape, version=1, length=None, form="<f4"):
    """A .npy file with a header of one's own choice, and 64 bytes behind it."""

    def change(folder):
        header = f"{{'descr': '{form}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
        size = len(header) if length is None else length
        start = (
            b"\x93NUMPY" + bytes([version, 0]) + size.to_bytes(2 if version == 1 else 4, "little")
        )
        (folder / f"{name}.npy").write_bytes(start + header + bytes(64))

    return change


def a_pipe(folder):
    missing(folder)
    os.mkfifo(folder / "F.npy")


def saving(name, array):
    def change(folder):
        np.save(folder / f"{name}.npy", array)

    return change


def in_the_way(folder):
    (folder / "F.selection").mkdir()
    (folder / "F.selection" / "notes.txt").write_text("mine")


def a_file_in_the_way(folder):
    (folder / "F.selection").write_text("mine")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (truncated, r"features: .*F\.npy is not a whole \.npy file"),
        (only_the_beginning, r"features: .*F\.npy is not a whole \.npy file"),
        (empty, r"features: .*F\.npy is not a whole \.npy file"),
        (missing, r"features: cannot read .*F\.npy: No such file"),
        (a_directory, r"features: cannot read .*F\.npy"),
        (text, r"features: .*F\.npy is not a whole \.npy file"),
        (objects, r"features: .*F\.npy is not a whole \.npy file"),
        (several, r"features: .*F\.npy holds several arrays"),
        (a_pipe, r"features: .*F\.npy .*a named pipe"),
        (holding("F", f"({10**40}, 4)"), r"features: .*F\.npy is not a whole \.npy file"),
        (holding("F", f"({10**18}, 4)"), r"features: .*F\.npy is not a whole \.npy file"),
        (holding("F", "(-2, -8)"), r"features: .*F\.npy is not a whole \.npy file"),
        (holding("F", "(1000, 1000)"), r"features: .*F\.npy is not a whole \.npy file"),
        (holding("F", "(2, 8)", 2, 2**32 - 1), r"features: .*header is said to have 4294967295"),
        (holding("F", "[" * 9000), r"features: .*F\.npy is not a whole \.npy file"),
        (holding("F", "(2, 8)", form="<f9999999999"), r"features: .*F\.npy is not a whole \.npy"),
        (holding("D", f"({10**11},)", form="<i8"), r"domains: .*D\.npy is not a whole \.npy file"),
        (holding("A", f"({10**40}, 4)"), r"anchors: .*A\.npy is not a whole \.npy file"),
        (saving("F", np.zeros(ROWS, np.float32)), "features must be a matrix"),
        (saving("F", np.float32(1.0)), "features must be a matrix"),
        (saving("F", np.zeros((ROWS, DIM), np.int32)), "features must be float16"),
        (saving("F", np.zeros((ROWS - 1, DIM))), r"domains must be integers of shape \(199,\)"),
        (saving("F", np.zeros((ROWS, DIM + 1))), "anchors must have the dimension"),
        (saving("D", np.zeros(ROWS)), "domains must be integers"),
        (saving("D", np.arange(ROWS) - 1), "domains must lie in 0"),
        (saving("D", np.arange(ROWS) % 3), "budgets must be 3 integers, one per domain"),
        (saving("A", np.full((2, DIM), np.inf)), "anchors must have a row with finite entries"),
        (in_the_way, "output: .* holds other files"),
        (a_file_in_the_way, "output: .* is not a directory"),
    ],
)
def test_bad_files_are_refused_in_one_line_before_any_pass(files, change, message, monkeypatch):
    monkeypatch.setattr(offline.selector.passes, "survey", None)
    change(files)
    before = sorted(files.rglob("*"))
    with pytest.raises(ValueError, match=message) as error:
        offline.select_files(
            str(files / "F.npy"), size=10, budgets="counts:5,5", overwrite=True, **paths(files)
        )
    assert "\n" not in str(error.value)
    assert sorted(files.rglob("*")) == before


@pytest.mark.parametrize("name", ["features", "anchors", "domains", "output"])
def test_buckets_are_no_place_to_select_from_or_to(files, monkeypatch, name):
    monkeypatch.chdir(files)
    arguments = {"features": str(files / "F.npy"), **paths(files)} | {name: "gs://bucket/x.npy"}
    with pytest.raises(ValueError, match=f"{name}: expected a path on this machine, got 'gs://"):
        offline.select_files(**arguments, size=3)
    assert not (files / "gs:").exists()


def test_a_kill_leaves_nothing_behind(files):
    """The output appears at the end, as a whole; until then nothing of it is there."""
    pool = np.random.default_rng(0).normal(size=(4000, DIM)).astype(np.float32)
    np.save(files / "F.npy", pool)
    process = subprocess.Popen(
        # Chunks so small that the passes outlast the kill.
        command(
            f"--features={files / 'F.npy'}", f"--anchors={files / 'A.npy'}", "--size=400",
            "--utility=taylor", "--chunk_rows=8", "--shortlist_rows=1",
        ),
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert "pass 1:" in process.stdout.readline()
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate(timeout=30)
    assert sorted(entry.name for entry in files.iterdir()) == ["A.npy", "D.npy", "F.npy"]
