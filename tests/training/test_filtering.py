"""Training rows of high perplexity are left out before a run, and other rows join them."""

import dataclasses
import json
import math
import shutil

import jax
import numpy as np
import pytest

from partitionsel_jax import models, sweeps, training
from partitionsel_jax.distributed import spmd
from partitionsel_jax.training import corpora, filtering
from partitionsel_jax.training import setup as run_setup
from tests.step.test_proxy import SMALL, stop_after_two_updates
from tests.tiny_runs import rows, without_seconds

RANDOM = {"utility": "random"}


def kept_by_hand(losses, domains, share, which):
    """The rows that stay, one domain at a time, by sorting pairs."""
    kept = set()
    for domain in set(domains):
        order = sorted(
            (loss if math.isfinite(loss) else math.inf, row)
            for row, loss in enumerate(losses)
            if domains[row] == domain
        )
        out = min(round(share * len(order)), len(order) - 1)
        low = out // 2 if which == "middle" else 0
        kept |= {row for _, row in order[low : len(order) - out + low]}
    return [row in kept for row in range(len(losses))]


@pytest.mark.parametrize("which", ["lowest", "middle"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.99])
@pytest.mark.parametrize("count", [1, 2, 37])
def test_every_domain_loses_its_share(count, share, which):
    rng = np.random.default_rng(count)
    losses = rng.gamma(2.0, size=count).astype(np.float32).round(1)  # with ties
    losses[rng.random(count) < 0.1] = np.nan
    domains = rng.integers(0, 3, count)
    found = filtering.keep(losses, domains, share, which)
    assert found.tolist() == kept_by_hand(losses, domains, share, which)
    assert set(domains[found]) == set(domains)


@pytest.fixture
def model(tiny):
    (planned,) = training.expand(tiny.to_dict())
    small = models.Model(dataclasses.replace(planned.settings.model, **SMALL))
    return small, small.init(jax.random.key(3)), corpora.load(planned.settings)


@pytest.mark.parametrize(("devices", "form"), [(4, "pmap"), (3, "shard_map")])
def test_scores_are_the_rows_losses_whatever_computes_them(model, devices, form):
    small, parameters, corpus = model
    batch = corpus.train.rows(range(len(corpus.train)))
    expected = small.losses(parameters, batch.tokens, batch.response)
    one, cost = filtering.score(small, parameters, corpus.train, spmd.Layout.first(1), 4)
    np.testing.assert_allclose(one, expected, rtol=1e-5)
    layout = spmd.Layout.first(devices, form)
    found, other = filtering.score(small, parameters, corpus.train, layout, 4)
    assert found.tolist() == one.tolist()
    assert cost["tokens"] == 80 * 48 <= other["tokens"] < 80 * 48 + devices * 4 * 48
    assert other["flops"] / cost["flops"] == other["tokens"] / cost["tokens"]
    assert cost["padding"] == pytest.approx(1 - batch.lengths.mean() / 48)
    assert cost["seconds"]["step"] > 0


@pytest.fixture
def plan_of(tiny):
    """A small model, and methods that need it."""
    tiny.training.update({"updates": 4, "evaluate_every": 2, "checkpoint_every": 2})
    tiny.evaluation.test = False
    tiny.methods.small = {"model": SMALL, "selection": RANDOM, "training": {"updates": 6}}

    def make(**methods):
        tiny.methods.update(methods)
        return tiny

    return make


FILTERED = {"selection": RANDOM, "data": {"filter": {"model": "@small", "share": 0.25}}}


def test_a_filter_leaves_rows_out_and_is_paid_for_once(plan_of, tmp_path):
    config = plan_of(filtered=FILTERED, random={"selection": RANDOM})
    assert sweeps.ablate(config.to_dict(), tmp_path) == sweeps.Outcome(3, ())
    small, filtered, random = (
        rows(tmp_path / name / "seed0", "metrics.jsonl")[1:]
        for name in ("small", "filtered", "random")
    )
    first, *others = filtered
    trained = sum(row["flops"] for row in small)
    (run,) = (run for run in training.expand(config.to_dict()) if run.method == "filtered")
    settings = training.loop._settings(run, tmp_path)
    setup = run_setup.prepare(settings)
    own = filtering.apply(settings, corpora.load(settings), setup.layout)[1]
    assert first["chooser_flops"] == trained + own["flops"] == first["flops"] - others[0]["flops"]
    assert first["tokens"] - others[0]["tokens"] == sum(r["tokens"] for r in small) + 80 * 48
    assert first["seconds"]["chooser"] > sum(row["seconds"]["step"] for row in small)
    assert [row["flops"] for row in others] == [random[0]["flops"]] * 3
    assert not any("chooser_flops" in row for row in others)
    # The highest quarter of each domain is in no pool; the examples are those of every other run.
    whole = corpora.load(settings)
    assert setup.corpus.fingerprint == whole.fingerprint
    assert np.bincount(setup.corpus.train.domains).tolist() == [30, 30]
    left_out = set(whole.train.ids) - set(setup.corpus.train.ids)
    seen = {number for step in range(9) for number in setup.pools[step][0].id.tolist()}
    assert len(seen) > 50 and not seen & left_out
    ids = [row["ids"] for row in rows(tmp_path / "filtered" / "seed0", "selections.jsonl")]
    assert not set(np.ravel(ids).tolist()) & left_out


def test_a_filtered_run_continues_bit_for_bit(plan_of, tmp_path):
    config = plan_of(filtered=FILTERED)
    small, run = training.expand(config.to_dict())
    for name in ("whole", "stopped"):
        training.train(small, tmp_path / name)
    whole = training.train(run, tmp_path / "whole")
    stop_after_two_updates(run, tmp_path / "stopped")
    assert training.train(run, tmp_path / "stopped")["fingerprint"] == whole["fingerprint"]
    folders = [tmp_path / name / "filtered" / "seed0" for name in ("whole", "stopped")]
    assert without_seconds(folders[0]) == without_seconds(folders[1])


def test_a_run_whose_filter_changed_is_not_gone_on_with(plan_of, tmp_path):
    config = plan_of(filtered=FILTERED)
    small, run = training.expand(config.to_dict())
    training.train(small, tmp_path)
    stop_after_two_updates(run, tmp_path)
    config.methods.small.optimizer = {"learning_rate": 0.5}
    (other, _) = training.expand(config.to_dict())
    shutil.rmtree(tmp_path / "small")
    training.train(other, tmp_path)
    with pytest.raises(ValueError, match=r"rows that data\.filter leaves are not what the run"):
        training.train(run, tmp_path)


def test_a_filter_that_leaves_no_pool_or_cannot_read_the_rows_is_refused(plan_of, tmp_path):
    config = plan_of(filtered=FILTERED)
    config.methods.filtered.data.filter.share = 0.9
    small, run = training.expand(config.to_dict())
    training.train(small, tmp_path)
    with pytest.raises(ValueError, match=r"leaves 8 training rows, fewer than selection.pool=16"):
        training.train(run, tmp_path)
    config.methods = {}
    config.data.filter.update({"model": str(tmp_path / "small" / "seed0"), "share": 0.1})
    config.data.tasks = {"chain_sum": {"max_terms": 2}, "basic_arithmetic": {}}
    (run,) = training.expand(config.to_dict())
    with pytest.raises(ValueError, match=r"filter.model=.* was trained on the domains chain_sum"):
        training.train(run, tmp_path / "run")


def prepared(tiny, **changes):
    tiny.update_from_flattened_dict(changes)
    (run,) = training.expand(tiny.to_dict())
    return run_setup.prepare(run.settings)


def test_anchors_join_the_training_rows_or_are_all_there_is(tiny):
    tiny.selection.update({"utility": "random", "pool": 8, "size": 4})
    plain = prepared(tiny)
    both = prepared(tiny, **{"data.train_on": "rows_and_anchors"})
    alone = prepared(tiny, **{"data.train_on": "anchors"})
    train, anchors = (set(part.ids.tolist()) for part in (plain.corpus.train, plain.corpus.anchors))
    assert set(both.corpus.train.ids.tolist()) == train | anchors
    assert set(alone.corpus.train.ids.tolist()) == anchors
    # An epoch of eleven pools has every row once; the pools of anchors hold all of them.
    epoch = np.concatenate([both.pools[step][0].id for step in range(11)])
    assert sorted(epoch.tolist()) == sorted(train | anchors)
    assert set(alone.pools[5][0].id.tolist()) == anchors
    assert plain.corpus.fingerprint == both.corpus.fingerprint == alone.corpus.fingerprint
    found = {"validation": plain.corpus.validation, "test": plain.corpus.test}
    for name, source in found.items():
        assert getattr(alone.corpus, name).ids.tolist() == source.ids.tolist()
    assert not (anchors & set(plain.corpus.validation.ids.tolist()))


def test_too_few_anchors_for_a_pool_are_refused(tiny):
    with pytest.raises(ValueError, match=r"exceeds the 8 rows that data.train_on='anchors' leaves"):
        prepared(tiny, **{"data.train_on": "anchors", "selection.utility": "random"})


def test_a_run_for_one_domain_is_validated_on_it_and_selects_for_it(tiny, train):
    tiny.data.target_domains = ("count_bits",)
    tiny.selection.update({"anchors": 4, "anchor_balance": False, "budgets": "anchors"})
    tiny.training.update({"updates": 2, "evaluate_every": 2})
    summary, folder = train(tiny)
    row = rows(folder, "metrics.jsonl")[-1]
    assert row["validation_loss_per_domain"] == [None, row["validation_loss"]]
    wanted = min(8, row["pool"][1])
    assert row["budgets"] == row["selected"] == [8 - wanted, wanted] and row["pool"][0] > 1
    assert list(summary["test"]["accuracy_per_domain"]) == ["count_bits"]
    # Nothing has changed for the finished run's reader, and a restart finds its own config.
    assert train(tiny, folder)[0] == json.loads((folder / "summary.json").read_text())
