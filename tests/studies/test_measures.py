"""Differences and costs against figures worked out by hand, and SciPy."""

import numpy as np
import pytest
from scipy import stats

from partitionsel_jax.studies import measures
from tests.studies.conftest import make_result

LOSS = measures.number("validation_loss")


def test_runs_are_selected_by_method_and_by_the_last_name_of_an_axis():
    runs = [
        make_result("a", seed, 1.0, axes={"selection.size": size})
        for size in (8, 16)
        for seed in (2, 1)
    ]
    runs += [make_result("b", 1, 1.0), make_result("a", 3, 1.0)]
    assert [run.seed for run in measures.select(runs, "a", size=8)] == [1, 2]
    assert [run.seed for run in measures.select(runs, "a")] == [1, 1, 2, 2, 3]
    assert measures.select(runs, "b", size=8) == []
    assert len(measures.select(runs, size=16)) == 2


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_difference_is_that_of_a_paired_t_test(count):
    rng = np.random.default_rng(count)
    a, b = rng.normal(size=(2, count))
    group = [make_result("a", seed, value) for seed, value in enumerate(a)]
    baseline = [make_result("b", seed, value) for seed, value in enumerate(b)]
    found = measures.difference(group, list(reversed(baseline)), LOSS)
    expected = stats.ttest_rel(a, b).confidence_interval()
    np.testing.assert_allclose([found.low, found.high], expected, rtol=1e-9)
    assert found.count == count and found.mean == pytest.approx(np.mean(a - b))
    assert found.sign == (-1 if found.high < 0 else int(found.low > 0))


def test_seeds_without_a_partner_or_a_number_take_no_part():
    group = [make_result("a", seed, 1.0) for seed in (1, 2)]
    group.append(make_result("a", 3, np.nan))
    baseline = [make_result("b", seed, 2.0) for seed in (2, 3, 4)]
    found = measures.difference(group, baseline, LOSS)
    assert (found.mean, found.count, found.sign) == (-1.0, 1, 0)
    assert measures.difference(group, [], LOSS) is None
    assert measures.mean(group, LOSS).count == 2
    assert measures.mean([], LOSS) is None


def test_the_target_costs_what_the_straight_lines_say():
    group = [make_result("a", seed, 0.0, flops=3.0) for seed in (1, 2)]
    baseline = [make_result("b", seed, 2.0) for seed in (1, 2)]
    # From 4 to 2 is half the way to 0: 20 of 40 updates, at three times the price.
    for cost_axis, expected in (("updates", 0.5), ("flops", 1.5), ("seconds", 0.5)):
        assert measures.to_target(group, baseline, cost_axis).median == pytest.approx(expected)
    assert measures.to_target(baseline, group, "updates").median is None
    assert measures.relative_cost(group, baseline, "flops") == pytest.approx(3.0)
    assert np.isnan(measures.relative_cost(group, [], "flops"))


def test_the_loss_at_equal_cost_lies_on_the_curve():
    expensive, cheap = make_result("a", 1, 0.0, flops=4.0), make_result("b", 1, 2.0)
    # A quarter of the updates: 10 of 40, a quarter of the way from 4 to 0.
    assert measures.loss_at_cost({1: cheap}, "flops")(expensive) == pytest.approx(3.0)
    assert measures.loss_at_cost({1: cheap}, "flops")(cheap) == pytest.approx(2.0)
    # What it costs to go on with the cheap one is not known.
    assert np.isnan(measures.loss_at_cost({1: expensive}, "flops")(cheap))
    assert np.isnan(measures.loss_at_cost({2: cheap}, "flops")(expensive))
