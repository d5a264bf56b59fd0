"""Whether selection pays, by the losses of twins."""

import numpy as np
import pytest

from partitionsel_jax.evaluation import guard

UPDATES = np.arange(10, 101, 10)


def curves(gain, noise=0.0, seed=0):
    """Losses 2 / sqrt(t), that on selected rows as if after `gain` times as many updates."""
    wobble = np.random.default_rng(seed).normal(0, noise, (2, len(UPDATES)))
    return 2 / np.sqrt(gain * UPDATES) + wobble[0], 2 / np.sqrt(UPDATES) + wobble[1]


@pytest.mark.parametrize(
    ("gain", "cost", "pays"), [(2.5, 1.2, True), (1.0, 1.5, False), (1.2, 3.0, False)]
)
def test_what_pays_is_decided_at_equal_cost(gain, cost, pays):
    verdict = guard.judge(UPDATES, *curves(gain), cost)
    assert verdict.pays is pays
    assert (verdict.difference > 0) == pays
    assert verdict.sentence.startswith(
        "selection pays here" if pays else "does not pay: use random"
    )


def test_the_difference_is_that_of_the_curves_at_equal_cost():
    """An oracle: losses that are linear in updates, of which interpolation is exact."""
    updates = np.array([20, 40, 50, 60, 80, 100])
    verdict = guard.judge(updates, 1 - updates / 100, np.ones(6), 1.25)
    differences = updates[2:] / 1.25 / 100
    assert verdict.evaluations == 4
    assert verdict.difference == pytest.approx(differences.mean())
    assert verdict.spread == pytest.approx(differences.std(ddof=1))


@pytest.mark.parametrize("seed", range(5))
def test_noise_as_large_as_the_difference_cannot_be_told(seed):
    verdict = guard.judge(UPDATES, *curves(1.0, noise=0.1, seed=seed), 1.0)
    assert verdict.pays is None
    assert verdict.sentence.startswith("cannot be told (")


@pytest.mark.parametrize(
    ("updates", "selected"),
    [([], []), ([10], [1.0]), ([20, 40, 60, 80], [0.8] * 4), (UPDATES, [np.nan] * len(UPDATES))],
)
def test_too_few_evaluations_or_a_diverged_twin_cannot_be_told(updates, selected):
    verdict = guard.judge(updates, selected, [1.0] * len(updates), 1.0)
    assert verdict.pays is None
    assert "evaluate more often" in verdict.sentence


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="above 0, got 0"):
        guard.judge(UPDATES, *curves(1), 0)
    with pytest.raises(ValueError, match="10 evaluations, 9 and 10"):
        guard.judge(UPDATES, np.ones(9), np.ones(10), 1)
