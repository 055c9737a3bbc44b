"""Example pictures: a question's original with heat map and box, and both images as they were sent."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from secondlook.benchmarks.analysis.runs import Run
from secondlook.benchmarks.drawing import marked_original
from secondlook.benchmarks.heat import heat_map
from secondlook.benchmarks.replay import Replay
from secondlook.benchmarks.report.document import Example, Panel
from secondlook.benchmarks.reports import ReportError
from secondlook.benchmarks.signs.evaluation import DrawnPicture
from secondlook.edge.errors import PictureError
from secondlook.edge.geometry import Region
from secondlook.edge.imaging import JpegSettings, Picture, open_picture

__all__ = ["choose_examples", "draw_example"]

_QUALITY = 85
"""Of the original as the report shows it."""


def choose_examples(replay: Replay, threshold: float, count: int) -> list[tuple[str, int]]:
    """(what it is an example of, its row) for at most `count` questions whose heat map was kept: in turns
    those where the second look helps, hurts, changes nothing, or is not needed."""
    heat = np.array([len(rows) > 0 for rows in replay.columns.heat])
    asked = heat & replay.looked(threshold)
    took = asked & (replay.kept == replay.second)
    kept = asked & ~took
    better, worse = replay.second > replay.first, replay.second < replay.first
    wrong = (replay.first < 0.5) & (replay.second < 0.5)
    cases = {
        "The second look mends the answer": took & better,
        "The first look suffices: it is sure, and right": heat & ~asked & (replay.first >= 0.5),
        "The second look breaks a right answer": took & worse,
        "Wrong after both looks": asked & wrong,
        "The first answer is kept, for it is the surer one": kept & worse,
        "Sure, and wrong: no second look": heat & ~asked & (replay.first < 0.5),
    }
    rows = {name: iter(np.flatnonzero(chosen).tolist()) for name, chosen in cases.items()}
    return list(_in_turns(rows, count))


def _in_turns(rows: dict[str, Iterator[int]], count: int) -> Iterator[tuple[str, int]]:
    left = count
    while rows and left:
        for name in list(rows):
            row = next(rows[name], None)
            if row is None:
                del rows[name]
            elif left:
                left -= 1
                yield name, row


def draw_example(
    run: Run, replay: Replay, threshold: float, title: str, row: int, images: Path | None
) -> Example:
    """One question, drawn again.

    Args:
        threshold: whether the second look was asked for depends on it.
        images: folder of the data set's pictures, where they are not drawn.

    Raises:
        ReportError: the picture is missing, damaged or another one.
    """
    columns, settings = run.columns, run.header.settings
    picture = _original(run, row, images)
    mode = settings["model"]["resize_mode"]
    side = int(run.made["sizes"]["image_size"])
    jpeg = {name: JpegSettings(**settings["jpeg"][name]) for name in ("global", "local")}
    sent = picture.global_image(side, mode, jpeg["global"])
    region = Region(*(int(value) for value in columns.region[row])) if columns.possible[row] else None
    marked = marked_original(picture, heat_map(columns.heat[row]), region, mode)
    size = picture.size
    asked = not replay.doubt[row] < threshold
    panels = [
        _panel(sent.jpeg, f"Global image, as sent: {_bytes(columns.first.bytes[row])}"),
        _panel(
            _as_jpeg(marked),
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
        crop = picture.local_image(region, side, jpeg["local"])
        panels.append(_panel(crop.jpeg, f"Local image, as sent: {_bytes(columns.second.bytes[row])}"))
        name = "second look" if asked else "second look, not asked for"
        answers.append((name, _told(columns.second.text[row], replay.again[row])))
    return Example(title, columns.question[row], tuple(answers), tuple(panels))


def _original(run: Run, row: int, images: Path | None) -> Picture:
    columns, data = run.columns, run.header.settings["data"]
    try:
        picture = open_picture(_file(data, columns.file[row], int(columns.picture[row]), images))
    except (OSError, PictureError) as error:
        raise ReportError(f"cannot show the picture {columns.file[row]}: {error}") from error
    if picture.size.pixels != columns.original_pixels[row]:
        raise ReportError(
            f"the picture {columns.file[row] or columns.picture[row]} has {picture.size.pixels} pixels, and "
            f"{columns.original_pixels[row]:.0f} in the log {run.path}: it is another one; check --images"
        )
    return picture


def _file(data: dict[str, Any], name: str, index: int, images: Path | None) -> bytes:
    if data["name"] == "signs":
        return DrawnPicture(data["split"], data["seed"], index).read()
    assert images is not None, "without a folder of pictures none is chosen"
    beside = images / name
    found = beside if beside.is_file() else next(images.rglob(name), None)
    if found is None:
        raise ReportError(
            f"the folder {images} has no picture {name}; name the folder of the data set's with --images"
        )
    return found.read_bytes()


def _panel(jpeg: bytes, caption: str, *, sent: bool = True) -> Panel:
    with Image.open(io.BytesIO(jpeg)) as image:
        return Panel(jpeg, image.width, image.height, caption, sent)


def _as_jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _bytes(value: float) -> str:
    return f"{value / 1e3:.1f} kB"


def _told(text: str, uncertainty: float) -> str:
    return f"“{text}”, uncertainty {uncertainty:.3f}"
