"""Runs on files: what expand fills in, what is read, and what a changed file does to a run."""

import json
import shutil

import numpy as np
import pytest

from configs.pretrained import SAMPLES
from partitionsel_jax import data, training
from partitionsel_jax.training import corpora
from partitionsel_jax.training import settings as run_settings


@pytest.fixture
def own(tiny, tmp_path):
    """The tiny run on a file of its own: sums and words, 40 of each."""
    write(tmp_path / "rows.jsonl", range(40))
    tiny.data.tasks = {}
    tiny.data.spoilt.kind = "none"
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
    assert settings.data.domains == ("sums", "words")
    assert settings.data.path == str(tmp_path / "rows.jsonl")


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


def test_domains_can_be_chosen_and_weighted(own):
    own.data.domains = ("words",)
    with pytest.raises(ValueError, match=r"1 % bad rows|bad rows, got 40 of 80"):
        corpora.load(settings_of(own))
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
        ({"workers": -1}, "data.workers must be at least 0"),
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
    # Rows that validation or test rows ask, too, are left out of the anchors.
    write(tmp_path / "dev.jsonl", range(40))
    corpus = corpora.load(settings)
    assert len(corpus.anchors) == 80 - 16 - 8
    assert corpus.report["anchors"]["scored elsewhere"] == 24
    asked = {example.question for example in corpus.anchors.all_examples()}
    scored = {e.question for part in (corpus.validation, corpus.test) for e in part.all_examples()}
    assert not asked & scored


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


def test_a_corpus_is_scanned_once(own, tmp_path, monkeypatch):
    own.data.directory = str(tmp_path / "prepared")
    before = corpora.load(settings_of(own))
    monkeypatch.setattr("partitionsel_jax.data.scanning._scan", pytest.fail)
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
    assert tuple(scorers) == corpus.domains == settings.data.domains
    for example in corpus.test.all_examples():
        scorer = scorers[corpus.domains[example.domain]]
        assert scorer(right.format(example.answer, example.answer), example)
        assert not scorer(wrong.format(example.answer), example)
        assert scorer(example.response, example)
