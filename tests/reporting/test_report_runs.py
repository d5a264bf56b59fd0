"""What is read back from run directories, and which runs share a label."""

import csv
import io
import json

import numpy as np
import pytest

from partitionsel_jax import reporting
from partitionsel_jax.reporting import comparison, labels, tables, wording


def test_finds_a_single_run_and_a_tree_of_runs(tmp_path, write_run):
    write_run(tmp_path / "one", seed=3)
    write_run(tmp_path / "tree" / "partitionsel" / "seed0", method="partitionsel")
    write_run(tmp_path / "tree" / "random" / "seed0")
    # What lies below a run belongs to it, and a model's config.json makes no run.
    write_run(tmp_path / "one" / "checkpoints")
    (tmp_path / "tree" / "model").mkdir()
    (tmp_path / "tree" / "model" / "config.json").write_text("{}")

    (single,) = reporting.read_runs(tmp_path / "one")
    assert (single.name, single.label, single.seed) == (".", "random", 3)
    names = [run.name for run in reporting.read_runs(tmp_path / "tree")]
    assert names == ["partitionsel/seed0", "random/seed0"]


@pytest.mark.parametrize("existing", [True, False])
def test_a_workdir_without_runs_is_refused(tmp_path, existing):
    workdir = tmp_path / "empty"
    if existing:
        workdir.mkdir()
    with pytest.raises(ValueError, match=r"no run in .*empty.*metrics\.jsonl"):
        reporting.read_runs(workdir)


def test_damaged_lines_are_skipped_and_counted(tmp_path, write_run):
    directory = write_run(tmp_path, losses=(4.0, 3.0))
    path = directory / "metrics.jsonl"
    good = path.read_bytes()
    bad = [
        b'{"step": 11, "loss"',
        b"[1, 2]",
        b'{"loss": 1.0}',
        b'{"step": "12"}',
        b'{"step": 13, "selected": [1]}',
        b'{"step": 14, "loss": "low"}',
        b'{"step": 15, "seconds": 3}',
        b'{"step": 16, "loss": "\xff\xfe',
    ]
    path.write_bytes(bad[0] + b"\n\n" + good + b"\n".join(bad[1:]))
    (run,) = reporting.read_runs(directory)
    assert run.damaged == len(bad)
    assert [row["step"] for row in run.rows] == list(range(11))


def test_runs_of_before_the_label_noise_was_renamed_are_read(tmp_path, write_run):
    data = {"data": {"spoilt": {"kind": "garbled", "share": 0.3}}}
    directory = write_run(tmp_path, config=data, axes={"data.spoilt.share": 0.3})
    path = directory / "metrics.jsonl"
    old = {"corrupted_selected": "spoilt_picks", "corrupted_pool": "spoilt_pool"}
    text = path.read_text().replace('"selected"', '"picks"')
    for name, was in old.items():
        text = text.replace(f'"{name}"', f'"{was}"')
    path.write_text(text)
    (run,) = reporting.read_runs(directory)
    assert run.config["data"] == {"noise": {"kind": "garbled", "share": 0.3}}
    assert run.axes == {"data.noise.share": 0.3}
    assert comparison.corrupted_share([run]) == 0.25


def test_a_step_logged_twice_keeps_its_last_row(tmp_path, write_run):
    directory = write_run(tmp_path, losses=(4.0, 3.0))
    with (directory / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 5, "loss": 99.0}) + "\n")
    (run,) = reporting.read_runs(directory)
    steps, losses = run.series("loss")
    assert len(steps) == len(set(steps.tolist())) == 10
    assert losses[steps == 5] == [99.0]


def test_a_damaged_last_row_is_made_up_for_by_the_summary(tmp_path, write_run):
    directory = write_run(tmp_path, losses=(4.0, 3.0, 2.0), step_seconds=0.5)
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    (directory / "metrics.jsonl").write_text("\n".join(lines[:-1]) + '\n{"step": 2')
    (run,) = reporting.read_runs(directory)
    steps, losses = run.evaluations()
    assert (steps.tolist(), losses.tolist()) == ([0, 10, 20], [4.0, 3.0, 2.0])
    # The lost step counts as a median step.
    np.testing.assert_allclose(run.spent_at(steps, "seconds"), [0.0, 5.0, 10.0])


def test_nulls_are_not_logged_values(tmp_path, write_run):
    write_run(tmp_path, method="random")
    (run,) = reporting.read_runs(tmp_path)
    assert len(run.series("utility")[0]) == 0
    assert run.series("budgets")[1].shape == (0, 4)
    assert run.series("selected")[1].shape == (20, 4)


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
def test_unreadable_json_is_refused_by_its_path(tmp_path, write_run, name):
    write_run(tmp_path)
    (tmp_path / name).write_text('{"config": ')
    with pytest.raises(ValueError, match=f"{name} is no valid JSON"):
        reporting.read_runs(tmp_path)


def test_a_config_of_something_else_is_refused(tmp_path, write_run):
    write_run(tmp_path)
    (tmp_path / "config.json").write_text('{"hidden_size": 8, "method": "random"}')
    with pytest.raises(ValueError, match="lacks config, config_hash, seed, domains"):
        reporting.read_runs(tmp_path)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("config.json", "config", [1]),
        ("config.json", "seed", 10**30),
        ("config.json", "method", 5),
        ("config.json", "domains", [1]),
        ("config.json", "updates", 10**12),
        ("summary.json", "validation_loss", "low"),
        ("summary.json", "test", {"accuracy": "all"}),
        ("summary.json", "seconds", 5),
    ],
)
def test_an_edited_record_is_refused_by_its_path(tmp_path, write_run, name, field, value):
    write_run(tmp_path)
    content = json.loads((tmp_path / name).read_text())
    (tmp_path / name).write_text(json.dumps(content | {field: value}))
    with pytest.raises(ValueError, match=rf"{name}.*{field}"):
        reporting.read_runs(tmp_path)


@pytest.mark.parametrize(
    "line",
    ['{"step": 1e999}', '{"step": 1000000000000}', "[" * 100_000, '{"step": 3, "loss": 1e9999}'],
)
def test_absurd_rows_are_damaged_ones(tmp_path, write_run, line):
    write_run(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    (run,) = reporting.read_runs(tmp_path)
    assert run.last_step == 20


def test_no_name_of_a_method_is_a_formula_in_a_csv_file(tmp_path, write_run):
    write_run(tmp_path / "a", method="=cmd()", domains=["@a", "-b"])
    write_run(tmp_path / "b", method="random", domains=["@a", "-b"])
    runs = reporting.read_runs(tmp_path)
    sets = [labels.by_label(runs)]
    files = tables.csv_files(sets, [comparison.headline(runs)], runs)
    for text in (files["configs.csv"], files["curves.csv"]):
        cells = [cell for line in csv.reader(io.StringIO(text)) for cell in line]
        assert "'=cmd()" in cells
        assert not [cell for cell in cells if cell[:1] in "=@+" and cell]
    assert "'@a" in files["curves.csv"]


def test_seeds_of_one_config_share_a_label(tmp_path, write_run):
    for seed in range(3):
        write_run(tmp_path / f"seed{seed}", seed=seed)
    assert {run.label for run in reporting.read_runs(tmp_path)} == {"random"}


def test_configs_that_differ_are_kept_apart_by_what_differs(tmp_path, write_run):
    for swaps in (0, 2):
        for seed in (0, 1):
            config = {"seed": seed, "selection": {"swaps": swaps, "ridge": 0.0}}
            config |= {"capped": True} if swaps else {}
            write_run(
                tmp_path / f"swaps{swaps}" / f"seed{seed}",
                method="partitionsel",
                seed=seed,
                config=config,
                config_hash=f"hash{swaps}",
            )
    found = [run.label for run in reporting.read_runs(tmp_path)]
    assert found == ["partitionsel (swaps=0)"] * 2 + ["partitionsel (swaps=2, capped=True)"] * 2


def test_configs_that_differ_in_much_are_kept_apart_by_hash(tmp_path, write_run):
    for letter in "ab":
        config = {f"field{i}": letter for i in range(9)}
        write_run(tmp_path / letter, config=config, config_hash=letter * 20)
    found = [run.label for run in reporting.read_runs(tmp_path)]
    assert found == ["random (#aaaaaaaa)", "random (#bbbbbbbb)"]


def test_different_domains_are_kept_apart_under_the_same_hash(tmp_path, write_run):
    write_run(tmp_path / "a", domains=["x", "y"])
    write_run(tmp_path / "b", domains=["x", "z"], seed=1)
    found = {run.label for run in reporting.read_runs(tmp_path)}
    assert len(found) == 2


def test_the_same_seed_run_twice_is_not_averaged(tmp_path, write_run):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b")
    assert [run.label for run in reporting.read_runs(tmp_path)] == ["random", "random (copy 2)"]


def test_runs_that_tuned_something_are_left_out(tmp_path, write_run):
    write_run(tmp_path / "random" / "seed4", seed=4)
    trial = write_run(tmp_path / "tuning" / "random,learning_rate=0.1" / "seed0")
    facts = json.loads((trial / "config.json").read_text())
    (trial / "config.json").write_text(json.dumps({**facts, "trial": True}))
    assert [run.name for run in reporting.read_runs(tmp_path)] == ["random/seed4"]
    with pytest.raises(ValueError, match="1 runs in tuning have tuned something"):
        reporting.read_runs(tmp_path / "tuning")


def test_a_point_is_compared_with_the_baseline_at_its_own_axes(tmp_path, write_run):
    def config(size, rate, utility):
        selection = {"size": size, "utility": utility}
        return {"selection": selection, "optimizer": {"learning_rate": rate}}

    for size, rate in ((8, 2.0), (16, 1.0)):
        for method, own in (("random", rate), ("partitionsel", 1.0)):
            write_run(
                tmp_path / f"{method},size={size}",
                method=method,
                config=config(size, own, method),
                config_hash=f"{method}{size}",
                axes={"selection.size": size},
            )
    rows = comparison.headline(reporting.read_runs(tmp_path))
    partners = {row.label: row.baseline for row in rows if row.method == "partitionsel"}
    assert len(partners) == 2
    for label, partner in partners.items():
        assert ("size=16" in label) == ("size=16" in partner)


def test_the_verdicts_of_guards_are_counted_over_seeds(tmp_path, write_run):
    for seed, (pays, difference) in enumerate([(True, 0.2), (True, 0.1), (None, None)]):
        folder = write_run(tmp_path / "p" / f"seed{seed}", "partitionsel", seed=seed)
        summary = json.loads((folder / "summary.json").read_text())
        found = {"difference": difference, "spread": difference, "evaluations": 5, "cost": 1.2}
        summary["guard"] = {"pays": pays, **found}
        (folder / "summary.json").write_text(json.dumps(summary))
    runs = reporting.read_runs(tmp_path)
    assert [run.verdict.pays for run in runs] == [True, True, None]
    caveats = wording.caveats([labels.by_label(runs)], [comparison.headline(runs)])
    (said,) = (each for each in caveats if "guards" in each)
    assert "guards of 3 seeds, selection pays here (2), cannot be told (1)" in said
    assert "0.200, 0.100, nan nats per token" in said
