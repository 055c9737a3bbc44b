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

from edge.files import png, png_chunk
from edge.support import encoded, gradient, square
from secondlook.edge import (
    NotAPictureError,
    PictureError,
    PictureLimits,
    PictureTooLargeError,
    Region,
    SettingsError,
    Size,
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

    return png(width, height, 8, 2, b"\0" * 1000)


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


def frame_changed(at: int, value: int) -> bytes:
    """The JPEG with one byte of its frame's header changed; 0 is the marker's second byte."""
    changed = bytearray(JPEG)
    changed[JPEG.index(b"\xff\xc0") + 1 + at] = value
    return bytes(changed)


TEXT = b"Comment\0\0" + zlib.compress(b"something said" * 9)


def brands(major: bytes, *others: bytes) -> bytes:
    """The beginning of an ISO base media file."""
    body = b"ftyp" + major + b"\0\0\0\0" + b"".join(others)
    return (4 + len(body)).to_bytes(4, "big") + body + b"\0\0\0\x08meta"


MEDIA: dict[str, list[tuple[bytes, ...]]] = {
    "a HEIC picture, which is not read: save it as JPEG": [
        *((brand,) for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")),
        (b"mif1", b"mif1", b"heic"),
        (b"msf1", b"hevc", b"mif1"),
        (b"heif", b"heix"),
        (b"mif2", b"miaf", b"MiHE", b"heic"),
    ],
    "a HEIF picture, which is not read: save it as JPEG": [
        *((brand,) for brand in (b"heif", b"mif1", b"mif2", b"msf1", b"miaf")),
        (b"mif1", b"vvic"),
        (b"avci", b"mif1"),
        (b"jpeg", b"mif1"),
        (b"j2ki",),
    ],
    "an AVIF picture that cannot be read": [
        (b"avif", b"mif1"),
        (b"avis", b"msf1"),
        (b"mif1", b"miaf", b"avif"),
        (b"msf1", b"avis"),
    ],
    "an AVIF picture, which is not read: save it as JPEG": [(b"heif", b"avif"), (b"MA1B", b"avio")],
    "a video, which is not read": [
        *((brand,) for brand in (b"isom", b"mp42", b"qt  ", b"M4V ", b"3gp5", b"dash")),
        (b"isom", b"iso2", b"avc1", b"hvc1", b"mp41"),
    ],
    "raw sensor data, which is not read: develop it": [(b"crx ", b"crx ", b"isom")],
}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is a HEIC picture, which is not read: save it as JPEG"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "is a HEIC picture"),
        *[
            (brands(major, *others), f"^the picture is {message}")
            for message, named in MEDIA.items()
            for major, *others in named
        ],
        (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "is a video"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "is raw sensor data, which is not read: develop it"),
        *[
            (start + bytes(400), "^the picture is a video, which is not read: save one of its frames")
            for start in (
                *(b"\0\1\2\3" + box for box in (b"moov", b"mdat", b"moof", b"wide", b"free", b"styp")),
                b"\0\0\0\1mdat\0\0\0\1\0\0\0\0",  # of a size that follows
                b"\0\0\1\xba\x44\0\4\0\4\1\0\0\x10\0\x10\0\x18",  # which could be a TGA's
                (b"G@\0\x10" + bytes(184)) * 3,
                (bytes(4) + b"G@\0\x10" + bytes(184)) * 3,
                b"\0\0\0\1\x67\x42",
                b"FLV\1\5",
                b"0&\xb2u\x8ef\xcf\x11",
                b"OggS\0\2",
                b"YUV4MPEG2 W2 H2 F25:1\nFRAME\n",
                b"DKIF\0\0\x20\0VP80",
            )
        ],
        (b"\0\0\0\x0cJXL \r\n\x87\n", "is a JPEG XL picture"),
        (b"%PDF-1.7\n", "is a PDF document"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is an XML file, perhaps SVG"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"GET / HTTP/1.1", r"known format \(JPEG, PNG, TIFF, WEBP, "),
        (png(1, 1, 8, 0, b"\0\0", png_chunk(b"tEXt", b"a\0b", check=0)), r"is a PNG picture .*b'tEXt'"),
        (png(1, 1, 8, 0, b"\0\0", png_chunk(b"zTXt", TEXT[:8] + b"\7")), "is a PNG picture .*compression"),
        (png(2, 1, 8, 3, b"\0\0\1"), "is a PNG picture that cannot be read: it has no palette"),
        (frame_changed(3, 12), "is a JPEG of 12 bits a sample; only 8 are read"),
        (frame_changed(0, 0xC3), r"rare kind \(FFC3: lossless"),
        (frame_changed(0, 0xC9), r"rare kind \(FFC9: .*arithmetic"),
        (frame_changed(8, 2), "is a JPEG of 2 colours"),
        (jpeg_bomb(400, 0), "says that it has 400x0 pixels"),
    ],
)
def test_what_is_not_read_is_named(data: bytes, message: str) -> None:
    with pytest.raises(NotAPictureError, match=message) as caught:
        use(data)
    assert "\n" not in str(caught.value)


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


def test_a_higher_limit_than_pillows_own_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However the program treats warnings: Pillow warns above its limit, and raises above twice that."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("JPEG", "PNG", "BMP", "PPM", "TGA"):
            picture = open_picture(encoded(gradient(200, 150), kind))
            picture.global_image(square(64))
            picture.local_image(Region(0, 0, 30, 30), square(64))


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
    st.sampled_from([JPEG[:3000], *(encoded(gradient(40, 30), kind) for kind in ("PNG", "GIF", "TIFF"))]),
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


@pytest.mark.parametrize(
    "head", [b"P1 2000 1001\n", b"P2 2000 1001 255\n", b"P3 2000 1001 255\n", b"P6 2000 1001 100\n"]
)
def test_ppm_that_is_read_slowly_is_limited(head: bytes) -> None:
    with pytest.raises(PictureTooLargeError, match="PPM picture as text or of an odd range"):
        open_picture(head + b"1 " * 100)


def test_ppm_of_many_comments_is_refused() -> None:
    with pytest.raises(PictureTooLargeError, match="1000 comments"):
        open_picture(b"P3 2 2 255\n" + b"#\n" * 100_000)


@pytest.mark.parametrize(
    "data", [b"P3 1 1 255 9 8 7\n", b"P6 1 1 255 \t\x08\x07", b"P6 1 1 65535 " + bytes((9, 99, 8, 0, 255, 1))]
)
def test_small_or_binary_ppm_is_read(data: bytes) -> None:
    assert open_picture(data).size == Size(1, 1)
