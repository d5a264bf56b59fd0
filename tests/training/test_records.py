"""Records are strict JSON, whole, and without a repeated or missing step after a restart."""

import json

import numpy as np
import pytest
from etils import epath

from partitionsel_jax import json_files
from partitionsel_jax.training import records


def test_plain_values_are_strict_json():
    value = {"a": np.float32(1.5), "b": np.array([1, 2]), "c": (True, np.nan), "d": [np.inf, None]}
    assert records.plain(value) == {"a": 1.5, "b": [1, 2], "c": [True, None], "d": [None, None]}


def test_single_precision_survives_the_round_trip():
    value = np.float32(0.1234567)
    assert np.float32(json.loads(json.dumps(records.plain(value)))) == value


def test_json_files_are_replaced_in_one_move_and_damage_is_named(tmp_path):
    path = tmp_path / "a.json"
    records.write_json(path, {"x": np.int32(1)})
    records.write_json(path, {"x": 2})
    assert json_files.read_json(path) == {"x": 2}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    path.write_text("{")
    with pytest.raises(ValueError, match=r"a\.json is no valid JSON"):
        json_files.read_json(path)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_reopening_keeps_the_rows_up_to_a_step_and_drops_a_torn_line(tmp_path):
    path = epath.Path(tmp_path / "rows.jsonl")
    rows = records.JsonLines(path, upto=-1, first=0)
    for step in range(5):
        rows.append({"step": step, "x": 0.5})
    rows.close()
    with open(path, "a") as file:
        file.write('{"step": 5, "x": 0.')
    rows = records.JsonLines(path, upto=2, first=0)
    rows.append({"step": 3, "x": 1.0})
    rows.close()
    assert [(row["step"], row["x"]) for row in lines(path)] == [
        (0, 0.5),
        (1, 0.5),
        (2, 0.5),
        (3, 1.0),
    ]


def test_a_new_run_starts_from_an_empty_file(tmp_path):
    path = epath.Path(tmp_path / "rows.jsonl")
    path.write_text('{"step": 1}\n')
    records.JsonLines(path, upto=-1, first=0).close()
    assert path.read_text() == ""


@pytest.mark.parametrize("steps", [[0, 2], [0, 1, 1, 2], []])
def test_rows_that_are_not_the_runs_own_are_refused_and_kept(tmp_path, steps):
    path = epath.Path(tmp_path / "rows.jsonl")
    text = "".join(f'{{"step": {step}}}\n' for step in steps)
    path.write_text(text)
    with pytest.raises(ValueError, match=r"exactly one row for each of the steps 0\.\.2"):
        records.JsonLines(path, upto=2, first=0)
    assert path.read_text() == text


def test_flushed_rows_are_on_disk_before_the_file_is_closed(tmp_path):
    path = epath.Path(tmp_path / "rows.jsonl")
    rows = records.JsonLines(path, upto=-1, first=0)
    rows.append({"step": 0})
    rows.flush()
    assert lines(path) == [{"step": 0}]
    rows.close()


def test_the_progress_line_says_where_how_fast_and_when(project_log):
    progress = records.Progress("run", total=10, pool=64, every=0)
    progress.overhead = 0.25
    progress.validation = 2.5
    progress.update(4, 3.0, 0.5)
    assert project_log.messages == [
        "run  4/10  loss 3.000  validation 2.500  128 examples/s  "
        "selection 25 % of the step  ETA 0:03"
    ]


def test_the_progress_line_keeps_quiet_between_its_turns(project_log):
    progress = records.Progress("run", total=10, pool=64, every=60)
    for step in range(1, 11):
        progress.update(step, 3.0, 0.5)
    assert len(project_log.messages) == 2
    assert project_log.messages[-1].startswith("run  10/10")
