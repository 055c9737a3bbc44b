"""The kinds of drawings there are. Narrow ones: on a phone they stand one below the other, at full size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Final

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from secondlook.benchmarks.analysis.bootstrap import Estimate
from secondlook.benchmarks.analysis.columns import FloatArray
from secondlook.benchmarks.analysis.curves import Band
from secondlook.benchmarks.analysis.groups import Group
from secondlook.benchmarks.analysis.separation import Histograms
from secondlook.benchmarks.report.style import INK, QUIET, SERIES, SETTINGS

__all__ = ["Mark", "Series", "draw_estimates", "draw_groups", "draw_histograms", "draw_lines"]

_WIDTH: Final = 4.6
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


def draw_lines(
    series: Sequence[Series], across: str, up: str = "accuracy", marks: Sequence[Mark] = ()
) -> Figure:
    """Curves over one axis, accuracies as percentages."""
    figure, axes = _figure(3.5)
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
            axes.fill_between(
                each.band.cost, each.band.low, each.band.high, color=colour, alpha=0.13, linewidth=0
            )
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
    with rc_context(SETTINGS):
        figure = Figure(figsize=(_WIDTH, 1.7 * len(found) + 0.4))
        rows: list[Axes] = list(figure.subplots(len(found), squeeze=False)[:, 0])
    for row, (name, each) in enumerate(found.items()):
        axes = rows[row]
        for shares, label, colour in ((each.right, "right", SERIES[0]), (each.wrong, "wrong", SERIES[1])):
            axes.stairs(shares, each.edges, fill=True, color=colour, alpha=0.35, linewidth=0)
            axes.stairs(shares, each.edges, color=colour, label=f"first answer {label}", linewidth=1.2)
        if row == 0 and threshold is not None and threshold <= each.edges[-1]:
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


def draw_estimates(
    groups: Mapping[str, Sequence[Estimate]], names: Sequence[str], across: str, up: str
) -> Figure:
    """Figures with their intervals over named places, a colour for each group."""
    figure, axes = _figure(3.0)
    places = np.arange(len(names))
    for number, (label, estimates) in enumerate(groups.items()):
        shift = (number - (len(groups) - 1) / 2) * 0.18
        values = np.array([each.value for each in estimates])
        around = np.abs([[each.value - each.low, each.high - each.value] for each in estimates]).T
        axes.errorbar(
            places + shift,
            values,
            around,
            fmt="os^Dv"[number % 5],
            color=SERIES[number % len(SERIES)],
            markersize=4,
            linewidth=1.2,
            capsize=2,
            label=label,
        )
    axes.set_xticks(places, names)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    _legend(figure, axes)
    return figure


def draw_groups(groups: Sequence[Group]) -> Figure:
    """For each group the accuracy of the first look and of the second, with intervals."""
    figure, axes = _figure(0.9 + 0.42 * len(groups))
    places = np.arange(len(groups))[::-1].astype(np.float64)
    looks = (("first look", "first", "o", 0.1), ("second look", "second", "s", -0.1))
    for number, (label, name, marker, shift) in enumerate(looks):
        estimates: list[Estimate] = [getattr(group, name) for group in groups]
        values = np.array([each.value for each in estimates])
        around = np.abs([[each.value - each.low, each.high - each.value] for each in estimates]).T
        axes.errorbar(
            values,
            places + shift,
            xerr=around,
            fmt=marker,
            color=SERIES[number],
            markersize=5,
            linewidth=1.2,
            capsize=2,
            label=label,
        )
    axes.set_yticks(places, [f"{group.name}\n({group.count})" for group in groups])
    axes.set_ylim(-0.6, len(groups) - 0.4)
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("accuracy")
    _legend(figure, axes)
    return figure


def _figure(height: float) -> tuple[Figure, Axes]:
    with rc_context(SETTINGS):
        figure = Figure(figsize=(_WIDTH, height))
        return figure, figure.subplots()


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    with rc_context(SETTINGS):
        longest = max(map(len, labels))
        columns = min(len(labels), 3 if longest < 17 else 2 if longest < 30 else 1)
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=2.4)
