"""What a report says of each family of logs, section by section."""

from __future__ import annotations

from pathlib import Path

from secondlook.benchmarks.analysis.runs import Family
from secondlook.benchmarks.report import about, doubt, places, tradeoffs
from secondlook.benchmarks.report.document import Document, Section
from secondlook.benchmarks.report.pictures import choose_examples, draw_example
from secondlook.benchmarks.report.qualities import Qualities, qualities
from secondlook.benchmarks.report.study import Study

__all__ = ["describe"]


def describe(
    family: Family,
    threshold: float | None = None,
    examples: int = 6,
    images: Path | None = None,
    resamples: int | None = None,
) -> Document:
    """The report of one family.

    Args:
        threshold: the operating point; by default the model's own, if the log states it.
        examples: how many at most.
        images: folder of the data set's pictures, for the examples; signs are drawn.
        resamples: see `Bootstrap`.

    Raises:
        ReportError: a picture in that folder is not the one asked about.
    """
    threshold = family.main.made.get("threshold") if threshold is None else threshold
    study, found = Study(family, threshold, resamples), Qualities(family.compared)
    columns, data = family.main.columns, family.data
    details = ", ".join(f"{name} {data[name]}" for name in ("split", "seed") if name in data)
    pictures = len(set(columns.picture.tolist()))
    lead = (
        f"{len(columns)} questions about {pictures} pictures{details and f' ({details})'}, asked with a "
        "second look each; every threshold is replayed from the log."
    )
    shown = _examples(study, examples, images)  # first, for a picture may be missing
    sections = (
        tradeoffs.overview(study),
        about.claims(study, found),
        tradeoffs.communication(study),
        tradeoffs.computation(study),
        doubt.separation(study),
        doubt.tokens(study),
        doubt.arbitration(study),
        qualities(study, found),
        places.helped(study),
        places.regions(study),
        shown,
        about.beside_the_paper(study, found),
        about.settings(study),
    )
    return Document(f"Two looks at {data['name']}", lead, sections)


def _examples(study: Study, count: int, images: Path | None) -> Section:
    title, run = "Examples", study.run
    if study.threshold is None:
        return Section(title, ("The log states no threshold; name one with --threshold to see examples.",))
    if "sizes" not in run.made or not any(run.columns.heat):
        return Section(title, ("The log keeps no heat maps: it is of an earlier version.",))
    if study.family.data["name"] != "signs" and images is None:
        return Section(title, ("The pictures are not drawn by a seed; name their folder with --images.",))
    chosen = choose_examples(study.served, study.threshold, count)
    text = (
        "The first of each case among the pictures whose heat maps the log keeps; cases take turns, so they "
        "are no sample of all questions."
    )
    drawn = (draw_example(run, study.served, study.threshold, name, row, images) for name, row in chosen)
    return Section(title, (text,), tuple(drawn))
