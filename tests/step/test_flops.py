"""Operations of updates: what is counted, and how sharing and buckets change it."""

import dataclasses

import numpy as np
import pytest

from partitionsel_jax import models, training
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.data.rows import Rows
from partitionsel_jax.step import costs
from tests.tiny_runs import rows as logged


def settings_of(config, utility="gradient_matching", **sections):
    config.selection.utility = utility
    for name, changes in sections.items():
        getattr(config, name).update(changes)
    (planned,) = training.expand(config.to_dict())
    return run_settings.parse(planned.config)


@pytest.fixture
def batch():
    half = np.tile(np.arange(48) >= 24, (4, 1))
    nothing = np.zeros(4, np.int32)
    return Rows(np.zeros((4, 48), np.int32), half, nothing, nothing, nothing > 0)


def test_a_whole_update_takes_its_features_and_its_gradient(tiny, batch):
    found = costs.count_flops(settings_of(tiny), 1, batch)
    assert (found.feature_tokens, found.update_tokens) == ((16 + 8) * 48, 8 * 48)
    assert found.of(32 * 48) == found.features + found.update
    # A gradient of all parameters multiplies every weight three times: forward, for the input, and
    # for the weight. Per token, that is six operations for each of them, attention apart.
    matrices = 2 * (16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 24)
    assert found.update > 6 * found.update_tokens * matrices


def test_random_picks_take_the_gradient_alone(tiny, batch):
    random = costs.count_flops(settings_of(tiny, "random"), 1, batch)
    matched = costs.count_flops(settings_of(tiny), 1, batch)
    assert (random.features, random.feature_tokens) == (0.0, 0)
    assert random.of(8 * 48) == random.update == matched.update


def test_losses_take_the_forward_pass_of_the_pool(tiny, batch):
    found = costs.count_flops(settings_of(tiny, "loss"), 1, batch)
    assert found.feature_tokens == 16 * 48
    # The pool is twice the picks, and forward alone is a third of forward and backward.
    assert found.features == pytest.approx(2 / 3 * found.update, rel=0.1)


@pytest.mark.parametrize("size", [1, 4])
def test_one_pass_over_a_pool_costs_what_its_losses_do(tiny, batch, size):
    settings = settings_of(tiny, "loss", features={"microbatch": size})
    pool = costs.count_flops(settings, 1, batch).features
    model = models.Model(settings.model)
    assert 16 // size * costs.count_losses(model, size, 48, 24 / 47) == pool


def test_shared_features_are_not_taken_again(tiny, batch):
    whole = costs.count_flops(settings_of(tiny), 1, batch)
    shared = costs.count_flops(settings_of(tiny, features={"anchors_every": 2}), 1, batch)
    assert dataclasses.astuple(shared) == dataclasses.astuple(whole)
    tokens = whole.update_tokens + 16 * 48
    assert shared.of(tokens) == pytest.approx(whole.update + whole.features * 16 / 24)


def test_buckets_take_their_share_of_the_tokens(tiny, batch):
    found = costs.count_flops(settings_of(tiny, data={"buckets": (24,)}), 1, batch)
    assert found.bucketed
    assert found.of(16 * 48) == pytest.approx((found.features + found.update) / 2)


def test_devices_together_do_the_same_work(tiny, batch):
    one, two = (costs.count_flops(settings_of(tiny), count, batch) for count in (1, 2))
    assert two.update == one.update and two.update_tokens == one.update_tokens
    # Each has to compare all candidates: products of the gathered features.
    assert one.features <= two.features < 1.05 * one.features


def test_a_run_logs_them_with_every_update(finished):
    _, folder, config = finished
    found = [row["flops"] for row in logged(folder, "metrics.jsonl")[1:]]
    whole = costs.count_flops(
        settings_of(config.copy_and_resolve_references()), 1, _validation(config)
    )
    assert len(found) == 8 and set(found) == {whole.features + whole.update}


def test_validation_questions_are_answered_when_it_is_their_turn(finished, tiny, train):
    tiny.training.evaluate_every = 2
    tiny.evaluation.answers_every = 6
    summary, folder = train(tiny)
    answered = [row["step"] for row in logged(folder, "metrics.jsonl") if _accuracy(row)]
    # And after the last.
    assert answered == [6, 8]
    assert summary["fingerprint"] == finished[0]["fingerprint"]


def test_questions_are_answered_where_the_loss_is_known(tiny):
    expected = r"answers_every=3 must be a multiple of training.evaluate_every=4"
    with pytest.raises(ValueError, match=expected):
        settings_of(tiny, evaluation={"answers_every": 3})


def _accuracy(row):
    share = row.get("validation_accuracy")
    return share is not None and 0 <= share <= 1


def _validation(config):
    from partitionsel_jax.training import setup as run_setup

    settings = settings_of(config.copy_and_resolve_references())
    return run_setup.prepare(settings).validation_rows
