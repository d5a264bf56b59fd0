"""Methods that train on the rows which another method of the same plan has selected."""

import json
import shutil

import pytest

from partitionsel_jax import reporting, sweeps
from partitionsel_jax.reporting import wording
from partitionsel_jax.training import plan
from tests.tiny_runs import rows

SMALL = {"layers": 1, "width": 8, "mlp_width": 8, "heads": 1, "head_dim": 8}


@pytest.fixture
def chosen_for(tiny):
    """A small model that selects, and the model of the configuration, which trains on it."""
    tiny.training.update({"updates": 4, "evaluate_every": 2, "checkpoint_every": 2})
    tiny.methods.target = {"selection": {"recorded": "@small"}}
    tiny.methods.small = {"model": SMALL}
    return tiny


def test_a_chooser_is_made_first_and_serves_seed_by_seed(chosen_for):
    chosen_for.repeats = 2
    runs = plan.expand(chosen_for.to_dict())
    assert [run.folder for run in runs] == [
        "small/seed0",
        "small/seed1",
        "target/seed0",
        "target/seed1",
    ]
    assert [run.chooser and run.chooser.folder for run in runs] == [
        None,
        None,
        "small/seed0",
        "small/seed1",
    ]


def test_a_chooser_has_the_values_of_the_axes_that_it_reads(chosen_for):
    chosen_for.methods.random = {"selection": {"utility": "random"}}
    chosen_for.axes.selection = {"ridge": (0.0, 0.1)}
    chosen_for.axes.model = {"width": (16, 32)}
    points = {point.name: point for point in plan.survey(chosen_for.to_dict()).points}
    # The small model sets its own width, and random reads no ridge.
    assert sorted(points) == [
        "random,width=16",
        "random,width=32",
        "small,ridge=0.0",
        "small,ridge=0.1",
        *(f"target,width={width},ridge={ridge}" for width in (16, 32) for ridge in (0.0, 0.1)),
    ]
    for name, point in points.items():
        if name.startswith("target"):
            assert point.chooser is points[f"small,ridge={point.axes['selection.ridge']}"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target.selection.recorded": "@smal"}, "did you mean 'small'"),
        ({"small.selection": {"recorded": "somewhere"}}, "name one that selects"),
        ({"target.selection.recorded": "@target"}, "name one that selects"),
        ({"small.training": {"updates": 3}}, "makes 3 updates, and has training.updates=4"),
        ({"small.selection": {"size": 4}}, "selects 4 rows an update"),
        ({"small.data": {"noise": {"share": 0.5}}}, "data.noise is"),
        ({"small.data": {"tasks": {"count_bits": {"max_n": 99}}}}, "data.tasks is"),
    ],
)
def test_a_chooser_that_does_not_fit_is_refused_before_any_run(chosen_for, changes, message):
    config = chosen_for.to_dict()
    for field, value in changes.items():
        *sections, last = field.split(".")
        section = config["methods"]
        for name in sections:
            section = section[name]
        section[last] = value
    with pytest.raises(ValueError, match=message):
        plan.survey(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target.selection.recorded": "", "target.selection.proxy": "@smal"}, "did you mean"),
        ({"target.selection.proxy": "@other"}, "different methods: let both name the same"),
        (
            {"target.selection.recorded": "", "target.selection.proxy": "@target"},
            "needs another one itself",
        ),
        ({"small.data": {"filter": {"model": "@other", "share": 0.1}}}, "needs another one"),
    ],
)
def test_a_method_that_is_needed_stands_alone(chosen_for, changes, message):
    chosen_for.methods.other = {}
    chosen_for.methods.target.selection.proxy = ""
    chosen_for.methods.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        plan.survey(chosen_for.to_dict())


def test_a_name_of_the_plan_outside_of_methods_is_refused(chosen_for):
    chosen_for.selection.proxy = "@small"
    chosen_for.methods = {}
    with pytest.raises(ValueError, match=r"'@small' stands for a method of config\.methods"):
        plan.survey(chosen_for.to_dict())


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("tunes", [False, True])
def test_parts_of_an_ablation_hold_a_chooser_with_those_that_it_serves(chosen_for, count, tunes):
    chosen_for.repeats = 3
    chosen_for.methods.other = {"selection": {"recorded": "@small"}, "optimizer": {"b1": 0.8}}
    if tunes:
        chosen_for.tune.grid = {"optimizer": {"learning_rate": (1e-3, 2e-3)}}
        chosen_for.tune.seeds = (8,)
        chosen_for.methods.small.optimizer = {"learning_rate": 1e-3}
    seen = []
    for number in range(count):
        made = set()
        for run in sweeps.planned(chosen_for.to_dict(), sweeps.Shard(number + 1, count)):
            assert run.chooser is None or run.chooser.folder in made
            made.add(run.folder)
        seen += made
    # Its own trial serves as many as it chooses for.
    assert len(seen) == len(set(seen)) == (9 + 2 * 2 + 1 if tunes else 9)


def test_the_target_trains_on_the_choosers_rows_and_pays_for_them(chosen_for, tmp_path):
    assert sweeps.ablate(chosen_for.to_dict(), tmp_path) == sweeps.Outcome(2, ())
    small, target = (tmp_path / name / "seed0" for name in ("small", "target"))
    theirs, ours = (rows(folder, "selections.jsonl") for folder in (small, target))
    assert [row["ids"] for row in ours] == [row["ids"] for row in theirs]
    assert json.loads((target / "config.json").read_text())["chooser"] == "small/seed0"
    pairs = list(zip(*(rows(f, "metrics.jsonl")[1:] for f in (small, target)), strict=True))
    for chooser, row in pairs:
        assert row["chooser_flops"] == chooser["flops"]
        assert row["chooser_tokens"] == chooser["tokens"]
        assert row["seconds"]["chooser"] == pytest.approx(chooser["seconds"]["step"])
        assert row["seconds"]["step"] > row["seconds"]["chooser"]
        own = row["flops"] - chooser["flops"]
        # 8 rows of 48 tokens: a forward and a backward pass, 6 operations a parameter at least.
        assert row["tokens"] - chooser["tokens"] == 8 * 48 and own > 6 * 8 * 48 * 2 * 16 * 24
    assert len(pairs) == 4
    share = sum(row["chooser_flops"] for _, row in pairs) / sum(row["flops"] for _, row in pairs)
    report = reporting.build(tmp_path)
    said = f"target trains on rows that small has selected: {100 * share:.3g} % of its FLOPs"
    assert sum(line.startswith(said) for line in report.caveats) == 1
    # The same rows for a second model: what is shared is paid for once.
    shutil.copytree(target, tmp_path / "other" / "seed0")
    file = tmp_path / "other" / "seed0" / "config.json"
    file.write_text(file.read_text().replace('"method": "target"', '"method": "other"'))
    (line,) = (line for line in reporting.build(tmp_path).caveats if "side by side" in line)
    assert line.startswith("small selects for target, other, and each is charged all of it")
    assert line.endswith(f"saves {100 * share / 2:.3g} % of their FLOPs.")


def test_a_chooser_that_failed_is_named_by_those_that_it_would_have_served(
    chosen_for, tmp_path, monkeypatch
):
    from partitionsel_jax.training import loop

    train = loop.train

    def fails(run, *arguments, **more):
        if run.method == "small":
            raise OSError("the disk is full")
        return train(run, *arguments, **more)

    monkeypatch.setattr(loop, "train", fails)
    outcome = sweeps.ablate(chosen_for.to_dict(), tmp_path)
    assert outcome.finished == 0 and len(outcome.failures) == 2
    assert outcome.failures[1] == "target/seed0: small/seed0, which selects for it, has failed"
    monkeypatch.undo()
    (_, run) = plan.expand(chosen_for.to_dict())
    with pytest.raises(ValueError, match="which is not finished"):
        loop.train(run, tmp_path)


def test_recordings_without_costs_are_said_to_be_free_of_no_charge(
    chosen_for, tmp_path, project_log
):
    sweeps.ablate(chosen_for.to_dict(), tmp_path)
    small = tmp_path / "small" / "seed0"
    (small / "metrics.jsonl").unlink()
    config = chosen_for.to_dict() | {"methods": {}}
    config["selection"]["recorded"] = str(small)
    (run,) = plan.expand(config)
    assert run.method == "gradient_matching-joint-recorded"
    from partitionsel_jax.training import loop

    loop.train(run, tmp_path / "again")
    assert "what choosing these rows has cost is not known" in project_log.text
    assert "chooser_flops" not in rows(tmp_path / "again", "metrics.jsonl")[1]


def test_a_proxy_is_made_first_and_its_training_is_paid_for_once(chosen_for, tmp_path):
    chosen_for.evaluation.test = False
    small = {"model": SMALL, "selection": {"utility": "random"}, "training": {"updates": 5}}
    chosen_for.methods = {"target": {"selection": {"proxy": "@small"}}, "small": small}
    assert sweeps.ablate(chosen_for.to_dict(), tmp_path) == sweeps.Outcome(2, ())
    folders = [tmp_path / name / "seed0" for name in ("small", "target")]
    made, ours = (rows(folder, "metrics.jsonl")[1:] for folder in folders)
    first, *others = ours
    assert first["chooser_flops"] == sum(row["flops"] for row in made)
    assert first["flops"] == first["chooser_flops"] + others[0]["flops"]
    assert first["tokens"] == others[0]["tokens"] + sum(row["tokens"] for row in made)
    assert first["seconds"]["chooser"] == pytest.approx(sum(r["seconds"]["step"] for r in made))
    assert len(made) == 5 and not any("chooser_flops" in row for row in others)
    share = 100 * first["chooser_flops"] / sum(row["flops"] for row in ours)
    said = f"target needs small: {share:.3g} % of its FLOPs"
    (line,) = wording.chosen_for({"target": reporting.read_runs(folders[1])})
    assert line.startswith(said)
    # The same as with the folder for a name, and what was selected can be looked at again.
    config = chosen_for.to_dict() | {"methods": {}}
    config["selection"]["proxy"] = str(folders[0])
    (run,) = plan.expand(config)
    from partitionsel_jax.training import loop

    loop.train(run, tmp_path / "named")
    chosen = [row["ids"] for row in rows(folders[1], "selections.jsonl")]
    assert [row["ids"] for row in rows(tmp_path / "named", "selections.jsonl")] == chosen
    means = sweeps.score(folders[1], tmp_path / "scores", ["gradient_matching"], {})
    assert means["gradient_matching"]["overlap"] == 1.0
