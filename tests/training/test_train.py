"""Whole runs: what they write, that they resume exactly, and what they refuse to overwrite."""

import json
import shutil

import numpy as np
import pytest
from etils import epath

from partitionsel_jax import training
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.step.state import is_sound
from partitionsel_jax.training import loop, records
from partitionsel_jax.training import setup as run_setup
from tests.tiny_runs import rows, without_seconds


def test_a_run_writes_one_row_an_update_and_replayable_picks(finished):
    summary, folder, config = finished
    metrics, selections = rows(folder, "metrics.jsonl"), rows(folder, "selections.jsonl")
    assert [row["step"] for row in metrics] == list(range(9))
    assert [row["step"] for row in selections] == list(range(1, 9))
    assert [row["step"] for row in metrics if "validation_loss" in row] == [0, 4, 8]
    for row, picked in zip(metrics[1:], selections, strict=True):
        assert sum(row["selected"]) == 8 and sum(row["budgets"]) == 8 and sum(row["pool"]) == 16
        assert all(
            pick <= budget for pick, budget in zip(row["selected"], row["budgets"], strict=True)
        )
        assert len(set(picked["ids"])) == 8
        assert sum(picked["corrupted"]) == row["corrupted_selected"]
        assert sum(picked["gains"]) == pytest.approx(row["utility"], rel=1e-3)
        assert 0 < row["certificate"] <= 1 and row["seconds"]["step"] > 0
        assert row["effective_sample_size"] == pytest.approx(8)
    assert summary["validation_loss"] == metrics[-1]["validation_loss"]
    assert np.mean(summary["validation_loss_per_domain"]) == pytest.approx(
        summary["validation_loss"]
    )
    assert set(summary["test"]["accuracy_per_domain"]) == set(config.data.tasks)
    shares = [summary["seconds"][f"{stage}_share"] for stage in ("features", "selection", "update")]
    assert all(0 <= share <= 1 for share in shares)
    stored = json.loads((folder / "config.json").read_text())
    assert stored["config"]["selection"]["pool"] == 16 and stored["versions"]["jax"]
    assert list((folder / "tensorboard").iterdir())


def test_a_finished_run_is_not_run_again(finished, monkeypatch):
    _, folder, config = finished
    monkeypatch.setattr(run_setup, "prepare", lambda *_: pytest.fail("the run started again"))
    (planned,) = training.expand(config.to_dict())
    assert training.train(planned, folder) == json.loads((folder / "summary.json").read_text())


class Killed(BaseException):
    """Stands in for a signal at a chosen update."""


def interrupt(monkeypatch, at):
    """Ends the next run when the rows of update `at` are about to be written."""
    whole = loop.Recorder.step

    def step(self, number, *rest):
        if number == at:
            raise Killed
        whole(self, number, *rest)

    monkeypatch.setattr(loop.Recorder, "step", step)


@pytest.mark.parametrize("at", [1, 5, 8])
def test_a_stopped_run_continues_to_the_same_records_and_parameters(
    finished, tmp_path, monkeypatch, train, project_log, at
):
    summary, folder, config = finished
    with monkeypatch.context() as patch:
        interrupt(patch, at)
        with pytest.raises(Killed):
            train(config, tmp_path)
    again, _ = train(config, tmp_path)
    assert again["fingerprint"] == summary["fingerprint"]
    assert without_seconds(tmp_path) == without_seconds(folder)
    assert rows(tmp_path, "selections.jsonl") == rows(folder, "selections.jsonl")
    if at > 3:
        assert any("continues after update" in message for message in project_log.messages)


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    finished, tmp_path, train, project_log
):
    summary, folder, config = finished
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "summary.json").unlink()
    newest = tmp_path / "copy" / "checkpoints" / "8"
    largest = max(newest.rglob("*"), key=lambda path: path.stat().st_size)
    broken = bytearray(largest.read_bytes())
    broken[len(broken) // 2] ^= 1
    largest.write_bytes(broken)
    again, _ = train(config, tmp_path / "copy")
    assert any("checkpoints/8 is damaged" in message for message in project_log.messages)
    assert any("continues after update 6" in message for message in project_log.messages)
    kept = [
        path for path in (tmp_path / "copy" / "damaged").rglob("*") if path.name == largest.name
    ]
    assert kept[0].read_bytes() == bytes(broken)
    assert again["fingerprint"] == summary["fingerprint"]
    assert without_seconds(tmp_path / "copy") == without_seconds(folder)


def test_a_run_whose_checkpoints_are_all_damaged_stops_and_keeps_them(finished, tmp_path, train):
    _, folder, config = finished
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "summary.json").unlink()
    for path in (tmp_path / "copy" / "checkpoints").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:5])
    before = (tmp_path / "copy" / "metrics.jsonl").read_text()
    # Again and again: a second start must not take the folder for an empty one.
    for _ in range(2):
        with pytest.raises(ValueError, match=r"none of the checkpoints \[6, 8\] .* can be read"):
            train(config, tmp_path / "copy")
        assert (tmp_path / "copy" / "metrics.jsonl").read_text() == before
        assert (tmp_path / "copy" / "checkpoints" / "8").exists()


def test_another_configs_folder_is_refused_and_untouched(finished, train):
    _, folder, config = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    other = config.copy_and_resolve_references()
    other.selection.ridge = 0.5
    with pytest.raises(
        ValueError, match=r"another config \(selection\.ridge: 0\.0 there, 0\.5 now"
    ):
        train(other, folder)
    other = config.copy_and_resolve_references()
    other.seed = 3
    with pytest.raises(ValueError, match=r"seed: 0 there, 3 now"):
        train(other, folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_picks_and_losses_do_not_depend_on_the_device_count(finished, devices):
    _, folder, config = finished
    several = config.copy_and_resolve_references()
    several.training.devices = devices
    settings = run_settings.parse(several.to_dict())
    setup = run_setup.prepare(settings)
    state, frozen = run_setup.initialise(setup)
    metrics, selections = rows(folder, "metrics.jsonl")[1:], rows(folder, "selections.jsonl")
    for update, (row, picked) in enumerate(zip(metrics, selections, strict=True)):
        sharded = [setup.shard(part) for part in setup.pools[update]]
        state, record = setup.training_step(state, frozen, *sharded, setup.seed, setup.others)
        assert record["ids"].tolist() == picked["ids"]
        for key in ("loss", "pool_loss", "utility", "gradient_norm"):
            np.testing.assert_allclose(record[key], row[key], rtol=1e-5, err_msg=key)


def test_rows_that_the_devices_do_not_divide_are_refused(tiny, train):
    tiny.training.devices = 3
    with pytest.raises(ValueError, match=r"selection\.pool=16 is not divisible by the 3 devices"):
        train(tiny)
    tiny.training.devices = 9
    with pytest.raises(ValueError, match="but there are 8"):
        train(tiny)


def test_a_domain_without_rows_is_refused_and_leaves_no_folder(tiny, train, tmp_path):
    tiny.data.length = 12  # too short for the worked steps of any row of count_bits
    with pytest.raises(ValueError, match=r"expected rows of every domain .* count_bits"):
        train(tiny)
    assert not (tmp_path / "run").exists()


def test_prompts_that_are_cut_are_counted_aloud(tiny, project_log):
    settings = run_settings.parse(tiny.to_dict())
    run_setup.prepare(settings)
    assert any("a prompt cut from the left in data.length=48" in m for m in project_log.messages)


def test_every_run_of_a_plan_is_checked_before_the_first_one_starts(tiny, tmp_path):
    tiny.methods.good = {}
    tiny.methods.bad = {"selection": {"size": 7}}
    tiny.training.devices = 2
    with pytest.raises(ValueError, match=r"selection\.size=7 is not divisible"):
        training.train_all(tiny.to_dict(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_single_runs_and_plans_do_not_mix_in_one_workdir(finished, tiny, tmp_path, train):
    _, folder, _ = finished
    tiny.methods.ours = {}
    with pytest.raises(ValueError, match="holds a single run"):
        training.train_all(tiny.to_dict(), folder)
    (tmp_path / "ours" / "seed0").mkdir(parents=True)
    (tmp_path / "ours" / "seed0" / "config.json").write_text("{}")
    tiny.methods = {}
    with pytest.raises(ValueError, match="holds several runs"):
        train(tiny, tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"loss": np.nan}, {"gradient_norm": np.inf}, {"update_norm": np.nan}, {"selected": [0, 0]}],
)
def test_of_a_non_finite_update_the_picks_alone_are_recorded(tmp_path, change):
    sound = {field: [0.0, 0.0] for field in records.SELECTION_FIELDS}
    sound |= {"ids": [7, 9], "selected": [1, 1], "dropped": 3, "dropped_ids": [-1, 5, 4, 6]}
    sound |= {"loss": 1.0, "gradient_norm": 1.0, "update_norm": 1.0}
    progress = records.Progress("run", total=2, pool=4)
    files = records.Recorder(epath.Path(tmp_path), -1, progress)
    files.step(1, sound, 0.1, None)
    files.step(2, sound | change, 0.1, None)
    files.close()
    assert records.is_sound(sound) and not records.is_sound(sound | change)
    assert bool(is_sound(sound)) and not bool(is_sound(sound | change))
    assert [row["step"] for row in rows(tmp_path, "selections.jsonl")] == [1, 2]
    assert [row["step"] for row in rows(tmp_path, "metrics.jsonl")] == [1]
    said = records.describe_failure(sound)
    assert "picked examples [7, 9]" in said
    assert "3 candidates left out [5, 4, 6]" in said


@pytest.mark.parametrize("utility", ["random", "full", "alignment"])
def test_the_baselines_train_through_the_same_loop(tiny, train, utility):
    tiny.selection.update({"utility": utility, "pool": 8})
    tiny.training.update({"updates": 2, "evaluate_every": 1})
    summary, folder = train(tiny)
    assert len(rows(folder, "metrics.jsonl")) == 3
    assert np.isfinite(summary["validation_loss"])
    if utility == "full":
        assert all(sum(row["selected"]) == 8 for row in rows(folder, "metrics.jsonl")[1:])
