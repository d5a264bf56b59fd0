"""Colours for colour-blind readers, dashes, type and lines of the charts."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import matplotlib
import matplotlib.colors

# (on white, on dark): charts use the first, the page a CSS variable of each name. The series are
# those of Okabe and Ito, "Color Universal Design" (2008), darkened or lightened where their
# contrast with the paper would be below 3:1.
PALETTE = {
    "ink": ("#1f2429", "#e8eaed"),
    "muted": ("#5b636c", "#a3abb4"),
    "grid": ("#e4e7eb", "#32383f"),
    "paper": ("#ffffff", "#15181c"),
    "baseline": ("#737b84", "#9aa2ab"),
    "blue": ("#0072b2", "#4aa8e0"),
    "vermillion": ("#d55e00", "#f0803c"),
    "green": ("#00906a", "#2cc295"),
    "purple": ("#c4659a", "#dd8fbb"),
    "amber": ("#b98400", "#e6b33d"),
    "sky": ("#3a9bd6", "#8fd0f5"),
}
_SERIES = ("blue", "vermillion", "green", "purple", "amber", "sky")
STAGES = {"features": "#0072b2", "selection": "#b98400", "update": "#00906a"}
TARGET_DASH = (0, (4, 3))
_DASHES = ((0, ()), (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
# Fills: the light scheme of Paul Tol, "Colour Schemes", SRON/EPS/TN/09-002 (2021).
FILLS = (
    *("#77aadd", "#ee8866", "#eedd88", "#44bb99", "#ffaabb"),
    *("#aaaa00", "#99ddff", "#bbcc33", "#dddddd"),
)
FONT_SIZE = 9.0
# Applied while charts are made and saved.
RC: dict[Any, Any] = {
    "font.size": FONT_SIZE,
    "text.parse_math": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 6.0,
    "axes.labelsize": 9.0,
    "axes.labelcolor": PALETTE["muted"][0],
    "axes.edgecolor": PALETTE["muted"][0],
    "axes.titlecolor": PALETTE["ink"][0],
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": PALETTE["grid"][0],
    "grid.linewidth": 0.8,
    "text.color": PALETTE["ink"][0],
    "xtick.color": PALETTE["muted"][0],
    "ytick.color": PALETTE["muted"][0],
    "ytick.major.size": 0.0,
    "xtick.major.size": 3.0,
    "figure.facecolor": PALETTE["paper"][0],
    "axes.facecolor": "none",
    "lines.solid_capstyle": "butt",
    "svg.fonttype": "path",
    "svg.hashsalt": "partitionsel_jax",
}


@dataclasses.dataclass(frozen=True)
class Stroke:
    """Colour and dash pattern of a line; a label keeps its own in every chart."""

    colour: str
    dash: tuple[float, tuple[float, ...]]


def strokes(baselines: Mapping[str, bool]) -> dict[str, Stroke]:
    """One stroke a label: grey for baselines, a colour for others; dashes distinguish repeats."""
    given, rank = {}, {True: 0, False: 0}
    for label, is_baseline in baselines.items():
        names = ("baseline",) if is_baseline else _SERIES
        turn, index = divmod(rank[is_baseline], len(names))
        given[label] = Stroke(PALETTE[names[index]][0], _DASHES[turn % len(_DASHES)])
        rank[is_baseline] += 1
    return given


def fill(index: int, count: int) -> str:
    """The fill of domain `index` of `count`; beyond the scheme, steps along viridis."""
    if count <= len(FILLS):
        return FILLS[index]
    return matplotlib.colors.to_hex(matplotlib.colormaps["viridis"](index / (count - 1)))
