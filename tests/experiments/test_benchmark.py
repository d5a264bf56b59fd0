"""The benchmark command: what it measures is comparable, and what it writes can be read back."""

import dataclasses
import functools
import json
import math
import sys
import time
import types

import jax
import numpy as np
import pytest
from jax.interpreters import partial_eval
from scipy.optimize import nnls

from experiments import suites
from experiments.suites import gradients, loading, measuring, operations, passes, problems
from experiments.suites import selection as suite
from experiments.suites import step as step_suite
from experiments.suites.gradients import chart as gradient_chart
from experiments.suites.gradients import cost as gradient_cost
from experiments.suites.gradients import fidelity, trained
from partitionsel_jax import models
from partitionsel_jax.gradients import Scope, make_sketch
from partitionsel_jax.models.pretrained import names
from tests import commands
from tests.training.conftest import tiny_config

METHODS = {*suite.OURS, *suite.THEIRS, suite.SCIPY}
TINY = problems.Shape(16, 4, 2)


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


def test_another_method_goes_first_in_every_round(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(measuring, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))

    def method(name):
        def run():
            calls.append(name)
            now[0] += 0.004

        return run

    timed = measuring.interleave({name: method(name) for name in "abc"}, repeats=3)
    # The time is that of a call, though a timed run is two of them: 10 ms hold no third.
    assert [timing.median for timing, _ in timed.values()] == [pytest.approx(4.0)] * 3
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
            "error: suite must be one of ['buckets', 'data', 'gradients', 'loading', 'scaling', "
            "'selection', 'step'], got",
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
        problems.parse(["16x4x2", size])


def test_no_sizes_are_not_all_sizes():
    with pytest.raises(ValueError, match="sizes must name at least one"):
        suite.run(sizes=[], repeats=1, large=False)


def test_without_scipy_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r"\[dev\]"):
        suite.run(sizes=["16x4x2"], repeats=1, large=False)


# The gradients suite.

DECODER = models.DecoderConfig(
    vocab_size=50, layers=3, width=16, mlp_width=24, heads=4, kv_heads=2, head_dim=6
)
LORA = models.LoRAConfig(3, 6.0, ("q", "v", "down"))
COST = passes.CostShape(DECODER, LORA, rows=2, tokens=9, last_layers=2, dim=20, product=8)
STEP = passes.StepShape(
    dataclasses.replace(DECODER, layers=1),
    LORA,
    tokens=9,
    microbatch=4,
    pool=8,
    size=2,
    anchors=4,
    domains=2,
    anchors_every=2,
    last_layers=1,
    dim=16,
    shallow=1,
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

    def compile_pass(function, *arguments):
        return passes.Pass(lambda: None, 0.5, traced_products(function, *arguments))

    def time_by_turns(runs, repeats):
        return {
            name: measuring.Timing(*(4 * [number]), repeats) for number, name in enumerate(runs, 1)
        }

    monkeypatch.setattr(passes, "compile_pass", compile_pass)
    monkeypatch.setattr(passes, "time_by_turns", time_by_turns)
    monkeypatch.setattr(passes, "device_peak", lambda: None)


@pytest.mark.parametrize(
    "decoder", [DECODER, dataclasses.replace(DECODER, tied=False, biases=("q", "k", "v"))]
)
def test_the_operations_by_arithmetic_are_those_of_the_programs(traced, decoder):
    # The head is traced once, for one block of tokens: as large as what a row's loss counts.
    decoder = dataclasses.replace(decoder, chunk_tokens=passes.counted(COST.tokens))
    numbers, _ = gradient_cost.run(
        dataclasses.replace(COST, decoder=decoder, rows=1), repeats=1, large=True
    )
    assert len(numbers["rows"]) == 16
    for row in numbers["rows"]:
        assert row["operations"] == row["bytes"], row["method"]


def test_costs_are_relative_to_the_faster_of_two_equal_passes(monkeypatch, traced):
    milliseconds = {
        "forward, lora": 2.0,
        "forward, lora, by logits": 1.0,
        "ordinary, lora": 5.0,
        "ordinary, lora, by logits": 4.0,
    }

    def time_by_turns(runs, repeats):
        return {
            name: measuring.Timing(*(4 * [milliseconds.get(name, 10.0)]), repeats) for name in runs
        }

    monkeypatch.setattr(passes, "time_by_turns", time_by_turns)
    numbers, markdown = gradient_cost.run(COST, repeats=3, large=False)
    json.dumps(numbers, allow_nan=False)
    rows = {row["method"]: row for row in numbers["rows"]}
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
    assert numbers["left_out"] == ["reference: full, all layers"]
    assert "Left out: reference: full, all layers" in markdown
    drawn = cells(markdown)
    assert [row["pass"] for row in drawn] == list(rows)
    assert drawn[1]["ms (median)"] == "1"


def test_a_row_of_the_published_shape_costs_what_its_parameters_say():
    shape = passes.cost_shape()
    cost = operations.RowCost(shape.decoder, models.LoRAConfig(), shape.tokens, 64)
    layers, scores = 30 * 3_538_944, 30 * 4 * 128**2 * 576
    head = 2 * 64 * 576 * 49_152
    assert cost.forward == 2 * 128 * layers + scores + head
    whole = Scope("full", 0, 30)
    assert cost.ordinary(whole) == 3 * (2 * 128 * layers + scores + head) - scores + scores + head
    # No gradient of a matrix is formed: about two thirds.
    assert 0.6 < cost.factored(whole, 1024) / cost.ordinary(whole) < 0.75


def test_the_limit_of_a_step_is_its_features_and_its_update():
    assert step_suite.limit_of(passes.step_shape()) == pytest.approx(0.73, abs=0.02)
    every = dataclasses.replace(STEP, anchors_every=1)
    assert step_suite.limit_of(every) > step_suite.limit_of(STEP)
    # With all rows picked, the update alone costs as much as the whole pool.
    assert step_suite.limit_of(dataclasses.replace(STEP, size=STEP.pool)) > 1.0


def test_a_step_is_judged_by_the_mean_over_steps_that_share_anchors(monkeypatch, traced):
    made = []
    monkeypatch.setattr(step_suite, "_runner", lambda shape, step: made.append)
    monkeypatch.setattr(step_suite, "_compile_seconds", lambda shape: {"1": 2.6, "4": 2.0})
    times = {"PartitionSel": 12.0, "whole pool": 8.0, "independent": 0.01, "alike": 0.03}

    def time_by_turns(runs, repeats):
        for run in runs.values():
            run()
        return {name: measuring.Timing(*(4 * [times[name]]), repeats) for name in runs}

    monkeypatch.setattr(passes, "time_by_turns", time_by_turns)
    shape = dataclasses.replace(STEP, shallow=4)
    numbers, markdown = step_suite.measure(shape, repeats=1)
    json.dumps(numbers, allow_nan=False)
    assert made == [2, 1]
    assert numbers["ratio"] == pytest.approx(6.0 / 8.0)
    assert numbers["ratio_over_limit"] == pytest.approx(0.75 / numbers["limit"])
    assert numbers["selection_share"] == pytest.approx(0.005)
    assert numbers["compile_ratio"] == pytest.approx(1.3)
    assert "0.50%" in markdown


def test_both_steps_run_from_the_first_update_on():
    for step in step_suite.make_steps(STEP).values():
        step_suite._runner(STEP, step)(2)


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
    timed = passes.time_by_turns(runs, 7)
    counts = {"quick": 7, "slow": 5, "long": passes.LEAST_RUNS}
    assert {name: timing.runs for name, timing in timed.items()} == counts
    # The only first call that counts is the long one's.
    assert {name: calls.count(name) for name in calls} == {"quick": 8, "slow": 6, "long": 3}
    assert timed["slow"].median == pytest.approx(4000.0)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    config = tiny_config()
    config.data.directory = str(tmp_path_factory.mktemp("corpora"))
    shape = trained.FidelityShape(
        config.to_dict(),
        updates=2,
        pools=2,
        families=("gaussian", "two_sided"),
        dims=(16, 256),
        seeds=2,
        last_layers=(1,),
        tokens=(24,),
        ages=(2,),
    )
    return shape, *fidelity.run(shape)


def test_fidelity_measures_every_sketch_and_every_cheaper_feature(measured):
    shape, numbers, markdown = measured
    json.dumps(numbers, allow_nan=False)
    assert [(row["family"], row["dim"]) for row in numbers["sketches"]] == [
        (family, dim) for family in shape.families for dim in shape.dims
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


def test_a_sketch_of_whole_gradients_is_that_of_the_reference_path(measured):
    shape, *_ = measured
    model = trained.train(dataclasses.replace(shape, pools=1))
    exact = fidelity._vectors(model, model.parameters)
    direct = make_sketch("gaussian", 16, 1)(jax.numpy.concatenate(exact))
    found = fidelity._vectors(model, model.parameters, family="gaussian", dim=16, seed=1)
    np.testing.assert_allclose(jax.numpy.concatenate(found), direct, rtol=2e-4, atol=1e-5)
    judge = fidelity.Judge(model, 1)
    assert {name: float(value[0]) for name, value in judge(exact, exact).items()} == {
        "gram_error": 0.0,
        "alignment_error": 0.0,
        "pick_overlap": 1.0,
    }


def test_fidelity_is_not_measured_on_a_model_with_adapters():
    config = tiny_config()
    config.lora.rank = 2
    with pytest.raises(ValueError, match=r"lora\.rank must be 0"):
        trained.train(trained.FidelityShape(config.to_dict()))
    with pytest.raises(ValueError, match="ages must be at most updates=3"):
        trained.train(trained.FidelityShape(tiny_config().to_dict(), updates=3))


def test_the_suite_writes_its_chart_where_there_is_one_to_draw(measured, monkeypatch, tmp_path):
    _, numbers, markdown = measured
    monkeypatch.setattr(fidelity, "run", lambda shape: (numbers, markdown))
    monkeypatch.setattr(gradient_cost, "run", lambda shape, **_: ({"rows": []}, "costs"))
    suites.run("gradients", sizes=["cost"], output=str(tmp_path / "cost"))
    assert not (tmp_path / "cost" / "gradients.png").exists()
    suites.run("gradients", output=str(tmp_path / "both"))
    assert (tmp_path / "both" / "gradients.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((tmp_path / "both" / "gradients.json").read_text())
    assert written.keys() == {"facts", "cost", "fidelity"}
    curves = gradient_chart._curves(numbers["sketches"])
    assert curves["gaussian"].x.tolist() == [16, 256]
    means = [row["pick_overlap"]["mean"] for row in numbers["sketches"][2:]]
    assert curves["two_sided"].mean.tolist() == means


def test_parts_of_the_gradients_suite_are_chosen_by_name():
    assert gradients.parse(None) == ("cost", "fidelity")
    assert gradients.parse(["fidelity", " cost"]) == ("cost", "fidelity")
    for wrong in ([], ["costs"], ["cost", "256x32x8"]):
        with pytest.raises(ValueError, match=r"must be some of \['cost', 'fidelity'\]"):
            gradients.parse(wrong)


def test_the_step_suite_has_no_sizes():
    with pytest.raises(ValueError, match=r"no sizes, got .* leave --sizes out"):
        step_suite.run(sizes=["256"], repeats=1, large=False)


def test_the_loading_suite_measures_memory_beside_the_weights(monkeypatch):
    config = models.DecoderConfig(
        vocab_size=4000, layers=2, width=64, mlp_width=128, heads=4, kv_heads=2, head_dim=16
    )
    presets = {"qwen2.5-0.5b": types.SimpleNamespace(config=config)}
    monkeypatch.setattr(loading, "PRESETS", presets)
    monkeypatch.setattr(loading, "SHARD_BYTES", 200_000)
    results = loading.run(sizes=None, repeats=2, large=False)
    found = results.numbers["loadings"]
    assert set(found) == {"bfloat16", "float32"}
    weights = sum(math.prod(tensor.shape) for tensor in names.tensors(config))
    assert found["bfloat16"]["weights_bytes"] == 2 * weights
    assert found["float32"]["weights_bytes"] == 4 * weights
    for one in found.values():
        assert one["resident_bytes"] >= 0 <= one["own_bytes"]
        assert one["runs"] == 2
    assert results.numbers["largest_shard_bytes"] >= 2 * 4000 * 64
    assert "over largest shard" in results.markdown
    with pytest.raises(ValueError, match=r"no sizes, got .* leave --sizes out"):
        loading.run(sizes=["1"], repeats=1, large=False)


def test_memory_that_was_taken_while_watched_is_seen():
    before = loading.Memory.now()
    with loading.watched() as peak:
        block = np.ones(30_000_000)
        time.sleep(0.2)
    assert peak.own - before.own > 0.9 * block.nbytes
    assert peak.resident >= peak.own
