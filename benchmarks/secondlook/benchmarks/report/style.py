"""How plots look: one palette for light and one for dark, and text in the reader's own fonts.

Plots are drawn in the light palette. In their SVG every colour becomes a variable of CSS, whose value the
page, or the file by itself, sets for the reader's colour scheme.
"""

from __future__ import annotations

import io
import re
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.figure import Figure

__all__ = ["GRID", "INK", "PALETTE", "QUIET", "SERIES", "SETTINGS", "png", "standalone", "svg"]

INK: Final = "#1f2328"
QUIET: Final = "#6b7580"
GRID: Final = "#d5dbe1"
SERIES: Final = ("#0b6bcb", "#c2560a", "#1a7f4b", "#8250df", "#c4247a", "#7a6a00")

PALETTE: Final = {
    "ink": (INK, "#e6edf3"),
    "quiet": (QUIET, "#97a3af"),
    "grid": (GRID, "#38414b"),
    "s1": (SERIES[0], "#6cb6ff"),
    "s2": (SERIES[1], "#f2a35e"),
    "s3": (SERIES[2], "#58cc8b"),
    "s4": (SERIES[3], "#c4a1ff"),
    "s5": (SERIES[4], "#ff8ac4"),
    "s6": (SERIES[5], "#d9c74a"),
}
"""Variable → colour on light and on dark paper."""

SETTINGS: Final[Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",
}
"""For `rc_context`, whose stubs name every key there is."""

_IDS: Final = re.compile(r' id="[A-Za-z0-9.]+_\d+"')
_FONT: Final = re.compile(r"'DejaVu Sans'(?:, [^;\"]*)?")


def svg(figure: Figure, name: str) -> str:
    """The drawing as an `<svg>` element that may stand in a page beside others; `name` is its own in it."""
    buffer = io.StringIO()
    with rc_context({**SETTINGS, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = _IDS.sub("", text)
    text = _FONT.sub("system-ui, sans-serif", text)
    for variable, (light, _) in PALETTE.items():
        text = text.replace(light, f"var(--{variable}, {light})")
    return text


def standalone(element: str) -> str:
    """An SVG file of such an element: its colours follow the reader's scheme."""
    light, dark = (
        "".join(f"--{variable}:{pair[scheme]};" for variable, pair in PALETTE.items()) for scheme in (0, 1)
    )
    style = f"<style>svg{{{light}}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    head, end, rest = element.partition(">")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head}{end}{style}{rest}\n'


def png(figure: Figure) -> bytes:
    """The drawing on white paper."""
    buffer = io.BytesIO()
    with rc_context(SETTINGS):
        figure.savefig(buffer, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
