"""Runs on files: what expand fills in, what is read, and what a changed file does to a run."""

import json
import shutil

import numpy as np
import pytest

from configs.pretrained import SAMPLES
from partitionsel_jax import data, training
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.data.sources import builders
from partitionsel_jax.training import corpora


@pytest.fixture
def own(tiny, tmp_path):
    """The tiny run on a file of its own: sums and words, 40 of each."""
    write(tmp_path / "rows.jsonl", range(40))
    tiny.data.tasks = {}
    tiny.data.noise.kind = "none"
    tiny.data.update({"source": "instructions", "path": str(tmp_path / "rows.jsonl")})
    tiny.data.update({"train": 0, "validation": 8, "test": 4})
    tiny.data.columns.update({"prompt": "q", "response": "a", "domain": "kind"})
    tiny.selection.utility = "random"
    return tiny


def write(path, numbers, kinds=("sums", "words")):
    rows = [
        {"q": f"{kind} {n}: {n * n} and {n + 7}", "a": str(2 * n + 7), "kind": kind}
        for n in numbers
        for kind in kinds
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings_of(config):
    (run,) = training.expand(config.to_dict())
    return run_settings.parse(run.config)


def test_the_domains_of_files_are_filled_in_and_paths_made_absolute(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own.data.path = "rows.jsonl"
    settings = settings_of(own)
    assert settings.data.names == ("sums", "words")
    # What was asked for stays as it was.
    assert settings.data.domains == ()
    assert settings.data.path == str(tmp_path / "rows.jsonl")


def test_files_are_prepared_once_for_a_run_and_its_repeats(own, tmp_path, monkeypatch):
    plans = []
    make_plan = builders.make_plan

    def counted(*arguments):
        plans.append(arguments)
        return make_plan(*arguments)

    monkeypatch.setattr(builders, "make_plan", counted)
    own.data.directory = str(tmp_path / "prepared")
    own.repeats = 2
    for run in training.expand(own.to_dict()):
        corpus = corpora.load(run_settings.parse(run.config))
        assert corpus.domains == ("sums", "words")
    assert len(plans) == 1


def test_runs_of_one_corpus_load_it_once(own):
    first = corpora.load(settings_of(own))
    own.training.updates = 3
    assert corpora.load(settings_of(own)) is first
    for field, value in (
        ("noise.share", 0.5),
        ("seed", 7),
        ("length", 56),
    ):
        config = own.copy_and_resolve_references()
        config.data.update_from_flattened_dict({field: value})
        changed = corpora.load(settings_of(config))
        assert changed is not first
        assert corpora.load(settings_of(config)) is changed
    again = corpora.load(settings_of(own))
    assert again is not first and dict(again.train.corrupted) == dict(first.train.corrupted)


def test_a_run_trains_on_files_and_another_content_stops_it(own, train, tmp_path):
    summary, folder = train(own)
    assert set(summary["test"]["accuracy_per_domain"]) == {"sums", "words"}
    stored = json.loads((folder / "config.json").read_text())
    assert stored["domains"] == ["sums", "words"]
    (folder / "summary.json").unlink()
    write(tmp_path / "rows.jsonl", range(1, 41))
    with pytest.raises(ValueError, match=r"the examples are not what the run started with: was"):
        train(own, folder)
    # The same content elsewhere is the same corpus, but for the path in the config.
    write(tmp_path / "rows.jsonl", range(40))
    assert train(own, folder)[0]["fingerprint"] == summary["fingerprint"]


def test_a_finished_method_of_a_plan_with_other_examples_stops_the_next_one(
    own, tmp_path, monkeypatch
):
    own.methods = {"first": {}, "second": {}}
    own.training.updates = 4
    first, second = training.expand(own.to_dict())
    root = tmp_path / "plan"
    training.train(first, root)
    write(tmp_path / "rows.jsonl", range(1, 41))
    with pytest.raises(ValueError, match=r"examples are not those of .*first/.*, which is finish"):
        training.train(second, root)
    # What is refused leaves no folder behind, and goes on once the file is as it was.
    assert not (root / second.folder).exists()
    write(tmp_path / "rows.jsonl", range(40))
    summary = training.train(second, root)
    assert summary["origin"] == training.train(first, root)["origin"]


def test_domains_can_be_chosen_and_weighted(own, project_log):
    own.data.domains = ("words",)
    corpus = corpora.load(settings_of(own))
    assert corpus.domains == ("words",) and len(corpus.train) == 28
    assert "of 80 rows read, 40 of other domains, 0 bad" in project_log.text
    own.data.domains = ("words", "sums")
    own.data.update({"mix": "weighted", "weights": (3.0, 1.0)})
    settings = settings_of(own)
    pools = data.Pools(
        corpora.load(settings), 8, 4, 0, mix=settings.data.mix, weights=settings.data.weights
    )
    assert np.bincount(pools[0][0].domain).tolist() == [6, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": {"chain_sum": {}}}, "data.tasks are reasoning-gym's, and data.source='instr"),
        ({"path": ""}, "data.source='instructions' needs data.path"),
        ({"source": "instruction"}, "did you mean 'instructions'"),
        ({"scorer": "texts"}, "data.scorer must be one of .*did you mean 'text'"),
        ({"mix": "even"}, "data.mix must be one of"),
        (
            {"domains": ("sums", "words"), "mix": "weighted"},
            "data.mix and data.weights: expected a",
        ),
        ({"buckets": (8, 8)}, r"data.buckets=\(8, 8\) must ascend from 1 and stay below"),
        ({"buckets": (8, 48)}, "must ascend from 1 and stay below data.length=48"),
        ({"workers": -1}, r"data.workers must lie in \[0, 512\]"),
        ({"path": "/nowhere/rows.jsonl"}, "/nowhere/rows.jsonl"),
        ({"columns": {"prompt": "question"}}, "question missing; name the columns"),
        ({"columns": {"promt": "q"}}, "unknown config key 'promt' in config.data.columns"),
    ],
)
def test_settings_of_files_that_do_not_fit_are_refused(own, changes, message):
    config = own.to_dict()
    columns = changes.pop("columns", {})
    config["data"] = {**config["data"], **changes}
    config["data"]["columns"] = {**config["data"]["columns"], **columns}
    with pytest.raises(ValueError, match=message):
        training.expand(config)


def test_what_files_alone_can_have_is_refused_beside_reasoning_gym(tiny):
    for field, value in {"path": "x", "domains": ("a",), "scorer": "text"}.items():
        config = tiny.to_dict()
        config["data"] = {**config["data"], field: value}
        with pytest.raises(ValueError, match=f"data.{field}=.* is for data from files"):
            training.expand(config)


def test_anchors_of_ones_own_are_never_scored_and_all_validation_rows_are(own, tmp_path):
    own.data.anchors_path = str(write(tmp_path / "dev.jsonl", range(90, 100)))
    settings = settings_of(own)
    corpus = corpora.load(settings)
    assert len(corpus.validation) == 16
    assert len(corpus.anchors) == 20
    assert np.bincount(corpus.anchors.domains).tolist() == [10, 10]
    parts = (corpus.train, corpus.anchors, corpus.validation, corpus.test)
    ids = [example.id for part in parts for example in part.all_examples()]
    assert len(set(ids)) == len(ids)
    # Rows that validation or test rows ask, too, are left out of the anchors; of the training rows
    # those are that the anchors ask.
    write(tmp_path / "dev.jsonl", range(20))
    train, corpus = corpus.train, corpora.load(settings)
    scored, asked, trained = (
        {e.question for part in parts for e in part.all_examples()}
        for parts in ((corpus.validation, corpus.test), (corpus.anchors,), (corpus.train,))
    )
    assert not asked & scored and not trained & asked
    counts = corpus.report["anchors"]
    assert counts["scored elsewhere"] == 40 - len(corpus.anchors) > 0
    assert counts["training rows"] == len(train) - len(corpus.train) == len(corpus.anchors)
    write(tmp_path / "dev.jsonl", range(40))
    with pytest.raises(ValueError, match="of every domain, got none of sums, words: the anchors"):
        corpora.load(settings)


def test_rows_that_anchors_ask_are_left_out_and_the_others_are_corrupted_as_before(own, tmp_path):
    own.data.noise.update({"kind": "swapped", "share": 0.3})
    before = corpora.load(settings_of(own)).train
    own.data.anchors_path = str(write(tmp_path / "dev.jsonl", range(20)))
    after = corpora.load(settings_of(own)).train
    responses = {example.id: example for example in before.all_examples()}
    assert 0 < len(after) < len(before)
    assert any(example.corrupted for example in after.all_examples())
    assert all(responses[example.id] == example for example in after.all_examples())


FRAME = " ".join(f"word{n}" for n in range(60))


@pytest.mark.parametrize("form", ["messages", "instruction"])
def test_a_frame_that_all_questions_share_leaves_no_training_row_out(tmp_path, form):
    def row(n, frame=FRAME):
        # Without numbers, in which questions may not differ.
        user = " ".join(f"{chr(97 + n % 26)}{chr(97 + n // 26)}{end}" for end in "abcdef")
        if form == "instruction":
            return {"prompt": frame, "input": user, "response": "x"}
        turns = zip(("system", "user", "assistant"), (frame, user, "x"), strict=True)
        return {"messages": [{"role": role, "content": text} for role, text in turns]}

    def put(name, rows):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    columns = {"messages": data.Columns(domain="", messages="messages")}
    columns["instruction"] = data.Columns(domain="", input="input")
    source = put("rows.jsonl", map(row, range(100)))
    sizes = {"validation": 4, "test": 4, "seed": 0, "directory": tmp_path / "prepared"}
    prepared = data.prepare_files("instructions", source, columns=columns[form], **sizes)

    def load(rows):
        path = put("dev.jsonl", rows)
        own = data.read_anchors("instructions", path, columns=columns[form], domains=("all",))
        return data.load(prepared, data.ByteTokenizer(), 700, 0, anchors=own)

    others = load([row(n) for n in range(200, 220)])
    assert len(others.anchors) == 20
    assert others.report["anchors"]["training rows"] == 0
    same = load([row(n) for n in range(200, 220)] + [row(n) for n in range(20)])
    left = same.report["anchors"]
    assert left["training rows"] + left["scored elsewhere"] == 20
    assert left["training rows"] > 10
    if form == "messages":
        # The same questions in another frame.
        assert load([row(n, "Be kind.") for n in range(20)]).report["anchors"] | {"file": ""} == (
            load([row(n) for n in range(20)]).report["anchors"] | {"file": ""}
        )


def test_a_molecule_is_asked_for_in_many_words(tmp_path):
    def row(n, instruction):
        given = "[C]" * (n // 8 + 1) + "[O]" + "[N]" * (n % 8 + 1)
        metadata = {"task": "retrosynthesis"}
        return {"instruction": instruction, "input": given, "output": "[C]" + given} | {
            "metadata": metadata
        }

    path = tmp_path / "retrosynthesis.json"
    path.write_text(json.dumps([row(n, "What reacts to this?") for n in range(64)]))
    sizes = {"validation": 4, "test": 4, "seed": 0, "directory": tmp_path / "prepared"}
    domains = ("retrosynthesis",)
    prepared = data.prepare_files("mol_instructions", path, domains=domains, **sizes)
    dev = tmp_path / "dev" / "retrosynthesis.json"
    dev.parent.mkdir()
    dev.write_text(json.dumps([row(n, "Which reactants give that?") for n in range(0, 64, 4)]))
    own = data.read_anchors("mol_instructions", dev, domains=domains)
    corpus = data.load(prepared, data.ByteTokenizer(), 300, 0, anchors=own)
    asked, trained = (
        {example.question.partition("\n")[2] for example in part.all_examples()}
        for part in (corpus.anchors, corpus.train)
    )
    assert asked and trained and not asked & trained


def test_anchors_of_other_domains_are_for_what_does_not_go_by_domains(own, tmp_path):
    own.data.anchors_path = str(write(tmp_path / "dev.jsonl", range(90, 100), kinds=("target",)))
    message = r"10 rows of data.anchors_path=.* selection.anchor_balance=True go by them"
    with pytest.raises(ValueError, match=message):
        corpora.load(settings_of(own))
    own.selection.anchor_balance = False
    assert len(corpora.load(settings_of(own)).anchors) == 10
    own.selection.anchor_mean = "balanced"
    with pytest.raises(ValueError, match="anchor_mean='balanced' go by them"):
        corpora.load(settings_of(own))


def test_missing_or_bad_files_of_anchors_are_refused(own, tmp_path):
    own.data.anchors_path = str(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match=r"expected a file of anchors at .*none.jsonl, got none"):
        corpora.load(settings_of(own))
    (tmp_path / "none.jsonl").write_text('{"q": "a", "kind": "sums", "a": ""}\n')
    with pytest.raises(ValueError, match="empty 'a'"):
        corpora.load(settings_of(own))


def test_bad_anchors_are_told_by_their_rows(own, tmp_path, project_log):
    path = write(tmp_path / "dev.jsonl", range(100, 200))
    path.write_text(path.read_text() + '{"q": "what?", "kind": "sums", "a": ""}\n')
    own.data.anchors_path = str(path)
    corpora.load(settings_of(own))
    told = [one.getMessage() for one in project_log.records if one.levelname == "WARNING"]
    assert told == ["bad anchors: empty 'a': 1 (dev.jsonl row 201)"]


def test_rows_that_are_cut_left_out_or_passed_over_are_told_by_their_numbers(
    own, tmp_path, project_log
):
    path = tmp_path / "rows.jsonl"
    long = [("x" * own.data.length, "1"), ("short", "y" * own.data.length)]
    added = [{"q": q, "kind": "sums", "a": a} for q, a in long] + [
        {"q": "elsewhere", "kind": "other", "a": "1"}
    ]
    path.write_text(path.read_text() + "".join(f"{json.dumps(row)}\n" for row in added))
    own.data.domains = ("sums", "words")
    corpus = corpora.load(settings_of(own))
    told = {one.getMessage() for one in project_log.records if one.levelname == "WARNING"}
    length = own.data.length
    assert told == {
        "rows passed over: other domains: 1 (rows.jsonl row 83)",
        f"rows with a prompt cut from the left in data.length={length}: "
        "train 1 (rows.jsonl row 81)",
        f"rows left out, since their responses do not fit in data.length={length}: "
        "train 1 (rows.jsonl row 82)",
    }
    assert corpus.left_out["train"].rows == corpus.cut["train"].rows == 1


def test_too_few_anchors_are_refused_by_their_numbers(own, tmp_path):
    path = write(tmp_path / "dev.jsonl", range(90, 92))
    with path.open("a") as file:
        # Fits no row of 48 tokens.
        file.write(json.dumps({"q": "long", "a": "1" * 60, "kind": "sums"}) + "\n")
        row = corpora.load(settings_of(own)).test[0]
        file.write(json.dumps({"q": row.question, "a": "1", "kind": "words"}) + "\n")
        file.write(json.dumps({"q": "other", "a": "1", "kind": "words"}) + "\n")
    own.data.anchors_path = str(path)
    message = (
        r"expected selection\.anchors=8 rows, as many of each domain, in data\.anchors_path='.*dev"
        r"\.jsonl', got 2 of sums, 3 of words, of 7 rows read: 1 do not fit into data\.length=48, "
        r"1 ask what .*; set selection\.anchors to at most 4, or selection\.anchor_balance=False"
    )
    with pytest.raises(ValueError, match=message):
        corpora.load(settings_of(own))
    own.selection.anchor_balance = False
    with pytest.raises(
        ValueError, match=r"got 5, of 7 .*; set selection\.anchors to at most 5, or"
    ):
        corpora.load(settings_of(own))
    own.selection.anchors = 5
    assert len(corpora.load(settings_of(own)).anchors) == 5
    # Only of one domain.
    own.selection.update({"anchors": 2, "anchor_balance": True})
    write(path, range(90, 99), kinds=("sums",))
    with pytest.raises(
        ValueError, match=r"got 9 of sums, 0 of words, .*; set selection.anchor_bal"
    ):
        corpora.load(settings_of(own))


def test_a_file_without_an_anchor_that_fits_is_refused(own, tmp_path):
    rows = [{"q": f"{n}?", "a": "1" * 60, "kind": "sums"} for n in range(9)]
    path = tmp_path / "dev.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own.data.anchors_path = str(path)
    message = r"got none of the 9 rows of data\.anchors_path='.*': 9 do not fit into data.length=48"
    with pytest.raises(ValueError, match=message):
        corpora.load(settings_of(own))


def test_rows_that_anchors_ask_are_looked_for_once(own, tmp_path, monkeypatch):
    own.data.directory = str(tmp_path / "prepared")
    own.data.anchors_path = str(write(tmp_path / "dev.jsonl", range(20)))
    before = corpora.load(settings_of(own)).train
    with monkeypatch.context() as patched:
        patched.setattr("partitionsel_jax.data.own_anchors.OwnAnchors.index", pytest.fail)
        after = corpora.load(settings_of(own)).train
    assert list(before.all_examples()) == list(after.all_examples())
    write(tmp_path / "dev.jsonl", range(10))
    assert len(corpora.load(settings_of(own)).train) > len(after)


def test_a_corpus_is_scanned_once(own, tmp_path, monkeypatch):
    own.data.directory = str(tmp_path / "prepared")
    before = corpora.load(settings_of(own))
    monkeypatch.setattr("partitionsel_jax.data.fitting._scan", pytest.fail)
    after = corpora.load(settings_of(own))
    assert [len(part) for part in (after.train, after.anchors)] == [56, 8]
    for part in ("train", "anchors", "validation", "test"):
        rows = [getattr(corpus, part).rows(range(4)) for corpus in (before, after)]
        assert all(np.array_equal(a, b) for a, b in zip(*rows, strict=True))


@pytest.mark.parametrize(
    ("source", "sample", "right", "wrong"),
    [
        ("metamathqa", "metamathqa.json", "So it is {}.\nThe answer is: {}", "The answer is: 1{}"),
        ("mol_instructions", "mol_instructions", "{}", "{}[C]"),
    ],
)
def test_published_formats_are_read_and_judged(own, tmp_path, source, sample, right, wrong):
    shutil.copytree(SAMPLES, tmp_path / "samples")
    columns = {"prompt": "prompt", "response": "response", "domain": "domain"}
    own.data.columns.update(columns)
    own.data.update({"source": source, "path": str(tmp_path / "samples" / sample)})
    own.data.update({"validation": 3, "test": 1, "length": 700, "template": "alpaca"})
    own.selection.anchors = 8
    settings = settings_of(own)
    corpus = corpora.load(settings)
    scorers = corpora.scorers(settings)
    assert tuple(scorers) == corpus.domains == settings.data.names
    for example in corpus.test.all_examples():
        scorer = scorers[corpus.domains[example.domain]]
        assert scorer(right.format(example.answer, example.answer), example)
        assert not scorer(wrong.format(example.answer), example)
        assert scorer(example.response, example)


def test_a_method_that_wants_more_anchors_than_there_are_is_refused_before_any_run(tiny, tmp_path):
    tiny.methods = {"few": {}, "many": {"selection": {"anchors": 16}}}
    said = "selection.anchors=16 exceeds the 8 rows that anchors are drawn from, half of the data.v"
    with pytest.raises(ValueError, match=said):
        training.train_all(tiny.to_dict(), tmp_path / "work")
    assert not (tmp_path / "work").exists()
