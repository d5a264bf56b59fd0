"""The benchmark command: what it measures is comparable, and what it writes can be read back."""

import dataclasses
import functools
import json
import math
import time
import types

import jax
import numpy as np
import pytest
from jax.interpreters import partial_eval
from scipy.optimize import nnls

from experiments import suites
from experiments.suites import (
    buckets,
    data,
    fidelity,
    gradients,
    loading,
    measuring,
    scaling,
    step,
    workloads,
)
from experiments.suites import selection as suite
from experiments.suites.measuring import Options
from partitionsel_jax import models
from partitionsel_jax.gradients import make_sketch
from partitionsel_jax.models.pretrained import names
from tests import commands
from tests.tiny_runs import tiny_config

METHODS = {*suite.OURS, *suite.THEIRS, suite.SCIPY}
TINY = (16, 4, 2)


benchmark = functools.partial(commands.run, "benchmark")


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
        assert [drawn[name] for name in ("pool", "picks", "domains")] == ["16", "4", "2"]
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
        if name == "greedy, no certificate":
            assert row["certificate"] is None
        else:
            assert 0.3 < row["certificate"] <= 1.0
    for name in (suite.GREEDY, "greedy, no certificate", "published, greedy rule"):
        assert rows[name]["utility_over_scipy"] == pytest.approx(1.0, abs=1e-4)
    assert rows["greedy, swaps=1"]["utility_over_scipy"] >= 1.0 - 1e-6
    # One key, one problem: the published solver differs in its weights alone.
    random = rows["residual_random"]["utility"]
    assert rows[suite.PUBLISHED]["utility"] == pytest.approx(random, rel=1e-3)


@pytest.fixture
def uncompiled(monkeypatch):
    """Everybody answers what SciPy does, certified 0.5, and 16 entries of K are too many."""

    def answer(name, choices, instance, answers):
        certificate = None if name in suite.UNCERTIFIED else 0.5
        return lambda: answers.update({name: (*suite.pursue(instance), certificate)}), 0.1

    monkeypatch.setattr(suite, "_compile", answer)
    monkeypatch.setattr(suite, "PATIENT_ENTRIES", 16)
    monkeypatch.setattr(suite, "PROBE_PICKS", 2)


def answer(run, *arguments):
    """What a suite yields: its numbers, and its text."""
    parts = list(run(*arguments))
    numbers = functools.reduce(dict.__or__, (part.numbers for part in parts))
    json.dumps(numbers, allow_nan=False)
    return numbers, "\n\n".join(text for part in parts for text in part.texts)


def test_every_part_of_the_whole_suite_is_measured(monkeypatch, uncompiled):
    monkeypatch.setattr(suite, "SHAPES", (TINY,))
    monkeypatch.setattr(suite, "LARGE", (TINY,))
    monkeypatch.setattr(suite, "POOLS", (16, 24))
    monkeypatch.setattr(suite, "PICKS", 4)
    numbers, markdown = answer(suite.run, Options(repeats=1, large=True))

    for row in numbers["rows"]:
        assert row["from"] == "gram"
        assert row["extrapolated"] == (row["method"] in suite.THEIRS)
        assert (row["utility"] is None) == row["extrapolated"]
    assert markdown.count("| yes ") == len(suite.THEIRS)
    for row in numbers["large"]:
        assert row["from"] == "features"
        assert row["published_over_this"] is None
        assert row["utility_over_scipy"] == 1.0
    growth = numbers["growth"]
    assert len(growth["milliseconds"]) == 4
    for name, times in growth["milliseconds"].items():
        slope = np.log(times[1] / times[0]) / np.log(24 / 16)
        assert growth["exponents"][name] == pytest.approx(slope)

    numbers, _ = answer(suite.run, Options(["8x2x2"], 1))
    assert {row["pool"] for row in numbers["rows"]} == {8}
    assert numbers.keys().isdisjoint({"growth", "large"})


def test_the_time_of_a_few_picks_is_scaled_to_all(monkeypatch, uncompiled):
    fixed = {"median": 3.0, "lower": 2.0, "upper": 5.0, "fastest": 1.0, "runs": 4}
    picked = {}
    judge = suite.judge

    def by_turns(runs, repeats):
        for run in runs.values():
            run()
        return dict.fromkeys(runs, fixed)

    def judged(instance, indices, weights):
        picked[len(picked)] = len(indices)
        return judge(instance, indices, weights)

    monkeypatch.setattr(measuring, "by_turns", by_turns)
    monkeypatch.setattr(suite, "judge", judged)
    rows = suite.compare(TINY, suite.OURS | suite.THEIRS, repeats=1)
    rows = {row["method"]: row for row in rows}
    assert rows[suite.GREEDY]["milliseconds"] == fixed
    times = {"median": 6.0, "lower": 4.0, "upper": 10.0, "fastest": 2.0, "runs": 4}
    assert rows[suite.PUBLISHED]["milliseconds"] == times
    assert rows[suite.GREEDY]["published_over_this"] == 2.0
    # The few picks of the methods whose time is scaled are judged by nobody.
    assert list(picked.values()) == [4] * (len(suite.OURS) + 1)
    # The bound that greedy's certificate of 0.5 stands for is twice the utility.
    assert rows[suite.SCIPY]["certificate"] == pytest.approx(0.5)
    assert rows[suite.PUBLISHED]["certificate"] is None


def test_selection_from_features_is_compared_with_scipy():
    methods = {suite.GREEDY: suite.OURS[suite.GREEDY]}
    greedy, scipy = suite.compare(TINY, methods, repeats=1, gram=False)
    assert greedy["utility"] == pytest.approx(scipy["utility"], rel=1e-4)
    assert greedy["published_over_this"] is None
    assert greedy["from"] == "features"


def test_a_pool_does_not_depend_on_how_many_are_picked():
    few, many = (suite.make_instance((12, picks, 2)) for picks in (2, 5))
    np.testing.assert_array_equal(few.features, many.features)
    np.testing.assert_array_equal(few.problem.domains, many.problem.domains)
    assert (few.problem.budgets.sum(), many.problem.budgets.sum()) == (2, 5)


@pytest.mark.parametrize("seed", range(4))
def test_scipy_pursues_the_best_feasible_residual_and_refits_exactly(seed):
    instance = suite.make_instance((12, 5, 2), seed=seed)
    picks, weights = suite.pursue(instance)
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
    instance = suite.make_instance((12, 3, 2), gram=gram)
    picks, weights = suite.pursue(instance)
    features, anchor = np.float64(instance.features), np.float64(instance.anchor)
    utility, violation = suite.judge(instance, np.append(picks, -1), np.append(weights, 0.0))
    # U(w) = (|a|^2 - |a - sum w g|^2) / 2.
    missed = anchor - features[picks].T @ weights
    assert utility == pytest.approx((anchor @ anchor - missed @ missed) / 2, rel=1e-5)
    assert violation < 1e-6
    # A weight too high by 1 % of its candidate's share leaves that much of a residual.
    moved = weights + 0.01 * np.eye(3)[0] * (features @ anchor)[picks].max()
    assert suite.judge(instance, picks, moved)[1] == pytest.approx(0.01, rel=0.01)
    with pytest.raises(ValueError, match="finite"):
        suite.judge(instance, picks, weights * np.nan)


def test_methods_are_timed_by_turns_and_slow_ones_less_often(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(measuring, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    calls = []

    def method(name, seconds):
        def run():
            calls.append(name)
            now[0] += seconds

        return run

    methods = {"quick": 0.5, "slow": 4.0, "once": 11.0}
    runs = {name: method(name, seconds) for name, seconds in methods.items()}
    timed = measuring.by_turns(runs, repeats=6)
    assert {name: timing["runs"] for name, timing in timed.items()} == {
        "quick": 6,
        "slow": 2,
        "once": 1,
    }
    assert {name: timing["median"] for name, timing in timed.items()} == {
        name: pytest.approx(1e3 * seconds) for name, seconds in methods.items()
    }
    assert calls.count("once") == 1
    first, second = (turn for turn, name in enumerate(calls) if name == "slow" and turn > 2)
    assert second - first > 2


def test_another_method_goes_first_in_every_round(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(measuring, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))

    def method(name):
        def run():
            calls.append(name)
            now[0] += 0.004

        return run

    timed = measuring.by_turns({name: method(name) for name in "abc"}, repeats=3)
    # The time is that of a call, though a timed run is two of them: 10 ms hold no third.
    assert [timing["median"] for timing in timed.values()] == [pytest.approx(4.0)] * 3
    untimed, repeated = calls[:6], calls[6:]
    assert untimed == ["a", "a", "b", "b", "c", "c"]
    # A brief run follows a call of its own method that is not timed.
    assert repeated[::3] == repeated[1::3] == repeated[2::3]
    rounds = [repeated[start : start + 9 : 3] for start in range(0, len(repeated), 9)]
    assert [names[0] for names in rounds] == ["a", "b", "c"]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--suite=select",),
            "error: suite must be one of ['buckets', 'data', 'gradients', 'loading', 'offline', "
            "'scaling', 'selection', 'step'], got",
        ),
        (("--suite=selection", "--sizes=16x4x2,256x32"), "error: sizes must be NxKxP"),
        (("--suite=gradients", "--sizes=256x32x8"), "error: sizes of the gradients suite must be"),
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
        suite.parse(["16x4x2", size])


def test_no_sizes_are_not_all_sizes():
    with pytest.raises(ValueError, match="sizes must name at least one"):
        suite.parse([])


@pytest.mark.parametrize("name", sorted(set(suites.SUITES) - set(suites.SIZED)))
def test_suites_without_sizes_refuse_them(name):
    with pytest.raises(ValueError, match=rf"the {name} suite has no sizes, got .* leave --sizes"):
        suites.run(name, Options(sizes=["256"]))


def test_cells_show_three_digits_units_and_dashes():
    timing = {"median": 1234.5, "lower": 0.5, "upper": 2e6, "runs": 7}
    row = {"a_b": 0.12345, "c": None, "d": 3_000_000, "e": True, "f": timing, "g": 1.0}
    row |= {"h": {"mean": 0.5, "spread": 0.25}, "i": "text", "left_out": 1}
    assert cells(measuring.table("a_b c d e f g:.2f h i", [row])) == [
        {
            **{"a b": "0.123", "c": "–", "d": "3 M", "e": "yes", "g": "1.00", "i": "text"},
            **{"ms (median)": "1234", "quartiles": "0.5 … 2 M", "runs": "7", "h": "0.500 ± 0.250"},
        }
    ]


# The gradients suite.

DECODER = {"layers": 3, "width": 16, "mlp_width": 24, "heads": 4, "kv_heads": 2, "head_dim": 6}
LORA = {"rank": 3, "alpha": 6.0, "targets": ("q", "v", "down")}


def settings(**changes):
    """A tiny model; `changes` go to its section "model"."""
    return workloads.settings_of(
        1,
        data={"length": 9},
        model=DECODER | changes,
        lora=LORA,
        features={"parameters": "lora", "last_layers": 2, "dim": 20, "microbatch": 2},
    )


def step_settings(**features):
    return workloads.settings_of(
        2,
        data={"length": 9},
        model=DECODER | {"layers": 1},
        lora=LORA,
        features={"parameters": "lora", "last_layers": 1, "dim": 16, "microbatch": 4}
        | {"anchors_every": 2}
        | features,
        selection={"pool": 8, "size": 2, "anchors": 4},
        training={"microbatch": 4},
    )


def products(program):
    """Operations of a jaxpr's matrix products; a loop of unknown length counts once."""
    total = 0
    for equation in program.eqns:
        if equation.primitive.name == "dot_general":
            ((summed, _), _) = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in summed)
            continue
        rounds = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                total += rounds * products(inner)
    return total


def traced_products(function, *arguments):
    program = jax.make_jaxpr(function)(*arguments).jaxpr
    return products(partial_eval.dce_jaxpr(program, [True] * len(program.outvars))[0])


@pytest.fixture
def traced(monkeypatch):
    """Programs are traced, not compiled: `bytes` is the operations that tracing finds."""

    def compile_program(name, function, *arguments):
        return measuring.Program(lambda: None, 0.5, traced_products(function, *arguments))

    monkeypatch.setattr(measuring, "compile_program", compile_program)


def timed(monkeypatch, milliseconds):
    """Makes a suite measure these times, and 10 ms of what is not named."""

    def slow_by_turns(runs, repeats):
        for run in runs.values():
            run()
        names = ("median", "lower", "upper", "fastest")
        return {
            name: dict.fromkeys(names, milliseconds.get(name, 10.0)) | {"runs": repeats}
            for name in runs
        }

    monkeypatch.setattr(measuring, "slow_by_turns", slow_by_turns)


@pytest.mark.parametrize("changes", [{}, {"tied": False, "biases": ("q", "k", "v")}])
def test_operations_are_those_of_the_programs_without_what_nobody_reads(
    monkeypatch, traced, changes
):
    timed(monkeypatch, {})
    # One block of tokens then holds all that the loss counts.
    found = gradients.measure(settings(chunk_tokens=16, **changes), Options(repeats=1, large=True))
    rows = found.numbers["cost"]["rows"]
    assert len(rows) == 16
    for row in rows:
        assert row["operations"] == row["bytes"], row["method"]


def test_costs_are_relative_to_the_faster_of_two_equal_passes(monkeypatch, traced):
    milliseconds = {
        "forward, lora": 2.0,
        "forward, lora, by logits": 1.0,
        "ordinary, lora": 5.0,
        "ordinary, lora, by logits": 4.0,
    }
    timed(monkeypatch, milliseconds)
    monkeypatch.setattr(gradients, "SIDE", 8)
    found, markdown = answer(lambda: [gradients.measure(settings(), Options(repeats=3))])
    found = found["cost"]
    rows = {row["method"]: row for row in found["rows"]}
    assert {name.split(":")[0] for name in rows if ":" in name} == {"factored", "reference"}
    for name, (ratio, target) in {
        "factored: lora, last 2 of 3": (10.0, 1.4),
        "factored: lora, all layers": (2.5, 1.1),
        "factored: full, all layers": (1.0, 0.9),
        "reference: lora, all layers": (2.5, None),
    }.items():
        assert (rows[name]["ratio"], rows[name]["target"]) == (ratio, target), name
        assert rows[name]["tokens_per_second"] == pytest.approx(1800.0)
    fastest = rows["ordinary, lora, by logits"]
    smallest = min(rows["ordinary, lora"]["bytes"], fastest["bytes"])
    memory = rows["factored: lora, last 2 of 3"]["bytes"] / smallest
    assert rows["factored: lora, last 2 of 3"]["memory_ratio"] == pytest.approx(memory)
    # 2 x 8^3 operations in 10 ms are the ceiling.
    rate = fastest["operations"] / 4.0 / (2 * 8**3 / 10.0)
    assert fastest["share_of_ceiling"] == pytest.approx(rate)
    assert found["left_out"] == ["reference: full, all layers"]
    assert "Left out: reference: full, all layers" in markdown
    drawn = cells(markdown)
    assert [row["method"] for row in drawn] == list(rows)
    assert drawn[1]["ms (median)"] == "5"


def test_the_limit_of_a_step_is_its_features_and_its_update():
    assert step.limit_of(step.default()) == pytest.approx(0.72, abs=0.02)
    assert step.limit_of(step_settings(anchors_every=1)) > step.limit_of(step_settings())
    # With all rows picked, the update alone costs as much as the whole pool.
    every = step_settings()
    chosen = dataclasses.replace(every.selection, size=every.selection.pool)
    assert step.limit_of(dataclasses.replace(every, selection=chosen)) > 1.0


def test_the_limit_of_a_step_leaves_sketches_out():
    small, large = (step.limit_of(step_settings(dim=dim)) for dim in (4, 64))
    assert small == large


def test_a_step_is_judged_by_the_mean_over_steps_that_share_anchors(monkeypatch, traced):
    made = []
    monkeypatch.setattr(step, "_runner", lambda settings: made.append)
    monkeypatch.setattr(step, "_compile_seconds", lambda *_: {1: 2.6, 4: 2.0})
    times = {"PartitionSel": 12.0, "whole pool": 8.0, "independent": 0.01, "alike": 0.03}
    timed(monkeypatch, times)
    numbers, markdown = answer(lambda: [step.measure(step_settings(), repeats=1)])
    assert made == [2, 1]
    assert numbers["ratio"] == pytest.approx(6.0 / 8.0)
    assert numbers["ratio_over_limit"] == pytest.approx(0.75 / numbers["limit"])
    assert numbers["selection_share"] == pytest.approx(0.005)
    assert numbers["compile_ratio"] == pytest.approx(1.3)
    assert "0.50%" in markdown


def test_both_steps_run_from_the_first_update_on():
    for settings in (step_settings(), step.on_whole_pool(step_settings())):
        step._runner(settings)(2)


def test_depths_are_compiled_and_selection_runs():
    assert step._compile_seconds(step_settings(), (1,)).keys() == {1}
    assert sorted(step._selection(step_settings(), "alike")().indices.tolist())[0] >= 0


def test_slow_passes_are_repeated_less_often(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(measuring, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))

    def method(name, seconds):
        def run():
            calls.append(name)
            now[0] += seconds

        return run

    methods = {"quick": 0.6, "slow": 4.0, "long": 31.0}
    runs = {name: method(name, seconds) for name, seconds in methods.items()}
    timed = measuring.slow_by_turns(runs, 7)
    counts = {"quick": 7, "slow": 5, "long": 3}
    assert {name: timing["runs"] for name, timing in timed.items()} == counts
    # The only first call that counts is the long one's.
    assert {name: calls.count(name) for name in calls} == {"quick": 8, "slow": 6, "long": 3}
    assert timed["slow"]["median"] == pytest.approx(4000.0)


SMALL = {"UPDATES": 2, "POOLS": 2, "FAMILIES": ("gaussian", "two_sided"), "DIMS": (16, 256)}
SMALL |= {"SEEDS": 2, "LAST_LAYERS": (1,), "TOKENS": (24,), "AGES": (2,)}


@pytest.fixture(scope="module")
def small():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(fidelity, name, value)
        yield


@pytest.fixture(scope="module")
def measured(small, tmp_path_factory):
    config = tiny_config()
    config.data.directory = str(tmp_path_factory.mktemp("corpora"))
    return config.to_dict(), *answer(lambda: [fidelity.measure(config.to_dict())])


def test_fidelity_measures_every_sketch_and_every_cheaper_feature(measured):
    _, numbers, markdown = measured
    numbers = numbers["fidelity"]
    assert [(row["family"], row["dim"]) for row in numbers["sketches"]] == [
        (family, dim) for family in SMALL["FAMILIES"] for dim in SMALL["DIMS"]
    ]
    for coarse, fine in zip(numbers["sketches"][::2], numbers["sketches"][1::2], strict=True):
        for error in ("gram_error", "alignment_error"):
            assert 0.0 < fine[error]["mean"] < 0.5 * coarse[error]["mean"]
        assert fine["pick_overlap"]["mean"] <= 1.0
    cheaper = {(row["features"], row["against"]): row for row in numbers["cheaper"]}
    assert len(cheaper) == 7
    # The pool's own features are exact where only the anchors are old.
    old = cheaper["the anchors', 2 updates old", "all parameters"]
    assert old["gram_error"]["mean"] == 0.0 < old["alignment_error"]["mean"]
    assert all(row["gram_error"]["mean"] > 0.0 for row in cheaper.values() if row is not old)
    for row in numbers["cheaper"]:
        assert f"| {row['features']} " in markdown


def test_a_sketch_of_whole_gradients_is_that_of_the_reference_path(measured, monkeypatch):
    config, *_ = measured
    monkeypatch.setattr(fidelity, "POOLS", 1)
    model = fidelity.train(config)
    exact = model.features(model.aged[0])
    direct = make_sketch("gaussian", 16, 1)(exact)
    found = model.features(model.aged[0], seed=1, family="gaussian", dim=16)
    np.testing.assert_allclose(found, direct, rtol=2e-4, atol=1e-5)
    assert {name: float(value[0]) for name, value in model.compare(exact, exact).items()} == {
        "gram_error": 0.0,
        "alignment_error": 0.0,
        "pick_overlap": 1.0,
    }


def test_fidelity_is_not_measured_on_a_model_with_adapters():
    config = tiny_config()
    config.lora.rank = 2
    with pytest.raises(ValueError, match=r"lora\.rank must be 0"):
        fidelity.train(config.to_dict())


def test_the_suite_writes_its_chart_where_there_is_one_to_draw(measured, monkeypatch, tmp_path):
    _, numbers, markdown = measured
    part = measuring.Part(numbers, (markdown,))
    monkeypatch.setattr(fidelity, "measure", lambda config: part)
    costs = measuring.Part({"cost": {"rows": []}}, ("costs",))
    monkeypatch.setattr(gradients, "measure", lambda settings, options: costs)
    suites.run("gradients", Options(sizes=["cost"]), str(tmp_path / "cost"))
    assert not (tmp_path / "cost" / "gradients.png").exists()
    suites.run("gradients", Options(), str(tmp_path / "both"))
    assert (tmp_path / "both" / "gradients.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((tmp_path / "both" / "gradients.json").read_text())
    assert written.keys() == {"facts", "cost", "fidelity"}


def test_parts_of_the_gradients_suite_are_chosen_by_name():
    assert gradients.parse(None) == ["cost", "fidelity"]
    assert gradients.parse(["fidelity", " cost"]) == ["cost", "fidelity"]
    for wrong in ([], ["costs"], ["cost", "256x32x8"]):
        with pytest.raises(ValueError, match=r"must be some of \['cost', 'fidelity'\]"):
            gradients.parse(wrong)


def test_buckets_leave_out_tokens_and_change_no_picks(monkeypatch):
    assert 0 < buckets.lengths(500, 1.0, 0).max() <= buckets.LENGTH
    monkeypatch.setattr(buckets, "STEPS", 2)
    coarse, fine = (buckets.tokens_cut(buckets.WIDTHS[name], 1.0, 1) for name in ("2", "16"))
    assert 0.2 < coarse < fine < 0.5
    monkeypatch.setattr(buckets, "UPDATES", 2)
    monkeypatch.setattr(buckets, "LENGTH", 64)
    monkeypatch.setattr(buckets, "lengths", lambda count, *_: np.arange(count) * 48 // count + 16)
    settings = step_settings()
    # A microbatch is as wide as its longest row.
    settings = dataclasses.replace(
        settings,
        features=dataclasses.replace(settings.features, microbatch=2),
        training=dataclasses.replace(settings.training, microbatch=2),
    )
    data = dataclasses.replace(settings.data, length=64, buckets=(32,))
    cut = dataclasses.replace(settings, data=data)
    whole = dataclasses.replace(settings, data=dataclasses.replace(data, buckets=()))
    found = buckets.compare_updates(whole, cut)
    assert found["same_picks"] == found["updates"] == 2
    assert found["largest_loss_difference"] < 1e-5
    assert found["tokens_cut"] > 0.0


def test_the_data_suite_prepares_and_reads(monkeypatch):
    rows = 2_000
    monkeypatch.setattr(data, "SPLITS", {"validation": 8, "test": 4, "seed": 0})
    monkeypatch.setattr(data, "ANCHORS", 8)
    numbers, markdown = answer(lambda: [data.prepare_all([rows, rows + 1_000, rows])])
    prepared = numbers["preparations"]
    assert {name: found["runs"] for name, found in prepared.items()} == {"2000": 2, "3000": 1}
    assert prepared["2000"]["growth_bytes_per_row"] is None
    assert all(found["peak_bytes"] >= found["before_bytes"] > 0 for found in prepared.values())
    assert len(cells(markdown)) == 2
    for name, value in {"READ_ROWS": rows, "STEPS": 2, "WORKERS": (0,), "POOL": 32}.items():
        monkeypatch.setattr(data, name, value)
    monkeypatch.setattr(data, "LEARNT_FROM", 200)
    numbers, _ = answer(lambda: [data.read_all(2)])
    kinds = numbers["readings"]["kinds"]
    assert [(kind["template"], kind["runs"]) for kind in kinds] == [("alpaca", 2), ("chat", 2)]
    assert all(100 < kind["tokens"] < 512 for kind in kinds)


def test_the_loading_suite_measures_memory_beside_the_weights(monkeypatch):
    config = models.DecoderConfig(
        vocab_size=4000, layers=2, width=64, mlp_width=128, heads=4, kv_heads=2, head_dim=16
    )
    monkeypatch.setattr(loading, "MODEL", config)
    monkeypatch.setattr(loading, "SHARD_BYTES", 200_000)
    numbers, markdown = answer(loading.run, Options(repeats=2))
    found = numbers["loadings"]
    assert set(found) == {"bfloat16", "float32"}
    weights = sum(math.prod(tensor.shape) for tensor in names.tensors(config))
    assert found["bfloat16"]["weights_bytes"] == 2 * weights
    assert found["float32"]["weights_bytes"] == 4 * weights
    for one in found.values():
        assert one["resident_bytes"] >= 0 <= one["own_bytes"]
        assert one["runs"] == 2
    assert numbers["largest_shard_bytes"] >= 2 * 4000 * 64
    assert "over largest shard" in markdown


def test_memory_that_was_taken_meanwhile_is_seen():
    before = loading.memory()
    with loading.sampled() as peak:
        block = np.ones(30_000_000)
        time.sleep(0.2)
    assert peak["own"] - before["own"] > 0.9 * block.nbytes
    assert peak["resident"] >= peak["own"]


def test_a_device_computes_the_same_however_many_there_are(monkeypatch):
    monkeypatch.setattr(scaling, "LENGTH", 16)
    (alone, little), (total, selection) = (
        scaling.flops(devices, "shard_map", split=True) for devices in (1, 8)
    )
    # The Gram matrix grows with the square of the pool.
    assert selection > 30 * little > 0
    assert total - selection == pytest.approx(alone - little, rel=0.02)
