"""Pictures that cost more than they look: refused by their headers, or stripped of what costs.

Times are CPU times of this process, with generous bounds.
"""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from edge.files import segment, with_scans, with_segments
from edge.support import encoded, gradient, square
from secondlook.edge import PictureError, PictureLimits, PictureTooLargeError, Size, decode_jpeg, open_picture

BODY = 8_400_000
"""Bytes of a large request."""
JPEG = encoded(gradient(168, 168))
VIEW = PictureLimits(max_pixels=4 * 336 * 336)
"""What a server with a view of 336 pixels allows."""


def show(data: bytes) -> None:
    """What an edge does for a first look."""
    open_picture(data).global_image(square(336))


def serve(data: bytes) -> None:
    decode_jpeg(data, VIEW)


def seconds(read: Callable[[bytes], object], data: bytes) -> float:
    started = time.process_time()
    with suppress(PictureError):
        read(data)
    return time.process_time() - started


def claiming(side: int, count: int) -> bytes:
    """A progressive picture of a few bytes that says that it is large, with more scans."""
    jpeg = with_scans(gradient(168, 168), count)
    at = jpeg.index(b"\xff\xc2") + 5
    return jpeg[:at] + side.to_bytes(2, "big") * 2 + jpeg[at + 4 :]


EXIF = b"Exif\0\0II*\0\x08\0\0\0"
# A directory of 5000 entries that all point at the same 60000 bytes.
GREEDY = (
    EXIF
    + b"\x88\x13"
    + b"".join(tag.to_bytes(2, "little") + b"\7\0\x60\xea\0\0\0\0\0\0" for tag in range(5000))
)
FEATURES = b"Photoshop 3.0\0" + 5000 * b"8BIM\0\1\0\0\0\0\0\0"

BOMBS: dict[str, Callable[[], bytes]] = {
    "scans, 168": lambda: with_scans(gradient(168, 168), BODY // 12),
    "scans, 336": lambda: with_scans(gradient(336, 336), BODY // 12),
    "scans of 64 megapixels": lambda: claiming(8000, 16_000),
    "64 megapixels": lambda: claiming(8000, 18),
    "EXIF in many segments": lambda: with_segments(JPEG, BODY // 20 * segment(0xE1, EXIF[:16])),
    "EXIF in large segments": lambda: with_segments(JPEG, 128 * segment(0xE1, EXIF + bytes(65_000))),
    "a greedy directory": lambda: with_segments(JPEG, segment(0xE1, GREEDY[:65_000])),
    "Photoshop": lambda: with_segments(JPEG, 900 * segment(0xED, FEATURES[:9000])),
    "comments": lambda: with_segments(JPEG, BODY // 4 * segment(0xFE, b"")),
    "fill bytes": lambda: with_segments(JPEG, BODY * b"\xff"),
    "fill bytes behind": lambda: JPEG[:-2] + BODY * b"\xff" + JPEG[-2:],
    "fill bytes in coded data": lambda: JPEG[:-200] + BODY * b"\xff" + JPEG[-200:],
    "escaped bytes": lambda: JPEG[:-2] + BODY // 2 * b"\xff\0" + JPEG[-2:],
    "restarts": lambda: JPEG[:-2] + BODY // 2 * b"\xff\xd0" + JPEG[-2:],
    "tables": lambda: with_segments(JPEG, 120 * segment(0xDB, b"".join(1000 * [bytes((0, *range(64)))]))),
    "frames": lambda: with_segments(JPEG, BODY // 19 * JPEG[JPEG.index(b"\xff\xc0") :][:19]),
    "behind the end": lambda: JPEG + BODY * b"\xff",
}


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize(("read", "bound"), [(serve, 1), (show, 3)])
def test_no_file_of_a_large_request_takes_long(
    kind: str, read: Callable[[bytes], object], bound: float
) -> None:
    assert seconds(read, BOMBS[kind]()) < bound


def test_nothing_is_decoded_of_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(self: Any) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    for kind, message in {
        "scans, 168": "more than 100 scans",
        "comments": "more than 1000 segments",
        "escaped bytes": "168x168 pixels and more than",
    }.items():
        for read in (serve, show):
            with pytest.raises(PictureTooLargeError, match=message):
                read(BOMBS[kind]())
    with pytest.raises(PictureTooLargeError, match=r"more than 33000 blocks of 8x8 pixels in all its scans"):
        decode_jpeg(claiming(250, 60), PictureLimits(max_pixels=64_000))


def greedy(entries: int, nbytes: int, kind: int = 7, width: int = 1) -> bytes:
    """EXIF data that turn the picture, and whose other entries all point at the same bytes."""
    many = b"".join(struct.pack("<HHII", tag, kind, nbytes // width, 8) for tag in range(300, 300 + entries))
    turned = struct.pack("<HHII", 0x0112, 3, 1, 6)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", entries + 1) + turned + many + bytes(4 + nbytes)


def with_exif(kind: str, exif: bytes) -> bytes:
    image, text = gradient(16, 8), PngInfo()
    if kind == "WEBP":
        return encoded(image, kind, exif=exif)
    if kind == "AVIF":  # Pillow reads what it writes
        harmless = greedy(0, len(exif.removeprefix(b"Exif\0\0")) - len(greedy(0, 0)))
        return encoded(image, kind, exif=harmless).replace(harmless, exif.removeprefix(b"Exif\0\0"))
    if kind == "PNG":
        return encoded(image, "PNG", exif=exif)
    profile = f"\nexif\n{len(exif)}\n{exif.hex()}"
    if kind == "zTXt":
        text.add_text("Raw profile type exif", profile, zip=True)
    else:
        text.add_itxt("Raw profile type exif", profile, zip=True)
    return encoded(image, "PNG", pnginfo=text)


@pytest.mark.parametrize("kind", ["PNG", "zTXt", "iTXt", "WEBP", "AVIF"])
def test_exif_data_of_other_formats_are_read_within_bounds(kind: str) -> None:
    for exif in (greedy(0, 0), b"Exif\0\0" + greedy(3, 100)):
        assert open_picture(with_exif(kind, exif)).original().size == (8, 16)
    most = 60_000 if "T" in kind else 400_000
    for bomb in (greedy(20_000, most), greedy(900, most), greedy(1, most, 5, 8)):
        data = with_exif(kind, bomb)
        tracemalloc.start()
        try:
            assert seconds(show, data) < 0.3
            assert tracemalloc.get_traced_memory()[1] < 32 * len(bomb)
        finally:
            tracemalloc.stop()


def test_exif_data_of_tiff_files_are_read_within_bounds() -> None:
    plain = encoded(gradient(16, 8), "TIFF")
    at = struct.unpack_from("<I", plain, 4)[0]
    (entries,) = struct.unpack_from("<H", plain, at)
    own, (following,) = (
        plain[at + 2 : at + 2 + 12 * entries],
        struct.unpack_from("<I", plain, at + 2 + 12 * entries),
    )
    for tag, values in ((34665, 1), (34665, 400_000), (34853, 400_000)):
        directory = len(plain)
        inner = directory + 2 + 12 * (entries + 1) + 4
        pointer = struct.pack("<HHII", tag, 4, 1, inner)
        inside = struct.pack("<HHHIII", 1, 300, 5, values, 8, 0)
        data = plain[:4] + struct.pack("<I", directory) + plain[8:]
        data += (
            struct.pack("<H", entries + 1)
            + own
            + pointer
            + struct.pack("<I", following)
            + inside
            + bytes(8 * values)
        )
        if values == 1:
            assert open_picture(data).original().size == (16, 8)
        else:
            with pytest.raises(PictureError, match="its tag 300 has 400000 values"):
                open_picture(data)


def test_a_text_named_exif_is_no_exif() -> None:
    text = PngInfo()
    text.add_text("exif", "of no meaning", zip=True)
    assert open_picture(encoded(gradient(16, 8), "PNG", pnginfo=text)).original().size == (16, 8)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_plain_progressive_jpeg_of_the_largest_size_is_admitted(subsampling: str, mode: str) -> None:
    image = Image.effect_noise((640, 480), 90).convert(mode)
    for quality in (50, 85):
        data = encoded(image, progressive=True, quality=quality, subsampling=subsampling)
        assert decode_jpeg(data, PictureLimits(max_pixels=640 * 480)).size == (640, 480)
    assert decode_jpeg(encoded(gradient(1, 1), progressive=True), PictureLimits(max_pixels=1)).size == (1, 1)


def test_metadata_and_further_pictures_change_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "x" * 30_000
    rich = encoded(gradient(200, 100), exif=exif, icc_profile=bytes(200_000), comment=b"c" * 60_000)
    plain = encoded(gradient(200, 100))
    assert decode_jpeg(rich + rich).tobytes() == decode_jpeg(plain).tobytes()
    assert open_picture(rich + plain).size == Size(100, 200)
    with Image.open(io.BytesIO(rich)) as stored:
        assert stored.convert("RGB").tobytes() == decode_jpeg(rich).tobytes()
