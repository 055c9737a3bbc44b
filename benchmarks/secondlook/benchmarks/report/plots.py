"""The kinds of drawings there are, and how they look: one palette for light and one for dark, and text in the
reader's own fonts. Narrow ones: on a phone they stand one below the other, at full size.

Plots are drawn in the light palette. In their SVG every colour becomes a variable of CSS, whose value the
page, or the file by itself, sets for the reader's colour scheme.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import cycle
from typing import Any, Final

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from secondlook.benchmarks.analysis.columns import FloatArray
from secondlook.benchmarks.analysis.curves import Band
from secondlook.benchmarks.analysis.groups import Group
from secondlook.benchmarks.analysis.statistics import Estimate, Histograms

INK: Final = "#1f2328"
QUIET: Final = "#6b7580"
GRID: Final = "#d5dbe1"
SERIES: Final = ("#0b6bcb", "#c2560a", "#1a7f4b", "#8250df", "#c4247a", "#7a6a00")

_DARK: Final = ("#6cb6ff", "#f2a35e", "#58cc8b", "#c4a1ff", "#ff8ac4", "#d9c74a")

PALETTE: Final = {
    "ink": (INK, "#e6edf3"),
    "quiet": (QUIET, "#97a3af"),
    "grid": (GRID, "#38414b"),
    **{f"s{n}": pair for n, pair in enumerate(zip(SERIES, _DARK, strict=True), 1)},
}
"""Variable → colour on light and on dark paper."""

STYLE: Final = str(files("secondlook.benchmarks.report") / "templates" / "report.mplstyle")

_IDS: Final = re.compile(r' id="[A-Za-z0-9.]+_\d+"')
_FONT: Final = re.compile(r"'DejaVu Sans'(?:, [^;\"]*)?")
_WIDTH: Final = 4.6
_BARS: Final[dict[str, Any]] = {"markersize": 5, "linewidth": 1.2, "capsize": 2}
_DASHES: Final = ("solid", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1)), (0, (8, 2)))


@dataclass(frozen=True)
class Series:
    """One curve, with the intervals around it.

    `quiet` ones are what the others are compared with; those of one label look alike, and are named once.
    """

    label: str
    x: FloatArray
    y: FloatArray
    band: Band | None = None
    quiet: bool = False
    steps: bool = False


@dataclass(frozen=True)
class Mark:
    """A point of its own, labelled beside it."""

    label: str
    x: float
    y: float


_FEW_LABELS: Final = 4
_LINE_INCHES: Final = 0.19
"""Of a figure's height, for each further line of its legend."""


def draw_lines(
    series: Sequence[Series], across: str, up: str = "accuracy", marks: Sequence[Mark] = ()
) -> Figure:
    """Curves over one axis, accuracies as percentages."""
    labels = len({each.label for each in series})
    figure, (axes,) = _figure(3.5 + _LINE_INCHES * max(0, labels - _FEW_LABELS))
    looks = zip(cycle(SERIES), cycle(_DASHES))
    quiet = cycle(((0, (1, 2)), (0, (4, 2))))
    named = {each.label: next(quiet) for each in series if each.quiet}
    drawn: set[str] = set()
    for each in series:
        colour, dash = (QUIET, named[each.label]) if each.quiet else next(looks)
        axes.plot(
            each.x,
            each.y,
            label="_again" if each.label in drawn else each.label,
            color=colour,
            linestyle=dash,
            linewidth=1.2 if each.quiet else 1.6,
            drawstyle="steps-post" if each.steps else "default",
        )
        drawn.add(each.label)
        if each.band is not None:
            band = (each.band.cost, each.band.low, each.band.high)
            axes.fill_between(*band, color=colour, alpha=0.13, linewidth=0)
    for mark in marks:
        axes.plot(mark.x, mark.y, "o", color=INK, markersize=4.5, zorder=5)
        right, low = mark.x > np.mean(axes.get_xlim()), mark.y < np.mean(axes.get_ylim())
        axes.annotate(
            mark.label,
            (mark.x, mark.y),
            (-6 if right else 6, 6 if low else -7),
            textcoords="offset points",
            ha="right" if right else "left",
            va="bottom" if low else "top",
            fontsize=8,
            color=INK,
        )
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    _legend(figure, axes)
    return figure


def draw_histograms(found: Mapping[str, Histograms], threshold: float | None) -> Figure:
    """For each measure the doubts of right and of wrong answers, and the threshold in the first."""
    figure, rows = _figure(1.7 * len(found) + 0.4, len(found))
    for axes, (name, each) in zip(rows, found.items(), strict=True):
        for shares, label, colour in ((each.right, "right", SERIES[0]), (each.wrong, "wrong", SERIES[1])):
            axes.stairs(shares, each.edges, fill=True, color=colour, alpha=0.35, linewidth=0)
            axes.stairs(shares, each.edges, color=colour, label=f"first answer {label}", linewidth=1.2)
        if axes is rows[0] and threshold is not None and threshold <= each.edges[-1]:
            axes.axvline(threshold, color=INK, linewidth=1, linestyle=(0, (4, 2)), label="threshold")
        # Nearly all right answers are in the first bins: on a linear scale the rest could not be seen.
        axes.set_yscale("function", functions=(np.sqrt, np.square))
        axes.set_yticks([0.01, 0.1, 0.3, 0.6, 1.0])
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_ylim(0, max(each.right.max(), each.wrong.max()) * 1.05)
        axes.set_xlabel(name)
        axes.set_ylabel("answers")
    _legend(figure, rows[0])
    return figure


def draw_groups(groups: Sequence[Group]) -> Figure:
    """For each group the accuracy of the first look and of the second, with intervals."""
    figure, (axes,) = _figure(0.9 + 0.42 * len(groups))
    places = np.arange(len(groups))[::-1].astype(np.float64)
    looks = (("first look", "first", "o", 0.1), ("second look", "second", "s", -0.1))
    for colour, (label, name, marker, shift) in zip(SERIES, looks, strict=False):
        found: list[Estimate] = [getattr(group, name) for group in groups]
        values, low, high = np.array([(each.value, each.low, each.high) for each in found]).T
        around = np.abs([values - low, high - values])
        look = {"label": label, "color": colour, **_BARS}
        axes.errorbar(values, places + shift, xerr=around, fmt=marker, **look)
    axes.set_yticks(places, [f"{group.name}\n({group.count})".replace("$", r"\$") for group in groups])
    axes.set_ylim(-0.6, len(groups) - 0.4)
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("accuracy")
    _legend(figure, axes)
    return figure


def _figure(height: float, rows: int = 1) -> tuple[Figure, list[Axes]]:
    with rc_context(fname=STYLE):
        figure = Figure(figsize=(_WIDTH, height))
        return figure, list(figure.subplots(rows, squeeze=False)[:, 0])


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    with rc_context(fname=STYLE):
        longest = max(map(len, labels))
        columns = min(len(labels), 3 if longest < 17 else 2 if longest < 30 else 1)
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=2.4)


def palettes() -> tuple[str, str]:
    """CSS that sets every variable, for light and for dark paper."""
    light, dark = ("".join(f"--{name}:{pair[n]};" for name, pair in PALETTE.items()) for n in (0, 1))
    return light, dark


def svg(figure: Figure, name: str) -> str:
    """The drawing as an `<svg>` element that may stand in a page beside others; `name` is its own in it."""
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": name}, STYLE):
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
    light, dark = palettes()
    style = f"<style>svg{{{light}}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    head, end, rest = element.partition(">")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head}{end}{style}{rest}\n'
