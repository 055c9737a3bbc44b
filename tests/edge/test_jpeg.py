"""Local images of JPEGs: made from the rows down to their region, and yet the same."""

from __future__ import annotations

import io
import re
import time
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from edge.support import encoded, square
from secondlook.edge import (
    JpegSettings,
    NotAPictureError,
    PictureTooLargeError,
    Region,
    decode_jpeg,
    open_picture,
)
from secondlook.edge.jpeg import Jpeg, read_jpeg
from secondlook.edge.limits import PictureLimits


def read(jpeg: bytes) -> Jpeg:
    return read_jpeg(jpeg, PictureLimits(), "it")


BEST = JpegSettings(100, "4:4:4")


def noise(width: int, height: int) -> Image.Image:
    """A picture in which every pixel tells on a decoder that takes another one for it."""
    random = np.random.default_rng(width * height)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@settings(max_examples=150, deadline=None)
@given(
    st.data(),
    st.integers(1, 8),
    st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    st.sampled_from(["baseline", "progressive", "restarts", "grey"]),
)
def test_a_local_image_is_that_of_the_whole_picture(
    data: Any, orientation: int, subsampling: str, kind: str
) -> None:
    options: dict[str, Any] = {"progressive": kind == "progressive", "exif": turned(orientation)}
    if kind == "restarts":
        options["restart_marker_blocks"] = 3
    picture = noise(53, 241).convert("L" if kind == "grey" else "RGB")
    jpeg = encoded(picture, quality=90, subsampling=subsampling, **options)
    whole = ImageOps.exif_transpose(Image.open(io.BytesIO(jpeg))).convert("RGB")
    left = data.draw(st.integers(0, whole.width - 1))
    top = data.draw(st.integers(0, whole.height - 1))
    right = data.draw(st.integers(left + 1, whole.width))
    bottom = data.draw(st.integers(top + 1, whole.height))
    region = Region(left, top, right, bottom)
    opened = open_picture(jpeg)
    for side in data.draw(st.sampled_from([(), (8,), (100,), (8, 100)])):  # decoded at 1/2, and in full
        opened.global_image(square(side))
    expected = open_picture(whole).local_image(region, square(100), BEST)
    assert opened.local_image(region, square(100), BEST) == expected
    assert opened.original().tobytes() == whole.tobytes()


@pytest.mark.parametrize(
    ("orientation", "region", "rows"),
    [
        (1, Region(0, 100, 300, 200), 216),
        (3, Region(0, 100, 300, 200), 716),  # upside down
        (6, Region(700, 0, 800, 300), 116),  # its right edge is stored at the top
        (1, Region(0, 700, 300, 800), 800),
    ],
)
def test_rows_below_the_region_are_not_decoded(
    monkeypatch: pytest.MonkeyPatch, orientation: int, region: Region, rows: int
) -> None:
    decoded = []
    crop = Image.Image.crop

    def spy(self: Image.Image, *arguments: Any) -> Image.Image:
        decoded.append(self.size)
        return crop(self, *arguments)

    picture = open_picture(encoded(Image.new("RGB", (300, 800)), exif=turned(orientation)))
    monkeypatch.setattr(Image.Image, "crop", spy)
    picture.local_image(region, square(100))
    assert decoded == [(300, rows)]


@pytest.mark.parametrize("progressive", [False, True])
def test_a_picture_that_ends_too_early_has_its_upper_regions(progressive: bool) -> None:
    whole = encoded(noise(64, 640), progressive=progressive)
    cut = open_picture(whole[: len(whole) - (200 if progressive else len(whole) // 3)])
    if not progressive:
        region = Region(0, 0, 64, 200)
        assert cut.local_image(region, square(100)) == open_picture(whole).local_image(region, square(100))
    with pytest.raises(NotAPictureError, match="truncated"):
        cut.local_image(Region(0, 600, 64, 640), square(100))


def test_a_picture_inside_the_header_is_not_taken_for_it() -> None:
    thumbnail = encoded(noise(16, 600))
    jpeg = encoded(noise(40, 500), comment=thumbnail)
    assert read(jpeg).upper_rows(100).size == (40, 116)


@pytest.mark.parametrize("between", [b"\xff\xff\xff", b"\x00", b"\xff\x00", b"\xff\xd0"])
def test_odd_bytes_between_segments_are_skipped(between: bytes) -> None:
    jpeg = encoded(noise(40, 500))
    at = jpeg.index(b"\xff\xc0")
    odd = jpeg[:at] + between + jpeg[at:]
    assert read(odd).upper_rows(100).size == (40, 116)


@pytest.mark.parametrize("progressive", [False, True])
def test_fill_bytes_before_markers_change_nothing(progressive: bool) -> None:
    jpeg = encoded(noise(40, 60), progressive=progressive, restart_marker_blocks=3)
    at = jpeg.index(b"\xff\xda")
    filled = jpeg[:at] + re.sub(rb"\xff(?=[\xc4\xd0-\xda])", b"\xff\xff\xff", jpeg[at:])
    assert len(filled) > len(jpeg)
    assert decode_jpeg(filled).tobytes() == decode_jpeg(jpeg).tobytes()


@pytest.mark.parametrize(("side", "refused"), [(40, True), (2000, False)])
def test_millions_of_fill_bytes_cost_little(side: int, refused: bool) -> None:
    jpeg = encoded(noise(16, 16).resize((side, side)))
    filled = jpeg[:-2] + b"\xff\xff\x00" * 5_000_000 + jpeg[-2:]
    start = time.process_time()
    with pytest.raises(PictureTooLargeError, match="more than") if refused else nullcontext():
        read(filled)
    assert time.process_time() - start < 1.5


@pytest.mark.parametrize("rows", [500, 484, 1000])
def test_where_nothing_lies_below_the_file_stays_as_it_is(rows: int) -> None:
    assert read(encoded(noise(40, 500))).upper_rows(rows).size == (40, 500)


@pytest.mark.parametrize(
    "header", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe0\x00\x40", b"\xff\xd8\xff"]
)
def test_an_incomplete_header_is_an_error(header: bytes) -> None:
    with pytest.raises(NotAPictureError):
        read(header)
