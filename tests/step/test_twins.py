"""The guard's twins: copies of the proxy that train on selected rows, and on random ones."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from partitionsel_jax import reporting, training
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.distributed import spmd
from partitionsel_jax.evaluation import guard
from partitionsel_jax.step import costs
from partitionsel_jax.step.state import Others, TrainState
from partitionsel_jax.step.step import Step
from tests.step.test_proxy import (
    batches,
    close,
    run,
    small_alone,
    small_config,
    small_run,
    stop_after_two_updates,
    with_proxy,
)
from tests.tiny_runs import rows, without_seconds

__all__ = ["small_run"]


def guarded(trains, form="pmap", devices=1, split=False, **changes):
    """Records and the last state of a run with a guard."""
    more = {"training.spmd": form, "training.split_weights": split, "selection.guard": True}
    more |= {"model.remat": "layer"} if split else {}
    _, config, proxy = with_proxy(trains, **more, **changes)
    step = Step.create(run_settings.parse(config.to_dict() | {"proxy": proxy}), devices)
    layout = spmd.Layout.first(devices, form, split)
    small = Step.create(run_settings.parse(small_config().to_dict())).model.init(jax.random.key(7))
    state, frozen = layout.place(step.initial(1, None, small))
    others = layout.place(Others(None, {} if trains else small))
    program = layout.map(step.__call__, step.KINDS, returns_first=True)
    records = []
    for pool, anchors in batches(step):
        rows = layout.rows(pool), layout.rows(anchors)
        state, record = program(state, frozen, *rows, jnp.int32(0), others)
        records.append(jax.device_get(record))
    return records, jax.device_get(state)


cached = functools.cache(guarded)


@functools.cache
def small_on_random_rows():
    """Parameters of the small model after training alone by utility `random`."""
    config = small_config()
    config.selection.update({"utility": "random", "swaps": 0})
    step = Step.create(run_settings.parse(config.to_dict()))
    layout = spmd.Layout.first(1)
    state = TrainState.create(step.model.init(jax.random.key(7)), step.transformation)
    program = layout.map(step.__call__, step.KINDS[:5])
    for pool, anchors in batches(step):
        rows = layout.rows(pool), layout.rows(anchors)
        state, _ = program(state, {}, *rows, jnp.int32(0))
    return state.parameters


def test_twins_train_as_the_small_model_alone_does():
    """An oracle each: that which a co-trained proxy is, and a run of the baseline."""
    _, state = cached(True)
    assert state.guard.selected is None
    close(state.proxy.parameters, small_alone(True)[1], rtol=1e-5, atol=1e-6)
    close(state.guard.random.parameters, small_on_random_rows(), rtol=1e-5, atol=1e-6)


def test_a_frozen_proxy_stays_and_its_twins_train():
    records, state = cached(False)
    assert [record["ids"].tolist() for record in records] == small_alone(False)[0]
    assert state.proxy is None
    close(state.guard.random.parameters, small_on_random_rows(), rtol=1e-5, atol=1e-6)
    differ = jax.tree.map(
        lambda a, b: np.abs(a - b).max() > 0,
        state.guard.selected.parameters,
        state.guard.random.parameters,
    )
    assert any(jax.tree.leaves(differ))


def test_twins_do_not_depend_on_the_layout():
    _, expected = cached(False)
    _, found = guarded(False, "shard_map", 2, split=True)
    close(found.guard, expected.guard, rtol=1e-3, atol=1e-4)


def test_a_shared_pool_gives_the_random_twin_no_row_twice():
    size = 2
    _, state = guarded(False, **{"selection.updates_per_pool": 3, "selection.size": size})
    assert int(state.guard.used.sum()) == 3 * size


def test_a_guard_changes_nothing_but_itself_and_the_tokens():
    step, _, _ = with_proxy(True)
    pool, _ = batches(step)[0]
    for without, found in zip(run(True)[0], cached(True)[0], strict=True):
        assert without["ids"].tolist() == found["ids"].tolist()
        np.testing.assert_allclose(without["loss"], found["loss"], rtol=1e-6)
        assert found["tokens"] == without["tokens"] + step.selection.size * pool.tokens.shape[1]


def test_a_guard_needs_a_proxy():
    step, _, _ = with_proxy(False)
    with pytest.raises(ValueError, match=r"name one as selection\.proxy"):
        dataclasses.replace(step.selection, proxy="", guard=True)


def test_a_run_judges_its_selection_and_continues_bit_for_bit(tiny, small_run, tmp_path):
    tiny.training.update({"updates": 8, "evaluate_every": 1, "checkpoint_every": 2})
    tiny.selection.update({"proxy": str(small_run), "guard": True})
    (planned,) = training.expand(tiny.to_dict())
    whole = training.train(planned, tmp_path / "whole")
    stop_after_two_updates(planned, tmp_path / "stopped")
    assert training.train(planned, tmp_path / "stopped")["fingerprint"] == whole["fingerprint"]
    assert without_seconds(tmp_path / "whole") == without_seconds(tmp_path / "stopped")

    logged = rows(tmp_path / "whole", "metrics.jsonl")[1:]
    twins = [[row[name] for row in logged] for name in guard.LOSSES]
    assert twins[0] != twins[1]
    # An oracle of the cost: what a frozen proxy of that size adds to an update on random rows.
    setup = training.setup.prepare(planned.settings)
    counted = costs.twin_costs(planned.settings, 1, setup.validation_rows)
    tiny.selection.update({"guard": False})
    (without,) = training.expand(tiny.to_dict())
    alone = costs.count_flops(without.settings, 1, setup.validation_rows)
    before = logged[0]["chooser_flops"]  # the proxy's own training, spread over the run
    cost = (alone.features + alone.update + before / len(logged)) / alone.update
    assert counted.relative(logged[1]["flops"], before) == pytest.approx(cost)
    verdict = guard.judge([row["step"] for row in logged], *twins, cost)
    assert whole["guard"] == pytest.approx(dataclasses.asdict(verdict))

    report = reporting.build(tmp_path / "whole", tmp_path / "report")
    assert any(verdict.sentence in caveat for caveat in report.caveats)
    assert (tmp_path / "report" / "guard.png").exists()
