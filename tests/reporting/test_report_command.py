"""python -m experiments.report, as a user calls it."""

import pathlib
import subprocess
import sys

import partitionsel_jax

_ROOT = pathlib.Path(partitionsel_jax.__file__).parent.parent


def _run(workdir):
    command = [sys.executable, "-m", "experiments.report", f"--workdir={workdir}"]
    return subprocess.run(
        command, cwd=_ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_it_prints_the_table_and_where_it_wrote(tmp_path, write_run):
    write_run(tmp_path / "random", losses=(4.0, 3.0, 2.0), domains=["a"])
    write_run(tmp_path / "partitionsel", "partitionsel", losses=(4.0, 2.0, 1.0), domains=["a"])
    done = _run(tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("method")
    assert lines[1].split()[0] == "partitionsel"
    assert "0.50×" in lines[1]
    assert lines[-1] == f"report: {tmp_path}/report/report.html"
    assert (tmp_path / "report" / "report.html").exists()


def test_without_a_run_it_fails_with_one_line(tmp_path):
    done = _run(tmp_path)
    assert done.returncode != 0
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert f"no run in {tmp_path}" in done.stderr
    assert not (tmp_path / "report").exists()
