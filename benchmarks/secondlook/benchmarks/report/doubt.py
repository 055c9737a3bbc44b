"""The sections on doubt (which measure, over which tokens, which of two answers to keep) and on places (where
a second look helps, and how good the regions are)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from secondlook.benchmarks.analysis.groups import (
    Group,
    by_box,
    by_kind,
    by_megapixels,
    region_quality,
    summed_up,
)
from secondlook.benchmarks.analysis.statistics import BINS, Separation, histograms
from secondlook.benchmarks.report.costs import series_of
from secondlook.benchmarks.report.document import Plot, Section, Table, number, percent, points, share
from secondlook.benchmarks.report.plots import draw_groups, draw_histograms, draw_lines
from secondlook.benchmarks.report.study import MEASURES, Study
from secondlook.edge.wire import Aggregation

_TITLES: Final = ("", "histogram overlap", "Bhattacharyya distance", "area under ROC")


def doubt(study: Study) -> Section:
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
    replays = {name: study.replay("min_entropy", *way) for name, way in ways.items()}
    series = series_of(study, replays, study.extra("pixels"))
    curves = Plot(
        "tokens",
        "Deciding on all, on five, or on the first token",
        "By min-entropy, with arbitration on the same tokens.",
        draw_lines(series, "extra communication (pixels)"),
    )
    lengths = study.columns.first.lengths
    longer = share(float((lengths > 5).mean()), 0)
    text = (
        f"First answers have {lengths.mean():.1f} tokens on average, end token included; {longer} have more "
        "than five."
    )
    rows = tuple(
        _row(name, study.separation("min_entropy", aggregation, k)) for name, (aggregation, k) in ways.items()
    )
    return Section("How many tokens to decide on", (text,), (curves, Table(_TITLES, rows)))


def arbitration(study: Study) -> Section:
    kept = {"the surer answer": study.plain, "always the second": study.replay(arbitration=False)}
    series = series_of(study, kept, study.extra("pixels"))
    plot = Plot(
        "arbitration",
        "Which answer to keep",
        "A second look can break a right answer. Arbitration keeps the answer with less doubt.",
        draw_lines(series, "extra communication (pixels)"),
    )
    return Section("With and without arbitration", (), (plot,))


def _row(name: str, found: Separation) -> tuple[str, ...]:
    return name, number(found.overlap), number(found.bhattacharyya, 2), number(found.auroc)


_FEW: Final = 30
"""Questions of a group that a sentence of its own needs."""


def helped(study: Study) -> Section:
    """First and second look by kind of question, size of picture and size of what is asked for."""
    replay, boot = study.plain, study.boot
    divided = {
        "kinds": ("By kind of question", by_kind(replay, boot)),
        "pictures": ("By size of the picture", by_megapixels(replay, boot)),
        "boxes": ("By size of what is asked for, in the global image", by_box(replay, boot)),
    }
    parts: list[Plot | Table] = []
    for name, (title, groups) in divided.items():
        if not groups:
            continue
        caption = (
            "Accuracy with one look and with two, every second answer as it is; in brackets the questions."
        )
        parts += [Plot(f"groups-{name}", title, caption, draw_groups(groups)), _table(title, groups)]
    whole = summed_up("all", replay, boot)
    text = (
        f"Of {whole.count} questions the second look mends {percent(whole.mended)} and breaks "
        f"{percent(whole.broken)}; all in all it gains {points(whole.gain)} points."
    )
    return Section(
        "Where a second look helps, and where it hurts", (text, *_told(divided["kinds"][1])), tuple(parts)
    )


def regions(study: Study) -> Section:
    title = "The regions"
    found = region_quality(study.plain, study.boot)
    if found is None:
        return Section(title, ("These data have no boxes that would say where to look.",))
    rows = (
        ("holds the centre of what is asked for", percent(found.hit)),
        ("share of what is asked for that is within the region", percent(found.covered)),
        ("share of the picture that the region is", percent(found.area)),
        ("accuracy of second answers where the region holds it", percent(found.second_hit)),
        ("accuracy of second answers where it does not", percent(found.second_missed)),
    )
    return Section(title, (), (Table(("", f"{found.count} questions with a box"), rows),))


def _told(groups: Sequence[Group]) -> list[str]:
    """Which groups gain for certain, and which lose; of a few questions an interval says too little."""
    large = [group for group in groups if group.count >= _FEW]
    gained = [group.name for group in large if group.gain.low > 0]
    lost = [group.name for group in large if group.gain.high < 0]
    told = [f"It helps, beyond the interval, with: {', '.join(gained)}."] if gained else []
    return told + ([f"It hurts, beyond the interval, with: {', '.join(lost)}."] if lost else [])


def _table(title: str, groups: Sequence[Group]) -> Table:
    rows = [
        (
            group.name,
            str(group.count),
            *map(percent, (group.first, group.second, group.kept)),
            points(group.gain),
            *map(percent, (group.mended, group.broken, group.hit)),
        )
        for group in groups
    ]
    titles = (
        "questions",
        "one look",
        "two",
        "the surer",
        "gain, points",
        "mended",
        "broken",
        "region holds it",
    )
    note = "Where all answers are right, or all wrong, a bootstrap's interval has no width, however few."
    return Table((title.lower().removeprefix("by "), *titles), tuple(rows), note)
