"""Series of runs: they share what can be shared, outlive a failure, and can be dealt out."""

import json
import math

import jax
import pytest

from partitionsel_jax import sweeps, training
from partitionsel_jax.distributed import stopping
from partitionsel_jax.step import programs
from partitionsel_jax.training import loop, records
from partitionsel_jax.training import setup as run_setup
from tests.tiny_runs import rows


def test_runs_of_one_program_compile_once_and_are_skipped_when_finished(
    tiny, tmp_path, project_log, monkeypatch
):
    tiny.selection.utility = "random"
    tiny.axes.optimizer = {"clip": (1.0,)}
    tiny.axes.seed = (3, 4)
    programs.training_step.cache_clear()
    outcome = sweeps.ablate(tiny.to_dict(), tmp_path)
    assert outcome == sweeps.Outcome(2, ())
    assert programs.training_step.cache_info().misses == 1
    assert "ablation  1 of 2 runs done, 1 left, ETA 00:0" in project_log.text
    folder = tmp_path / "random-joint,clip=1.0"
    about = json.loads((folder / "seed3" / "config.json").read_text())
    assert about["axes"] == {"optimizer.clip": 1.0} and not about["trial"] and not about["tuned"]
    assert rows(folder / "seed3", "metrics.jsonl") != rows(folder / "seed4", "metrics.jsonl")
    monkeypatch.setattr(run_setup, "prepare", lambda *_: pytest.fail("a run started again"))
    assert sweeps.ablate(tiny.to_dict(), tmp_path) == sweeps.Outcome(2, ())


@pytest.fixture
def trained(monkeypatch):
    """Training replaced by a function of the run, for what is decided around it; all calls."""
    calls = []

    def stand_in(result):
        def train(run, root, stop, is_checked):
            assert is_checked is (run.trial or not run.tuned)
            calls.append(run)
            found = result(run)
            if isinstance(found, BaseException):
                raise found
            return {"validation_loss": found, "seconds": {"train": 1.0}}

        monkeypatch.setattr(loop, "train", train)
        return calls

    return stand_in


@pytest.mark.parametrize(
    "error", [ValueError("no\nroom"), jax.errors.JaxRuntimeError("OOM"), KeyError("a bug")]
)
def test_a_run_that_fails_is_named_and_the_others_go_on(
    tiny, tmp_path, trained, project_log, error
):
    tiny.axes.selection = {"size": (2, 4, 8)}
    calls = trained(lambda run: error if run.axes["selection.size"] == 4 else 1.0)
    outcome = sweeps.ablate(tiny.to_dict(), tmp_path)
    assert len(calls) == 3 and outcome.finished == 2
    (failure,) = outcome.failures
    assert failure.startswith("gradient_matching-joint,size=4/seed0: ")
    assert "2 of 3 runs done, 1 failed" in project_log.text
    # What is no ordinary complaint comes with where it was raised.
    assert ("Traceback" in project_log.text) == (not isinstance(error, ValueError))


def test_a_stop_ends_the_series_and_says_how_far_it_came(tiny, tmp_path, trained, project_log):
    tiny.axes.seed = (1, 2, 3)
    calls = trained(lambda run: stopping.Stopped() if run.seed == 2 else 1.0)
    with pytest.raises(stopping.Stopped):
        sweeps.ablate(tiny.to_dict(), tmp_path)
    assert [run.seed for run in calls] == [1, 2]
    assert "ablation stopped: 1 of 3 runs done" in project_log.text


@pytest.mark.parametrize("count", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("tunes", [False, True])
def test_shards_are_all_runs_each_once(tiny, count, tunes):
    tiny.axes.selection = {"size": (2, 4, 8)}
    tiny.repeats = 2
    if tunes:
        tiny.tune.grid = {"optimizer": {"learning_rate": (1e-3, 2e-3)}}
        tiny.tune.seeds = (8,)
    parts = [
        [run.folder for run in sweeps.planned(tiny.to_dict(), sweeps.Shard(i + 1, count))]
        for i in range(count)
    ]
    whole = [run.folder for run in sweeps.planned(tiny.to_dict())]
    assert [folder for part in parts for folder in part] == whole and len(set(whole)) == (
        12 if tunes else 6
    )
    if not tunes:
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["", "2", "0/4", "5/4", "-1/4", "a/b", "1/0", "1/2/3"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(ValueError, match="expected I/N with I from 1 to N"):
        sweeps.Shard.parse(text)
    assert sweeps.Shard.parse("4/4") == sweeps.Shard(4, 4)


def tuned(tiny):
    tiny.axes.selection = {"utility": ("random", "loss")}
    tiny.tune.grid = {"optimizer": {"learning_rate": (1e-3, 2e-3, 4e-3)}}
    tiny.tune.seeds = (8, 9)
    return tiny.to_dict()


def rate(run):
    return run.config["optimizer"]["learning_rate"]


def test_every_point_runs_with_the_value_of_its_own_lowest_mean_loss(
    tiny, tmp_path, trained, project_log
):
    best = {"random-joint": 2e-3, "loss-joint": 4e-3}
    calls = trained(
        # One seed alone would choose another value.
        lambda run: (
            abs(rate(run) - best[run.method]) + (rate(run) == 1e-3 and run.seed == 8) * -1e-4
        )
    )
    outcome = sweeps.ablate(tuned(tiny), tmp_path)
    assert outcome == sweeps.Outcome(14, ())
    reported = [run for run in calls if not run.trial]
    assert {run.method: rate(run) for run in reported} == best
    assert [run.seed for run in reported] == [0, 0]
    assert all(run.tuned == {"optimizer.learning_rate": best[run.method]} for run in reported)
    assert {run.seed for run in calls if run.trial} == {8, 9}
    chosen = json.loads((tmp_path / "tuning" / "loss-joint" / "chosen.json").read_text())
    assert chosen["chosen"] == {"optimizer.learning_rate": 4e-3} and chosen["seeds"] == [8, 9]
    assert [len(trial["per_seed"]) for trial in chosen["trials"]] == [2, 2, 2]
    assert "loss-joint  optimizer.learning_rate=0.004 is at the end" in project_log.text
    assert "random-joint  optimizer.learning_rate=0.002 is at the end" not in project_log.text


def test_a_trial_that_diverges_is_not_chosen_and_is_no_failure(tiny, tmp_path, trained):
    diverged = records.NonFiniteUpdate("update 3 is not finite")
    trained(lambda run: diverged if rate(run) == 4e-3 else -rate(run))
    outcome = sweeps.ablate(tuned(tiny), tmp_path)
    assert outcome.failures == ()
    chosen = json.loads((tmp_path / "tuning" / "loss-joint" / "chosen.json").read_text())
    assert chosen["chosen"] == {"optimizer.learning_rate": 2e-3}
    assert chosen["trials"][-1]["validation_loss"] is None


def test_nothing_is_reported_of_a_point_whose_trials_failed(tiny, tmp_path, trained):
    calls = trained(
        lambda run: OSError("disk full") if (run.method, run.seed) == ("loss-joint", 9) else 1.0
    )
    outcome = sweeps.ablate(tuned(tiny), tmp_path)
    assert [run.method for run in calls if not run.trial] == ["random-joint"]
    assert len(outcome.failures) == 4
    assert outcome.failures[-1] == "loss-joint: not run, since a trial of it failed"


def test_a_run_that_tunes_leaves_the_test_split_alone(finished):
    _, _, config = finished
    changed = config.to_dict()
    changed["evaluation"]["test"] = False
    (run,) = training.expand(changed)
    settings = run.settings
    setup = run_setup.prepare(settings)
    assert run_setup.answer_test(setup, None, None) is None


def test_programs_are_forgotten_before_memory_has_no_room_for_more(monkeypatch):
    cleared = []
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(True))
    programs.make_room()
    assert not cleared
    monkeypatch.setattr(programs, "MOST_MAPPINGS", 1)
    programs.make_room()
    assert cleared and math.isclose(programs.training_step.cache_info().currsize, 0)
