"""The chart of the gradients suite: how often sketched features pick what exact ones do."""

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ticker import NullLocator

from partitionsel_jax.reporting import canvas, theme
from partitionsel_jax.reporting.curves import Curve


def draw(numbers: dict[str, Any]) -> bytes | None:
    """Pick overlap against sketch dimension, one line per family, as PNG.

    Args:
      numbers: of the suite.

    Returns:
      The file, or None where sketches were not measured.
    """
    fidelity = numbers.get("fidelity")
    if not fidelity or not fidelity["sketches"]:
        return None
    curves = _curves(fidelity["sketches"])
    dims = sorted({row["dim"] for row in fidelity["sketches"]})
    strokes = theme.strokes(dict.fromkeys(curves, False))
    subtitle = (
        f"{fidelity['size']} of {fidelity['pool']} rows, mean over {fidelity['pools']} pools; "
        "bands: standard deviation over seeds of the sketch"
    )
    heading = canvas.Heading("Pick overlap with exact gradients", subtitle, strokes)
    with matplotlib.rc_context(theme.RC):
        figure, (panel,) = canvas.panels(1, heading, columns=1, height=3.2)
        for family, curve in curves.items():
            canvas.draw_curve(panel, curve, strokes[family], neighbours=len(curves) - 1)
            panel.plot(curve.x, curve.mean, "o", color=strokes[family].colour, ms=4)
        panel.set_xscale("log", base=2)
        panel.set_xticks(dims, [f"{dim:,}" for dim in dims])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_ylim(0, 1.02)
        panel.set_xlabel("sketch dimension")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=2 * canvas.DPI)
    return buffer.getvalue()


def _curves(rows: list[dict[str, Any]]) -> dict[str, Curve]:
    curves = {}
    for family in dict.fromkeys(row["family"] for row in rows):
        mine = sorted((row for row in rows if row["family"] == family), key=lambda row: row["dim"])
        found = [row["pick_overlap"] for row in mine]
        x = np.array([row["dim"] for row in mine], float)
        mean = np.array([value["mean"] for value in found], float)
        spread = np.array([value["spread"] or 0.0 for value in found], float)
        curves[family] = Curve(x, mean, mean - spread, mean + spread, ((x, mean, True),) * 2)
    return curves
