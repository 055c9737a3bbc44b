from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edge.support import encoded, gradient, square
from secondlook.edge import (
    NotAPictureError,
    PictureError,
    PictureLimits,
    PictureTooLargeError,
    Region,
    SettingsError,
    decode_jpeg,
    open_picture,
)

JPEG = encoded(gradient(400, 300))


def use(source: Any, limits: PictureLimits | None = None) -> None:
    """Both pictures of the edge, as a question needs them."""
    picture = open_picture(source, limits)
    picture.global_image(square(64))
    picture.local_image(Region(0, 0, 1, 1), square(64))


def complaint(read: Callable[[bytes], object], data: bytes) -> str:
    """What a reader says against a picture; nothing if it takes it."""
    try:
        read(data)
    except PictureError as error:
        return str(error)
    return ""


def png_bomb(width: int, height: int) -> bytes:
    """A few bytes that declare a picture of this size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def jpeg_bomb(width: int, height: int) -> bytes:
    """A small JPEG whose header declares another size."""
    start = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:start] + struct.pack(">HH", height, width) + JPEG[start + 4 :]


@pytest.mark.parametrize("read", [use, decode_jpeg])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"GET / HTTP/1.1", "not a picture in a known format"),
        (b"\xff\xd8\xff\xe0", "not a picture in a known format|damaged or truncated"),
        (JPEG[:-2], "truncated"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (JPEG[:100], "not a picture|truncated"),
    ],
)
def test_what_is_no_picture_says_so(read: Callable[[bytes], object], data: bytes, message: str) -> None:
    with pytest.raises(NotAPictureError, match=message) as caught:
        read(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "BMP", "GIF"])
def test_truncated_pictures_of_other_formats(kind: str) -> None:
    data = encoded(gradient(200, 150), kind)
    with pytest.raises(NotAPictureError):
        use(data[: len(data) * 2 // 3])


def test_the_server_takes_jpegs_only() -> None:
    with pytest.raises(NotAPictureError):
        decode_jpeg(encoded(gradient(10, 10), "PNG"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(NotAPictureError, match=r"gone\.jpg: No such file"):
        open_picture(tmp_path / "gone.jpg")
    with pytest.raises(NotAPictureError, match="directory"):
        open_picture(tmp_path)
    with pytest.raises(NotAPictureError, match="null"):
        open_picture("a\0b.jpg")
    empty = tmp_path / "empty.jpg"
    empty.touch()
    with pytest.raises(NotAPictureError, match=r"empty\.jpg is empty"):
        open_picture(empty)


@pytest.mark.parametrize("make", [png_bomb, jpeg_bomb])
@pytest.mark.parametrize("size", [(9000, 8000), (10_000, 9500), (60_000, 60_000)])
@pytest.mark.parametrize("action", ["ignore", "error"])
def test_bombs_are_refused_before_decoding(
    make: Callable[[int, int], bytes], size: tuple[int, int], action: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below and above the sizes where Pillow itself warns and raises, however the program treats warnings."""

    def decoded(self: Image.Image) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    guard = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        with pytest.raises(PictureTooLargeError, match="pixels"):
            open_picture(make(*size))
        if make is jpeg_bomb:
            with pytest.raises(PictureTooLargeError, match="pixels"):
                decode_jpeg(make(*size))
    assert guard == Image.MAX_IMAGE_PIXELS


def test_the_limit_is_a_setting_and_named() -> None:
    limits = PictureLimits(max_pixels=400 * 300)
    open_picture(JPEG, limits)
    with pytest.raises(PictureTooLargeError, match=r"400x300 = 120000 pixels; the limit is 119999"):
        open_picture(JPEG, PictureLimits(max_pixels=400 * 300 - 1))
    with pytest.raises(PictureTooLargeError, match="the image has 20x10"):
        open_picture(gradient(20, 10), PictureLimits(max_pixels=199))
    with pytest.raises(PictureTooLargeError, match="limit is 119999"):
        decode_jpeg(JPEG, PictureLimits(max_pixels=119_999))


def test_the_limit_on_bytes_holds_for_files_and_bytes(tmp_path: Path) -> None:
    limits = PictureLimits(max_bytes=len(JPEG) - 1)
    path = tmp_path / "big.jpg"
    path.write_bytes(JPEG)
    for source in (path, JPEG):
        with pytest.raises(PictureTooLargeError, match=f"limit of {len(JPEG) - 1} bytes"):
            open_picture(source, limits)


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_impossible_limits_are_refused(value: Any) -> None:
    with pytest.raises(SettingsError, match=f"max_pixels .* not {value}"):
        PictureLimits(max_pixels=value)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([JPEG[:3000], encoded(gradient(40, 30), "PNG"), encoded(gradient(40, 30), "GIF")]),
    st.lists(st.tuples(st.integers(0, 2999), st.integers(0, 255)), max_size=12),
    st.integers(1, 3000),
)
def test_damage_gives_a_picture_or_a_picture_error(
    data: bytes, changes: list[tuple[int, int]], end: int
) -> None:
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks about odd metadata
        for read in (use, decode_jpeg):
            # Any other exception than a picture error ends the test.
            assert "\n" not in complaint(read, bytes(damaged[:end]))
