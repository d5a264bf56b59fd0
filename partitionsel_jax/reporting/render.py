"""Figures as files: PNG, stand-alone SVG, and SVG that lives in a page and follows its theme."""

import io
import re

from matplotlib.figure import Figure

from partitionsel_jax.reporting import canvas, theme


def png(figure: Figure, scale: int = 2) -> bytes:
    """The figure as a PNG of `scale` times its nominal resolution."""
    return _saved(figure, format="png", dpi=scale * canvas.DPI)


def svg(figure: Figure) -> str:
    """The figure as a stand-alone SVG document."""
    unstated = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    return _saved(figure, format="svg", metadata=unstated).decode()


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an SVG element of a page: themed by CSS variables, ids prefixed by `name`.

    Args:
      figure: the chart.
      name: unique in the page; letters, digits, "-" and "_".
      description: what a screen reader says, already escaped.
    """
    text = svg(figure)
    text = re.sub(
        r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL
    )
    body = text[text.index("<svg") :]
    width, height = 72 * figure.get_size_inches()
    element = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{description}">'
    body = re.sub(r"^<svg[^>]*>", element, body)
    # Hundredths of a point are finer than any screen.
    body = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), body)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    for colour, (light, _) in theme.PALETTE.items():
        body = body.replace(light, f"var(--{colour})")
    return re.sub(r"\n\s*", "\n", body).strip()


def _saved(figure: Figure, **options) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, **options)
    return buffer.getvalue()
