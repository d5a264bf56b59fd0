"""Accuracies stand beside the loss, by domain, and with what chance leaves open."""

import csv
import json

import pytest

from partitionsel_jax import reporting
from partitionsel_jax.evaluation import statistics
from partitionsel_jax.reporting import comparison, tables
from partitionsel_jax.reporting.runs import read_runs


def _rewrite(run, **test):
    path = run / "summary.json"
    summary = json.loads(path.read_text())
    summary["test"] |= test
    path.write_text(json.dumps(summary))


def test_the_interval_of_one_seed_is_that_of_its_questions(tmp_path, write_run):
    write_run(tmp_path / "r")
    found = comparison.accuracy(read_runs(tmp_path))
    assert (found.mean, found.std, found.questions) == (0.25, None, 32)
    assert (found.low, found.high) == statistics.share_interval(0.25, 32)


@pytest.mark.parametrize(("apart", "is_wider"), [(0.0, False), (0.4, True)])
def test_the_interval_of_several_seeds_is_the_wider_one(tmp_path, write_run, apart, is_wider):
    # Seeds that agree answer the same questions: their interval is no shorter than one seed's.
    for seed in (0, 1, 2):
        _rewrite(write_run(tmp_path / f"{seed}", seed=seed), accuracy=0.5 + apart * (seed - 1))
    found = comparison.accuracy(read_runs(tmp_path))
    low, high = statistics.share_interval(found.mean, 32)
    if is_wider:
        assert found.low < low and high < found.high
    else:
        assert (found.low, found.high) == (low, high)
    assert 0.0 <= found.low <= found.mean <= found.high <= 1.0


def test_table_csv_and_page_show_test_loss_and_accuracy_by_domain(tmp_path, write_run):
    write_run(tmp_path / "r")
    write_run(tmp_path / "p", "partitionsel")
    report = reporting.build(tmp_path)
    head, *lines = report.table.splitlines()
    assert "test loss" in head and "test accuracy (95 %)" in head
    assert all("1.0000" in line and "25.0 % (13 – 42)" in line for line in lines[:2])
    [heading] = [line for line in lines if line.startswith("test accuracy (95 %)")]
    assert heading.split()[-3:] == ["questions", "partitionsel", "random"]
    assert sum(line.startswith(("basic_arithmetic", "chain_sum")) for line in lines) == 2
    [row, _] = csv.DictReader((report.directory / "summary.csv").read_text().splitlines())
    assert float(row["test_loss_mean"]) == 1.0 and float(row["test_questions"]) == 32
    assert float(row["test_accuracy_low"]) == pytest.approx(0.133, abs=1e-3)
    page = report.page.read_text()
    assert "Test accuracy by domain" in page
    low, high = (f"{100 * end:.0f}" for end in statistics.share_interval(0.25, 8))
    assert page.count(f"<td>25.0 % ({low} – {high})</td>") == 8
    assert (report.directory / "accuracy_per_domain.png").exists()


def test_many_methods_are_not_squeezed_into_the_terminal(tmp_path, write_run):
    for number in range(6):
        write_run(tmp_path / f"{number}", f"method{number}")
    rows = comparison.headline(read_runs(tmp_path))
    assert len(tables.accuracies(rows).columns) == 8
    assert "questions" not in tables.as_text([rows])


def test_accuracies_of_the_scorers_of_before_are_left_out_and_named(tmp_path, write_run):
    _rewrite(write_run(tmp_path / "r"), questions_per_domain={})
    write_run(tmp_path / "p", "partitionsel")
    report = reporting.build(tmp_path)
    [row] = [row for row in report.headline if row.label == "random"]
    assert row.accuracy is None and not row.domain_accuracies
    assert any("r (random) has a test accuracy by scorers that" in said for said in report.caveats)
    assert not any("p (partitionsel) has" in said for said in report.caveats)
