"""One run with everything that has a memory: curriculum budgets and a reference model."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from partitionsel_jax import training
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.selection import budgets
from partitionsel_jax.training import loop, starts
from partitionsel_jax.training import setup as run_setup
from tests.tiny_runs import tiny_config


def rows(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def without_seconds(folder):
    return [
        {k: v for k, v in row.items() if k != "seconds"} for row in rows(folder, "metrics.jsonl")
    ]


def trained(config, folder):
    (planned,) = training.expand(config.to_dict())
    return training.train(planned, folder)


@pytest.fixture(scope="module")
def reference_run(tmp_path_factory, corpus_directory):
    """A finished run of random picks, whose last parameters are the reference."""
    config = tiny_config()
    config.data.directory = corpus_directory
    config.selection.utility = "random"
    config.training.updates = 3
    folder = tmp_path_factory.mktemp("reference")
    trained(config, folder)
    return folder


@pytest.fixture(scope="module")
def config(reference_run, corpus_directory):
    config = tiny_config()
    config.data.directory = corpus_directory
    config.selection.update({"utility": "reducible_loss", "reference": str(reference_run)})
    config.selection.budgets = "curriculum"
    config.selection.curriculum.update({"decay": 0.5, "blend": 1.0, "floor": 0.2})
    return config


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("curriculum")
    return trained(config, folder), folder


def test_budgets_follow_the_anchor_losses_that_are_logged(finished):
    _, folder = finished
    state, moved = budgets.curriculum_start(2), 0
    for row in rows(folder, "metrics.jsonl")[1:]:
        state = budgets.curriculum_update(state, jnp.array(row["anchor_losses"]), decay=0.5)
        np.testing.assert_allclose(row["anchor_gains"], state.gains, rtol=1e-5)
        pool = jnp.array(row["pool"])
        expected = budgets.curriculum(pool, 8, state, blend=1.0, floor=0.2)
        assert row["budgets"] == row["selected"] == expected.tolist()
        moved += row["budgets"] != budgets.proportional(pool, 8).tolist()
    assert moved > 0


def test_a_stopped_run_continues_with_the_same_curriculum(finished, config, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    whole = loop.Recorder.step

    def step(self, number, *rest):
        if number == 5:
            raise Killed
        whole(self, number, *rest)

    summary, folder = finished
    with monkeypatch.context() as patch:
        patch.setattr(loop.Recorder, "step", step)
        with pytest.raises(Killed):
            trained(config, tmp_path)
    assert trained(config, tmp_path)["fingerprint"] == summary["fingerprint"]
    assert without_seconds(tmp_path) == without_seconds(folder)
    assert rows(tmp_path, "selections.jsonl") == rows(folder, "selections.jsonl")


def test_budgets_and_picks_do_not_depend_on_the_device_count(finished, config):
    _, folder = finished
    several = config.copy_and_resolve_references()
    several.training.devices = 8
    settings = run_settings.parse(several.to_dict())
    setup = run_setup.prepare(settings)
    state, frozen = run_setup.initialise(setup)
    metrics, selections = rows(folder, "metrics.jsonl")[1:], rows(folder, "selections.jsonl")
    for update, (row, picked) in enumerate(zip(metrics, selections, strict=True)):
        sharded = [setup.shard(part) for part in setup.pools[update]]
        state, record = setup.training_step(state, frozen, *sharded, setup.seed, setup.others)
        assert record["ids"].tolist() == picked["ids"]
        assert record["budgets"].tolist() == row["budgets"]
        np.testing.assert_allclose(record["anchor_losses"], row["anchor_losses"], rtol=1e-5)


def load(config, folder):
    config = config.copy_and_resolve_references()
    config.selection.reference = str(folder)
    return starts.load_reference(run_settings.parse(config.to_dict()))


def test_a_reference_that_is_no_finished_run_is_refused(config, reference_run, tmp_path):
    with pytest.raises(ValueError, match=r"is not the folder of a finished run, as it lacks conf"):
        load(config, tmp_path / "nowhere")
    shutil.copytree(reference_run, tmp_path / "copy")
    (tmp_path / "copy" / "summary.json").unlink()
    with pytest.raises(ValueError, match=r"as it lacks summary\.json.*let it finish"):
        load(config, tmp_path / "copy")


def test_a_reference_of_another_model_is_refused(config, reference_run):
    other = config.copy_and_resolve_references()
    other.model.mlp_width = 32
    with pytest.raises(ValueError, match=r"another model \(model\.mlp_width: 24 there, 32 here\)"):
        load(other, reference_run)


def test_a_damaged_reference_is_refused_and_left_as_it_is(config, reference_run, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(reference_run, folder)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"fingerprint": 1}))
    with pytest.raises(ValueError, match=r"does not match the fingerprint in summary\.json"):
        load(config, folder)
    shutil.rmtree(folder / "checkpoints" / "3" / "state")
    before = sorted(folder.rglob("*"))
    with pytest.raises(ValueError, match=r"its last checkpoint .* cannot be read"):
        load(config, folder)
    assert sorted(folder.rglob("*")) == before
