"""python -m experiments.results."""

import pytest
from etils import epath

from partitionsel_jax.studies import records
from tests.commands import run
from tests.studies.conftest import make_run, make_study


def test_the_page_is_written_from_the_studies_that_are_kept(tmp_path):
    kept = [
        make_run("partitionsel", seed, 1.0, axes={"selection.weights": kind})
        for kind in ("uniform", "learned", "clipped")
        for seed in (10, 11)
    ]
    folder = epath.Path(tmp_path) / "study" / "bytes" / "weights"
    records.write(make_study("weights", kept), folder)
    page = tmp_path / "RESULTS.md"
    done = run("results", f"--studies={tmp_path / 'study'}", f"--page={page}")
    assert done.returncode == 0 and done.stdout.split() == [str(page)]
    assert "### (h) Weights in the update" in page.read_text()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--claim=weights"], "expected --workdir and --claim together"),
        (["--claim=wieghts", "--workdir=/nowhere"], "expected a claim that has a config"),
        (["--claim=weights", "--workdir=/nowhere"], "no run in /nowhere"),
        (["--studies=/nowhere"], "no study in /nowhere"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(tmp_path, flags, said):
    done = run("results", f"--page={tmp_path / 'RESULTS.md'}", *flags)
    assert done.returncode == 1 and said in done.stderr
    assert done.stderr.count("\n") == 1 and not done.stdout
    assert not (tmp_path / "RESULTS.md").exists()
