"""Intervals and paired tests against SciPy, brute force and simulation."""

import itertools

import numpy as np
import pytest
import scipy.stats

from partitionsel_jax.evaluation import statistics


@pytest.mark.parametrize("count", [1, 2, 3, 10, 250])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_shares_have_the_interval_of_wilson(count, confidence):
    for ones in {0, 1, count // 3, count - 1, count}:
        found = statistics.mean_interval([1] * ones + [0] * (count - ones), confidence)
        oracle = scipy.stats.binomtest(ones, count).proportion_ci(confidence, method="wilson")
        np.testing.assert_allclose((found.low, found.high), oracle, rtol=1e-12, atol=1e-15)
        assert found.mean == ones / count


def test_a_share_of_all_or_nothing_ends_at_one_or_zero():
    assert statistics.mean_interval([True] * 7).high == 1.0
    assert statistics.mean_interval(np.zeros(7)).low == 0.0


def test_bootstrap_intervals_are_those_of_all_resamples():
    """Three values have 27 equally likely resamples: their quantiles can be written down."""
    values = [0.0, 0.5, 3.0]
    means = [np.mean(sample) for sample in itertools.product(values, repeat=3)]
    found = statistics.mean_interval(values, 0.8, samples=40_000)
    # 0.1 and 0.9 of 27 lie inside steps of the distribution, where sampling cannot move them.
    exact = np.quantile(means, [0.1, 0.9], method="inverted_cdf")
    np.testing.assert_allclose((found.low, found.high), exact, rtol=1e-12)
    assert found.mean == pytest.approx(3.5 / 3)


def test_bootstrap_intervals_agree_with_scipy():
    values = np.random.default_rng(1).gamma(2.0, size=60)
    found = statistics.mean_interval(values, 0.9)
    oracle = scipy.stats.bootstrap(
        (values,), np.mean, confidence_level=0.9, method="percentile", rng=2
    ).confidence_interval
    np.testing.assert_allclose((found.low, found.high), oracle, atol=0.02)


@pytest.mark.parametrize(
    ("draw", "mean"),
    [
        (lambda generator: generator.normal(1.0, 2.0, 40), 1.0),
        (lambda generator: (generator.random(40) < 0.2).astype(float), 0.2),
    ],
)
def test_intervals_cover_the_true_mean_as_often_as_they_say(draw, mean):
    generator = np.random.default_rng(0)
    intervals = [
        statistics.mean_interval(draw(generator), 0.9, samples=400, seed=trial)
        for trial in range(600)
    ]
    covered = np.mean([found.low <= mean <= found.high for found in intervals])
    # Three standard errors of a share of 0.9 over 600 trials are 0.037.
    assert covered == pytest.approx(0.9, abs=0.037)


def test_one_value_and_equal_values_have_no_spread_to_resample():
    for values in ([0.3], [0.3, 0.3], [2.0] * 5):
        found = statistics.mean_interval(values)
        assert found.low == found.high == pytest.approx(found.mean)


def test_results_are_functions_of_the_arguments():
    values, other = np.random.default_rng(0).normal(size=(2, 20))
    assert statistics.mean_interval(values) == statistics.mean_interval(values)
    assert statistics.mean_interval(values, seed=1) != statistics.mean_interval(values, seed=2)
    assert statistics.paired_bootstrap(values, other) == statistics.paired_bootstrap(values, other)


def test_means_of_many_values_are_resampled_piece_by_piece(monkeypatch):
    values = np.random.default_rng(0).normal(size=50)
    whole = statistics.mean_interval(values, samples=3_000)
    monkeypatch.setattr(statistics, "_CHUNK", 120)
    assert statistics.mean_interval(values, samples=3_000) == pytest.approx(whole)


def test_a_paired_bootstrap_counts_the_resamples_beyond_zero():
    a, b = [1.0, 0.0, 2.0, 0.5], [0.0, 0.5, 0.0, 0.5]
    differences = np.subtract(a, b)
    means = [np.mean(sample) for sample in itertools.product(differences, repeat=4)]
    exact = 2 * np.mean(np.array(means) <= 0)
    found = statistics.paired_bootstrap(a, b, samples=40_000)
    assert found.difference == pytest.approx(2.5 / 4)
    assert found.p_value == pytest.approx(exact, abs=0.01)
    assert found.low <= 0.0 <= found.high
    assert statistics.paired_bootstrap(b, a, samples=40_000).p_value == pytest.approx(
        exact, abs=0.01
    )


def test_pairs_matter_and_not_their_spread_over_questions():
    generator = np.random.default_rng(0)
    hard = generator.normal(0.0, 10.0, 200)
    a, b = hard + generator.normal(0.3, 1.0, 200), hard
    found = statistics.paired_bootstrap(a, b)
    assert found.low > 0.0
    assert found.p_value < 0.01
    assert found.high - found.low < 0.4


def test_few_pairs_cannot_have_a_small_p_value():
    assert statistics.paired_bootstrap([1.0], [0.0]).p_value == 1.0
    assert statistics.paired_bootstrap([1.0, 1.0], [0.0, 0.0]).p_value == 0.5
    assert statistics.paired_bootstrap([1.0] * 5, [0.0] * 5).p_value == 1 / 16


def test_equal_systems_do_not_differ():
    found = statistics.paired_bootstrap([0.5, 1.0, 3.0], [0.5, 1.0, 3.0])
    assert (found.difference, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_p_values_of_equal_systems_are_small_as_often_as_they_say():
    generator = np.random.default_rng(3)
    p_values = [
        statistics.paired_bootstrap(*generator.normal(size=(2, 40)), samples=200, seed=t).p_value
        for t in range(500)
    ]
    assert np.mean(np.array(p_values) <= 0.1) == pytest.approx(0.1, abs=0.04)


@pytest.mark.parametrize(
    ("only_a", "only_b"), [(0, 0), (1, 0), (3, 3), (2, 9), (0, 40), (30, 41), (700, 801)]
)
def test_mcnemar_is_the_exact_test_of_a_fair_coin(only_a, only_b):
    a = [1] * only_a + [0] * only_b + [1, 1, 0]
    b = [0] * only_a + [1] * only_b + [1, 1, 0]
    found = statistics.mcnemar(a, b)
    assert (found.both, found.only_a, found.only_b, found.neither) == (2, only_a, only_b, 1)
    throws = only_a + only_b
    oracle = scipy.stats.binomtest(only_a, throws).pvalue if throws else 1.0
    assert found.p_value == pytest.approx(oracle, rel=1e-9)
    assert statistics.mcnemar(b, a).p_value == found.p_value


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics.mean_interval([]), r"at least one, got the shape \(0,\)"),
        (lambda: statistics.mean_interval([[1.0]]), r"the shape \(1, 1\)"),
        (lambda: statistics.mean_interval([1.0, np.nan]), r"at least one, got .* and \[1.0, nan\]"),
        (lambda: statistics.mean_interval([0.1, 0.2], 1.0), r"confidence in \(0, 1\), got 1.0"),
        (lambda: statistics.mean_interval([0.1, 0.2], samples=0), "at least 1 resample, got 0"),
        (lambda: statistics.paired_bootstrap([], []), "at least one, got"),
        (lambda: statistics.paired_bootstrap([1.0], [1.0, 2.0]), "got 1 and 2 values"),
        (lambda: statistics.paired_bootstrap([np.inf], [1.0]), r"expected a to be .* \[inf\]"),
        (lambda: statistics.mcnemar([], []), "at least one, got"),
        (lambda: statistics.mcnemar([1, 0], [1]), "got 2 and 1 values"),
        (lambda: statistics.mcnemar([1, 0], [1, 0.5]), "expected b to hold 0 and 1 alone, got 0.5"),
    ],
)
def test_what_cannot_be_judged_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
