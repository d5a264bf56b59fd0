"""A data card as text and as a page: the loss mask, the numbers, and nothing from elsewhere."""

import dataclasses
import html.parser
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from configs import self_selection
from experiments import data as command
from partitionsel_jax.data import card
from partitionsel_jax.data.fitting import Named
from partitionsel_jax.reporting import data_card

PIECES = (
    card.Piece("begin", False, is_marker=True),
    card.Piece("2 < 3 & \x1b[31m?\n", False),
    card.Piece("yes", True),
    card.Piece("end", True, is_marker=True),
)
CARD = card.Card(
    length=32,
    template="plain",
    domains=("sums", "<b>logic</b>\x1b[2J"),
    rows={"train": (1200, 34), "anchors": (3, 1), "validation": (4, 2), "test": (5, 0)},
    corrupted=12,
    left_out={
        "train": Named(7, ("a.json row 2",)),
        "validation": Named(0),
        "test": Named(1, ("id 5",)),
    },
    cut={"train": Named(0), "validation": Named(9, ("id 4",)), "test": Named(0)},
    read={"train": 50, "anchors": 4, "validation": 6, "test": 5},
    histogram=pd.DataFrame({"first": [1, 17], "last": [16, 32], "rows": [40, 10]}),
    lengths=pd.DataFrame(
        [[50, 600, 150, 31], [0, 0, 0, 0]],
        index=["sums", "<b>logic</b>\x1b[2J"],
        columns=["rows", "tokens", "learnt", "longest"],
    ),
    repeats=pd.DataFrame(
        [(("train",), 50, 11, 22, 10), (("train", "test"), 5, 1, 2, 0)],
        columns=["splits", "rows", "prompts", "responses", "both"],
    ),
    shown=(card.ShownRow(17, "sums", True, 21, 4, PIECES),),
    report={"read": 1500, "bad": {"no text": {"rows": 2, "first": [["a.json", 3], ["a.json", 9]]}}},
)
CELLS = [
    ["sums", "1,200", "3", "4", "5"],
    ["all", "1,234", "4", "6", "5"],
    ["sums", "50", "12.0", "31", "3.0", "25.0 %"],
    ["all", "50", "12.0", "31", "3.0", "25.0 %"],
    ["within train", "50", "11", "22", "10"],
    ["test, also in train", "5", "1", "2", "0"],
    ["train", "7 (a.json row 2, ...)", "0"],
    ["validation", "0", "9 (id 4, ...)"],
    ["read", "1,500"],
    ["bad · no text · rows", "2"],
    ["bad · no text · first", "a.json 3, a.json 9"],
]


class Page(html.parser.HTMLParser):
    """Checks that tags nest; collects attributes, the cells of each line, and classes of text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.lines, self.texts = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag == "tr":
            self.lines.append([])
        if tag == "td":
            self.lines[-1].append("")
        if tag != "meta":
            self.open.append((tag, dict(attrs).get("class")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if any(tag == "td" for tag, _ in self.open):
            self.lines[-1][-1] += data
        if self.open and self.open[-1][0] == "span":
            self.texts.append((self.open[-1][1], data))


def lines(text):
    return [re.split(r"  +", line.strip()) for line in text.splitlines()]


def test_without_colours_brackets_show_what_is_learnt():
    text = data_card.as_text(CARD, colours=False)
    assert "\n⟨begin⟩2 < 3 & \ufffd[31m?\n⟦yes⟨end⟩⟧\n" in text
    assert "\x1b" not in text


def test_colours_show_what_is_learnt():
    text = data_card.as_text(CARD, colours=True)
    dim, colour, frame, plain = "\x1b[2m", "\x1b[36m", "\x1b[7m", "\x1b[0m"
    assert (
        f"\n{dim}{frame}begin{plain}{dim}2 < 3 & \ufffd[31m?\n{plain}"
        f"{colour}yes{plain}{colour}{frame}end{plain}\n"
    ) in text
    assert set(re.findall("\x1b.{0,4}?m", text)) == {dim, colour, frame, plain}


def test_the_page_shows_what_is_learnt():
    texts = Page(data_card.as_html(CARD)).texts
    assert texts[-4:] == [
        ("prompt marker", "begin"),
        ("prompt", "2 < 3 & \ufffd[31m?\n"),
        ("learnt", "yes"),
        ("learnt marker", "end"),
    ]


def test_text_and_page_hold_the_same_numbers():
    printed = lines(data_card.as_text(CARD, colours=False))
    page = Page(data_card.as_html(CARD)).lines
    for cells in CELLS:
        assert cells in printed
        assert cells in page
    assert ["1–16", "40", "█" * 40] in printed
    assert ["17–32", "10", "█" * 10] in printed


def test_what_was_read_in_part_is_said():
    for text in (data_card.as_text(CARD, colours=False), data_card.as_html(CARD)):
        flat = " ".join(text.split())
        assert flat.count("50 rows of train at random, of 1,234.") == 3
        assert "Rows that were not read may hold more." in flat
        assert "12 of the training rows (1.0 %) are corrupted on purpose." in flat
    whole = dataclasses.replace(CARD, read=CARD.read | {"train": 1234}, report={})
    text = " ".join(data_card.as_text(whole, colours=False).split())
    assert "All 1,234 rows of train." in text
    assert "at random" not in text
    assert "not read" not in text
    assert "files were read" not in text


def test_the_page_needs_nothing_from_elsewhere_and_serves_dark_and_small_screens():
    text = data_card.as_html(CARD)
    page = Page(text)
    assert not {name for name, _ in page.attributes} & {"src", "href", "srcset", "data"}
    assert not re.search(r"https?:|url\(|@import|<script|<link", text)
    assert "prefers-color-scheme:dark" in text
    assert ("content", "width=device-width, initial-scale=1") in page.attributes


def test_a_domain_cannot_bring_markup_or_control_characters():
    assert "<b>" not in data_card.as_html(CARD)
    assert "\x1b" not in data_card.as_html(CARD)
    assert "<b>logic</b>\ufffd[2J" in data_card.as_text(CARD, colours=False)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("no_color", "wanted"), [(None, True), ("", True), ("1", False)])
def test_only_terminals_without_no_color_have_colours(monkeypatch, no_color, wanted):
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    assert data_card.wants_colours(Terminal()) == wanted
    assert not data_card.wants_colours(io.StringIO())


def test_the_command_prints_the_card_and_writes_the_page(tmp_path):
    page = tmp_path / "data.html"
    result = subprocess.run(
        [
            *(sys.executable, "-m", "experiments.data", "--config=configs/self_selection.py:smoke"),
            *(f"--config.data.directory={tmp_path}", "--config.data.train=20"),
            *(f"--html={page}", "--rows=50"),
        ],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert "Data: 160 training rows of at most 96 tokens, 8 domains" in result.stdout
    assert "50 rows of train at random, of 160." in result.stdout
    assert "\x1b" not in result.stdout
    assert ["all", "160", "32", "32", "16"] in Page(page.read_text()).lines


@pytest.fixture
def card_of(tmp_path, monkeypatch):
    """The card of a config whose rows are of the domains math, prose and (one row) maths."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    domains = ["math", "prose"] * 20 + ["maths"]
    rows = [
        {"prompt": f"question{i}", "response": f"answer {i}", "domain": domain}
        for i, domain in enumerate(domains)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def made(**changes):
        config = self_selection.get_config("smoke").to_dict()
        config["data"] |= {"source": "instructions", "path": str(tmp_path / "rows.jsonl")}
        config["data"] |= {"tasks": {}, "train": 0, "validation": 4, "test": 2}
        config["data"] |= {"directory": str(tmp_path / "prepared"), **changes}
        config["selection"] |= {"anchor_balance": False}
        card, problem = command._card(config, 0)
        page = Page(data_card.as_html(card, problem))
        return data_card.as_text(card, colours=False, problem=problem), page

    return made


@pytest.mark.parametrize(
    ("changes", "problem", "shown"),
    [
        ({"domains": ("math", "prse")}, "got none of 'prse'; the domains", "math 14 2 2 2"),
        ({}, "got too few of maths (1 rows", "all 28 4 4 4"),
        ({"domains": ("prse",)}, "got none of 'prse'; the domains", "maths 1"),
        ({"validation": 90}, "expected 2 test and 90 validation rows", "math 20"),
        ({"template": "chat", "domains": ("math",)}, "has no chat template", "math 20"),
        ({"columns": {"prompt": "nope"}}, "nope missing", "rows.jsonl prompt, response, domain"),
    ],
    ids=str,
)
def test_the_card_renders_with_the_problem_on_top(card_of, changes, problem, shown):
    text, page = card_of(**changes)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0].startswith("Problem: ") and problem in " ".join(lines[: lines.index("")])
    assert shown in lines
    assert shown.split() in [" ".join(cells).split() for cells in page.lines]


def test_without_anything_to_show_there_is_no_card(card_of):
    with pytest.raises(ValueError, match="nothing is at '/nowhere'"):
        card_of(path="/nowhere")
