"""A chosen part of a user's rows: which, whether a stop changes it, and what bad input is told."""

import csv
import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from partitionsel_jax import data, models, offline, subset
from partitionsel_jax.data import exporting
from partitionsel_jax.data.sources.naming import find_columns
from partitionsel_jax.distributed import spmd
from partitionsel_jax.models.pretrained import adapters
from partitionsel_jax.models.pretrained import tiny as tiny_models
from partitionsel_jax.reporting import subset_page
from partitionsel_jax.step.features import compute_features
from partitionsel_jax.subset import features as feature_files
from partitionsel_jax.subset import loading, making
from partitionsel_jax.subset.choosing import held_out
from partitionsel_jax.subset.features import Joined, Kept, Shards, batches
from partitionsel_jax.subset.table import Files, read_table
from partitionsel_jax.training import corpora, expand, loop, starts, workdir

DOMAINS = ("add", "reverse", "shout")


def made_rows(count, seed=0):
    """Rows of three domains, whose prompts differ in length and nowhere ask the same."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        word = "".join(rng.choice(list("abcdefgh"), 6))
        kind = number % 3
        asked = (
            f"Add {number} and {seed} to {word}",
            f"Reverse {word} {number}",
            f"Now shout the word {word} as loudly as you can, for the {number}th time",
        )[kind]
        answer = (f"{number + seed}", word[::-1], word.upper())[kind]
        note = {"n": number, "deep": [1.5, None], "name": "ü"}
        rows.append({"instruction": asked, "output": answer, "task": DOMAINS[kind], "note": note})
    return rows


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_models.write("tinier-llama3.2", tmp_path_factory.mktemp("model") / "m"))


@pytest.fixture
def files(tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", made_rows(90))
    return rows, write_rows(tmp_path / "dev.jsonl", made_rows(12, seed=7)[:12])


GRADIENTS = subset.Gradients(dim=64, last_layers=1, microbatch=2)
READER = subset.Reader(length=64, template="plain")


def make(model, rows, anchors, output, size="10", **others):
    request = subset.Request(size=size, **others.pop("request", {}))
    options = {"reader": READER, "gradients": GRADIENTS, "warmup": 0.0} | others
    return subset.make([subset.Chooser(model)], rows, anchors, request, str(output), **options)


def chosen(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_chosen_rows_are_as_they_were_with_what_is_known_of_them(model, files, tmp_path):
    rows = made_rows(90)
    path = make(model, *files, tmp_path / "out", request={"budgets": "uniform"})
    picks = chosen(path)
    assert len(picks) == 10
    assert sorted(pick["partitionsel"]["rank"] for pick in picks) == list(range(1, 11))
    places = [pick["partitionsel"]["row"] for pick in picks]
    assert places == sorted(places)
    for pick in picks:
        known = pick.pop("partitionsel")
        assert pick == rows[known["row"] - 1]
        assert known["file"] == "rows.jsonl"
        assert known["weight"] >= 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["domains"] == list(DOMAINS)
    assert summary["rows_per_domain"] == [30, 30, 30]
    assert summary["picks_per_domain"] == summary["budgets"] == [4, 3, 3]
    assert summary["anchors_per_domain"] == [4, 4, 4]


def test_picks_are_those_of_features_computed_row_by_row(model, files, tmp_path):
    path = make(model, *files, tmp_path / "out")
    loaded = models.load(model)
    settings = GRADIENTS.settings(loading.load(subset.Chooser(model)))
    scope = making.Scope(settings.parameters, settings.last_layers, loaded.config.layers)

    def features_of(file):
        source = Files.find(file, "instructions", {})
        table = read_table(source, loaded.tokenizer, READER.length, READER.template)

        @jax.jit
        def features(rows):
            return compute_features(
                loaded.model, scope, settings, loaded.parameters, rows, step=jnp.int32(0)
            )[0].vectors

        pad = loaded.tokenizer.pad_id
        found = [
            features(table.rows(np.array([row]), READER.length, pad)) for row in range(len(table))
        ]
        return np.concatenate(found), table

    (mine, table), (held, _) = map(features_of, files)
    kept = Shards(tmp_path / "out/work/model-0/rows", len(table), settings.dim)[0:90]
    np.testing.assert_allclose(kept, mine, rtol=1e-3, atol=1e-4 * np.abs(mine).max())
    expected = offline.select(mine, held, table.domains, size=10)
    ranks = {pick["partitionsel"]["rank"]: pick["partitionsel"] for pick in chosen(path)}
    assert [ranks[rank]["row"] - 1 for rank in range(1, 11)] == expected.indices.tolist()
    weights = [ranks[rank]["weight"] for rank in range(1, 11)]
    np.testing.assert_allclose(weights, expected.weights, rtol=1e-2, atol=1e-4)


def test_tokens_are_those_of_a_corpus(model, files):
    loaded = models.load(model)
    source = Files.find(files[0], "instructions", {})
    table = read_table(source, loaded.tokenizer, 64, "plain")
    rows = made_rows(90)
    found = table.rows(np.array([4, 0, 89]), 64, loaded.tokenizer.pad_id)
    asked = [(rows[i]["instruction"], rows[i]["output"]) for i in (4, 0, 89)]
    encoded = data.rows.encode_batch(*zip(*asked, strict=True), loaded.tokenizer, 64)
    tokens, response = data.rows.laid_out(encoded, loaded.tokenizer, 64)
    np.testing.assert_array_equal(found.tokens, tokens)
    np.testing.assert_array_equal(found.response, response)


class Killed(Exception):
    """Stands for the signal."""


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_stop_among_the_features_changes_no_byte(model, files, tmp_path, monkeypatch, after):
    monkeypatch.setattr(feature_files, "SHARD_ROWS", 32)
    calls, compute, last = [0], feature_files.Extractor.__call__, [1000]

    def counted(self, rows):
        if calls[0] == last[0]:
            raise Killed
        calls[0] += 1
        return compute(self, rows)

    monkeypatch.setattr(feature_files.Extractor, "__call__", counted)
    whole = make(model, *files, tmp_path / "whole").read_bytes()
    needed, calls[0], last[0] = calls[0], 0, after
    with pytest.raises(Killed):
        make(model, *files, tmp_path / "out")
    assert not (tmp_path / "out" / "selected.jsonl").exists()
    last[0] = 1000
    assert make(model, *files, tmp_path / "out").read_bytes() == whole
    assert calls[0] == needed


@pytest.mark.parametrize("moved", ["features", "rows"])
def test_a_stop_between_two_moves_changes_no_byte(model, files, tmp_path, moved):
    whole = make(model, *files, tmp_path / "out").read_bytes()
    work = tmp_path / "out" / "work" / "model-0" / "rows"
    other = {"features": "rows", "rows": "features"}[moved]
    (work / f"{other}-00000.npy").rename(work / f"{other}-00000.npy.part")
    assert make(model, *files, tmp_path / "out", overwrite=True).read_bytes() == whole
    assert not list(work.glob("*.part"))


def test_parts_on_their_own_make_the_same_choice(model, files, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_files, "SHARD_ROWS", 16)
    whole = make(model, *files, tmp_path / "whole").read_bytes()
    for part in ((2, 3), (3, 3), (1, 3)):
        assert make(model, *files, tmp_path / "out", part=part) is None
    work = tmp_path / "out/work/model-0/rows"
    assert not feature_files.missing(work, 90)

    def refuse(self, rows):
        raise AssertionError("computed twice")

    monkeypatch.setattr(feature_files.Extractor, "__call__", refuse)
    assert make(model, *files, tmp_path / "out").read_bytes() == whole


def test_a_shard_of_something_else_that_was_copied_there_is_refused(model, files, tmp_path):
    other = str(tiny_models.write("tinier-qwen2.5", tmp_path / "other"))
    for name, by in (("mine", model), ("theirs", other)):
        make(by, *files, tmp_path / name)
    shard = "work/model-0/rows/{}-00000.npy"
    for what in ("features", "rows"):
        found = (tmp_path / "theirs" / shard.format(what)).read_bytes()
        (tmp_path / "mine" / shard.format(what)).write_bytes(found)
    with pytest.raises(ValueError, match="are of another model, of other rows or of another way"):
        make(model, *files, tmp_path / "mine", overwrite=True)


def test_another_request_takes_the_features_that_there_are(model, files, tmp_path, monkeypatch):
    make(model, *files, tmp_path / "out")

    def refuse(self, rows):
        raise AssertionError("computed twice")

    monkeypatch.setattr(feature_files.Extractor, "__call__", refuse)
    with pytest.raises(ValueError, match=r"holds a choice of rows.*--overwrite"):
        make(model, *files, tmp_path / "out", size="20%")
    path = make(model, *files, tmp_path / "out", size="20%", overwrite=True)
    assert len(chosen(path)) == 18
    request = {"utility": "random", "seed": 3}
    picks = chosen(make(model, *files, tmp_path / "out", request=request, overwrite=True))
    assert {pick["partitionsel"]["gain"] for pick in picks} == {None}
    assert {pick["partitionsel"]["weight"] for pick in picks} == {1.0}


def test_a_share_of_the_rows_as_anchors_is_not_chosen(model, files, tmp_path):
    path = make(model, files[0], "20%", tmp_path / "out", size="72")
    assert len(chosen(path)) == 72
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["candidates"] == 72
    assert summary["anchors_per_domain"] == [6, 6, 6]
    loaded = models.load(model)
    source = Files.find(files[0], "instructions", {})
    table = read_table(source, loaded.tokenizer, 64, "plain")
    is_anchor = held_out(table, 0.2, 0)
    rows = {pick["partitionsel"]["row"] - 1 for pick in chosen(path)}
    assert rows == set(np.flatnonzero(~is_anchor).tolist())


def test_rows_that_ask_what_an_anchor_asks_are_left_out_and_counted(model, tmp_path):
    rows = made_rows(30)
    write_rows(tmp_path / "rows.jsonl", rows)
    write_rows(tmp_path / "dev.jsonl", made_rows(6, seed=7) + rows[:4])
    path = make(model, str(tmp_path / "rows.jsonl"), str(tmp_path / "dev.jsonl"), tmp_path / "o")
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert summary["reasons"]["left out: ask what an anchor asks"] == 4
    assert summary["rows"] == 26
    assert min(pick["partitionsel"]["row"] for pick in chosen(path)) > 4


def test_budgets_follow_the_anchors_domains(model, files, tmp_path):
    rows, _ = files
    dev = [row for row in made_rows(24, seed=7) if row["task"] != "shout"]
    anchors = write_rows(tmp_path / "two.jsonl", dev[:4] + dev[4:6])
    make(model, rows, anchors, tmp_path / "out", request={"budgets": "anchors"})
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["picks_per_domain"] == [5, 5, 0]


def test_several_models_add_their_cosines(model, files, tmp_path):
    other = str(tiny_models.write("tinier-qwen2.5", tmp_path / "other"))
    choosers = [subset.Chooser(model), subset.Chooser(other)]
    options = {"reader": READER, "gradients": GRADIENTS, "warmup": 0.0}
    path = subset.make(choosers, *files, subset.Request("8"), str(tmp_path / "out"), **options)
    assert len(chosen(path)) == 8
    work = tmp_path / "out" / "work"
    parts = [Shards(work / f"model-{number}" / "rows", 90, 64) for number in (0, 1)]
    joined = Joined(parts)
    assert joined.shape == (90, 128)
    cosines = sum(
        np.sum(rows[3] * rows[5]) / np.linalg.norm(rows[3]) / np.linalg.norm(rows[5])
        for rows in (part[0:90] for part in parts)
    )
    np.testing.assert_allclose(joined[3:4][0] @ joined[5:6][0], cosines, rtol=1e-4)


@pytest.mark.parametrize("form", ["csv", "parquet", "gz", "messages", "conversations"])
def test_every_kind_of_file_keeps_its_fields(model, tmp_path, form):
    rows = made_rows(30)
    anchors = write_rows(tmp_path / "dev.jsonl", made_rows(6, seed=7))
    folder = tmp_path / "rows"
    folder.mkdir()
    if form == "csv":
        rows = [{key: row[key] for key in ("instruction", "output", "task")} for row in rows]
        with open(folder / "r.csv", "w", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif form == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), folder / "r.parquet")
    elif form == "gz":
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "r.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    else:
        role, content = ("role", "content") if form == "messages" else ("from", "value")
        rows = [
            {
                form: [
                    {role: "user", content: row["instruction"]},
                    {role: "assistant", content: row["output"]},
                ],
                "kept": row["note"]["n"],
            }
            for row in rows
        ]
        write_rows(folder / "r.jsonl", rows)
    for pick in chosen(make(model, str(folder), anchors, tmp_path / "out", size="5")):
        known = pick.pop("partitionsel")
        assert pick == rows[known["row"] - 1]


@pytest.mark.parametrize("form", ["parquet", "datasets"])
def test_other_forms_hold_the_same_rows(model, files, tmp_path, form):
    lines = chosen(make(model, *files, tmp_path / "lines"))
    path = make(model, *files, tmp_path / "out", form=form)
    if form == "parquet":
        assert path.name == "selected.parquet"
        assert parquet.read_table(path).to_pylist() == lines
    # As our own reader has them, which knows a directory of the datasets library.
    source = Files.find(str(path), "instructions", {})
    rows = [row.fields for file in source.files for row in data.sources.reading.read(file)]
    assert rows == lines
    assert not (tmp_path / "out" / "selected.jsonl").exists()


def test_another_form_takes_the_place_of_the_first(model, files, tmp_path):
    make(model, *files, tmp_path / "out", form="datasets")
    path = make(model, *files, tmp_path / "out", overwrite=True)
    found = sorted(each.name for each in (tmp_path / "out").iterdir())
    assert found == ["selected.jsonl", "summary.json", "work"]
    assert len(chosen(path)) == 10


def test_rows_without_common_columns_are_refused_as_a_table(model, files, tmp_path):
    rows = made_rows(30)
    for number, row in enumerate(rows):
        row["note"] = number if number % 2 else "text"
    mixed = write_rows(tmp_path / "mixed.jsonl", rows)
    with pytest.raises(ValueError, match=r"holds values of several kinds .*as jsonl"):
        make(model, mixed, files[1], tmp_path / "out", size="30", form="parquet")


@pytest.mark.parametrize(
    ("names", "given", "expected"),
    [
        (("prompt", "response", "domain"), {}, ("prompt", "", "response", "domain", "")),
        (("instruction", "input", "output"), {}, ("instruction", "input", "output", "", "")),
        (("question", "answer", "category"), {}, ("question", "", "answer", "category", "")),
        (("messages", "prompt", "response"), {}, ("", "", "", "", "messages")),
        (("a", "b", "output"), {"prompt": "a"}, ("a", "", "output", "", "")),
        (("prompt", "completion", "task"), {"domain": ""}, ("prompt", "", "completion", "", "")),
        (("conversations", "source"), {}, ("", "", "", "source", "conversations")),
    ],
)
def test_columns_are_found_by_their_usual_names(tmp_path, names, given, expected):
    write_rows(tmp_path / "r.jsonl", [dict.fromkeys(names, "x")])
    found = find_columns(data.sources.files.source_files(tmp_path / "r.jsonl"), given)
    fields = (found.prompt, found.input, found.response, found.domain, found.messages)
    assert fields == expected


def test_columns_that_are_not_found_are_asked_for(tmp_path):
    write_rows(tmp_path / "r.jsonl", [{"text": "x", "prompt": "y"}])
    with pytest.raises(ValueError, match="expected a column of response by one of the usual names"):
        find_columns(data.sources.files.source_files(tmp_path / "r.jsonl"), {})


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("seed", range(3))
def test_batches_hold_every_row_once_and_fit(size, seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 41, rng.integers(0, 50))
    found = batches(lengths, (10, 20, 40), size)
    assert sorted(place for _, places in found for place in places) == list(range(len(lengths)))
    for width, places in found:
        assert 1 <= len(places) <= size
        assert width == next(w for w in (10, 20, 40) if w >= lengths[places].max())


def test_kept_rows_are_those_at_their_indices():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(50, 4)).astype(np.float32)
    indices = np.flatnonzero(rng.random(50) < 0.5)
    kept = Kept(matrix, indices)
    for start, stop in ((0, len(indices)), (3, 7), (5, 5), (0, 1)):
        np.testing.assert_array_equal(kept[start:stop], matrix[indices][start:stop])


BAD = [
    ({"size": "0"}, {}, "size must lie in 1 .. 90, the candidates, got 0"),
    ({"size": "91"}, {}, "size must lie in 1 .. 90"),
    ({"size": "many"}, {}, "size must be a number of rows or a share like 5%"),
    (
        {"budgets": "counts:31,30,29"},
        {"size": "90"},
        "budgets must not exceed the rows of a domain",
    ),
    ({"budgets": "fixed:1,2"}, {}, "has 2 numbers for 3 domains: give one for each of add"),
    ({"budgets": "even"}, {}, "budgets must be proportional, uniform"),
    ({"utility": "novelty"}, {}, "utility must be one of"),
]


@pytest.mark.parametrize(("request_fields", "more", "message"), BAD)
def test_a_request_that_does_not_fit_is_refused(
    model, files, tmp_path, request_fields, more, message
):
    fields = {"size": "9"} | request_fields | more
    with pytest.raises(ValueError, match=message):
        make(model, *files, tmp_path / "out", size=fields.pop("size"), request=fields)
    assert not (tmp_path / "out" / "selected.jsonl").exists()


def test_features_of_something_else_are_refused(model, files, tmp_path):
    make(model, *files, tmp_path / "out")
    other = subset.Reader(length=48, template="plain")
    with pytest.raises(ValueError, match="holds features of length=64, and these would be of"):
        make(model, *files, tmp_path / "out", reader=other, overwrite=True)
    with pytest.raises(ValueError, match="holds features of features="):
        wider = subset.Gradients(dim=32, last_layers=1, microbatch=2)
        make(model, *files, tmp_path / "out", gradients=wider, overwrite=True)
    write_rows(tmp_path / "rows.jsonl", made_rows(91))
    with pytest.raises(ValueError, match="holds features of files="):
        make(model, *files, tmp_path / "out", overwrite=True)


def test_what_is_wrong_with_the_files_is_said_before_anything_is_computed(
    model, files, tmp_path, monkeypatch
):
    def refuse(self, rows):
        raise AssertionError("computed")

    monkeypatch.setattr(feature_files.Extractor, "__call__", refuse)
    rows, anchors = files
    clash = write_rows(tmp_path / "c.jsonl", [{**row, "partitionsel": 1} for row in made_rows(9)])
    empty = write_rows(tmp_path / "empty.jsonl", [])
    few = write_rows(tmp_path / "few.jsonl", made_rows(4))
    short = subset.Reader(length=64, template="plain", columns={"prompt": "nothing"})
    far = subset.Reader(length=100_000, template="plain")
    for arguments, message in (
        ((clash, anchors), "has a column 'partitionsel'.*rename it"),
        ((rows, empty), "expected rows, got|expected a column"),
        ((rows, str(tmp_path / "none.jsonl")), "none.jsonl"),
        ((rows, "60%"), "must be above 0% and at most 50%"),
        ((few, "10%"), "domain reverse has 1 rows: at least 2 are needed"),
    ):
        with pytest.raises(ValueError, match=message):
            make(model, *arguments, tmp_path / "out")
    with pytest.raises(ValueError, match="nothing missing"):
        make(model, rows, anchors, tmp_path / "out", reader=short)
    with pytest.raises(ValueError, match=r"exceeds the context of .* tokens: shorten it"):
        make(model, rows, anchors, tmp_path / "out", reader=far)


def test_a_table_is_read_anew_where_its_files_changed(model, files, tmp_path):
    loaded = models.load(model)
    how = loaded.tokenizer, 64, "plain", None, str(tmp_path / "kept")
    assert len(read_table(Files.find(files[0], "instructions", {}), *how)) == 90
    write_rows(tmp_path / "rows.jsonl", made_rows(33))
    assert len(read_table(Files.find(files[0], "instructions", {}), *how)) == 33


def test_devices_change_no_feature_but_by_rounding(model, files, tmp_path):
    make(model, *files, tmp_path / "eight")
    with pytest.MonkeyPatch.context() as patched:
        one = spmd.Layout((jax.devices()[0],), "pmap", False)
        patched.setattr(making.spmd, "Layout", lambda *_: one)
        make(model, *files, tmp_path / "one")
    found = [
        Shards(tmp_path / name / "work/model-0/rows", 90, 64)[0:90] for name in ("one", "eight")
    ]
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-5 * np.abs(found[0]).max())


def test_adapters_are_warmed_up_and_a_stop_in_that_changes_no_byte(model, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", made_rows(240))
    anchors = write_rows(tmp_path / "dev.jsonl", made_rows(12, seed=7))
    options = {"warmup": 0.3, "reader": subset.Reader(length=96, template="plain")}
    whole = make(model, rows, anchors, tmp_path / "whole", **options).read_bytes()
    work = tmp_path / "whole" / "work" / "model-0"
    summary = json.loads((work / "warm-up" / "run" / "summary.json").read_text())
    assert summary["updates"] == 2  # three tenths of 240, in batches of 32
    manifest = json.loads((work / "rows" / "manifest.json").read_text())
    assert manifest["features"]["parameters"] == "lora"
    assert manifest["features"]["last_layers"] == GRADIENTS.last_layers
    loaded = models.load(model)
    assert manifest["weights"] != int(making.fingerprint(loaded.parameters))

    def stopped(*arguments, **options):
        raise Killed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "_compile", stopped)
        with pytest.raises(Killed):
            make(model, rows, anchors, tmp_path / "out", **options)
    assert make(model, rows, anchors, tmp_path / "out", **options).read_bytes() == whole
    # One that has adapters has had its warm-up.
    adapter = tmp_path / "adapter"
    finished = starts.load_finished(work / "warm-up" / "run", "the warm-up")
    shape, lora = finished.settings.model, finished.settings.lora
    adapters.write(adapter, shape, lora, finished.parameters, base=model)
    path = subset.make(
        [subset.Chooser(model, str(adapter))],
        *(rows, anchors, subset.Request("10"), str(tmp_path / "adapted")),
        gradients=GRADIENTS,
        reader=options["reader"],
    )
    assert not (tmp_path / "adapted" / "work" / "model-0" / "warm-up").exists()
    ranks = [
        {p["partitionsel"]["row"] for p in map(json.loads, text.splitlines())}
        for text in (path.read_text(), whole.decode())
    ]
    assert ranks[0] == ranks[1]


def test_a_finished_run_chooses(files, tmp_path, tiny, train):
    tiny.data.length = 64
    tiny.training.update({"updates": 2, "evaluate_every": 2, "checkpoint_every": 2})
    _, folder = train(tiny)
    path = make(str(folder), *files, tmp_path / "out", size="6", warmup=0.05)
    assert len(chosen(path)) == 6
    assert not (tmp_path / "out" / "work" / "model-0" / "warm-up").exists()
    with pytest.raises(ValueError, match="is a run, which has its own adapters"):
        choosers = [subset.Chooser(str(folder), "adapter")]
        subset.make(choosers, *files, subset.Request("6"), str(tmp_path / "other"), reader=READER)


def test_the_rows_of_a_warm_up_are_no_anchors(model, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", made_rows(120))
    options = {"warmup": 0.5, "reader": subset.Reader(length=96, template="plain")}
    make(model, rows, "25%", tmp_path / "out", **options)
    written = chosen(tmp_path / "out" / "work" / "model-0" / "warm-up" / "rows.jsonl")
    assert len(written) == 32 + 17  # half of 90, in batches of 32, and two a device beside them
    loaded = models.load(model)
    table = read_table(Files.find(rows, "instructions", {}), loaded.tokenizer, 96, "plain")
    held = held_out(table, 0.25, 0)
    asked = {row["instruction"] for row, out in zip(made_rows(120), held, strict=True) if out}
    assert not asked & {row["messages"][0]["content"] for row in written}


def test_a_warm_up_of_too_few_rows_is_refused(model, files, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", made_rows(30))
    with pytest.raises(ValueError, match="a warm-up needs 49 rows, got 30: give --warmup=0"):
        make(model, rows, files[1], tmp_path / "out", warmup=0.05)


def test_a_choice_is_described_beside_others(model, files, tmp_path):
    path = make(model, *files, tmp_path / "out", size="9")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    loaded = models.load(model)
    table = read_table(Files.find(files[0], "instructions", {}), loaded.tokenizer, 64, "plain")
    work = tmp_path / "out" / "work" / "model-0"
    rows, held = (
        np.asarray(Shards(work / what, count, 64)[0:count], np.float64)
        for what, count in (("rows", 90), ("anchors", 12))
    )
    rows, held = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (rows, held))
    scores = rows @ held.mean(axis=0)
    picked = np.array([pick["partitionsel"]["row"] - 1 for pick in chosen(path)])
    counts = np.bincount(table.domains[picked], minlength=3)
    top = [
        row
        for domain, count in enumerate(counts)
        for row in sorted(np.flatnonzero(table.domains == domain), key=lambda i: -scores[i])[:count]
    ]
    assert summary["overlap"]["alignment"] == pytest.approx(np.isin(picked, top).mean())
    cosines = rows[picked] @ rows[picked].T - 2 * np.eye(9)
    assert summary["redundancy"]["chosen"] == pytest.approx(cosines.max(axis=1).mean(), abs=1e-4)
    assert summary["lengths"]["candidates"][2] == table.lengths.max()
    first = min(chosen(path), key=lambda pick: pick["partitionsel"]["rank"])
    shown = summary["shown"]["first"][0]
    assert shown["asked"] == first["instruction"]
    assert shown["alignment"] == pytest.approx(max(scores[picked]), abs=1e-4)
    last = summary["shown"]["opposed"][0]
    assert last["place"] == f"rows.jsonl row {np.argmin(scores) + 1}"


def test_the_page_shows_the_rows_as_text(model, tmp_path):
    rows = made_rows(60)
    for row in rows:
        row["output"] += " <script>alert(1)</script>"
    rows, anchors = (
        write_rows(tmp_path / name, part)
        for name, part in (("rows.jsonl", rows), ("dev.jsonl", made_rows(6, seed=7)))
    )
    reader = subset.Reader(length=160, template="plain")
    make(model, rows, anchors, tmp_path / "out", size="3", reader=reader)
    page = subset_page.build(tmp_path / "out").read_text()
    assert "3 of 60 rows chosen" in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    for name in DOMAINS:
        assert name in page


def test_two_at_work_in_one_folder_are_refused(model, files, tmp_path):
    work = tmp_path / "out" / "work"
    work.mkdir(parents=True)
    with (
        workdir.locked(work),
        pytest.raises(ValueError, match="another process is choosing rows in"),
    ):
        make(model, *files, tmp_path / "out")


def test_a_corpus_written_as_rows_is_read_again(tiny, tmp_path):
    (run,) = expand(tiny.to_dict())
    corpus = corpora.load(run.settings)
    exporting.write_rows(corpus, tmp_path / "rows")
    for split in ("train", "anchors", "validation", "test"):
        rows = chosen(tmp_path / "rows" / f"{split}.jsonl")
        examples = list(getattr(corpus, split).all_examples())
        assert [row["response"] for row in rows] == [each.response for each in examples]
        assert [row["prompt"] for row in rows] == [each.question for each in examples]
        assert [row["corrupted"] for row in rows] == [each.corrupted for each in examples]
    with pytest.raises(ValueError, match=r"train.jsonl is there: remove it"):
        exporting.write_rows(corpus, tmp_path / "rows")
    # A folder of them is one source, of which those that were meant for training are candidates.
    source = Files.find(str(tmp_path / "rows"), "instructions", {})
    table = read_table(source, data.ByteTokenizer(), 64, "plain")
    assert len(table) == len(corpus.train) + len(corpus.anchors)
    assert table.counts["left out: meant for test"] == len(corpus.test)
