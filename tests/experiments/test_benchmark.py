"""The benchmark command: what it measures is comparable, and what it writes can be read back."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import nnls

from experiments.suites import measuring, problems
from experiments.suites import selection as suite

ROOT = Path(__file__).parents[2]
METHODS = {*suite.OURS, *suite.THEIRS, suite.SCIPY}
TINY = problems.Shape(16, 4, 2)


def benchmark(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.benchmark", *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def cells(markdown):
    """The rows of a table, as heading -> cell."""
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in markdown.splitlines()
        if line.startswith("|")
    ]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark") / "new"
    result = benchmark("--suite=selection", "--sizes=16x4x2", "--repeats=1", f"--output={folder}")
    assert result.returncode == 0, result.stderr
    return result, folder


def test_the_command_writes_the_table_that_it_prints_and_the_same_numbers(command):
    result, folder = command
    written = json.loads((folder / "selection.json").read_text())
    table = (folder / "selection.md").read_text()
    assert table.split("\n", 1)[1].strip() in result.stdout
    assert written["facts"]["platform"] == "cpu"
    assert {"jax", "numpy", "scipy"} <= written["facts"]["versions"].keys()
    assert written["facts"]["versions"]["jax"] in result.stdout.splitlines()[0]
    assert {row["method"] for row in written["rows"]} == METHODS
    for row, drawn in zip(written["rows"], cells(table), strict=True):
        assert drawn["N x K x P"] == "16x4x2"
        assert drawn["method"] == row["method"]
        assert float(drawn["ms (median)"]) == pytest.approx(row["milliseconds"]["median"], rel=0.01)
        assert float(drawn["utility"]) == pytest.approx(row["utility"], rel=1e-5)


def test_the_numbers_of_a_run_are_those_of_sound_methods(command):
    rows = json.loads((command[1] / "selection.json").read_text())["rows"]
    rows = {row["method"]: row for row in rows}
    for name, row in rows.items():
        timing = row["milliseconds"]
        assert 0.0 < timing["fastest"] <= timing["lower"] <= timing["median"] <= timing["upper"]
        assert timing["runs"] == 1
        assert not row["extrapolated"]
        assert (row["compile_seconds"] is None) == (name == suite.SCIPY)
        assert row["kkt_residual"] <= 1e-5
        median = rows[suite.PUBLISHED]["milliseconds"]["median"]
        assert row["published_over_this"] == pytest.approx(median / timing["median"])
        if name == suite.UNCERTIFIED:
            assert row["certificate"] is None
        else:
            assert 0.3 < row["certificate"] <= 1.0
    for name in (suite.GREEDY, suite.UNCERTIFIED, "published, greedy rule"):
        assert rows[name]["utility_over_scipy"] == pytest.approx(1.0, abs=1e-4)
    assert rows["greedy, swaps=1"]["utility_over_scipy"] >= 1.0 - 1e-6
    # One key, one problem: the published solver differs in its weights alone.
    random = rows["residual_random"]["utility"]
    assert rows[suite.PUBLISHED]["utility"] == pytest.approx(random, rel=1e-3)


@pytest.fixture
def uncompiled(monkeypatch):
    """Everybody answers what SciPy does, certified 0.5, and 16 entries of K are too many."""

    def answer(method, instance):
        reported = types.SimpleNamespace(certificate=0.5) if method.certified else None
        return lambda: (*problems.pursue(instance), reported), 0.1

    monkeypatch.setattr(suite, "_compile", answer)
    monkeypatch.setattr(suite, "PATIENT_ENTRIES", 16)
    monkeypatch.setattr(suite, "PROBE_PICKS", 2)


def test_every_part_of_the_whole_suite_is_measured(monkeypatch, uncompiled):
    monkeypatch.setattr(suite, "SHAPES", (TINY,))
    monkeypatch.setattr(suite, "LARGE", (TINY,))
    monkeypatch.setattr(suite, "GROWTH", (TINY, TINY._replace(pool=24)))
    results = suite.run(sizes=None, repeats=1, large=True)
    json.dumps(results.numbers, allow_nan=False)

    for row in results.numbers["rows"]:
        assert row["from"] == "gram"
        assert row["extrapolated"] == (row["method"] in suite.THEIRS)
        assert (row["utility"] is None) == row["extrapolated"]
    assert results.markdown.count("(extrapolated)") == len(suite.THEIRS)
    for row in results.numbers["large"]:
        assert row["from"] == "features"
        assert row["published_over_this"] is None
        assert row["utility_over_scipy"] == 1.0
    growth = results.numbers["growth"]
    assert len(growth["milliseconds"]) == 4
    for name, times in growth["milliseconds"].items():
        slope = np.log(times[1] / times[0]) / np.log(24 / 16)
        assert growth["exponents"][name] == pytest.approx(slope)

    results = suite.run(sizes=["8x2x2"], repeats=1, large=False)
    assert {row["pool"] for row in results.numbers["rows"]} == {8}
    assert results.numbers.keys().isdisjoint({"growth", "large"})


def test_the_time_of_a_few_picks_is_scaled_to_all(monkeypatch, uncompiled):
    fixed = measuring.Timing(3.0, 2.0, 5.0, 1.0, 4)
    answered = {}

    def interleave(runs, repeats):
        answered.update({name: run() for name, run in runs.items()})
        return {name: (fixed, output) for name, output in answered.items()}

    monkeypatch.setattr(suite, "interleave", interleave)
    instance = problems.make_instance(TINY)
    rows = suite.compare(instance, suite.OURS | suite.THEIRS, repeats=1)
    rows = {row["method"]: row for row in rows}
    times = {"median": 3.0, "lower": 2.0, "upper": 5.0, "fastest": 1.0, "runs": 4}
    assert rows[suite.GREEDY]["milliseconds"] == times
    times = {"median": 6.0, "lower": 4.0, "upper": 10.0, "fastest": 2.0, "runs": 4}
    assert rows[suite.PUBLISHED]["milliseconds"] == times
    assert rows[suite.GREEDY]["published_over_this"] == 2.0
    assert len(answered[suite.PUBLISHED][0]) == 2
    assert len(answered[suite.GREEDY][0]) == 4
    # The bound that greedy's certificate of 0.5 stands for is twice the utility.
    assert rows[suite.SCIPY]["certificate"] == pytest.approx(0.5)
    assert rows[suite.PUBLISHED]["certificate"] is None


def test_selection_from_features_is_compared_with_scipy():
    instance = problems.make_instance(TINY, gram=False)
    assert instance.problem.gram is None
    greedy, scipy = suite.compare(instance, {suite.GREEDY: suite.OURS[suite.GREEDY]}, repeats=1)
    assert greedy["utility"] == pytest.approx(scipy["utility"], rel=1e-4)
    assert greedy["published_over_this"] is None


@pytest.mark.parametrize("seed", range(4))
def test_scipy_pursues_the_best_feasible_residual_and_refits_exactly(seed):
    instance = problems.make_instance(problems.Shape(12, 5, 2), seed=seed)
    picks, weights = problems.pursue(instance)
    domains = np.asarray(instance.problem.domains)
    budgets = np.asarray(instance.problem.budgets)
    assert np.bincount(domains[picks], minlength=2).tolist() == budgets.tolist()
    features, anchor = np.float64(instance.features), np.float64(instance.anchor)
    for count in range(len(picks)):
        before = picks[:count]
        solved = nnls(features[before].T, anchor)[0] if count else np.zeros(0)
        residual = features @ (anchor - features[before].T @ solved)
        spent = np.bincount(domains[before], minlength=2)
        allowed = [
            i for i in range(12) if i not in before and spent[domains[i]] < budgets[domains[i]]
        ]
        assert picks[count] == max(allowed, key=lambda i: residual[i])
    np.testing.assert_allclose(weights, nnls(features[picks].T, anchor)[0])


@pytest.mark.parametrize("gram", [True, False])
def test_the_judge_computes_the_utility_and_sees_weights_that_are_off(gram):
    instance = problems.make_instance(problems.Shape(12, 3, 2), gram=gram)
    picks, weights = problems.pursue(instance)
    features, anchor = np.float64(instance.features), np.float64(instance.anchor)
    utility, violation = problems.judge(instance, np.append(picks, -1), np.append(weights, 0.0))
    # U(w) = (|a|^2 - |a - sum w g|^2) / 2.
    missed = anchor - features[picks].T @ weights
    assert utility == pytest.approx((anchor @ anchor - missed @ missed) / 2, rel=1e-5)
    assert violation < 1e-6
    # A weight too high by 1 % of its candidate's share leaves that much of a residual.
    moved = weights + 0.01 * np.eye(3)[0] * (features @ anchor)[picks].max()
    assert problems.judge(instance, picks, moved)[1] == pytest.approx(0.01, rel=0.01)
    with pytest.raises(ValueError, match="finite"):
        problems.judge(instance, picks, weights * np.nan)


def test_methods_are_timed_by_turns_and_slow_ones_less_often(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(measuring, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    calls = []

    def method(name, seconds):
        def run():
            calls.append(name)
            now[0] += seconds
            return name, len(calls)

        return run

    methods = {"quick": 0.5, "slow": 4.0, "once": 11.0}
    runs = {name: method(name, seconds) for name, seconds in methods.items()}
    timed = measuring.interleave(runs, repeats=6)
    assert {name: timing.runs for name, (timing, _) in timed.items()} == {
        "quick": 6,
        "slow": 2,
        "once": 1,
    }
    assert {name: timing.median for name, (timing, _) in timed.items()} == {
        name: pytest.approx(1e3 * seconds) for name, seconds in methods.items()
    }
    # What the first runs answered; only a run too slow to repeat is counted there.
    assert [output for _, output in timed.values()] == [("quick", 1), ("slow", 2), ("once", 3)]
    assert calls.count("once") == 1
    first, second = (turn for turn, name in enumerate(calls) if name == "slow" and turn > 2)
    assert second - first > 2


def test_another_method_goes_first_in_every_round():
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in "abc"}
    measuring.interleave(runs, repeats=3)
    untimed, timed = calls[:3], calls[3:]
    assert untimed == ["a", "b", "c"]
    # A brief run follows one of its own method that is not timed.
    assert timed[::2] == timed[1::2]
    rounds = [timed[start : start + 6 : 2] for start in range(0, len(timed), 6)]
    assert [names[0] for names in rounds] == ["a", "b", "c"]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--suite=select",), "error: suite must be one of ['selection'], got 'select'"),
        (("--suite=selection", "--sizes=16x4x2,256x32"), "error: sizes must be NxKxP"),
        (("--suite=selection", "--repeats=0"), "repeats"),
        (("--suite=selection", "--output=/dev/null/here"), "error: "),
    ],
)
def test_what_is_wrong_ends_the_command_with_one_clear_line(arguments, message):
    result = benchmark(*arguments)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("size", ["16x17x2", "16x0x2", "16x4x0", "16x4", "16x4x2x1", "-16x4x2", ""])
def test_impossible_sizes_are_refused_by_name(size):
    with pytest.raises(ValueError, match=f"NxKxP.* got '{size}'"):
        problems.parse(["16x4x2", size])


def test_no_sizes_are_not_all_sizes():
    with pytest.raises(ValueError, match="sizes must name at least one"):
        suite.run(sizes=[], repeats=1, large=False)


def test_without_scipy_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r"partitionsel_jax\[dev\]"):
        suite.run(sizes=["16x4x2"], repeats=1, large=False)
