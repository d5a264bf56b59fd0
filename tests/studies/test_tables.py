"""Differences and costs against figures worked out by hand, and SciPy."""

import numpy as np
import pytest
from scipy import stats

from partitionsel_jax.studies import tables
from tests.studies.conftest import groups_of, make_run, make_study


def test_runs_are_selected_by_method_and_by_the_last_name_of_an_axis():
    made = [
        make_run("a", seed, 1.0, axes={"selection.size": size})
        for size in (8, 16)
        for seed in (2, 1)
    ]
    made += [make_run("b", 1, 1.0), make_run("a", 3, 1.0)]
    runs = make_study("methods", made).results
    assert list(tables.select(runs, "a", size=8).index) == [1, 2]
    assert list(tables.select(runs, "a")["seed"]) == [1, 1, 2, 2, 3]
    assert len(tables.select(runs, "b", size=8)) == 0
    assert len(tables.select(runs, size=16)) == 2
    assert len(tables.select(runs, unknown=16)) == 0


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_difference_is_that_of_a_paired_t_test(count):
    a, b = np.random.default_rng(count).normal(size=(2, count))
    made = [make_run("a", seed, value) for seed, value in enumerate(a)]
    made += [make_run("b", seed, value) for seed, value in reversed(list(enumerate(b)))]
    groups = groups_of(*made)
    found = tables.final(groups["a"], groups["b"])
    expected = stats.ttest_rel(a, b).confidence_interval()
    np.testing.assert_allclose([found.low, found.high], expected, rtol=1e-9)
    assert found.seen == count and found.mean == pytest.approx(np.mean(a - b))
    assert found.sign == (-1 if found.high < 0 else int(found.low > 0))


def test_seeds_without_a_partner_or_a_number_take_no_part():
    made = [make_run("a", seed, 1.0) for seed in (1, 2)]
    made.append(make_run("a", 3, np.nan))
    groups = groups_of(*made, *(make_run("b", seed, 2.0) for seed in (2, 3, 4)))
    found = tables.final(groups["a"], groups["b"])
    assert (found.mean, found.seen, found.pairs, found.sign) == (-1.0, 1, 2, 0)
    assert tables.final(groups["a"], groups["b"][:0]) is None
    assert tables.mean(groups["a"]["validation_loss"]).count == 2
    assert tables.mean(groups["a"]["validation_loss"][:0]) is None


def test_the_target_costs_what_the_straight_lines_say():
    made = [make_run("a", seed, 0.0, flops=3.0) for seed in (1, 2)]
    groups = groups_of(*made, *(make_run("b", seed, 2.0) for seed in (1, 2)))
    ours, theirs = groups["a"], groups["b"]
    # From 4 to 2 is half the way to 0: 20 of 40 updates, at three times the price.
    for cost_axis, expected in (("updates", 0.5), ("flops", 1.5), ("seconds", 0.5)):
        assert tables.to_target(ours, theirs, cost_axis).median == pytest.approx(expected)
    assert tables.to_target(theirs, ours, "updates").median is None
    assert tables.relative_cost(ours, theirs, "flops") == pytest.approx(3.0)
    assert np.isnan(tables.relative_cost(ours, theirs[:0], "flops"))


def test_the_loss_at_equal_cost_lies_on_the_curve():
    groups = groups_of(make_run("a", 1, 0.0, flops=4.0), make_run("b", 1, 2.0))
    expensive, cheap = groups["a"], groups["b"]
    # A quarter of the updates: 10 of 40, a quarter of the way from 4 to 0.
    assert tables.loss_at_cost(expensive, cheap, "flops")[1] == pytest.approx(3.0)
    assert tables.loss_at_cost(cheap, cheap, "flops")[1] == pytest.approx(2.0)
    # What it costs to go on with the cheap one is not known.
    assert np.isnan(tables.loss_at_cost(cheap, expensive, "flops")[1])
    assert np.isnan(tables.loss_at_cost(expensive, cheap[:0], "flops")[1])
