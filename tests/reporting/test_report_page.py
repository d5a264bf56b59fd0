"""What the report writes: page, charts and CSV files."""

import csv
import html.parser
import json
import re

import numpy as np
import pytest

from partitionsel_jax import reporting
from partitionsel_jax.reporting import selection_charts, theme, wording

_VOID = {"meta", "br", "img", "link", "input", "hr"}
CHARTS = {
    "validation_loss",
    "validation_loss_per_domain",
    "domain_mix",
    "spoilt_share",
    "selection_diagnostics",
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
    data = {"data": {"spoilt": {"kind": "garbled", "share": 0.3}}}
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
    assert not {"script", "link", "iframe", "img"} & set(outline.tags)
    references = [v for name, v in outline.attributes if name in ("src", "href", "xlink:href")]
    assert references and all(value.startswith("#") for value in references)
    assert not re.search(r"url\((?!#)|@import|@font-face", text)
    assert ("name", "viewport") in outline.attributes
    assert "prefers-color-scheme:dark" in text
    assert "overflow-x:auto" in text


def test_ids_are_unique_and_every_reference_is_met(built):
    outline = _parse(built)
    assert len(outline.ids) == len(set(outline.ids))
    text = built.page.read_text()
    used = re.findall(r'href="#([^"]+)"', text) + re.findall(r"url\(#([^)]+)\)", text)
    assert used and set(used) <= set(outline.ids)


def test_every_chart_is_in_the_page_for_desk_and_phone(built):
    outline = _parse(built)
    assert outline.tags.count("svg") == 2 * len(CHARTS)


def test_charts_in_the_page_follow_its_theme(built):
    drawings = re.findall(r"<svg.*?</svg>", built.page.read_text(), flags=re.DOTALL)
    assert all("var(--ink)" in drawing for drawing in drawings)
    fixed = [light for light, _ in theme.PALETTE.values()]
    assert not any(colour in drawing for drawing in drawings for colour in fixed)


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
    columns = ["run", "label", "method", "seed", "step", "seconds", "metric", "domain", "value"]
    assert list(rows[0]) == columns
    first = [row for row in rows if row["run"] == "partitionsel/0"]
    evaluations = [row for row in first if row["metric"] == "validation_loss"]
    assert [(row["step"], row["seconds"], row["value"]) for row in evaluations] == [
        ("0", "0.0", "4.0"),
        ("10", "5.0", "1.0"),
        ("20", "10.0", "0.5"),
    ]
    picks = [row for row in first if row["metric"] == "picks"]
    assert len(picks) == 20 * 4
    assert {row["domain"] for row in picks} >= {"chain_sum", "gsm_symbolic"}
    assert not any(row["metric"] == "utility" for row in rows if row["method"] == "random")


def test_charts_without_content_are_left_out_and_old_ones_removed(tmp_path, write_run):
    stale = tmp_path / "report" / "spoilt_share.png"
    stale.parent.mkdir()
    stale.write_bytes(b"")
    write_run(tmp_path / "run", domains=["a"], spoilt_share=None)
    report = reporting.build(tmp_path)
    assert not stale.exists()
    headings = " ".join(_parse(report).text)
    assert "Spoilt rows among the picks" not in headings
    assert "Utility, certificate and diagnostics" not in headings
    assert "Domain mix of the picks" in headings
    assert "one seed" in headings
    assert (report.headline[0].baseline, report.headline[0].spoilt_share) == (None, 0.0)


def test_a_run_that_has_just_begun_is_reported_as_unfinished(tmp_path, write_run):
    directory = write_run(tmp_path / "run", finished=False)
    (directory / "metrics.jsonl").write_text('{"st')
    report = reporting.build(tmp_path)
    said = " ".join(_parse(report).text)
    assert "unfinished: its rows end at update 0 of 20" in said
    assert "1 damaged line of metrics.jsonl skipped" in said
    assert report.headline[0].validation_loss is None


def test_a_run_that_diverged_is_drawn_and_not_hidden(tmp_path, write_run):
    nan = float("nan")
    write_run(tmp_path, losses=(4.0, nan, nan), domains=["a"], spoilt_share=None)
    report = reporting.build(tmp_path)
    final = report.headline[0].validation_loss
    assert final is not None and np.isnan(final.mean)
    assert "nan" in report.table


def test_names_are_escaped(tmp_path, write_run):
    nasty = '<script>alert("1")</script>$x_{$&--><b>'
    config = {nasty: nasty, "data": {"spoilt": {"kind": nasty, "share": 0.5}}}
    write_run(tmp_path / "<i>run", nasty, domains=[nasty], config=config, spoilt_share=None)
    write_run(tmp_path / "random", domains=[nasty], config=config, spoilt_share=None)
    report = reporting.build(tmp_path)
    outline = _parse(report)
    assert not {"script", "b", "i"} & set(outline.tags)
    assert any(nasty in text for text in outline.text)


def test_a_report_is_not_taken_for_a_run_when_built_again(tmp_path, write_run):
    write_run(tmp_path / "run", domains=["a"], spoilt_share=None)
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
