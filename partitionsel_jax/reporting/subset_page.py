"""The page of a chosen subset: what it holds, and how it differs from what others would choose."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from partitionsel_jax.json_files import read_json, write_text
from partitionsel_jax.reporting import page, tables

REPORT = "report.html"
_WAYS = {
    "chosen": "chosen",
    "alignment": "largest alignment (as LESS)",
    "random": "random",
    "candidates": "candidates",
}


def build(folder: Path) -> Path:
    """Writes `report.html` of a subset's summary.json beside it.

    Raises:
      ValueError: no summary that can be read.
    """
    summary = read_json(folder / "summary.json")
    title = f"{summary['picked']:,} of {summary['candidates']:,} rows chosen"
    write_text(folder / REPORT, page.document(title, _body(title, summary)))
    return folder / REPORT


def _body(title: str, summary: Mapping[str, Any]) -> str:
    request = summary["request"]
    models = ", ".join(Path(chooser["model"]).name for chooser in summary["choosers"])
    facts = (
        f"{request['utility']}, budgets {request['budgets']}, {summary['anchors']:,} anchors, "
        f"gradients of {models}. {summary['picks_with_weight']:,} of the chosen rows have a weight "
        "above 0 in matching the anchors' gradient; the others fill the budgets."
    )
    parts = [f"<h1>{escape(title)}</h1>", f'<p class="facts">{escape(facts)}</p>']
    parts += _section("Domains", _domains(summary))
    parts += _section(
        "Beside other ways to choose as many of each domain",
        _others(summary),
        "Redundancy is the mean cosine of a row's gradient with that of the nearest other one; the "
        "overlap is the share of the chosen rows that the other way chooses too.",
    )
    parts += _section("Tokens of a row", _lengths(summary["lengths"]))
    if summary["reasons"]:
        counted = pd.DataFrame(
            [(reason, f"{rows:,}") for reason, rows in summary["reasons"].items()],
            columns=["what happened to rows of the files", "rows"],
        )
        parts += _section("Rows that are not candidates, or are cut", counted)
    parts += _section("The first rows that were picked", _rows(summary["shown"]["first"]))
    parts += _section(
        "Rows whose gradients point most against the anchors'", _rows(summary["shown"]["opposed"])
    )
    return "\n".join(parts)


def _section(heading: str, frame: pd.DataFrame, note: str = "") -> list[str]:
    facts = [f'<p class="facts">{escape(note)}</p>'] if note else []
    return [f"<h2>{escape(heading)}</h2>", *facts, page.table(frame)]


def _domains(summary: Mapping[str, Any]) -> pd.DataFrame:
    columns = {
        "domain": summary["domains"],
        "candidates": summary["rows_per_domain"],
        "anchors": summary["anchors_per_domain"],
        "chosen": summary["picks_per_domain"],
    }
    frame = pd.DataFrame(columns)
    share = frame["chosen"] / max(1, frame["chosen"].sum())
    for name in ("candidates", "anchors", "chosen"):
        frame[name] = frame[name].map("{:,}".format)
    return frame.assign(share=share.map(tables.percent))


def _others(summary: Mapping[str, Any]) -> pd.DataFrame:
    rows = []
    for way, redundancy in summary["redundancy"].items():
        overlap = summary["overlap"].get(way)
        cosine = "–" if redundancy is None else f"{redundancy:.3f}"
        rows.append((_WAYS[way], tables.percent(overlap) if overlap is not None else "–", cosine))
    return pd.DataFrame(rows, columns=["way", "overlap", "redundancy"])


def _lengths(lengths: Mapping[str, Any]) -> pd.DataFrame:
    rows = [(_WAYS[what], *map("{:,}".format, numbers)) for what, numbers in lengths.items()]
    return pd.DataFrame(rows, columns=["rows", "median", "95th percentile", "longest"])


def _rows(shown: list[Mapping[str, Any]]) -> pd.DataFrame:
    rows = [
        (row["place"], row["domain"], f"{row['alignment']:.3f}", row["asked"], row["response"])
        for row in shown
    ]
    return pd.DataFrame(rows, columns=["where", "domain", "alignment", "asked", "response"])
