"""Crops that are cut out of a camera's JPEG on its own grid of blocks, beside crops that are compressed anew.

A JPEG's blocks can be taken over without decoding them, if a crop begins where a unit of them does: every 16
pixels with 4:2:0 chroma. TurboJPEG's transformation does that (PyTurboJPEG, over libjpeg-turbo).

Both crops show the same region, which begins on the grid, so that nothing but the coding differs. Where a
server's regions begin is its own matter, and how many need no shrinking is counted apart.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import product
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Literal

from rich.console import Console

from secondlook.benchmarks.commands import MeasurementError, complete_rounds, progress
from secondlook.benchmarks.datasets.scoring import gqa_score
from secondlook.benchmarks.options import LosslessRun
from secondlook.benchmarks.signs.evaluation import SignsPicture
from secondlook.benchmarks.signs.questions import Question
from secondlook.benchmarks.signs.render import render
from secondlook.edge.geometry import Region, Size, sent_size
from secondlook.edge.imaging import Picture, decode_jpeg, open_picture
from secondlook.edge.wire import AnswerOptions, Box

if TYPE_CHECKING:
    from PIL import Image

    from secondlook.engine.two_looks import TwoLooks

Way = Literal["anew", "lossless"]
WAYS: Final[tuple[Way, ...]] = ("anew", "lossless")

GRID: Final = 16
"""Pixels from one unit of blocks to the next, both ways, with 4:2:0 chroma."""

QUALITIES: Final = (50, 75, 92)
"""Of the cameras' JPEGs, coarse to fine, beside the edge's own 90."""


@dataclass(frozen=True)
class Crop:
    """What one way sent for one question, what that took on the CPU, and what came of it."""

    quality: int
    way: Way
    sent_bytes: int
    cpu_seconds: float
    text: str
    right: float
    uncertainty: float


@dataclass(frozen=True)
class Asked:
    """One picture: whether it was looked at twice, whether that region needed no shrinking, and all crops."""

    looked_twice: bool
    due: bool
    crops: tuple[Crop, ...]


def bench_lossless(run: LosslessRun) -> dict[str, Any]:
    from secondlook.engine.opening import EngineOptions, load_engine

    turbojpeg = need_turbojpeg()
    engine = load_engine(EngineOptions(run.model))
    with progress(Console(stderr=True), "pictures", run.count) as go_on:
        asked, interrupted = complete_rounds(_asked(run, engine, turbojpeg.TurboJPEG()), 1, go_on)
    return {
        "count": len(asked),
        "looked_twice": sum(one.looked_twice for one in asked),
        "due": sum(one.due for one in asked),
        "interrupted": interrupted,
        "library": f"PyTurboJPEG {turbojpeg.__version__}",
        "rows": [_row(asked, quality) for quality in QUALITIES],
    }


def need_turbojpeg() -> ModuleType:
    """PyTurboJPEG, which finds its library when it is used first.

    Raises:
        MeasurementError: one of them is not there.
    """
    try:
        turbojpeg = import_module("turbojpeg")
        turbojpeg.TurboJPEG()
    except (ImportError, RuntimeError, OSError) as error:
        raise MeasurementError(
            f"lossless crops need PyTurboJPEG and libturbojpeg ({error}): pip install 'PyTurboJPEG<2', and "
            "Debian's package libturbojpeg0"
        ) from error
    return turbojpeg


def _asked(run: LosslessRun, engine: TwoLooks, turbojpeg: Any) -> Iterator[Asked]:
    card = engine.card
    for index in range(run.count):
        drawn = SignsPicture("test", run.seed, index)
        frame, question = render(drawn.scene), drawn.questions[0]
        assert question.sign is not None, "the first question is to read a number"
        coded = {quality: camera_jpeg(frame, quality) for quality in QUALITIES}
        picture = open_picture(coded[QUALITIES[-1]])
        image = decode_jpeg(picture.global_image(card.global_view).jpeg)
        found = engine.first_look(image, question.text, picture.size).pending
        due = found is not None and sent_size(card.local_view, found.region.size) == found.region.size
        region = on_grid(question.sign.plate, picture.size, card.crop_size)
        crops = [
            _crop(engine, coded[quality], quality, way, region, question, turbojpeg)
            for quality, way in product(QUALITIES, WAYS if index % 2 else WAYS[::-1])
        ]
        yield Asked(found is not None, due, tuple(crops))


def _crop(
    engine: TwoLooks,
    jpeg: bytes,
    quality: int,
    way: Way,
    region: Region,
    question: Question,
    turbojpeg: Any,
) -> Crop:
    card, picture = engine.card, open_picture(jpeg)
    options = AnswerOptions(second_look="always", region=Box(**asdict(region)))
    image = decode_jpeg(picture.global_image(card.global_view).jpeg)
    pending = engine.first_look(image, question.text, picture.size, options).pending
    assert pending is not None, "a second look was asked for"
    picture = open_picture(jpeg)  # not one that the first look may have decoded already
    began = time.thread_time()
    sent = lossless(turbojpeg, jpeg, region) if way == "lossless" else anew(picture, region, engine)
    seconds = time.thread_time() - began
    final = engine.second_look(pending, decode_jpeg(sent))
    assert final.second is not None, "it was just made"
    second = final.second
    score = gqa_score(second.text, (question.answer,))
    return Crop(quality, way, len(sent), seconds, second.text, score, second.uncertainty)


def anew(picture: Picture, region: Region, engine: TwoLooks) -> bytes:
    """As the edge does it."""
    return picture.local_image(region, engine.card.local_view).jpeg


def lossless(turbojpeg: Any, jpeg: bytes, region: Region) -> bytes:
    """The region's own blocks; it begins on the grid."""
    cut: bytes = turbojpeg.crop(jpeg, region.left, region.top, region.width, region.height, copynone=True)
    return cut


def camera_jpeg(frame: Image.Image, quality: int) -> bytes:
    """As cameras compress it: with 4:2:0 chroma, and codes that are not made for the picture."""
    buffer = io.BytesIO()
    frame.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return buffer.getvalue()


def on_grid(plate: tuple[float, float, float, float], original: Size, side: int) -> Region:
    """A square about a plate, all of it inside, that begins on the grid."""

    def start(low: float, high: float, most: int) -> int:
        wanted = round((low + high - side) / 2)
        return max(0, min(wanted, most - side)) // GRID * GRID

    left = start(plate[0], plate[2], original.width)
    top = start(plate[1], plate[3], original.height)
    return Region(left, top, left + side, top + side)


def _row(asked: list[Asked], quality: int) -> dict[str, Any]:
    crops = {
        way: [crop for one in asked for crop in one.crops if (crop.quality, crop.way) == (quality, way)]
        for way in WAYS
    }
    same = [one.text == other.text for one, other in zip(crops["anew"], crops["lossless"], strict=True)]
    return {
        "quality": quality,
        "same_text": statistics.fmean(same),
        **{
            way: {
                "sent_bytes": statistics.fmean(crop.sent_bytes for crop in crops[way]),
                "cpu_ms": 1e3 * statistics.median(crop.cpu_seconds for crop in crops[way]),
                "accuracy": statistics.fmean(crop.right for crop in crops[way]),
                "uncertainty": statistics.fmean(crop.uncertainty for crop in crops[way]),
            }
            for way in WAYS
        },
    }
