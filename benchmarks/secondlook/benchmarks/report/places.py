"""The sections on where a second look helps: kinds of questions, sizes, and how good the regions are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from secondlook.benchmarks.analysis.groups import Group, by_box, by_kind, by_megapixels, summed_up
from secondlook.benchmarks.analysis.regions import region_quality
from secondlook.benchmarks.report.document import Plot, Section, Table
from secondlook.benchmarks.report.plots import draw_groups
from secondlook.benchmarks.report.study import Study
from secondlook.benchmarks.report.words import percent, points

__all__ = ["helped", "regions"]

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
    """How good the regions are where boxes are known."""
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
            percent(group.first),
            percent(group.second),
            percent(group.kept),
            points(group.gain),
            percent(group.mended),
            percent(group.broken),
            percent(group.hit),
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
