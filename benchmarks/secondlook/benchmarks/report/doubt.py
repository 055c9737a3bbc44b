"""The sections on doubt: which measure, over which tokens, and which of two answers to keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from secondlook.benchmarks.analysis.separation import BINS, Separation, histograms
from secondlook.benchmarks.documents import share
from secondlook.benchmarks.report.document import Plot, Section, Table
from secondlook.benchmarks.report.plots import Series, draw_estimates, draw_histograms, draw_lines
from secondlook.benchmarks.report.study import MEASURES, Study
from secondlook.benchmarks.report.words import number
from secondlook.edge.wire import Aggregation

__all__ = ["arbitration", "separation", "tokens"]

_MOST: Final = 10
_TITLES: Final = ("", "histogram overlap", "Bhattacharyya distance", "area under ROC")


def separation(study: Study) -> Section:
    """How well each measure tells wrong first answers from right ones."""
    if study.wrong.all() or not study.wrong.any():
        text = "Every first answer is " + ("wrong" if study.wrong.any() else "right")
        return Section("Doubt of right and of wrong answers", (f"{text}: there is nothing to tell apart.",))
    found = {name: study.replay(measure).uncertainty for name, measure in MEASURES.items()}
    shown = {name: histograms(values, study.wrong) for name, values in found.items()}
    plot = Plot(
        "histograms",
        "Doubt of right and of wrong first answers",
        f"Means over all tokens, in {BINS} bins of equal width. The upward axis is a square root, so that "
        "rare values can be seen.",
        draw_histograms(shown, study.threshold),
    )
    rows = [_row(name, study.separation(measure)) for name, measure in MEASURES.items()]
    note = "Less overlap, more distance and more area are better. Wrong: a score below a half."
    return Section("Doubt of right and of wrong answers", (), (plot, Table(_TITLES, tuple(rows), note)))


def tokens(study: Study) -> Section:
    """All tokens, the first, or the first k of them."""
    ways: dict[str, tuple[Aggregation, int]] = {
        "all tokens": ("all", 5),
        "first 5 tokens": ("first_k", 5),
        "first token": ("first", 5),
    }
    cost = study.extra("pixels")
    series = [
        Series(name, line.cost, line.accuracy, band)
        for name, (aggregation, k) in ways.items()
        for line, band in [study.line(study.replay("min_entropy", aggregation, k), cost)]
    ]
    curves = Plot(
        "tokens",
        "Deciding on all, on five, or on the first token",
        "By min-entropy, with arbitration on the same tokens.",
        draw_lines(series, "extra communication (pixels)"),
    )
    plots = [curves]
    if study.wrong.any() and not study.wrong.all():
        counts: Sequence[int] = range(1, _MOST + 1)
        areas = {
            name: [
                *(study.separation(measure, "first_k", k).auroc for k in counts),
                study.separation(measure).auroc,
            ]
            for name, measure in MEASURES.items()
        }
        figure = draw_estimates(areas, [*map(str, counts), "all"], "first tokens", "area under ROC")
        plots.append(Plot("tokens-auroc", "Area under ROC by number of tokens", "", figure))
    lengths = study.columns.first.lengths
    longer = share(float((lengths > 5).mean()), 0)
    text = (
        f"First answers have {lengths.mean():.1f} tokens on average, end token included; {longer} have more "
        "than five."
    )
    rows = tuple(
        _row(name, study.separation("min_entropy", aggregation, k)) for name, (aggregation, k) in ways.items()
    )
    return Section("How many tokens to decide on", (text,), (*plots, Table(_TITLES, rows)))


def arbitration(study: Study) -> Section:
    """Keeping the surer answer, or always the second."""
    cost = study.extra("pixels")
    series = [
        Series(name, line.cost, line.accuracy, band)
        for name, kept in (("the surer answer", True), ("always the second", False))
        for line, band in [study.line(study.replay(arbitration=kept), cost)]
    ]
    plot = Plot(
        "arbitration",
        "Which answer to keep",
        "A second look can break a right answer. Arbitration keeps the answer with less doubt.",
        draw_lines(series, "extra communication (pixels)"),
    )
    return Section("With and without arbitration", (), (plot,))


def _row(name: str, found: Separation) -> tuple[str, ...]:
    return name, number(found.overlap), number(found.bhattacharyya, 2), number(found.auroc)
