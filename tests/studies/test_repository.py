"""What is committed: RESULTS.md follows from the CSV files beside it."""

import pathlib
import shutil

import pytest

from partitionsel_jax import studies

ROOT = pathlib.Path(__file__).parents[2]


def test_the_page_in_the_repository_is_made_of_its_studies(tmp_path):
    shutil.copytree(ROOT / "docs" / "study", tmp_path / "docs" / "study")
    studies.update(tmp_path / "docs" / "study", tmp_path / "RESULTS.md")
    assert (tmp_path / "RESULTS.md").read_text() == (ROOT / "RESULTS.md").read_text()


@pytest.mark.parametrize("folder", sorted((ROOT / "docs" / "study").glob("*/*/runs.csv")), ids=str)
def test_studies_are_small_and_have_the_same_seeds_at_every_point(folder):
    assert sum(file.stat().st_size for file in folder.parent.iterdir()) < 300_000
    study = studies.read(folder.parent)
    points = study.runs.groupby(["method", *study.axes], dropna=False)["seed"]
    (seeds,) = {tuple(sorted(seeds)) for _, seeds in points}
    assert len(seeds) >= (5 if folder.parents[1].name == "bytes" else 3)
