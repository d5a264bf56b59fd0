"""A proxy selects in the trained model's stead: frozen, or training beside it."""

import dataclasses
import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from partitionsel_jax import models, training
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.distributed import spmd
from partitionsel_jax.models import parameters as trees
from partitionsel_jax.planning import predictions
from partitionsel_jax.step import programs
from partitionsel_jax.step.state import Learner, Others, TrainState, fingerprint
from partitionsel_jax.step.step import Step
from partitionsel_jax.training import starts
from tests.distributed.test_layouts import uneven_rows
from tests.tiny_runs import rows, tiny_config, without_seconds

SMALL = {"layers": 1, "width": 8, "mlp_width": 16, "heads": 2, "kv_heads": 2, "head_dim": 4}
UPDATES = 3


def small_config():
    config = tiny_config()
    config.model.update(SMALL)
    return config


def with_proxy(trains, **changes):
    """The tiny configuration, for which a smaller model selects."""
    config = tiny_config()
    config.selection.update({"proxy": "small", "proxy_trains": trains})
    config.update_from_flattened_dict(changes)
    shape = small_config()
    shape.model.remat = config.model.remat
    proxy = {"model": shape.model.to_dict(), "lora": shape.lora.to_dict()}
    return Step.create(run_settings.parse(config.to_dict() | {"proxy": proxy}), 1), config, proxy


def batches(step):
    return [
        (uneven_rows(step.selection.pool, 10 + n), uneven_rows(step.selection.anchors, 90 + n))
        for n in range(UPDATES)
    ]


@functools.cache
def small_alone(learns):
    """What the small model selects on its own, for a few updates, and its last parameters."""
    step = Step.create(run_settings.parse(small_config().to_dict()))
    state = TrainState.create(step.model.init(jax.random.key(7)), step.transformation)
    program, layout = spmd.Layout.first(1).map(step.__call__, step.KINDS[:5]), spmd.Layout.first(1)
    ids = []
    for pool, anchors in batches(step):
        after, record = program(state, {}, layout.rows(pool), layout.rows(anchors), jnp.int32(0))
        ids.append(record["ids"].tolist())
        state = after if learns else dataclasses.replace(state, step=after.step)
    return ids, state.parameters


@functools.cache
def run(trains, form="pmap", devices=1, split=False):
    """Records, and the last state, of a model for which the small one selects."""
    more = {"training.spmd": form, "training.split_weights": split}
    step, config, proxy = with_proxy(trains, **more, **({"model.remat": "layer"} if split else {}))
    step = Step.create(run_settings.parse(config.to_dict() | {"proxy": proxy}), devices)
    layout = spmd.Layout.first(devices, form, split)
    whole = Step.create(run_settings.parse(small_config().to_dict())).model
    small = whole.init(jax.random.key(7))
    state, frozen = layout.place(step.initial(1, None, small if trains else None))
    others = layout.place(Others(None, {} if trains else small))
    program = layout.map(step.__call__, step.KINDS, returns_first=True)
    records = []
    for pool, anchors in batches(step):
        state, record = program(
            state, frozen, layout.rows(pool), layout.rows(anchors), jnp.int32(0), others
        )
        records.append(jax.device_get(record))
    return records, jax.device_get(state)


def close(found, expected, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), found, expected)


@pytest.mark.parametrize("trains", [False, True])
def test_a_proxy_selects_what_it_selects_for_itself(trains):
    records, state = run(trains)
    ids, last = small_alone(trains)
    assert [record["ids"].tolist() for record in records] == ids
    assert (state.proxy is not None) == trains
    if trains:
        close(state.proxy.parameters, last, rtol=1e-5, atol=1e-6)


def test_the_target_trains_on_those_rows_and_never_selects():
    """An oracle: plain AdamW on the selected rows."""
    records, state = run(False)
    step, _, _ = with_proxy(False)
    parameters, optimizer = state_of(step)

    @jax.jit
    def update(parameters, optimizer, tokens, response):
        def loss(parameters):
            return models.response_loss(
                step.model.apply(parameters, tokens), tokens, response
            ).mean()

        gradient = jax.grad(loss)(parameters)
        changes, optimizer = step.transformation.update(
            gradient, optimizer, parameters, norm=optax.tree.norm(gradient)
        )
        return optax.apply_updates(parameters, changes), optimizer

    for (pool, _), record in zip(batches(step), records, strict=True):
        place = [pool.id.tolist().index(number) for number in record["ids"]]
        parameters, optimizer = update(
            parameters, optimizer, pool.tokens[place], pool.response[place]
        )
    close(state.parameters, parameters, rtol=1e-3, atol=2e-4)


def state_of(step):
    state, _ = step.initial(1)
    return state.parameters, state.optimizer


@pytest.mark.parametrize(
    ("form", "devices", "split"),
    [("pmap", 4, False), ("shard_map", 8, False), ("shard_map", 2, True)],
)
def test_picks_and_updates_do_not_depend_on_the_layout(form, devices, split):
    expected, state = run(True)
    found, other = run(True, form, devices, split)
    for one, two in zip(expected, found, strict=True):
        assert one["ids"].tolist() == two["ids"].tolist()
        np.testing.assert_allclose(one["loss"], two["loss"], rtol=1e-5)
    close(other.proxy.parameters, state.proxy.parameters, rtol=1e-3, atol=1e-4)


def test_both_updates_are_applied_or_neither():
    step, _, _ = with_proxy(True)
    small = Step.create(run_settings.parse(small_config().to_dict())).model.init(jax.random.key(7))
    state, frozen = step.initial(1, None, small)
    # A second moment that overflows spoils the proxy's update, and nothing else.
    broken = jax.tree.map(lambda leaf: leaf, state.proxy.optimizer)
    broken = optax.tree_utils.tree_set(broken, peak_learning_rate=jnp.float32(jnp.inf))
    state = dataclasses.replace(state, proxy=Learner(small, broken))
    layout = spmd.Layout.first(1)
    program = programs.training_step(step, layout)
    kept = jax.device_get(state)
    (pool, anchors), *_ = batches(step)
    after, record = program(
        *(state, frozen, layout.rows(pool), layout.rows(anchors), jnp.int32(0)), Others(None, {})
    )
    assert np.isfinite(record["loss"]) and not np.isfinite(record["proxy_update_norm"])
    assert int(after.step) == -1  # halted: the run stops here
    close(after.parameters, kept.parameters, rtol=0, atol=0)
    close(after.proxy.parameters, kept.proxy.parameters, rtol=0, atol=0)


@pytest.fixture(scope="module")
def small_run(tmp_path_factory, corpus_directory):
    """A finished run of the small model on random rows."""
    config = small_config()
    config.data.directory = corpus_directory
    config.selection.utility = "random"
    config.training.update({"updates": 2, "evaluate_every": 2})
    (planned,) = training.expand(config.to_dict())
    folder = tmp_path_factory.mktemp("small")
    training.train(planned, folder)
    return folder


def planned(tiny, folder, **changes):
    tiny.selection.update({"proxy": str(folder), "proxy_trains": True} | changes)
    tiny.training.update({"updates": 4, "evaluate_every": 2, "checkpoint_every": 2})
    (run,) = training.expand(tiny.to_dict())
    return run


def stop_after_two_updates(run, folder):
    asked = iter([False, False, True])  # before the first update, and after the first two

    class Stop:
        held = training.loop.stopping.NO_STOP.held

        def asked(self):
            return next(asked, False)

    with pytest.raises(SystemExit):
        training.train(run, folder, Stop())


def test_a_run_with_a_proxy_continues_bit_for_bit(tiny, small_run, tmp_path):
    run = planned(tiny, small_run)
    whole = training.train(run, tmp_path / "whole")
    stop_after_two_updates(run, tmp_path / "stopped")
    again = training.train(run, tmp_path / "stopped")
    assert again["fingerprint"] == whole["fingerprint"]
    assert without_seconds(tmp_path / "whole") == without_seconds(tmp_path / "stopped")
    # Whoever evaluates or exports it reads the proxy's state with its own.
    state = starts.load_finished(tmp_path / "whole", "a run").state
    assert int(fingerprint(state)) == whole["fingerprint"]
    ids = [row["ids"] for row in rows(tmp_path / "whole", "selections.jsonl")]
    frozen = planned(tiny, small_run, proxy_trains=False)
    training.train(frozen, tmp_path / "frozen")
    others = [row["ids"] for row in rows(tmp_path / "frozen", "selections.jsonl")]
    assert others[0] == ids[0] and others != ids


def test_flops_count_the_proxy_and_its_updates(tiny, small_run, tmp_path):
    flops = {}
    for name, changes in (("frozen", {"proxy_trains": False}), ("trains", {}), ("self", None)):
        config = tiny.copy_and_resolve_references()
        run = planned(config, small_run, **changes) if changes is not None else None
        if run is None:
            config.selection.update({"proxy": "", "proxy_trains": False})
            (run,) = training.expand(config.to_dict())
        corpus = training.setup.prepare(run.settings)
        from partitionsel_jax.step import costs

        counted = costs.count_flops(run.settings, 1, corpus.validation_rows)
        flops[name] = counted.features, counted.update
    assert flops["frozen"][0] == flops["trains"][0] < flops["self"][0]
    assert flops["frozen"][1] == flops["self"][1] < flops["trains"][1] < 2 * flops["self"][1]


def test_memory_is_planned_for_the_proxy_and_its_optimizer():
    _, frozen, proxy = with_proxy(False)
    _, trains, _ = with_proxy(True)
    found = [
        predictions.memory_of(run_settings.parse(config.to_dict() | {"proxy": proxy}))
        for config in (frozen, trains)
    ]
    small = models.Model(run_settings.parse(small_config().to_dict()).model)
    count = trees.count(jax.eval_shape(small.init, jax.random.key(0)))
    # Alone; and with its gradient and two moments beside it, and some counters.
    assert found[0]["proxy"] * 1e9 == 4 * count
    assert found[1]["proxy"] * 1e9 == pytest.approx(4 * 4 * count, rel=1e-2)


def test_a_proxy_of_other_domains_is_refused(tiny, small_run, tmp_path):
    tiny.data.tasks = {"chain_sum": {"max_terms": 2}, "basic_arithmetic": {}}
    run = planned(tiny, small_run)
    with pytest.raises(ValueError, match="was trained on the domains chain_sum, count_bits"):
        training.train(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_proxy_that_has_learnt_other_rows_is_refused(tiny, small_run, tmp_path):
    same = planned(tiny, small_run).settings
    with pytest.raises(ValueError, match="was trained on other examples than these"):
        starts.check_scored_rows(same, "another fingerprint")
    tiny.data.seed = 3
    with pytest.raises(ValueError, match=r"was trained with data\.seed=0, and this run has 3"):
        training.train(planned(tiny, small_run), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_proxy_that_is_not_there_or_not_asked_is_refused(tiny, small_run, tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        planned(tiny, tmp_path / "nowhere")
    for changes, message in (
        ({"proxy": "", "proxy_trains": True}, "needs a selection.proxy"),
        ({"utility": "random"}, "would choose nothing"),
    ):
        with pytest.raises(ValueError, match=message):
            planned(tiny, small_run, **changes)


def test_a_proxy_that_is_no_smaller_is_warned_about(tiny, finished, tmp_path, project_log):
    starts.check_scorers(planned(tiny, finished[1]).settings)
    assert "does not make selection cheaper" in project_log.text


def write_another_proxy(tiny, folder):
    """Puts a run with another seed into the place of one."""
    other = small_config()
    other.data.directory = tiny.data.directory
    other.selection.utility = "random"
    other.seed = 5
    other.training.update({"updates": 2, "evaluate_every": 2})
    shutil.rmtree(folder)
    (replaced,) = training.expand(other.to_dict())
    training.train(replaced, folder)


def test_a_proxy_whose_files_changed_is_not_gone_on_with(tiny, small_run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(small_run, copy)
    run = planned(tiny, copy, proxy_trains=False)
    stop_after_two_updates(run, tmp_path / "run")
    write_another_proxy(tiny, copy)
    with pytest.raises(ValueError, match=r"weights of selection\.proxy are not what the run"):
        training.train(run, tmp_path / "run")


@pytest.mark.parametrize("trains", [False, True])
def test_runs_that_are_compared_have_the_same_proxy(tiny, small_run, tmp_path, trains):
    copy = tmp_path / "copy"
    shutil.copytree(small_run, copy)
    tiny.repeats = 2
    tiny.selection.update({"proxy": str(copy), "proxy_trains": trains})
    tiny.training.update({"updates": 1, "evaluate_every": 1})
    first, second = training.expand(tiny.to_dict())
    training.train(first, tmp_path / "plan")
    write_another_proxy(tiny, copy)
    with pytest.raises(ValueError, match="is not the model that selected for"):
        training.train(second, tmp_path / "plan")
    assert not (tmp_path / "plan" / second.folder).exists()


def test_a_run_whose_proxy_trained_can_be_read_again(tiny, small_run, tmp_path, project_log):
    summary = training.train(planned(tiny, small_run), tmp_path / "run")
    assert f"selection.proxy={str(small_run)!r}, of " in project_log.text
    assert "optimizers' states included" in project_log.text
    found = starts.load_finished(tmp_path / "run", "run")
    assert int(fingerprint(found.state)) == summary["fingerprint"]


def test_the_trees_of_a_proxy_are_its_whole_parameters(small_run):
    config = tiny_config()
    config.selection.update({"proxy": str(small_run)})
    (run,) = training.expand(config.to_dict())
    trained, fixed = starts.load_proxy(run.settings)
    found = trees.join(fixed, trained)
    shapes = jax.eval_shape(models.Model(*run.settings.chooser).init, jax.random.key(0))
    assert jax.tree.map(np.shape, found) == jax.tree.map(lambda leaf: leaf.shape, shapes)
