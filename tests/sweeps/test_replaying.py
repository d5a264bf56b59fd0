"""Recorded picks make the same model again; recorded problems are those the run has solved."""

import json
import shutil

import pytest

from partitionsel_jax import sweeps
from partitionsel_jax.training import compressing
from tests.distributed.launching import ended, environment, start
from tests.tiny_runs import rows


def as_users_compile():
    """Variables of a process whose programs are compiled as outside of tests.

    Without XLA's fusion emitters, two programs round the same products differently.
    """
    variables = environment(1)
    flag = " --xla_cpu_use_fusion_emitters=false"
    return variables | {"XLA_FLAGS": variables["XLA_FLAGS"].replace(flag, "")}


@pytest.fixture(scope="module")
def replayed(corpus_directory, tmp_path_factory):
    """A run, and the same trained again on its picks: both folders, and what the command says."""
    place = tmp_path_factory.mktemp("replayed")
    folders, outputs = (place / "run", place / "again"), []
    changes = {"training.devices": 1}
    train = ("tests.distributed.member", "train", corpus_directory, str(folders[0]))
    replay = ("experiments.replay", f"--run={folders[0]}", f"--workdir={folders[1]}")
    for command in ((*train, json.dumps(changes), "{}"), replay):
        process = start(*command, **as_users_compile())
        with ended([process]):
            outputs.append(process.communicate(timeout=300)[0])
        assert process.returncode == 0, outputs[-1]
    return *folders, outputs[-1]


def test_recorded_picks_give_the_same_parameters_bit_for_bit(replayed):
    folder, place, said = replayed
    assert said.splitlines()[-1].endswith(", bit for bit")
    summary, again = (json.loads((each / "summary.json").read_text()) for each in replayed[:2])
    assert again["fingerprint"] == summary["fingerprint"]  # of the optimizer's state as well
    assert again["validation_loss"] == summary["validation_loss"]
    assert again["test"] == summary["test"]
    assert rows(place, "selections.jsonl") == rows(folder, "selections.jsonl")
    for row, first in zip(rows(place, "metrics.jsonl"), rows(folder, "metrics.jsonl"), strict=True):
        shared = row.keys() & first.keys() - {"seconds", "tokens", "padding", "flops"}
        assert {name: row[name] for name in shared} == {name: first[name] for name in shared}
    assert json.loads((place / "config.json").read_text())["method"].endswith("-replayed")


def test_other_picks_give_other_parameters(finished, tmp_path):
    _, folder, _ = finished
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    picked = rows(other, "selections.jsonl")
    # The last two updates, swapped.
    picked[-1], picked[-2] = {**picked[-2], "step": 8}, {**picked[-1], "step": 7}
    (other / "selections.jsonl").write_text("".join(json.dumps(row) + "\n" for row in picked))
    assert sweeps.train_again(other, tmp_path / "again")["same"] is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda picked: picked[:-1], r"at most 7, or let that run finish"),
        (lambda picked: picked[:3] + picked[4:], r"at most 3"),
        (lambda picked: [row | {"ids": row["ids"][1:]} for row in picked], "update 1 has"),
        (lambda picked: [row | {"ids": [10**6, *row["ids"][1:]]} for row in picked], "8 ids are"),
        (lambda picked: [row | {"domains": [1 - d for d in row["domains"]]} for row in picked],
         "of other domains"),
    ],
)  # fmt: skip
def test_picks_that_do_not_fit_are_refused(finished, tmp_path, change, message):
    _, folder, _ = finished
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    picked = change(rows(folder, "selections.jsonl"))
    (tmp_path / "selections.jsonl").write_text("".join(json.dumps(row) + "\n" for row in picked))
    with pytest.raises(ValueError, match=message):
        sweeps.train_again(tmp_path, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_picks_of_other_examples_are_refused(finished, tmp_path):
    _, folder, _ = finished
    for name in ("config.json", "selections.jsonl"):
        (tmp_path / name).write_text((folder / name).read_text())
    summary = json.loads((folder / "summary.json").read_text())
    summary["origin"]["examples"] = "others"
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ValueError, match="was trained on other examples"):
        sweeps.train_again(tmp_path, tmp_path / "again")


def test_a_utility_scored_on_its_own_problems_picks_what_it_picked(finished, tmp_path):
    _, folder, _ = finished
    found = sweeps.score(folder, tmp_path, ["gradient_matching", "random"], {}, every=3)
    assert found["gradient_matching"]["overlap"] == 1.0
    assert found["random"]["overlap"] < 1.0
    recorded = {row["step"]: row for row in rows(folder, "selections.jsonl")}
    measured = {row["step"]: row for row in rows(folder, "metrics.jsonl")}
    scored = rows(tmp_path, "gradient_matching.jsonl")
    assert [row["step"] for row in scored] == [1, 4, 7]
    for row in scored:
        for name in ("ids", "domains", "corrupted"):
            assert row[name] == recorded[row["step"]][name]
        assert row["utility"] == pytest.approx(measured[row["step"]]["utility"], rel=1e-5)
        assert row["budgets"] == measured[row["step"]]["budgets"]


def test_a_proxy_is_scored_on_the_problems_of_a_run_that_selected_for_itself(finished, tmp_path):
    _, folder, _ = finished
    compressing.compress(tmp_path / "first", run=str(folder), layers=1)
    changes = {"selection.proxy": str(tmp_path / "first")}
    found = sweeps.score(folder, tmp_path / "scores", ["gradient_matching"], changes, every=7)
    assert 0 < found["gradient_matching"]["overlap"] < 1


@pytest.mark.parametrize(
    ("utility", "changes", "message"),
    [
        ("tailor", {}, "did you mean 'taylor'"),
        ("taylor", {"selection.pool": 8}, "selection.pool cannot be changed"),
        ("taylor", {"selection.step_size": 8}, "did you mean 'selection.step_scale'"),
        ("taylor", {"optimizer.learning_rate": 1.0}, "cannot be changed"),
        ("taylor", {"features.anchors_every": 2}, "features.anchors_every=2"),
        ("taylor", {"selection.budgets": "curriculum"}, "change selection.budgets"),
        ("taylor", {"selection.proxy": "nowhere"}, "no model 'nowhere'"),
        ("taylor", {"selection.proxy": "tiny-qwen2.5"}, "reads other ids"),
        ("alignment", {"selection.rule": "residual_random"}, "use rule='greedy'"),
    ],
)
def test_scores_that_make_no_sense_are_refused(finished, tmp_path, utility, changes, message):
    _, folder, _ = finished
    with pytest.raises(ValueError, match=message):
        sweeps.score(folder, tmp_path / "scores", [utility], changes)
    assert not (tmp_path / "scores").exists()


def test_a_folder_above_the_runs_is_refused_by_their_names(tmp_path):
    with pytest.raises(ValueError, match="is not the folder of a run, as it lacks"):
        sweeps.train_again(tmp_path, tmp_path / "again")
