"""Studies on disk: what is written is read back, and real runs are kept as they were."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from etils import epath

from configs.reproduce import weights
from partitionsel_jax import reporting, studies, sweeps
from partitionsel_jax.studies import claims, records


def assert_equal(found, expected):
    assert (found.claim, found.about) == (expected.claim, expected.about)
    for name in ("runs", "curves", "accuracies", "trials"):
        one, other = getattr(found, name), getattr(expected, name)
        pd.testing.assert_frame_equal(one, other, check_dtype=False, rtol=1e-5)


def test_studies_are_read_back(methods, noise, tmp_path):
    for study in (methods, noise):
        folder = epath.Path(tmp_path) / study.claim
        records.write(study, folder)
        assert_equal(records.read(folder), study)
        # Whatever was there before.
        curves = study.curves[study.curves["run"] < 2]
        records.write(dataclasses.replace(study, runs=study.runs[:2], curves=curves), folder)
        assert len(records.read(folder).runs) == 2


def test_the_accuracy_is_that_of_all_questions(noise):
    accuracy = noise.results["accuracy"]
    assert accuracy[0] == pytest.approx((3 * 0.5 + 1) / 4) and accuracy[1:].isna().all()


@pytest.mark.parametrize("name", [records.RUNS, records.CURVES, records.TRIALS, records.ABOUT])
@pytest.mark.parametrize("damage", ["gone", "cut", "shorter"])
def test_a_damaged_study_is_refused_by_name(methods, tmp_path, name, damage):
    if (name, damage) == (records.TRIALS, "shorter"):
        pytest.skip("a list of trials cannot be told to be too short")
    folder = epath.Path(tmp_path) / "methods"
    records.write(methods, folder)
    file = folder / name
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        text = file.read_text()
        file.write_text(text[: len(text) // 2])
    else:
        # At the end of a line.
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(lines[:-1] if name in (records.CURVES, records.ABOUT) else ["?\n"]))
    with pytest.raises(ValueError, match=r"methods holds no study that can be read"):
        records.read(folder)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of a claim that tunes, as small as it can be."""
    config = weights.get_config("smoke")
    config.axes.selection = {"weights": ("learned",)}
    config.tune.grid = {"optimizer": {"learning_rate": (1e-3, 2e-3)}}
    config.tune.seeds = (0,)
    root = tmp_path_factory.mktemp("weights")
    assert not sweeps.ablate(config.to_dict(), root).failures
    return root


POINT = ("partitionsel", {"selection.weights": "learned"})


def keep(workdir, folder, scale="bytes", claim="weights", points=(POINT,), **options):
    # The section of this claim compares three kinds of weights.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "shown", lambda study: None)
        return studies.keep(workdir, folder, scale=scale, claim=claim, points=points, **options)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ((), "has, beside those of its config, partitionsel selection.weights='learned'"),
        ((POINT, ("random", {})), r"lacks random \(1 points differ\)"),
        ((("partitionsel", {"selection.weights": "uniform"}),), r"2 points differ"),
    ],
)
def test_a_part_of_a_study_leaves_what_was_kept(workdir, tmp_path, points, said):
    folder = keep(workdir, tmp_path)
    before = (folder / records.RUNS).read_text()
    with pytest.raises(ValueError, match=said):
        keep(workdir, tmp_path, points=points)
    assert (folder / records.RUNS).read_text() == before


def test_runs_are_kept_as_they_were(workdir, tmp_path):
    folder = keep(workdir, tmp_path, hardware="a machine")
    assert folder == epath.Path(tmp_path) / "bytes" / "weights"
    study = studies.read(folder)
    assert study.about["command"].endswith("--config=configs/reproduce/weights.py:seeds=1")
    assert study.about["hardware"] == "a machine"
    (run,), (result,) = reporting.read_runs(workdir), study.results.to_dict("records")
    assert (result["method"], result["selection.weights"]) == ("partitionsel", "learned")
    assert result["validation_loss"] == pytest.approx(run.summary["validation_loss"], rel=1e-5)
    test, answers = run.summary["test"], study.accuracies
    assert result["accuracy"] == pytest.approx(test["accuracy"], rel=1e-5)
    shares = dict(zip(answers["domain"], answers["accuracy"], strict=True))
    assert shares == pytest.approx(test["accuracy_per_domain"], rel=1e-5)
    assert answers["questions"].sum() == sum(test["questions_per_domain"].values())
    mean = np.mean(run.series("conflicting_pairs")[1])
    assert result["conflicting_pairs"] == pytest.approx(mean, rel=1e-5)
    assert result["learning_rate"] == run.config["optimizer"]["learning_rate"]
    flops = run.series("flops")[1].sum()
    assert result["curve"]["flops"].iloc[-1] == pytest.approx(flops, rel=1e-5)
    assert result["config_hash"] == run.facts["config_hash"]
    # One value was chosen, the one that the run has.
    assert set(study.trials["point"]) == {"partitionsel,weights=learned"}
    (chosen,) = study.trials[study.trials["chosen"] == 1].to_dict("records")
    assert len(study.trials) == 2 and chosen["learning_rate"] == result["learning_rate"]
    assert chosen["validation_loss"] == study.trials["validation_loss"].min()


def test_a_study_with_an_open_run_is_refused(workdir, tmp_path):
    (summary,) = workdir.glob("*weights=learned/seed10/summary.json")
    text = summary.read_text()
    summary.unlink()
    try:
        with pytest.raises(ValueError, match=r"1 of 1 runs .* not finished.*learned/seed10"):
            keep(workdir, tmp_path)
    finally:
        summary.write_text(text)


@pytest.mark.parametrize(
    ("scale", "claim", "said"),
    [("huge", "weights", "a scale of"), ("bytes", "wieghts", "a claim of .*got 'wieghts'")],
)
def test_unknown_names_are_refused(tmp_path, scale, claim, said):
    with pytest.raises(ValueError, match=said):
        keep(tmp_path, tmp_path, scale=scale, claim=claim)


def test_a_trial_that_diverged_is_kept_as_infinite(workdir, tmp_path):
    (chosen,) = workdir.glob("tuning/*weights=learned/chosen.json")
    content = json.loads(chosen.read_text())
    content["trials"][0]["validation_loss"] = None
    chosen.write_text(json.dumps(content))
    study = studies.read(keep(workdir, tmp_path))
    assert np.isinf(study.trials["validation_loss"]).sum() == 1
