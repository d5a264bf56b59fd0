import os
import signal
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from partitionsel_jax import data
from partitionsel_jax.data import reasoning

TASKS = ("count_bits", ("chain_sum", {"max_terms": 2}))
SIZES = {"train": 6, "validation": 4, "test": 2}


def rows(builder):
    return {
        split: [tuple(sorted(record.items())) for record in builder.as_data_source(split=split)]
        for split in SIZES
    }


def test_a_corpus_is_prepared_once_and_quietly(tmp_path, capfd, caplog):
    builder = data.prepare(TASKS, **SIZES, seed=0, directory=tmp_path)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again = data.prepare(TASKS, **SIZES, seed=0, directory=tmp_path)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == written
    assert rows(builder) == rows(again)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert "tensorflow" not in sys.modules


def test_the_same_arguments_give_the_same_rows_elsewhere(tmp_path):
    here, there = (data.prepare(TASKS, **SIZES, seed=0, directory=tmp_path / name) for name in "ab")
    assert rows(here) == rows(there)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"train": 7},
        {"tasks": TASKS[:1]},
        {"tasks": ("count_bits", ("chain_sum", {"max_terms": 3}))},
        {"tasks": TASKS[::-1]},
    ],
    ids=str,
)
def test_any_change_has_a_name_of_its_own(change):
    same: dict[str, Any] = {"tasks": TASKS, **SIZES, "seed": 0}
    assert reasoning.configure(**same).name == reasoning.configure(**same).name
    assert reasoning.configure(**same).name != reasoning.configure(**(same | change)).name


def test_a_new_version_of_reasoning_gym_has_a_name_of_its_own(monkeypatch):
    before = reasoning.configure(TASKS, **SIZES, seed=0).name
    monkeypatch.setattr(reasoning.importlib.metadata, "version", lambda _: "99.0")
    assert reasoning.configure(TASKS, **SIZES, seed=0).name != before


def test_a_change_prepares_anew_beside_the_old_corpus(tmp_path):
    old = data.prepare(TASKS, **SIZES, seed=0, directory=tmp_path)
    kept = rows(old)
    new = data.prepare(TASKS, **(SIZES | {"train": 7}), seed=0, directory=tmp_path)
    assert len(rows(new)["train"]) == 14
    assert rows(old) == kept


def test_a_process_killed_half_way_leaves_nothing_in_the_way(tmp_path):
    script = f"""
        import os, signal
        from partitionsel_jax.data import reasoning

        whole = reasoning.ReasoningGym._generate_examples

        def dying(self, records):
            yield from list(whole(self, records))[:3]
            os.kill(os.getpid(), signal.SIGKILL)

        reasoning.ReasoningGym._generate_examples = dying
        reasoning.prepare({TASKS!r}, **{SIZES!r}, seed=0, directory={str(tmp_path)!r})
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    killed = subprocess.run(command, env=os.environ | {"PYTHONPATH": "."}, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert list(tmp_path.rglob("incomplete*"))
    builder = data.prepare(TASKS, **SIZES, seed=0, directory=tmp_path)
    fresh = data.prepare(TASKS, **SIZES, seed=0, directory=tmp_path / "fresh")
    assert rows(builder) == rows(fresh)


def test_another_process_that_finishes_first_is_no_error(tmp_path, monkeypatch):
    original = reasoning.ReasoningGym.download_and_prepare

    def beaten(self, **arguments):
        monkeypatch.setattr(reasoning.ReasoningGym, "download_and_prepare", original)
        data.prepare(TASKS, **SIZES, seed=0, directory=tmp_path)
        raise OSError("Directory not empty")

    monkeypatch.setattr(reasoning.ReasoningGym, "download_and_prepare", beaten)
    builder = data.prepare(TASKS, **SIZES, seed=0, directory=tmp_path)
    assert len(rows(builder)["test"]) == 4


def test_files_that_cannot_be_written_are_an_error(tmp_path, monkeypatch):
    def fails(self, **arguments):
        raise OSError("disk is full")

    monkeypatch.setattr(reasoning.ReasoningGym, "download_and_prepare", fails)
    with pytest.raises(OSError, match="disk is full"):
        data.prepare(TASKS, **SIZES, seed=0, directory=tmp_path)


def test_splits_share_no_question_and_ids_are_unique(builder):
    records = [record for split in SIZES for record in builder.as_data_source(split=split)]
    assert len({record["question"] for record in records}) == len(records)
    assert sorted(int(record["id"]) for record in records) == list(range(len(records)))


def test_worked_steps_come_before_the_answer(builder):
    bits = builder.info.metadata["domains"].index("count_bits")
    for record in builder.as_data_source(split="train"):
        response, answer = record["response"].decode(), record["answer"].decode()
        if record["domain"] == bits:
            assert response.splitlines()[0].count("1") == int(answer)
            assert response.endswith(f"\n#### {answer}")
        else:
            assert response == answer


def test_incomplete_files_are_refused(tmp_path, monkeypatch):
    builder = data.prepare(TASKS, **SIZES, seed=0, directory=tmp_path)
    monkeypatch.setattr(
        reasoning,
        "configure",
        lambda *_: reasoning.ReasoningGymConfig(
            name=builder.builder_config.name,
            tasks=builder.builder_config.tasks,
            sizes=SIZES | {"train": 60},
        ),
    )
    with pytest.raises(ValueError, match=r"'train': 120.*got.*'train': 12.*delete that directory"):
        data.prepare(TASKS, **SIZES, seed=0, directory=tmp_path)


@pytest.mark.parametrize("split", SIZES)
def test_a_split_without_rows_is_refused(tmp_path, split):
    with pytest.raises(ValueError, match=f"at least 1 row per task in {split}, got 0"):
        data.prepare(TASKS, **(SIZES | {split: 0}), seed=0, directory=tmp_path)


def test_a_task_whose_own_scorer_needs_what_json_does_not_keep_scores_by_our_rule(tmp_path):
    builder = data.prepare(["rearc"], **SIZES, seed=0, directory=tmp_path)
    record = builder.as_data_source("train")[0]
    answer, entry = record["answer"].decode(), record["entry"]
    assert data.score("rearc", answer, entry) == 1.0
    assert data.score("rearc", answer + " 1", entry) == 0.0


def test_an_unknown_task_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="did you mean"):
        data.prepare(["chain_sums"], **SIZES, seed=0, directory=tmp_path)
    assert not list(tmp_path.iterdir())


def test_importing_the_package_imports_nothing_heavy():
    heavy = ("jax", "tensorflow_datasets", "reasoning_gym", "tensorflow", "grain", "jinja2")
    heavy += ("tokenizers", "gguf")
    code = f"import sys, partitionsel_jax.data; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
