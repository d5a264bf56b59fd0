"""What steps share: anchors, pools, sketches; and the other ways to make features cheaper."""

import dataclasses
import functools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from partitionsel_jax import data, selection
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.distributed import spmd
from partitionsel_jax.step import features, programs
from partitionsel_jax.step.candidates import RowInfo
from partitionsel_jax.step.step import Step
from partitionsel_jax.training import loop
from tests.tiny_runs import tiny_config

LENGTH, POOL, ANCHORS = 10, 16, 4
WITHOUT = (3, 8)  # rows of every pool that have no response token
PER_POOL, ANCHORS_EVERY = 3, 2


def rows(count, seed, without=()):
    rng = np.random.default_rng(seed)
    starts = rng.integers(1, LENGTH - 1, count)
    starts[list(without)] = LENGTH
    return data.Rows(
        tokens=rng.integers(3, 259, (count, LENGTH)).astype(np.int32),
        response=np.arange(LENGTH)[None, :] >= starts[:, None],
        domain=np.arange(count, dtype=np.int32) % 2,
        id=np.arange(count, dtype=np.int32) + 100 * seed,
        corrupted=np.zeros(count, bool),
    )


@functools.cache
def step_of(**changes):
    """A step of the tiny model; fields of `features` and `selection` by name."""
    config = tiny_config()
    config.selection.update({"pool": POOL, "size": 4, "anchors": ANCHORS})
    for name, value in changes.items():
        section = next(
            part for part in (config.features, config.selection, config.training) if name in part
        )
        section[name] = value
    return Step.create(run_settings.parse(config.to_dict()))


@functools.cache
def program(step, devices=1):
    return spmd.Layout.first(devices).map(step.__call__, step.KINDS[:5])


def seen_at(step, number):
    """The pool and the anchors of a step, shared as `data.Pools` shares them."""
    pool = rows(POOL, 1 + number // step.selection.updates_per_pool, WITHOUT)
    return pool, rows(ANCHORS, 51 + number // step.features.anchors_every)


def run(step, updates, devices=1):
    """The states before each update and after the last, and the records."""
    state, frozen = step.initial(1)
    states, records = [state], []
    for number in range(updates):
        parts = [spmd.shard(part, devices) for part in seen_at(step, number)]
        state, record = program(step, devices)(state, frozen, *parts, jnp.int32(0))
        states.append(state)
        records.append(jax.device_get(record))
    return states, records


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


SHARING = {"anchors_every": ANCHORS_EVERY, "updates_per_pool": PER_POOL}


@pytest.fixture(scope="module")
def shared():
    """Six updates of gradient matching: two pools, three times anchors."""
    return run(step_of(**SHARING), 6)


def test_steps_between_use_the_very_same_anchors(shared):
    states, _ = shared
    for number in range(6):
        before, after = states[number].kept.anchors, states[number + 1].kept.anchors
        if number % ANCHORS_EVERY:
            equal(after, before)
        else:
            assert not np.any(after.direction == before.direction)


def test_steps_of_one_pool_use_the_very_same_features_and_no_row_twice(shared):
    states, records = shared
    for number in range(6):
        before, after = states[number].kept, states[number + 1].kept
        if number % PER_POOL:
            equal(after.pool, before.pool)
            assert np.all(after.used >= before.used)
        else:
            assert not np.array_equal(after.pool.losses, before.pool.losses, equal_nan=True)
        picked = [records[i]["indices"] for i in range(number - number % PER_POOL, number + 1)]
        assert np.flatnonzero(after.used).tolist() == sorted(np.concatenate(picked).tolist())


def test_anchors_and_pools_that_are_not_due_are_not_looked_at(shared):
    """Other rows in their place change nothing: in step 5 neither is due, in step 3 the anchors."""
    step, (states, records) = step_of(**SHARING), shared
    _, frozen = step.initial(1)
    for number, fresh_pool in ((5, False), (3, True)):
        pool, _ = seen_at(step, number)
        other = rows(ANCHORS, 99)
        if not fresh_pool:
            pool = pool._replace(tokens=np.where(pool.response, pool.tokens, 7))
        parts = [spmd.shard(part, 1) for part in (pool, other)]
        _, record = program(step)(states[number], frozen, *parts, jnp.int32(0))
        for name in ("ids", "weights", "utility", "pool_loss"):
            np.testing.assert_array_equal(record[name], records[number][name])


def test_a_step_with_all_fresh_equals_a_step_that_shares_nothing(shared):
    states, records = shared
    plain = step_of()
    _, frozen = plain.initial(1)
    parts = [spmd.shard(part, 1) for part in seen_at(step_of(**SHARING), 0)]
    state = dataclasses.replace(states[0], kept=None)
    after, record = program(plain)(state, frozen, *parts, jnp.int32(0))
    np.testing.assert_array_equal(record["ids"], records[0]["ids"])
    for name in ("loss", "utility", "gradient_norm", "pool_loss"):
        np.testing.assert_allclose(record[name], records[0][name], rtol=1e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5),
        after.parameters,
        states[1].parameters,
    )


@pytest.mark.parametrize(
    ("utility", "coupling"),
    [("gradient_matching", "joint"), ("loss", "agnostic"), ("loss", "joint"), ("random", "joint")],
)
def test_every_kind_of_utility_picks_no_row_of_a_pool_twice_and_none_without_response(
    shared, utility, coupling
):
    records = shared[1]
    if utility != "gradient_matching":
        changes = {"utility": utility, "coupling": coupling, "updates_per_pool": PER_POOL}
        records = run(step_of(**changes), 6)[1]
    for first in (0, PER_POOL):
        of_pool = records[first : first + PER_POOL]
        picked = np.concatenate([record["ids"] for record in of_pool])
        assert len(set(picked.tolist())) == 4 * PER_POOL
        assert set(picked // 100) == {1 + first // PER_POOL}
        assert not set(picked % 100) & set(WITHOUT)
        assert [int(record["dropped"]) for record in of_pool] == [len(WITHOUT)] * PER_POOL
        assert all(record["selected"].sum() == 4 for record in of_pool)


def test_two_devices_pick_what_one_picks(shared):
    _, records = run(step_of(**SHARING), 4, devices=2)
    for found, expected in zip(records, shared[1], strict=False):
        assert found["ids"].tolist() == expected["ids"].tolist()
        np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-4)


def records_of(folder):
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    picked = [json.loads(line) for line in (folder / "selections.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in metrics], picked


class Killed(BaseException):
    """Stands in for a signal at a chosen update."""


def test_a_run_stopped_between_fresh_pools_and_anchors_continues_exactly(
    tiny, train, tmp_path, monkeypatch
):
    """It continues after update 4: the pool was new at 3, the anchors at 4, the sketch at 0."""
    tiny.selection.update({"size": 4, "updates_per_pool": 3})
    tiny.features.update({"anchors_every": 2, "sketch_every": 6})
    tiny.training.update({"updates": 7, "evaluate_every": 7, "checkpoint_every": 4})
    expected, whole = train(tiny, tmp_path / "whole")
    step = loop.Recorder.step

    def interrupted(self, number, *rest):
        if number == 6:
            raise Killed
        step(self, number, *rest)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop.Recorder, "step", interrupted)
        train(tiny, tmp_path / "stopped")
    found, stopped = train(tiny, tmp_path / "stopped")
    assert found["fingerprint"] == expected["fingerprint"]
    assert records_of(stopped) == records_of(whole)
    picked = [row["ids"] for row in records_of(whole)[1]]
    for first in (0, 3):
        assert len(set(np.concatenate(picked[first : first + 3]).tolist())) == 12


def test_the_sketch_changes_every_so_many_steps_and_only_then():
    chosen = step_of(sketch_every=3).features
    x = jnp.ones((1, 40))
    sketched = [features.make_sketch(chosen, step, 40)(x) for step in range(7)]
    for number in range(1, 7):
        same = np.array_equal(sketched[number], sketched[number - 1])
        assert same == bool(number % 3)
    for number in (0, 1000):
        constant = features.make_sketch(step_of().features, number, 40)(x)
        np.testing.assert_array_equal(constant, sketched[0])


@pytest.mark.parametrize("tokens", [2, 3, 6, 9])
def test_a_window_keeps_where_the_response_begins_and_what_predicts_it(tokens):
    whole = rows(40, 7)
    cut = jax.jit(features.crop, static_argnums=1)(whole, tokens)
    assert cut.tokens.shape == cut.response.shape == (40, tokens)
    for index in range(40):
        first, place = (int(np.argmax(part.response[index])) for part in (whole, cut))
        assert place >= 1 and cut.response[index, place]
        window = slice(first - place, first - place + tokens)
        np.testing.assert_array_equal(cut.tokens[index], whole.tokens[index, window])
        np.testing.assert_array_equal(cut.response[index], whole.response[index, window])
    np.testing.assert_array_equal(cut.id, whole.id)
    assert features.has_response(cut).all()


@pytest.mark.parametrize("tokens", [0, LENGTH, LENGTH + 1])
def test_a_window_as_long_as_the_row_is_the_row(tokens):
    whole = rows(3, 7)
    assert features.crop(whole, tokens) is whole


def test_a_response_that_is_only_the_first_token_counts_for_nothing():
    response = np.zeros((3, 4), bool)
    response[0, 0] = response[1, 1] = True
    made = rows(3, 1)._replace(response=response)
    assert features.has_response(made).tolist() == [False, True, False]


def test_features_of_a_window_are_those_of_rows_cut_to_it():
    step = step_of(tokens=4)
    state, _ = step.initial(1)
    whole = rows(6, 7, without=(2,))

    @functools.partial(jax.jit, static_argnums=0)
    def compute(tokens, rows):
        settings = dataclasses.replace(step.features, tokens=tokens)
        parameters = state.parameters
        return features.compute_features(
            step.model, step.scope, settings, parameters, rows, step=state.step
        )[0]

    found, expected = compute(4, whole), compute(0, features.crop(whole, 4))
    for name in ("vectors", "losses", "norms"):
        mine, other = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6)
        # A row without a response token has no features at all.
        assert np.isnan(mine).reshape(6, -1).all(axis=1).tolist() == [i == 2 for i in range(6)]


def test_the_update_in_microbatches_is_the_update():
    """Three rows at once of four: the rest is filled up, and the fill must leave no trace."""
    step, pool = step_of(utility="random"), rows(POOL, 1)
    state, frozen = step.initial(1)
    nothing = jnp.zeros(())
    result = selection.Selection(
        indices=jnp.array([5, 0, 11, -1]),
        weights=jnp.array([1.0, 2.0, 0.5, 0.0]),
        utility=nothing,
        certificate=nothing,
        gains=jnp.zeros(4),
        dropped=nothing,
    )
    learned = dataclasses.replace(step.selection, weights="learned")
    (whole, expected), (pieces, found) = (
        spmd.Layout.first(1).map(
            lambda pool, step=changed: step.update(
                state, frozen, pool, spmd.gather(RowInfo.of(pool)), result
            ),
            ("rows",),
        )(spmd.shard(pool, 1))
        for changed in (
            dataclasses.replace(step, selection=learned, microbatch=microbatch)
            for microbatch in (0, 3)
        )
    )
    for name in ("loss", "gradient_norm"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)
    # Adam's first moment is linear in the gradient; its step would only show the sign of it.
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6),
        jax.tree.leaves(pieces.optimizer),
        jax.tree.leaves(whole.optimizer),
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features.path": "fast"}, r"features\.path must be one of \['factored', 'reference'\]"),
        ({"features.preconditioner": "adams"}, r"features\.preconditioner must be .*mean 'adam'"),
        ({"features.microbatch": 0}, r"features\.microbatch must be at least 1"),
        ({"features.anchors_every": 0}, r"features\.anchors_every must be at least 1"),
        ({"features.tokens": -1}, r"features\.tokens must be at least 0"),
        ({"features.sketch_every": -1}, r"features\.sketch_every must be at least 0"),
        ({"features.fidelity_every": -1}, r"features\.fidelity_every must be at least 0"),
        ({"features.fidelity_rows": 1}, r"features\.fidelity_rows must be at least 2"),
        ({"features.family": "identity"}, r"features\.dim=32, .*set features\.dim=0"),
        ({"features.family": "srht"}, r"cannot serve features\.family='srht'.*'two_sided'"),
        ({"features.preconditioner": "adam"}, r"'adam' needs whole gradients: use 'adam_factored'"),
        ({"features.tokens": 1}, r"features\.tokens=1 leaves nothing to predict"),
        ({"features.tokens": 49}, r"features\.tokens=49 exceeds data\.length=48"),
        (
            {"features.sketch_every": 3, "features.anchors_every": 2},
            r"features\.sketch_every=3 must be a multiple of features\.anchors_every=2",
        ),
        (
            {"features.sketch_every": 3, "selection.updates_per_pool": 2},
            r"features\.sketch_every=3 must be a multiple of selection\.updates_per_pool=2",
        ),
        ({"selection.updates_per_pool": 0}, r"selection\.updates_per_pool must be at least 1"),
        (
            {"selection.updates_per_pool": 3},
            r"updates_per_pool=3 updates of 8 picks need more than the 16 candidates",
        ),
        ({"features.parameters": "lora_b"}, r"'lora_b' matches no parameter.*lora\.rank > 0"),
        (
            {"features.preconditioner": "adam_factored", "lora.rank": 2},
            r"follows the optimizer.*set features\.parameters='lora'",
        ),
        (
            {"features.fidelity_every": 2, "features.fidelity_rows": 17},
            r"fidelity_rows=17 exceeds the 16 candidates",
        ),
        ({"training.microbatch": -1}, r"training\.microbatch must be at least 0"),
    ],
)
def test_settings_that_cannot_be_had_are_refused_by_name(tiny, changes, message):
    with tiny.unlocked():
        tiny.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        run_settings.parse(tiny.to_dict())


def test_what_was_kept_before_there_were_moments_is_not_used_with_them():
    """Features of step 0 know no preconditioner; those of step 1 do, and are kept in turn."""
    step = step_of(anchors_every=4, updates_per_pool=4, preconditioner="adam_factored")
    states, records = run(step, 3)
    before, first, second, third = (state.kept for state in states)
    for part in ("pool", "anchors"):
        assert not np.array_equal(getattr(before, part).losses, getattr(first, part).losses)
        assert not np.array_equal(getattr(first, part).losses, getattr(second, part).losses)
        equal(getattr(third, part), getattr(second, part))
    # The rows that step 0 took stay taken.
    picked = np.concatenate([record["indices"] for record in records])
    assert len(set(picked.tolist())) == len(picked)


def test_anchors_without_a_response_are_left_out_and_counted():
    step = step_of()
    state, frozen = step.initial(1)
    pool, found = rows(POOL, 1), {}
    for without in ((), (1, 2), range(ANCHORS)):
        parts = [spmd.shard(part, 1) for part in (pool, rows(ANCHORS, 51, without))]
        _, record = program(step)(state, frozen, *parts, jnp.int32(0))
        found[len(without)] = int(record["anchors_dropped"]), int(sum(record["selected"]))
    # Without any anchor nothing can be told apart, and nothing is picked.
    assert found == {0: (0, 4), 2: (2, 4), ANCHORS: (ANCHORS, 0)}


@pytest.mark.parametrize(
    ("seconds", "calls", "median"), [([9, 0.1, 0.3, 0.1, 0.1, 0.1], 6, 0.1), ([60, 5], 2, 5.0)]
)
def test_a_stage_is_timed_after_a_call_that_may_compile(monkeypatch, seconds, calls, median):
    now, made = [0.0], []

    def stage():
        now[0] += seconds[len(made)]
        made.append(1)

    clock = types.SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr(programs, "time", clock)
    assert programs._seconds(stage) == pytest.approx(median) and len(made) == calls


def test_the_time_of_a_step_is_the_mean_over_those_that_share(monkeypatch):
    step = step_of(**SHARING)
    state, frozen = step.initial(1)
    parts = [spmd.shard(part, 1) for part in seen_at(step, 0)]
    taken = iter([1.0, 2.0, 30.0, 4.0, 14.0, 20.0, 12.0, 4.0])  # selection, update, six steps
    monkeypatch.setattr(programs, "_seconds", lambda function: next(taken))
    monkeypatch.setattr(programs, "_SHARES", {})
    layout = spmd.Layout.first(1)
    shares = programs.stage_shares(step, layout, state, frozen, *parts)
    assert shares == pytest.approx({"features": 11 / 14, "selection": 1 / 14, "update": 2 / 14})
    assert next(taken, None) is None
    # Once for runs that share a program; rows of another length are another one's.
    assert programs.stage_shares(step, layout, state, frozen, *parts) == shares
    longer = [part._replace(tokens=np.pad(part.tokens, ((0, 0), (0, 0), (0, 1)))) for part in parts]
    with pytest.raises(StopIteration):
        programs.stage_shares(step, layout, state, frozen, *longer)
