"""A report: what it says of each family of logs, section by section, with examples drawn again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Final

import numpy as np

from secondlook.benchmarks.analysis.replay import Replay
from secondlook.benchmarks.analysis.runs import Family, Run
from secondlook.benchmarks.datasets.question import MissingDataError
from secondlook.benchmarks.report import claims, costs, doubt, gating
from secondlook.benchmarks.report.document import Document, Example, Panel, Section, as_markdown, as_page
from secondlook.benchmarks.report.drawing import marked_original
from secondlook.benchmarks.report.plots import standalone
from secondlook.benchmarks.report.study import Qualities, Study
from secondlook.benchmarks.signs.evaluation import SignsPicture
from secondlook.edge.errors import PictureError
from secondlook.edge.files import write_files
from secondlook.edge.geometry import Region
from secondlook.edge.imaging import JpegSettings, Picture, encode_jpeg, open_picture

_PLOTS: Final = "plots"


def describe(
    family: Family,
    threshold: float | None = None,
    examples: int = 6,
    images: Path | None = None,
    resamples: int | None = None,
    gates: Sequence[Path] = (),
) -> Document:
    """The report of one family.

    Args:
        threshold: the operating point; by default the model's own, if the log states it.
        examples: how many at most.
        images: folder of the data set's pictures, for the examples; signs are drawn.
        resamples: see `Bootstrap`.
        gates: policies whose gates are drawn beside doubt.
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
        costs.overview(study),
        claims.claims(study, found),
        costs.communication(study),
        *([gating.section(study, gates)] if gates else []),
        costs.computation(study),
        doubt.doubt(study),
        doubt.tokens(study),
        doubt.arbitration(study),
        costs.qualities(study, found),
        doubt.helped(study),
        doubt.regions(study),
        shown,
        claims.settings(study),
    )
    return Document(f"Two looks at {data['name']}", lead, sections)


def write_document(document: Document, output: Path) -> Path:
    """Write a report into a folder: `index.html`, which is returned, `summary.md` and `plots/`."""
    page = output / "index.html"
    plots = {output / _PLOTS / f"{plot.name}.svg": standalone(plot.svg) for plot in document.plots}
    summary = as_markdown(document, _PLOTS)
    write_files({page: as_page(document), output / "summary.md": summary, **plots})
    return page


def _examples(study: Study, count: int, images: Path | None) -> Section:
    title, run = "Examples", study.run
    if study.threshold is None:
        return Section(title, ("The log states no threshold; name one with --threshold to see examples.",))
    if not any(run.columns.relevance):
        return Section(title, ("The log keeps no relevance maps.",))
    if study.family.data["name"] != "signs" and images is None:
        return Section(title, ("The pictures are not drawn by a seed; name their folder with --images.",))
    chosen = choose_examples(study.served, study.threshold, count)
    text = (
        "The first of each case among the pictures whose relevance maps the log keeps; cases take turns, so "
        "they are no sample of all questions."
    )
    drawn = (draw_example(run, study.served, study.threshold, name, row, images) for name, row in chosen)
    return Section(title, (text,), tuple(drawn))


_SHOWN: Final = JpegSettings(85)
"""How the original is compressed that the report shows."""


def choose_examples(replay: Replay, threshold: float, count: int) -> list[tuple[str, int]]:
    """(what it is an example of, its row) for at most `count` questions whose map was kept: in turns
    those where the second look helps, hurts, changes nothing, or is not needed."""
    kept_map = np.array([each is not None for each in replay.columns.relevance])
    asked = kept_map & replay.looked(threshold)
    took = asked & (replay.kept == replay.second)
    kept = asked & ~took
    better, worse = replay.second > replay.first, replay.second < replay.first
    wrong = (replay.first < 0.5) & (replay.second < 0.5)
    cases = {
        "The second look mends the answer": took & better,
        "The first look suffices: it is sure, and right": kept_map & ~asked & (replay.first >= 0.5),
        "The second look breaks a right answer": took & worse,
        "Wrong after both looks": asked & wrong,
        "The first answer is kept, for it is the surer one": kept & worse,
        "Sure, and wrong: no second look": kept_map & ~asked & (replay.first < 0.5),
    }
    rows = [[(name, int(row)) for row in np.flatnonzero(chosen)[:count]] for name, chosen in cases.items()]
    turns = chain.from_iterable(zip_longest(*rows))
    return [each for each in turns if each is not None][:count]


def draw_example(
    run: Run, replay: Replay, threshold: float, title: str, row: int, images: Path | None
) -> Example:
    """One question, drawn again.

    Args:
        threshold: whether the second look was asked for depends on it.
        images: folder of the data set's pictures, where they are not drawn.
    """
    columns, settings = run.columns, run.header.settings
    picture = _original(run, row, images)
    global_view, local_view = run.views
    jpeg = {name: JpegSettings(**settings["jpeg"][name]) for name in ("global", "local")}
    sent = picture.global_image(global_view, jpeg["global"])
    region = Region(*(int(value) for value in columns.region[row])) if columns.possible[row] else None
    marked = marked_original(picture, columns.relevance[row], region, global_view)
    size = picture.size
    asked = not replay.need[row] < threshold
    panels = [
        Panel(sent, f"Global image, as sent: {_bytes(columns.first.bytes[row])}"),
        Panel(
            encode_jpeg(marked, _SHOWN),
            f"Original, {size.width} by {size.height}, {_bytes(columns.original_bytes[row])}, with relative "
            "attention" + (" and region" if region else ""),
            sent=False,
        ),
    ]
    answers = [
        ("truth", columns.truth[row]),
        ("first look", _told(columns.first.text[row], replay.uncertainty[row])),
    ]
    if region is not None:
        crop = picture.local_image(region, local_view, jpeg["local"])
        panels.append(Panel(crop, f"Local image, as sent: {_bytes(columns.second.bytes[row])}"))
        name = "second look" if asked else "second look, not asked for"
        answers.append((name, _told(columns.second.text[row], replay.again[row])))
    return Example(title, columns.question[row], tuple(answers), tuple(panels))


def _original(run: Run, row: int, images: Path | None) -> Picture:
    columns, data = run.columns, run.header.settings["data"]
    try:
        picture = open_picture(_file(data, columns.file[row], int(columns.picture[row]), images))
    except (OSError, PictureError) as error:
        raise MissingDataError(f"cannot show the picture {columns.file[row]}: {error}") from error
    if picture.size.pixels != columns.original_pixels[row]:
        raise MissingDataError(
            f"the picture {columns.file[row] or columns.picture[row]} has {picture.size.pixels} pixels, and "
            f"{columns.original_pixels[row]:.0f} in the log {run.path}: it is another one; check --images"
        )
    return picture


def _file(data: dict[str, Any], name: str, index: int, images: Path | None) -> bytes:
    if data["name"] == "signs":
        return SignsPicture(data["split"], data["seed"], index).read()
    assert images is not None, "without a folder of pictures none is chosen"
    beside = images / name
    found = beside if beside.is_file() else next(images.rglob(name), None)
    if found is None:
        raise MissingDataError(
            f"the folder {images} has no picture {name}; name the folder of the data set's with --images"
        )
    return found.read_bytes()


def _bytes(value: float) -> str:
    return f"{value / 1e3:.1f} kB"


def _told(text: str, uncertainty: float) -> str:
    return f"“{text}”, uncertainty {uncertainty:.3f}"
