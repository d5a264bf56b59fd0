"""What the report writes: page, charts and CSV files."""

import csv
import html
import html.parser
import json
import re

import numpy as np
import plotly.offline
import pytest
from plotly import graph_objects

from partitionsel_jax import reporting
from partitionsel_jax.evaluation import guard
from partitionsel_jax.reporting import charts, curves, images, labels, page, wording

_VOID = {"meta", "br", "img", "link", "input", "hr"}
_PLOTLY = plotly.offline.get_plotlyjs()


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


def _own(report):
    """The page without plotly's own script, which has to be in it once."""
    text = report.page.read_text()
    assert text.count(_PLOTLY) == 1
    return text.replace(_PLOTLY, "")


def _parse(report):
    outline = _Outline()
    outline.feed(_own(report))
    assert outline.open == []
    return outline


@pytest.fixture(scope="module")
def built(tmp_path_factory, write_run):
    workdir = tmp_path_factory.mktemp("workdir")
    data = {"data": {"noise": {"kind": "garbled", "share": 0.3}}}
    for seed in (0, 1):
        write_run(workdir / "random" / f"{seed}", seed=seed, config=data)
        write_run(
            workdir / "partitionsel" / f"{seed}",
            "partitionsel",
            seed=seed,
            losses=(4.0, 1.0, 0.5),
            config=data,
            extra=dict(zip(guard.LOSSES, (2.0, 2.5), strict=True)),
        )
    return reporting.build(workdir)


def test_every_chart_is_written_as_png_and_svg(built):
    for name in images.NAMES:
        assert (built.directory / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (built.directory / f"{name}.svg").read_text()
    width = int.from_bytes((built.directory / "validation_loss.png").read_bytes()[16:20], "big")
    assert width == 1920


def test_the_page_parses_and_needs_nothing_else(built):
    outline = _parse(built)
    text = _own(built)
    assert not {"link", "iframe", "img"} & set(outline.tags)
    # Plotly's and one for each chart.
    assert outline.tags.count("script") == 1 + len(_figures(built))
    assert not {"src", "href", "xlink:href"} & {name for name, _ in outline.attributes}
    assert not re.search(r"https?:|url\(|@import|@font-face|fetch\(|XMLHttp", text)
    assert len(text) < 1e6 < len(built.page.read_text()) < 6e6
    # Nothing may be fetched, and no chart has a button that sends it somewhere.
    assert any(v.startswith("default-src 'none'") for n, v in outline.attributes if n == "content")
    assert text.count('"showSendToCloud": false') == len(_figures(built))
    assert ("name", "viewport") in outline.attributes
    assert "prefers-color-scheme:dark" in text
    assert "overflow-x:auto" in text


def test_ids_are_unique(built):
    outline = _parse(built)
    assert {f"run-{number}" for number in range(4)} < set(outline.ids)
    assert len(outline.ids) == len(set(outline.ids))


def _figures(report):
    """The traces and the layout of every chart of the page, as plotly reads and checks them."""
    found = {}
    pattern = r'Plotly\.newPlot\(\s*"([^"]*)",\s*(.*?),\s*\{"displaylogo"'
    for name, text in re.findall(pattern, _own(report), re.DOTALL):
        traces, layout = json.loads(f"[{text}]")
        found[name] = graph_objects.Figure(traces, layout)
    return found


def test_every_chart_has_its_place_and_its_data(built):
    places = {value for name, value in _parse(built).attributes if name == "data-chart"}
    figures = _figures(built)
    assert places == figures.keys()
    tables = {"stage_shares", "accuracy_per_domain"}
    assert {name.split("-")[0] for name in places} == set(images.NAMES) - tables
    assert all(len(trace.x) for figure in figures.values() for trace in figure.data)
    assert {"Where the time of an update goes", "Test accuracy by domain"} <= set(
        _parse(built).text
    )


def test_the_pages_data_are_those_of_the_runs(built):
    figure = _figures(built)["validation_loss-0"]
    means = {trace.name: trace for trace in figure.data if trace.name}
    assert list(means) == ["partitionsel", "random"]
    assert list(means["partitionsel"].x) == [0, 10, 20]
    assert list(means["partitionsel"].y) == [4.0, 1.0, 0.5]
    # A thin line for each seed, and a band, are hidden and shown with their method.
    assert [trace.legendgroup for trace in figure.data] == ["partitionsel"] * 4 + ["random"] * 4
    (target,) = figure.layout.shapes
    assert (target.y0, target.y1) == (2.0, 2.0)
    (band,) = (t for t in _figures(built)["accuracy-0"].data if t.name == "partitionsel")
    # Test accuracies of 0.25 and 0.35.
    assert list(band.error_y.array) == [pytest.approx(12.7062 * 0.05, rel=1e-4)]


def test_buttons_choose_what_curves_are_drawn_against(built):
    figure = _figures(built)["validation_loss-0"]
    (menu,) = figure.layout.updatemenus
    assert [button.label for button in menu.buttons] == ["updates", "tokens", "FLOPs", "time"]
    mean = [trace.name for trace in figure.data].index("partitionsel")
    drawn = [button.args[0]["x"] for button in menu.buttons]
    assert all(len(xs) == len(figure.data) for xs in drawn)
    assert [xs[mean] for xs in drawn] == [
        *([0, 10, 20], [0, 7500, 15000], [0, 10**7, 2 * 10**7], [0, 5, 10])
    ]


def test_runs_that_did_not_log_a_cost_are_not_drawn_against_it(tmp_path, write_run):
    write_run(tmp_path / "r", flops=None, domains=["a"])
    write_run(tmp_path / "p", "partitionsel", domains=["a"])
    figure = _figures(reporting.build(tmp_path))["validation_loss-0"]
    names = [trace.name for trace in figure.data]
    by_label = {
        button.label: button.args[0]["x"] for button in figure.layout.updatemenus[0].buttons
    }
    assert by_label["FLOPs"][names.index("random")] == []
    assert len(by_label["FLOPs"][names.index("partitionsel")]) == 3


def test_a_run_is_described_with_its_config(built):
    text = built.page.read_text()
    (section,) = re.findall(r'<details id="run-0">.*?</details>', text, re.DOTALL)
    assert "<summary>partitionsel/0 (finished)</summary>" in section
    records = json.loads(html.unescape(re.sub("<.*?>", "", section.split("<pre>")[1])))
    assert records["summary.json"]["seconds"]["features_share"] == 0.7
    assert records["config.json"]["config"]["data"]["noise"]["share"] == 0.3
    assert records["config.json"]["versions"]["jax"] == "0.10.2"


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
    (groups,) = map(labels.by_label, labels.evaluation_sets(reporting.read_runs(tmp_path)))
    matrix = curves.overlap_matrix(groups)
    assert matrix.loc["partitionsel", "greats"] == matrix.loc["greats", "partitionsel"] == 0.5
    assert np.isnan(matrix.loc["partitionsel", "wide"])
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
    assert {"Evaluation set 1 of 2", "Evaluation set 2 of 2"} <= set(_parse(report).text)
    for number, rows in enumerate((16, 8)):
        names = {trace.name for trace in _figures(report)[f"validation_loss-{number}"].data}
        assert {f"random (validation={rows})", f"partitionsel (validation={rows})"} <= names
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
    groups, rows = labels.by_label(runs), reporting.headline(runs)
    strokes = charts.strokes(rows)
    text = page.page([groups], [rows], [charts.of_curves(groups, rows)], strokes, [])
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
    assert "0.10.2" in text


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
    write_run(tmp_path / "run", domains=["a"], corrupted_share=None)
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
    write_run(tmp_path, losses=(4.0, nan, nan), domains=["a"], corrupted_share=None)
    report = reporting.build(tmp_path)
    final = report.headline[0].validation_loss
    assert final is not None and np.isnan(final.mean)
    assert "nan" in report.table


def test_names_are_escaped(tmp_path, write_run):
    nasty = '<script>alert("1")</script>$x_{$&--><b>'
    config = {nasty: nasty, "data": {"noise": {"kind": nasty, "share": 0.5}}}
    write_run(tmp_path / "<i>run", nasty, domains=[nasty], config=config, corrupted_share=None)
    write_run(tmp_path / "random", domains=[nasty], config=config, corrupted_share=None)
    report = reporting.build(tmp_path)
    outline = _parse(report)
    assert not {"b", "i"} & set(outline.tags)
    figures = _figures(report)
    assert outline.tags.count("script") == 1 + len(figures)
    assert any(nasty in text for text in outline.text)
    # Plotly shows some HTML in its texts: there the name is escaped once more.
    assert html.escape(nasty) in {trace.name for trace in figures["validation_loss-0"].data}
    shown = json.dumps([figure.to_plotly_json() for figure in figures.values()], default=str)
    assert "<b>" not in shown and "<script" not in shown


def test_a_report_is_not_taken_for_a_run_when_built_again(tmp_path, write_run):
    write_run(tmp_path / "run", domains=[" "], corrupted_share=None)
    first = reporting.build(tmp_path)
    texts = {path.name: path.read_bytes() for path in first.directory.iterdir()}
    second = reporting.build(tmp_path)
    assert second.headline == first.headline
    # The same runs give the same files, byte for byte.
    assert {path.name: path.read_bytes() for path in second.directory.iterdir()} == texts


def test_a_finding_does_not_claim_more_than_the_seeds_show(tmp_path, write_run):
    for seed, last in enumerate((1.0, 2.5)):
        write_run(tmp_path / f"r{seed}", losses=(4.0, 3.0, 2.0), seed=seed)
        write_run(tmp_path / f"p{seed}", "partitionsel", losses=(4.0, 3.0, last), seed=seed)
    rows = reporting.headline(reporting.read_runs(tmp_path))
    (said,) = wording.findings(rows)
    assert said.startswith(
        "partitionsel reaches random's final validation loss in 0.75× the updates"
    )
    assert said.endswith("(1 of 2 seeds; the others do not reach it).")


def test_missing_optional_facts_are_left_out(tmp_path, write_run):
    write_run(tmp_path)
    facts = json.loads((tmp_path / "config.json").read_text())
    kept = ("config", "config_hash", "method", "seed", "domains")
    (tmp_path / "config.json").write_text(json.dumps({key: facts[key] for key in kept}))
    assert wording.facts(reporting.read_runs(tmp_path)) == "4 domains · 1 seed"


def test_a_run_that_answered_before_and_after_training_has_an_accuracy_curve(write_run, tmp_path):
    folder = write_run(tmp_path / "run", "partitionsel", 0, [3.0, 2.0, 1.5])
    summary = json.loads((folder / "summary.json").read_text())
    summary["test_before"] = {**summary["test"], "accuracy": 0.05}
    (folder / "summary.json").write_text(json.dumps(summary))
    report = reporting.build(tmp_path)
    assert (report.directory / "accuracy.png").exists()
