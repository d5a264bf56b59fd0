"""Split names mean what they say, in every layout that hubs and libraries write."""

import json

import pytest

from partitionsel_jax import data
from partitionsel_jax.data.sources.files import source_files
from partitionsel_jax.data.sources.layouts import split_of
from tests.data import case_files
from tests.data.case_files import ASKED, FOLDER, PLAIN

SIZES = {"validation": 3, "test": 2, "seed": 0}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("data/train-00000-of-00001.parquet", "train"),
        ("train_sft-00000-of-00003.parquet", "train"),
        ("main/test-00000-of-00001.parquet", "test"),
        ("test/train-00000-of-00001.parquet", "train"),
        ("test/a.jsonl", "test"),
        ("Test.csv", "test"),
        ("math_test_v2.csv.gz", "test"),
        ("MathTest.jsonl", "test"),
        ("gsm8k-TEST.jsonl", "test"),
        ("eval.jsonl", "test"),
        ("validation/a.jsonl", "validation"),
        ("valid.jsonl", "validation"),
        ("val_0.jsonl", "validation"),
        ("dev/a.jsonl", "validation"),
        ("archive.zip:dev/a.jsonl", "validation"),
        ("gsm8k.test.jsonl", "test"),
        ("en.dev.csv.gz", "validation"),
        ("testmini.parquet", "test"),
        ("devtest.jsonl", "test"),
        ("held-out.jsonl", "test"),
        ("minival.jsonl", "validation"),
        ("rows.jsonl", ""),
        ("latest.jsonl", ""),
        ("contest.jsonl", ""),
        ("values.jsonl", ""),
        ("device.jsonl", ""),
        ("Molecule-oriented_Instructions.zip:Molecule/reagent_prediction.json", ""),
        ("MetaMathQA-395K.json", ""),
    ],
)
def test_a_name_says_one_split_or_none(name, split):
    assert split_of(name) == split


@pytest.mark.parametrize("name", ["train_test.jsonl", "train/test.jsonl", "test/dev/a.jsonl"])
def test_a_name_that_says_several_splits_is_refused(name):
    with pytest.raises(ValueError, match=r"is named for the splits \w+ and \w+, .* list it"):
        split_of(name)


def lines(first, count):
    return "".join(
        json.dumps({"prompt": f"question{i}", "response": f"answer {i}"}) + "\n"
        for i in range(first, first + count)
    )


def layout(folder, **counts):
    """Files of so many rows, in directories by their name."""
    first = 0
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "a.jsonl").write_text(lines(first, count))
        first += count
    return folder


def prepared(folder, path, **more):
    """File of every row of each split, and the report."""
    arguments = {**SIZES, "directory": folder / "prepared", "columns": PLAIN, **more}
    builder = data.prepare_files("instructions", path, **arguments)
    places = {
        split: [row["place"].decode().split()[0] for row in source.__getitems__(range(len(source)))]
        for split in data.SPLITS
        for source in [builder.as_data_source(split=split)]
    }
    return places, builder.info.metadata["report"]


def test_rows_of_the_test_file_of_a_hub_are_never_trained_on(tmp_path):
    builder = data.prepare_files(
        "instructions", FOLDER / "hub_layout", **SIZES, directory=tmp_path, columns=PLAIN
    )
    asked = {
        split: [r["question"].decode() for r in source.__getitems__(range(len(source)))]
        for split in data.SPLITS
        for source in [builder.as_data_source(split=split)]
    }
    assert all("number 5" in text for text in asked["test"]) and len(asked["test"]) == 2
    rest = asked["train"] + asked["validation"]
    assert len(rest) == 50 and {text for text, _ in ASKED} <= set(rest)
    left_out = builder.info.metadata["report"]["left_out"]
    assert left_out == {"published for testing and not needed": 8}


@pytest.mark.parametrize(
    ("counts", "test", "validation"),
    [
        ({"train": 20, "validation": 5, "test": 6}, "test", "validation"),
        ({"train": 20, "dev": 5, "eval": 6}, "eval", "dev"),
        ({"train": 20, "test": 6}, "test", "train"),
        ({"train": 20, "valid": 5}, "train", "valid"),
        ({"rows": 20, "test": 6}, "test", "rows"),
        ({"rows": 20, "more": 6}, "", ""),
    ],
)
def test_each_split_is_of_the_files_that_are_named_for_it(tmp_path, counts, test, validation):
    path = layout(tmp_path / "rows", **counts)
    places, report = prepared(tmp_path, path)
    assert {split: len(places[split]) for split in ("test", "validation")} == {
        "test": 2,
        "validation": 3,
    }
    if test:
        assert set(places["test"]) == {f"{test}/a.jsonl"}
        assert set(places["validation"]) == {f"{validation}/a.jsonl"}
        assert set(places["train"]) == {f"{next(iter(counts))}/a.jsonl"}
    used = sum(map(len, places.values()))
    assert used + sum(report["left_out"].values()) == sum(counts.values())


def test_questions_of_published_splits_are_in_one_split_only(tmp_path):
    path = layout(tmp_path / "rows", train=20, validation=5, test=6)
    again = lines(20, 11)
    (path / "train" / "a.jsonl").write_text(lines(0, 20) + again)
    places, report = prepared(tmp_path, path)
    assert len(places["train"]) == 20
    assert report["left_out"]["another row of its question is held out"] == 11


def test_too_few_rows_of_a_published_split_are_told(tmp_path):
    path = layout(tmp_path / "rows", train=20, validation=5, test=6)
    with pytest.raises(ValueError, match=r"test 6 of 9, validation 3 of 3, train 20 of 1"):
        prepared(tmp_path, path, test=9)
    with pytest.raises(ValueError, match=r"train 0 of 1; published for testing and not needed: 4"):
        prepared(tmp_path, layout(tmp_path / "tests", test=6), validation=1)


def test_a_file_that_is_named_itself_is_what_its_user_says(tmp_path):
    (tmp_path / "test.jsonl").write_text(lines(0, 20))
    places, _ = prepared(tmp_path, tmp_path / "test.jsonl")
    assert len(places["train"]) == 15


def test_the_folders_of_a_saved_dataset_are_its_splits(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for file in (FOLDER / "saved_to_disk").iterdir():
            (tmp_path / split / file.name).write_bytes(file.read_bytes())
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    found = [(file.name, file.split) for file in source_files(tmp_path)]
    arrow = "data-00000-of-00001.arrow"
    assert found == [(f"test/{arrow}", "test"), (f"train/{arrow}", "train")]


CARD = """---
license: mit
configs:
- config_name: default
  data_files:
  - split: train
    path: "data/one.jsonl"
  - split: test
    path: ["data/two*", "data/three.jsonl"]
- config_name: other
  data_files: {dev: data/four.jsonl, all: data/five.jsonl}
---
# A dataset
"""


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_files_that_a_card_lists_are_the_splits_that_it_says(tmp_path, mark):
    (tmp_path / "data").mkdir()
    for name in ("one", "two_a", "three", "four", "five", "six"):
        (tmp_path / "data" / f"{name}.jsonl").write_text("{}")
    (tmp_path / "README.md").write_text(mark + CARD)
    found = {file.name.split("/")[1]: file.split for file in source_files(tmp_path)}
    assert found == {
        "one.jsonl": "train",
        "two_a.jsonl": "test",
        "three.jsonl": "test",
        "four.jsonl": "validation",
        "five.jsonl": "",
    }


@pytest.mark.parametrize("card", ["# only text", "---\n[\n---\n", "---\nconfigs: 3\n---\n", "\xff"])
def test_a_card_that_lists_no_files_leaves_all_of_them(tmp_path, card):
    (tmp_path / "README.md").write_bytes(card.encode("latin-1"))
    (tmp_path / "train.jsonl").write_text("{}")
    assert [file.split for file in source_files(tmp_path)] == ["train"]


def test_another_card_makes_another_corpus(tmp_path):
    path = layout(tmp_path / "rows", one=20, two=6)
    before, _ = prepared(tmp_path, path)
    (path / "README.md").write_text(
        "---\nconfigs:\n- data_files: {train: one/*, test: two/*}\n---\n"
    )
    after, _ = prepared(tmp_path, path)
    assert set(after["test"]) == {"two/a.jsonl"} and before != after


def test_anchors_are_of_one_split(tmp_path):
    path = layout(tmp_path / "rows", train=3, test=3)
    read = {"columns": PLAIN, "domains": ("all",)}
    with pytest.raises(ValueError, match="anchors of one split, got files of test, train"):
        data.read_anchors("instructions", path, **read)
    assert len(data.read_anchors("instructions", path / "train", **read).records) == 3


def test_a_card_that_lists_a_file_for_several_splits_at_once_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines(0, 3))
    files = "  data_files:\n  - split: dev_test\n    path: a.jsonl\n"
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- config_name: a\n{files}---\n")
    with pytest.raises(ValueError, match=r"lists a.jsonl for 'dev_test', which says .* one only;"):
        source_files(tmp_path)


@pytest.mark.parametrize(
    ("split", "meant"),
    [("test", "test"), ("val", "validation"), ("train", "train")],
)
def test_a_row_that_says_its_split_is_of_it(tmp_path, split, meant):
    row = {"prompt": "q", "response": "a", "split": split}
    (found,) = case_files.rows_of(case_files.written(tmp_path, row))
    assert (found.meant, found.ignored) == (meant, ())


def test_a_split_that_is_none_is_told(tmp_path):
    row = {"prompt": "q", "response": "a", "split": "fold3"}
    (found,) = case_files.rows_of(case_files.written(tmp_path, row))
    assert (found.meant, found.ignored) == ("", ("the column 'split', which names no split",))


def test_a_link_to_a_directory_is_not_passed_over(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.jsonl").write_text(lines(0, 1))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "rows" / "more").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"more is a link to a directory, .* name that directory"):
        source_files(tmp_path / "rows")
