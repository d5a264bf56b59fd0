"""The headline's numbers against values computed by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from partitionsel_jax import reporting
from partitionsel_jax.reporting import comparison, curves, labels


def _rows(workdir):
    return {row.label: row for row in reporting.headline(reporting.read_runs(workdir))}


@pytest.mark.parametrize(
    ("losses", "target", "expected"),
    [
        ([4.0, 3.0, 1.0], 2.0, 15.0),
        ([4.0, 3.0, 2.0], 2.0, 20.0),
        ([4.0, 2.0, 2.0], 2.0, 10.0),
        ([4.0, 1.0, 3.0], 2.0, 10 * 2 / 3),
        ([1.0, 3.0, 0.5], 2.0, 0.0),
        ([4.0, 3.0, 2.5], 2.0, None),
        ([4.0, math.nan, 1.0], 2.0, 20 * 2 / 3),
        ([math.nan, math.nan, math.inf], 2.0, None),
        ([], 2.0, None),
    ],
)
def test_first_crossing_is_linear_between_evaluations(losses, target, expected):
    x = 10.0 * np.arange(len(losses))
    found = curves.first_crossing(x, np.array(losses), target)
    assert found == (None if expected is None else pytest.approx(expected))


def test_ratios_are_paired_by_seed_then_averaged(tmp_path, write_run):
    # Seed 0: target 2.0 is reached halfway from update 0 to 10; seed 1: target 1.0 at update 10.
    write_run(tmp_path / "r0", losses=(4.0, 3.0, 2.0), step_seconds=0.5)
    write_run(tmp_path / "r1", losses=(4.0, 3.0, 1.0), step_seconds=0.5, seed=1)
    write_run(tmp_path / "p0", "partitionsel", losses=(4.0, 0.0, 0.0), step_seconds=1.0)
    write_run(tmp_path / "p1", "partitionsel", losses=(4.0, 1.0, 0.5), step_seconds=2.0, seed=1)
    rows = _rows(tmp_path)
    assert list(rows) == ["partitionsel", "random"]

    ours = rows["partitionsel"]
    assert ours.baseline == "random"
    assert ours.seeds == (0, 1)
    assert (ours.updates.reached, ours.updates.pairs) == (2, 2)
    assert ours.updates.ratio.mean == pytest.approx((5 / 20 + 10 / 20) / 2)
    assert ours.updates.ratio.std == pytest.approx(np.std([0.25, 0.5], ddof=1))
    assert ours.updates.at == pytest.approx(7.5)
    assert ours.costs["seconds"].ratio.mean == pytest.approx((5 / 10 + 20 / 10) / 2)
    assert ours.target == pytest.approx(1.5)
    assert ours.validation_loss.mean == pytest.approx(0.25)
    assert ours.validation_loss.std == pytest.approx(np.std([0.0, 0.5], ddof=1))
    assert ours.accuracy.mean == pytest.approx(0.3)
    assert ours.seconds_per_update == pytest.approx(1.5)
    assert ours.corrupted_share == pytest.approx(1 / 8)
    assert rows["random"].corrupted_share == pytest.approx(2 / 8)
    assert rows["random"].is_baseline
    assert rows["random"].updates.ratio.mean == 1.0


def test_a_baseline_that_was_there_earlier_is_held_to_it(tmp_path, write_run):
    # random passes its own final loss 2.0 at update 10, so that is what reaching it costs.
    write_run(tmp_path / "r", losses=(4.0, 2.0, 2.0))
    write_run(tmp_path / "p", "partitionsel", losses=(4.0, 0.0, 0.0))
    assert _rows(tmp_path)["partitionsel"].updates.ratio.mean == pytest.approx(5 / 10)


def test_one_seed_has_no_spread(tmp_path, write_run):
    write_run(tmp_path)
    (row,) = reporting.headline(reporting.read_runs(tmp_path))
    assert row.validation_loss == reporting.Spread(2.0, None, 1)


def test_a_target_that_is_not_reached_has_no_ratio(tmp_path, write_run):
    write_run(tmp_path / "r", losses=(4.0, 3.0, 2.0))
    write_run(tmp_path / "p", "partitionsel", losses=(4.0, 3.0, 2.5))
    cost = _rows(tmp_path)["partitionsel"].updates
    # All that it spent is a lower bound of the price.
    pair = reporting.Pair(seed=0, cost=20.0, baseline=20.0, reached=False)
    assert cost == reporting.ToTarget(ratio=None, at=None, reached=0, pairs=1, seeds=(pair,))
    assert cost.median is None and cost.interval is None


def test_seeds_that_do_not_reach_it_are_counted(tmp_path, write_run):
    for seed, last in enumerate((1.0, 2.5)):
        write_run(tmp_path / f"r{seed}", losses=(4.0, 3.0, 2.0), seed=seed)
        write_run(tmp_path / f"p{seed}", "partitionsel", losses=(4.0, 3.0, last), seed=seed)
    cost = _rows(tmp_path)["partitionsel"].updates
    assert (cost.reached, cost.pairs) == (1, 2)
    assert cost.ratio == reporting.Spread(15 / 20, None, 1)
    assert [(p.seed, p.reached) for p in cost.seeds] == [(0, True), (1, False)]
    # A mean that leaves a seed out has no interval, and half of the seeds no median.
    assert cost.interval is None and cost.median is None


def test_seeds_without_a_baseline_run_stay_out_of_the_ratio(tmp_path, write_run):
    write_run(tmp_path / "r0", losses=(4.0, 3.0, 2.0))
    write_run(tmp_path / "p0", "partitionsel", losses=(4.0, 2.0, 1.0))
    write_run(tmp_path / "p7", "partitionsel", losses=(4.0, 3.9, 3.8), seed=7)
    row = _rows(tmp_path)["partitionsel"]
    assert (row.updates.reached, row.updates.pairs) == (1, 1)
    assert row.updates.ratio.mean == pytest.approx(0.5)
    assert row.validation_loss.count == 2


def test_a_baseline_that_learns_nothing_sets_no_target(tmp_path, write_run):
    write_run(tmp_path / "r", losses=(4.0, 4.5, 5.0))
    write_run(tmp_path / "p", "partitionsel", losses=(4.0, 3.0, 2.0))
    assert _rows(tmp_path)["partitionsel"].updates.pairs == 0


def test_unfinished_runs_enter_means_only_while_none_is_finished(tmp_path, write_run):
    write_run(tmp_path / "r0", losses=(4.0, 3.0, 2.0))
    write_run(tmp_path / "p0", "partitionsel", losses=(4.0, 3.0, 1.0))
    write_run(tmp_path / "p1", "partitionsel", losses=(4.0, 3.5), seed=1, finished=False)
    write_run(tmp_path / "g0", "greats", losses=(4.0, 3.0), finished=False)
    rows = _rows(tmp_path)
    assert (rows["partitionsel"].seeds, rows["partitionsel"].unfinished) == ((0,), 1)
    assert rows["partitionsel"].validation_loss == reporting.Spread(1.0, None, 1)
    assert (rows["greats"].seeds, rows["greats"].unfinished) == ((0,), 1)
    assert rows["greats"].validation_loss.mean == 3.0
    assert rows["greats"].updates.pairs == 0
    assert rows["greats"].accuracy is None


def test_without_random_the_first_other_label_is_the_baseline(tmp_path, write_run):
    for method in ("partitionsel", "taylor", "uniprot"):
        write_run(tmp_path / method, method)
    assert {row.baseline for row in _rows(tmp_path).values()} == {"taylor"}


def test_each_method_meets_the_baseline_on_its_own_data(tmp_path, write_run):
    for share, final in ((0.0, 1.0), (0.3, 2.0)):
        for method in ("random", "partitionsel"):
            write_run(
                tmp_path / f"{method}{share}",
                method,
                losses=(4.0, 3.0, final),
                config={"data": {"noise": {"share": share}, "pool_size": len(method)}},
                config_hash=f"{method}{share}",
            )
    data = {"data": {"noise": {"share": 0.5}}}
    write_run(tmp_path / "alone", "greats", config=data)
    rows = _rows(tmp_path)
    assert rows["partitionsel (share=0.0)"].target == 1.0
    assert rows["partitionsel (share=0.3)"].target == 2.0
    assert rows["greats"].baseline is None


def test_a_run_that_diverged_reaches_nothing(tmp_path, write_run):
    write_run(tmp_path / "r", losses=(4.0, 3.0, 2.0))
    write_run(tmp_path / "p", "partitionsel", losses=(4.0, math.nan, math.nan))
    row = _rows(tmp_path)["partitionsel"]
    assert math.isnan(row.validation_loss.mean)
    assert (row.updates.reached, row.updates.pairs) == (0, 1)


def test_headline_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one run"):
        reporting.headline([])


def test_smoothed_shares_are_ratios_of_sums():
    steps = np.arange(1, 7)
    part, whole = np.array([0, 1, 0, 2, 0, 0]), np.array([1, 2, 1, 4, 1, 1])
    shown, shares = curves.share((steps, part), (steps, whole))
    np.testing.assert_array_equal(shown, steps)
    # A window of five steps, cut off at the ends.
    np.testing.assert_allclose(shares, [1 / 4, 3 / 8, 3 / 9, 3 / 9, 2 / 7, 2 / 6])


def test_curves_average_the_steps_that_all_seeds_have(tmp_path, write_run):
    write_run(tmp_path / "a", losses=(4.0, 3.0, 2.0), step_seconds=1.0)
    write_run(tmp_path / "b", losses=(4.0, 2.0), step_seconds=2.0, seed=1)
    runs = reporting.read_runs(tmp_path)
    curve = curves.over_seeds(runs, reporting.Run.evaluations)
    assert curve.x["updates"].tolist() == [0, 10]
    assert curve.mean.tolist() == [4.0, 2.5]
    # Of two seeds, Student's 95 % interval is 12.7 of their standard error, 0.5, either way.
    np.testing.assert_allclose(curve.half, [0.0, 12.7062 * 0.5], rtol=1e-4)
    assert curve.x["seconds"].tolist() == [0, 15]


def test_a_target_is_costed_on_every_axis_that_was_logged(tmp_path, write_run):
    for seed, steps in enumerate((1.0, 2.0, 3.0)):
        write_run(tmp_path / f"r{seed}", losses=(4.0, 3.0, 2.0), seed=seed)
        write_run(
            tmp_path / f"p{seed}",
            "partitionsel",
            losses=(4.0, 4.0 - 2.0 / steps, 0.0),
            seed=seed,
            flops=3e6,
        )
    costs = _rows(tmp_path)["partitionsel"].costs
    updates = np.array([p.cost for p in costs["updates"].seeds])
    # Seed 0 is at the target after 10 updates; the others get there between 10 and 20.
    np.testing.assert_allclose(updates, [10.0, 10 + 10 / 3, 10 + 10 * 4 / 10])
    # A quarter of the 1,000 tokens of an update is padding.
    np.testing.assert_allclose([p.cost for p in costs["tokens"].seeds], 750 * updates)
    np.testing.assert_allclose([p.ratio for p in costs["flops"].seeds], 3 * updates / 20)
    low, high = costs["flops"].interval
    found = stats.t.interval(0.95, 2, np.mean(3 * updates / 20), stats.sem(3 * updates / 20))
    np.testing.assert_allclose((low, high), found)
    assert costs["flops"].median == pytest.approx(3 * updates[1] / 20)


def test_a_median_counts_seeds_that_never_arrive_as_most_expensive(tmp_path, write_run):
    for seed, last in enumerate((1.0, 0.0, 2.5)):
        write_run(tmp_path / f"r{seed}", losses=(4.0, 3.0, 2.0), seed=seed)
        write_run(tmp_path / f"p{seed}", "partitionsel", losses=(4.0, 3.0, last), seed=seed)
    cost = _rows(tmp_path)["partitionsel"].updates
    assert (cost.reached, cost.pairs) == (2, 3)
    # 13.3, 15 and more than 20 of 20 updates.
    assert cost.median == pytest.approx(15 / 20)
    assert cost.interval is None


def test_runs_that_counted_no_operations_have_no_cost_in_them(tmp_path, write_run):
    write_run(tmp_path / "r", flops=None)
    write_run(tmp_path / "p", "partitionsel", losses=(4.0, 2.0, 1.0))
    costs = _rows(tmp_path)["partitionsel"].costs
    assert costs["flops"] == reporting.ToTarget(None, None, 0, 0)
    assert costs["updates"].pairs == 1


def test_runs_validated_on_different_rows_are_kept_apart(tmp_path, write_run):
    for number, rows in enumerate((8, 16)):
        config = {"data": {"validation": rows, "noise": {"share": 0.1 * number}}}
        for method in ("random", "partitionsel"):
            name = f"{method}{rows}"
            write_run(tmp_path / name, method, config=config, config_hash=name)
    # Corrupted training rows and the order of pools leave the validation rows as they are.
    config = {"data": {"validation": 8, "noise": {"share": 0.5}, "mix": "uniform", "workers": 3}}
    write_run(tmp_path / "corrupted", config=config, config_hash="corrupted")
    found = labels.evaluation_sets(reporting.read_runs(tmp_path))
    assert [sorted(run.name for run in runs) for runs in found] == [
        ["corrupted", "partitionsel8", "random8"],
        ["partitionsel16", "random16"],
    ]


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 10, 30])
def test_intervals_are_students(freedom):
    values = np.random.default_rng(freedom).normal(size=freedom + 1)
    low, high = stats.t.interval(0.95, freedom, values.mean(), stats.sem(values))
    assert comparison.spread(values.tolist()).half == pytest.approx((high - low) / 2)
    assert curves.half_width(values) == pytest.approx((high - low) / 2)


def _plan_with_a_small_model(tmp_path, write_run, layers):
    for seed in (1, 2):
        write_run(tmp_path / "random" / f"seed{seed}", "random", seed)
        small = {"method": "small", "seed": seed, "model": {"layers": layers}}
        write_run(tmp_path / "small" / f"seed{seed}", "small", seed, (4.0, 3.5), config=small)
        target = tmp_path / "target" / f"seed{seed}"
        write_run(target, "target", seed, chooser=f"small/seed{seed}")
    return tmp_path


@pytest.mark.parametrize(("layers", "serving"), [(1, ["small"]), (2, [])])
def test_a_model_of_another_shape_that_selects_for_others_is_found(
    tmp_path, write_run, layers, serving
):
    runs = reporting.read_runs(_plan_with_a_small_model(tmp_path, write_run, layers))
    found = labels.serving(runs)
    assert list(found) == serving
    assert all([run.seed for run in group] == [1, 2] for group in found.values())


@pytest.mark.slow
def test_and_it_is_not_compared(tmp_path, write_run):
    report = reporting.build(_plan_with_a_small_model(tmp_path, write_run, 1))
    assert [row.label for row in report.headline] == ["target", "random"]
    assert report.caveats[0] == (
        "small, a model of another shape, selects for others and is not compared. It ends at a "
        "validation loss of 3.5000."
    )
