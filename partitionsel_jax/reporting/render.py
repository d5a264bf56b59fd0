"""Figures as files: PNG and stand-alone SVG."""

import io

from matplotlib.figure import Figure

from partitionsel_jax.reporting import canvas


def png(figure: Figure, scale: int = 2) -> bytes:
    """The figure as a PNG of `scale` times its nominal resolution."""
    return _saved(figure, format="png", dpi=scale * canvas.DPI)


def svg(figure: Figure) -> str:
    """The figure as a stand-alone SVG document."""
    unstated = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    return _saved(figure, format="svg", metadata=unstated).decode()


def _saved(figure: Figure, **options) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, **options)
    return buffer.getvalue()
