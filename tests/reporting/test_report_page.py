"""What the report writes: page, charts and CSV files."""

import csv
import html.parser
import json
import re

import numpy as np
import pytest

from partitionsel_jax import reporting
from partitionsel_jax.reporting import (
    comparison,
    overlaps,
    page,
    selection_charts,
    theme,
    wording,
)

_VOID = {"meta", "br", "img", "link", "input", "hr"}
CHARTS = {
    "validation_loss",
    "validation_loss_per_domain",
    "domain_mix",
    "corrupted_share",
    "selection_diagnostics",
    "accuracy",
    "accuracy_per_domain",
    "overlap",
    "stage_shares",
}


class _Outline(html.parser.HTMLParser):
    """Checks that tags nest, and collects ids, attributes and text."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.tags, self.text, self.attributes = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self._enter(tag, attrs)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self._enter(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def _enter(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]


def _parse(report):
    outline = _Outline()
    outline.feed(report.page.read_text())
    assert outline.open == []
    return outline


@pytest.fixture(scope="module")
def built(tmp_path_factory, write_run):
    workdir = tmp_path_factory.mktemp("workdir")
    data = {"data": {"corrupted": {"kind": "garbled", "share": 0.3}}}
    for seed in (0, 1):
        write_run(workdir / "random" / f"{seed}", seed=seed, config=data)
        write_run(
            workdir / "partitionsel" / f"{seed}",
            "partitionsel",
            seed=seed,
            losses=(4.0, 1.0, 0.5),
            config=data,
        )
    return reporting.build(workdir)


def test_every_chart_is_written_as_png_and_svg(built):
    for name in CHARTS:
        assert (built.directory / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (built.directory / f"{name}.svg").read_text()
    width = int.from_bytes((built.directory / "validation_loss.png").read_bytes()[16:20], "big")
    assert width == 1920


def test_the_page_parses_and_needs_nothing_else(built):
    outline = _parse(built)
    text = built.page.read_text()
    assert not {"link", "iframe", "img"} & set(outline.tags)
    # The data and what draws it, both in the page.
    assert outline.tags.count("script") == 2
    references = [v for name, v in outline.attributes if name in ("src", "href", "xlink:href")]
    assert references and all(value.startswith("#") for value in references)
    assert not re.search(r"url\((?!#|\$)|@import|@font-face|fetch\(|XMLHttp", text)
    assert ("name", "viewport") in outline.attributes
    assert "prefers-color-scheme:dark" in text
    assert "overflow-x:auto" in text


def test_ids_are_unique_and_every_link_is_met(built):
    outline = _parse(built)
    assert len(outline.ids) == len(set(outline.ids))
    links = {value for name, value in outline.attributes if name == "href"} - {"#"}
    assert links == {f"#run-{number}" for number in range(4)}
    assert {link.removeprefix("#") for link in links} <= set(outline.ids)


def _data(report):
    text = report.page.read_text()
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    return json.loads(found)


def test_every_chart_has_its_place_and_its_data(built):
    places = {value for name, value in _parse(built).attributes if name == "data-chart"}
    assert places == CHARTS - {"stage_shares", "accuracy_per_domain"} | {"training_loss"}
    data = _data(built)
    assert {chart["id"] for chart in data["charts"]} >= places
    for chart in data["charts"]:
        keys = {panel["key"] for panel in chart.get("panels", [{"key": "mix"}])}
        known = [run["grids"][chart.get("grid", "drawn")]["series"] for run in data["runs"]]
        assert any(keys & series.keys() for series in known)


def test_the_pages_data_are_those_of_the_runs(built):
    data = _data(built)
    assert [label["name"] for label in data["labels"]] == ["partitionsel", "random"]
    assert [label["runs"] for label in data["labels"]] == [[0, 1], [2, 3]]
    assert data["labels"][1]["target"] == 2.0 and data["labels"][0]["target"] is None
    grid = data["runs"][1]["grids"]["evaluated"]
    assert grid["step"] == [0, 10, 20]
    assert grid["series"]["validation_loss"] == [4.0, 1.0, 0.5]
    assert grid["series"]["test_accuracy"] == [None, None, 0.35]
    spent = [grid[name] for name in ("updates", "tokens", "flops", "seconds")]
    assert spent == [[0, 10, 20], [0, 7500, 15000], [0, 10**7, 2 * 10**7], [0, 5, 10]]
    assert data["quantiles"][0] == pytest.approx(12.7062, rel=1e-5)
    # 8 of 64 at random have 1 in common with 8 others, and 15 together.
    assert data["chance"] == pytest.approx(1 / 15, rel=1e-4)


def test_filters_offer_what_runs_differ_in(tmp_path, write_run):
    for seed in (0, 1):
        for ridge in (0.0, 0.1):
            config = {"selection": {"ridge": ridge}}
            write_run(
                tmp_path / f"{ridge}-{seed}",
                "partitionsel",
                seed=seed,
                config=config,
                config_hash=str(ridge),
                axes={"selection.ridge": ridge},
            )
    report = reporting.build(tmp_path)
    outline = _parse(report)
    names = {value for name, value in outline.attributes if name == "data-facet"}
    assert names == {"selection.ridge", "seed", "label"}
    found = [run["facets"]["selection.ridge"] for run in _data(report)["runs"]]
    assert sorted(found) == ["0.0", "0.0", "0.1", "0.1"]


def test_a_run_has_a_page_with_its_config(built):
    text = built.page.read_text()
    (section,) = re.findall(r'<section class="run" id="run-0".*?</section>', text, re.DOTALL)
    assert "<h1>partitionsel/0</h1>" in section
    assert "features 70.0 %, selection 10.0 %, update 20.0 %" in section
    assert "data.noise.share = 0.3" in section


def test_overlaps_are_of_equal_pools_seed_by_seed(tmp_path, write_run):
    for seed in (0, 1):
        for method in ("partitionsel", "greats"):
            write_run(tmp_path / method / f"{seed}", method, seed=seed, domains=["a"])
    other = {"method": "x", "selection": {"pool": 128}}
    write_run(tmp_path / "wide", "wide", domains=["a"], config=other)
    ids = {"partitionsel": [1, 2, 3], "greats": [2, 3, 4], "wide": [1, 2, 3]}
    for path in tmp_path.rglob("selections.jsonl"):
        found = ids[path.relative_to(tmp_path).parts[0]]
        # Padding is no pick, and a damaged line is passed over.
        path.write_text(json.dumps({"step": 1, "ids": [*found, -1]}) + '\n{"step": 2, "ids"')
    (groups,) = map(comparison.by_label, comparison.evaluation_sets(reporting.read_runs(tmp_path)))
    names = list(groups)
    matrix = overlaps.matrix(groups)
    assert matrix[names.index("partitionsel"), names.index("greats")] == 0.5
    assert np.isnan(matrix[names.index("partitionsel"), names.index("wide")])
    report = reporting.build(tmp_path)
    rows = list(csv.DictReader((report.directory / "overlap.csv").open()))
    assert [(row["label"], row["seed"], row["jaccard"]) for row in rows] == [
        ("greats", "0", "0.5"),
        ("greats", "1", "0.5"),
    ]


def test_several_workdirs_make_one_report(tmp_path, write_run):
    write_run(tmp_path / "a" / "random", domains=["x"])
    write_run(tmp_path / "b" / "runs" / "p", "partitionsel", domains=["x"])
    workdirs = [tmp_path / "a", tmp_path / "b", tmp_path / "b" / "runs"]
    with pytest.raises(ValueError, match="output for the report of 3 workdirs"):
        reporting.build(workdirs)
    report = reporting.build(workdirs, tmp_path / "out")
    assert report.page == tmp_path / "out" / "report.html"
    rows = list(csv.DictReader((report.directory / "configs.csv").open()))
    # A run that two workdirs hold is one run.
    assert [row["run"] for row in rows] == ["a/random", "b/runs/p"]
    assert report.headline[0].baseline == "random"
    with pytest.raises(ValueError, match=r"no run in .*empty"):
        reporting.build([tmp_path / "a", tmp_path / "empty"], tmp_path / "out")


def test_evaluation_sets_have_tables_and_charts_of_their_own(tmp_path, write_run):
    for rows in (8, 16):
        config = {"data": {"validation": rows}}
        for method in ("random", "partitionsel"):
            name = f"{method}{rows}"
            write_run(tmp_path / name, method, config=config, config_hash=name, domains=["a"])
    report = reporting.build(tmp_path)
    assert [len(rows) for rows in report.sets] == [2, 2]
    assert "evaluation set 2 of 2" in report.table
    assert any("2 different sets of rows" in caveat for caveat in report.caveats)
    assert (report.directory / "validation_loss_set2.png").exists()
    attributes = _parse(report).attributes
    assert attributes.count(("data-facet", "evaluation set")) == 2
    assert attributes.count(("name", "set")) == 2
    summary = list(csv.DictReader((report.directory / "summary.csv").open()))
    assert [row["evaluation_set"] for row in summary] == ["1", "1", "2", "2"]


def test_seeds_that_never_arrive_are_shown_as_such(tmp_path, write_run):
    for seed, last in enumerate((1.0, 2.5)):
        write_run(tmp_path / f"r{seed}", losses=(4.0, 3.0, 2.0), seed=seed)
        write_run(tmp_path / f"p{seed}", "partitionsel", losses=(4.0, 3.0, last), seed=seed)
    report = reporting.build(tmp_path)
    assert "0: 0.75×, 1: > 1.00×" in " ".join(_parse(report).text)
    rows = list(csv.DictReader((report.directory / "to_target.csv").open()))
    costed = [(row["seed"], row["ratio"], row["reached"]) for row in rows[:2]]
    assert costed == [("0", "0.75", "True"), ("1", "1.0", "False")]


def test_sixty_runs_make_a_page_below_ten_megabytes(tmp_path, write_run):
    for method in range(12):
        for seed in range(5):
            write_run(
                tmp_path / f"m{method}" / f"{seed}",
                "random" if not method else f"m{method}",
                losses=np.linspace(4.0, 2.0 + 0.01 * method, 13),
                every=20,
                seed=seed,
                domains=[f"domain{number}" for number in range(8)],
            )
    runs = reporting.read_runs(tmp_path)
    sets = [comparison.by_label(runs)]
    rows = reporting.headline(runs)
    strokes = theme.strokes({row.label: row.is_baseline for row in rows})
    text = page.page(sets, [rows], strokes, [], CHARTS)
    assert len(text.encode()) < 10e6


def test_the_page_states_facts_findings_and_numbers(built):
    text = " ".join(_parse(built).text)
    assert "20 model updates · pool 64 → 8 selected" in text
    assert "30 % of the training answers garbled" in text
    # Target 2.0: two thirds of the way from update 0 to 10, of 20.
    assert "reaches random's final validation loss in 0.33× the updates" in text
    assert "0.33× ± 0.00" in text
    assert "compilation and evaluation are left out" in text
    assert "hash-of-partitionsel" in text
    assert "jax 0.10.2" in text


def test_summary_csv_holds_the_headline(built):
    rows = list(csv.DictReader((built.directory / "summary.csv").open()))
    assert [row["label"] for row in rows] == ["partitionsel", "random"]
    assert float(rows[0]["updates_ratio_mean"]) == pytest.approx(1 / 3)
    assert float(rows[0]["validation_loss_mean"]) == 0.5
    assert rows[0]["seeds"] == "0 1"
    assert rows[1]["baseline"] == "random"


def test_curves_csv_holds_every_logged_number(built):
    rows = list(csv.DictReader((built.directory / "curves.csv").open()))
    spent = ["tokens", "flops", "seconds"]
    columns = ["run", "label", "method", "seed", "step", *spent, "metric", "domain", "value"]
    assert list(rows[0]) == columns
    first = [row for row in rows if row["run"] == "partitionsel/0"]
    evaluations = [row for row in first if row["metric"] == "validation_loss"]
    assert [(row["step"], row["seconds"], row["value"]) for row in evaluations] == [
        ("0", "0.0", "4.0"),
        ("10", "5.0", "1.0"),
        ("20", "10.0", "0.5"),
    ]
    picks = [row for row in first if row["metric"] == "selected"]
    assert len(picks) == 20 * 4
    assert {row["domain"] for row in picks} >= {"chain_sum", "gsm_symbolic"}
    assert not any(row["metric"] == "utility" for row in rows if row["method"] == "random")


def test_charts_without_content_are_left_out_and_old_ones_removed(tmp_path, write_run):
    stale = tmp_path / "report" / "corrupted_share.png"
    stale.parent.mkdir()
    stale.write_bytes(b"")
    write_run(tmp_path / "run", domains=["a"], noise_share=None)
    report = reporting.build(tmp_path)
    assert not stale.exists()
    headings = " ".join(_parse(report).text)
    assert "Corrupted rows among the picks" not in headings
    assert "Utility, certificate and diagnostics" not in headings
    assert "Domain mix of the picks" in headings
    assert "one seed" in headings
    assert (report.headline[0].baseline, report.headline[0].corrupted_share) == (None, 0.0)


def test_a_run_that_has_just_begun_is_reported_as_unfinished(tmp_path, write_run):
    directory = write_run(tmp_path / "run", finished=False)
    (directory / "metrics.jsonl").write_text('{"st')
    report = reporting.build(tmp_path)
    said = " ".join(_parse(report).text)
    assert "unfinished: its rows end at update 0 of 20" in said
    assert "1 damaged line of metrics.jsonl skipped" in said
    assert "No run is finished" in said
    assert report.headline[0].validation_loss is None


def test_a_run_that_diverged_is_drawn_and_not_hidden(tmp_path, write_run):
    nan = float("nan")
    write_run(tmp_path, losses=(4.0, nan, nan), domains=["a"], noise_share=None)
    report = reporting.build(tmp_path)
    final = report.headline[0].validation_loss
    assert final is not None and np.isnan(final.mean)
    assert "nan" in report.table


def test_names_are_escaped(tmp_path, write_run):
    nasty = '<script>alert("1")</script>$x_{$&--><b>'
    config = {nasty: nasty, "data": {"corrupted": {"kind": nasty, "share": 0.5}}}
    write_run(tmp_path / "<i>run", nasty, domains=[nasty], config=config, noise_share=None)
    write_run(tmp_path / "random", domains=[nasty], config=config, noise_share=None)
    report = reporting.build(tmp_path)
    outline = _parse(report)
    assert not {"b", "i"} & set(outline.tags)
    assert outline.tags.count("script") == 2
    assert any(nasty in text for text in outline.text)
    assert _data(report)["labels"][0]["name"] == nasty


def test_a_report_is_not_taken_for_a_run_when_built_again(tmp_path, write_run):
    write_run(tmp_path / "run", domains=["a"], noise_share=None)
    first = reporting.build(tmp_path)
    texts = {path.name: path.read_bytes() for path in first.directory.iterdir()}
    second = reporting.build(tmp_path)
    assert second.headline == first.headline
    # The same runs give the same files, byte for byte.
    assert {path.name: path.read_bytes() for path in second.directory.iterdir()} == texts


def test_labels_of_a_chart_are_moved_apart_no_more_than_needed():
    moved = selection_charts.spaced(np.array([0.1, 0.12, 0.14, 0.9]), gap=0.1)
    np.testing.assert_allclose(moved, [0.02, 0.12, 0.22, 0.9])
    assert selection_charts.spaced(np.array([]), gap=0.1).shape == (0,)


def test_a_title_does_not_claim_more_than_the_seeds_show(tmp_path, write_run):
    for seed, last in enumerate((1.0, 2.5)):
        write_run(tmp_path / f"r{seed}", losses=(4.0, 3.0, 2.0), seed=seed)
        write_run(tmp_path / f"p{seed}", "partitionsel", losses=(4.0, 3.0, last), seed=seed)
    rows = reporting.headline(reporting.read_runs(tmp_path))
    reaches = "partitionsel reaches random's final validation loss in 0.75× the updates"
    assert wording.headline_title(rows) == f"{reaches} (1 of 2 seeds)"
    (said,) = wording.findings(rows)
    assert said.endswith("(1 of 2 seeds; the others do not reach it).")


def test_missing_optional_facts_are_left_out(tmp_path, write_run):
    write_run(tmp_path)
    facts = json.loads((tmp_path / "config.json").read_text())
    kept = ("config", "config_hash", "method", "seed", "domains")
    (tmp_path / "config.json").write_text(json.dumps({key: facts[key] for key in kept}))
    assert wording.facts(reporting.read_runs(tmp_path)) == "4 domains · 1 seed"
