"""Matplotlib figures as inline SVG whose colours and fonts come from the page's CSS variables.

A figure is drawn with placeholder colours; each becomes `var(--name)`, so that one SVG serves a light page, a
dark page and paper. Text stays text: it can be selected, searched and read aloud.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable
from html import escape
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, RULE, ACCENT, CONTRAST, ON_FILL = (f"#01020{digit}" for digit in "345678")
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    ACCENT: "--accent",
    CONTRAST: "--contrast",
    ON_FILL: "--on-fill",
}
_STYLE = {
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "svg.fonttype": "none",
    "svg.hashsalt": "speechprompt",
}
_STYLE_FILE = Path(__file__).parent / "templates" / "style.html"
_PIXELS_PER_POINT = 4 / 3
_NAMESPACE = "http://www.w3.org/2000/svg"
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_TAG = re.compile(r"<[^>]*>")


def render_svg(draw: Callable[[Figure], None], width: float, height: float, title: str) -> str:
    """One `<svg>` element of what `draw` puts on an empty figure of `width` by `height` inches.

    It scales to its container, guided by its CSS variable `--inches`; `title` is what a screen reader
    says. The same drawing gives the same bytes. Side effects: none that last; matplotlib's settings are
    restored.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # The reader's browser has glyphs that the measuring font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.07))
        FigureCanvasSVG(figure)
        draw(figure)
        buffer = StringIO()
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA, transparent=True)
    return _inline(buffer.getvalue(), title, width)


def standalone(svg: str) -> str:
    """The text of a file that shows an `<svg>` element of `render_svg` on its own, in the page's colours."""
    style = _STYLE_FILE.read_text(encoding="utf-8")
    variables = style[: style.index("* {")] + "svg { background: var(--paper); }"
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert box is not None, "render_svg keeps the viewBox"
    size = f'width="{float(box[1]) * _PIXELS_PER_POINT:.0f}" height="{float(box[2]) * _PIXELS_PER_POINT:.0f}"'
    opening, rest = svg.split(">", 1)
    return f"{opening} {size}><style>{variables}</style>{rest}\n"


def shortened(label: str, limit: int = 18) -> str:
    """A label that fits an axis: one line, cut with an ellipsis, unprintable characters replaced."""
    line = "".join(
        one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in " ".join(label.split())
    )
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _inline(document: str, title: str, width: float) -> str:
    """Drop what a page does not need, name colours by CSS variable, and make ids unique to this drawing."""
    body = document[document.index("<svg") :].strip()
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    prefix = f"s{hashlib.sha256(body.encode()).hexdigest()[:8]}"
    body = _TAG.sub(lambda tag: _rewritten(tag.group(), prefix), body)
    body = re.sub(r"\s*\n\s*", " ", body)
    opening, rest = body.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', opening)
    assert box is not None, "matplotlib writes a viewBox"
    attributes = f'{box.group()} role="img" style="--inches: {width:g}" xmlns="{_NAMESPACE}"'
    return f"<svg {attributes}><title>{escape(title)}</title>{rest}"


def _rewritten(tag: str, prefix: str) -> str:
    if tag.startswith("<g "):
        tag = re.sub(r' id="[^"]*"', "", tag)
    tag = re.sub(r' id="([^"]*)"', rf' id="{prefix}-\1"', tag)
    tag = re.sub(r'xlink:href="#', f'href="#{prefix}-', tag)
    tag = tag.replace("url(#", f"url(#{prefix}-")
    tag = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", tag)
    for colour, variable in _VARIABLES.items():
        tag = tag.replace(colour, f"var({variable})")
    return tag
