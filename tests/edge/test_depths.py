"""Pictures of more than 8 bits a colour: the right brightness, or an error; never black in silence."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from edge.files import Directory, png, tiff
from edge.support import encoded
from secondlook.edge import NotAPictureError, open_picture
from secondlook.edge.colours import to_rgb

RAMP = (0.0, 0.25, 0.5, 1.0)
GREY = [0, 64, 128, 255]


def greys(source: Any) -> list[int]:
    image = open_picture(source).original()
    bands = [[image.getpixel((x, 0)) for x in range(image.width)]]
    return [red for band in bands for red, _green, _blue in band]  # type: ignore[misc]


def grey_tiff(letter: str, values: Sequence[float], order: str = "<", photometric: int = 1) -> bytes:
    pixels = struct.pack(f"{order}{len(values)}{letter}", *values)
    kinds = {"B": 1, "b": 2, "H": 1, "h": 2, "I": 1, "i": 2, "e": 3, "f": 3}
    bits = (8 * struct.calcsize(letter),)
    return tiff(Directory((len(values), 1), pixels, bits, photometric, {339: (kinds[letter],)}), order=order)


@pytest.mark.parametrize("bits", range(8, 17))
@pytest.mark.parametrize("letter", ["H", "I"])
def test_whole_numbers_have_the_bits_they_need(bits: int, letter: str) -> None:
    values = [round(part * (2**bits - 1)) for part in RAMP]
    assert greys(grey_tiff(letter, values)) == GREY
    if letter == "H":
        assert greys(grey_tiff(letter, values, ">")) == GREY
        assert greys(png(4, 1, 16, 0, b"\0" + struct.pack(">4H", *values))) == GREY


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_floating_point_numbers_reach_to_a_usual_white(white: float) -> None:
    assert greys(grey_tiff("f", [part * white for part in RAMP])) == GREY


def test_where_zero_is_white_dark_is_not_light() -> None:
    values = [65535 - round(part * 65535) for part in RAMP]
    assert greys(grey_tiff("H", values, photometric=0)) == GREY
    light = [65535 - value for value in (65535, 65000, 64000, 30000, 30000)]
    assert greys(grey_tiff("H", light, photometric=0))[2] == 249  # not stretched
    with pytest.raises(NotAPictureError, match=r"not clear; save it with 8 bits"):
        open_picture(grey_tiff("H", [0, 1000, 4095], photometric=0))


@pytest.mark.parametrize(
    ("letter", "values"),
    [
        ("f", [0, 0.5, float("inf")]),
        ("f", [0, 0.5, float("nan")]),
        ("f", [float("-inf"), 0.5, 1]),
        ("f", [-1, 0, 1]),
        ("f", [0, 0.5, 1.25]),  # of 255 it would be black
        ("f", [0, 0.01, 0.02]),
        ("f", [0, 300, 1023]),
        ("f", [0, 1e9]),
        ("I", [0, 2**31, 2**32 - 1]),
        ("I", [0, 2**20]),
        ("i", [-5, 0, 255]),
        ("h", [-5, 0, 255]),
        ("b", [-5, 0, 100]),
    ],
)
def test_an_unclear_range_is_an_error_and_not_black(letter: str, values: list[float]) -> None:
    with pytest.raises(NotAPictureError, match=r"not clear; save it with") as caught:
        open_picture(grey_tiff(letter, values))
    assert "\n" not in str(caught.value)


def test_values_of_a_pillow_image_follow_the_same_rules() -> None:
    assert to_rgb(Image.new("I", (1, 1), 200)).getpixel((0, 0)) == (200, 200, 200)
    assert to_rgb(Image.new("F", (1, 1), 0.5)).getpixel((0, 0)) == (128, 128, 128)
    assert to_rgb(Image.new("I;16", (1, 1), 0)).getpixel((0, 0)) == (0, 0, 0)
    with pytest.raises(NotAPictureError, match=r"the image has grey values from 1e\+09"):
        open_picture(Image.new("F", (1, 1), 1e9))


def colour_png(values: Sequence[int], alpha: bool) -> bytes:
    row = b"".join(struct.pack(">3H", *[value] * 3) + (b"\xff\xff" if alpha else b"") for value in values)
    return png(len(values), 1, 16, 6 if alpha else 2, b"\0" + row)


def grey_alpha_png(values: Sequence[int]) -> bytes:
    row = b"".join(struct.pack(">2H", value, 65535) for value in values)
    return png(len(values), 1, 16, 4, b"\0" + row)


def colour_tiff(values: Sequence[int]) -> bytes:
    row = b"".join(struct.pack("<3H", *[value] * 3) for value in values)
    return tiff(Directory((len(values), 1), row, (16, 16, 16)))


def colour_ppm(values: Sequence[int]) -> bytes:
    return b"P6 %d 1 65535\n" % len(values) + b"".join(struct.pack(">3H", *[value] * 3) for value in values)


@pytest.mark.parametrize("bits", [10, 12, 13, 14])
@pytest.mark.parametrize("kind", ["PNG", "PNG with alpha", "TIFF", "PPM"])
def test_fewer_bits_in_sixteen_of_each_colour_are_not_dark(kind: str, bits: int) -> None:
    def file(values: Sequence[int]) -> bytes:
        if kind == "PPM":
            return colour_ppm(values)
        return colour_tiff(values) if kind == "TIFF" else colour_png(values, "alpha" in kind)

    assert greys(file([0, 0x4000, 0xFFFF])) == [0, 64, 255]
    with pytest.raises(
        NotAPictureError, match=r"no (value|alpha) that needs more than 14: .* save it with 8"
    ):
        open_picture(file([0, 1000, 2**bits - 1]))


@pytest.mark.parametrize("order", ["<", ">"])
def test_eight_bits_in_sixteen_of_each_colour_are_not_black(order: str) -> None:
    values = [*range(0, 256, 5), 255]
    row = b"".join(struct.pack(f"{order}3H", *[value] * 3) for value in values)
    files = [tiff(Directory((len(values), 1), row, (16, 16, 16)), order=order)]
    if order == ">":
        files += [colour_png(values, False), colour_png(values, True), colour_ppm(values)]
        files.append(grey_alpha_png(values))
        files.append(encoded(Image.open(io.BytesIO(files[0])), "PNG"))
        assert max(greys(files.pop())) == 0  # what Pillow makes of them
    for file in files:
        with pytest.raises(NotAPictureError, match="no value that needs more than 8: it would be black"):
            open_picture(file)
    for file in (
        colour_png([0, 0], True),
        grey_alpha_png([0, 0]),
        colour_ppm([0, 0]),
        tiff(Directory((1, 1), bytes(6), (16,) * 3)),
    ):
        assert max(greys(file)) == 0


@pytest.mark.parametrize("letter", ["e", "f"])
def test_colours_that_cannot_be_read_are_not_called_damaged(letter: str) -> None:
    bits = 8 * struct.calcsize(letter)
    pixels = struct.pack(f"<3{letter}", 0.5, 0.5, 0.5)
    with pytest.raises(NotAPictureError, match="is a TIFF picture that cannot be read: unknown"):
        open_picture(tiff(Directory((1, 1), pixels, (bits,) * 3, tags={339: (3, 3, 3)})))


@pytest.mark.parametrize("bits", [(16, 16, 16), (16,), (16,) * 4])
@pytest.mark.parametrize("order", ["<", ">"])
def test_deep_colours_in_planes_are_not_mistaken(bits: tuple[int, ...], order: str) -> None:
    samples = max(3, len(bits))
    planes = struct.pack(f"{order}{2 * samples}H", *range(0, 60000, 60000 // (2 * samples)))
    file = Directory((2, 1), planes, bits, tags={277: (samples,), 284: (2,)})
    with pytest.raises(NotAPictureError, match=r"each colour apart, which is not read: save"):
        open_picture(tiff(file, order=order))


@pytest.mark.parametrize("bits", [12, 14])
@pytest.mark.parametrize("kind", ["LA", "CMYK"])
def test_fewer_bits_in_sixteen_of_grey_and_ink_are_not_mistaken(kind: str, bits: int) -> None:
    def file(most: int) -> bytes:
        if kind == "LA":
            return grey_alpha_png([0, most])
        return tiff(Directory((2, 1), struct.pack("<8H", *[0] * 7, most), (16,) * 4, 5))

    open_picture(file(65535))
    with pytest.raises(NotAPictureError, match="too dark or too pale"):
        open_picture(file(2**bits - 1))


@pytest.mark.parametrize(
    ("letter", "most", "hot"),
    [("H", 4095, 65535), ("H", 255, 1023), ("f", 1.0, 255.0), ("f", 255.0, 65535.0)],
)
def test_one_hot_pixel_does_not_make_all_others_dark(letter: str, most: float, hot: float) -> None:
    values = [most * (x % 64) / 63 for x in range(2000)]
    values = [int(value) for value in values] if letter == "H" else values
    assert max(greys(grey_tiff(letter, values))) == 255
    with pytest.raises(NotAPictureError, match="not clear; save it"):
        open_picture(grey_tiff(letter, [*values, hot]))
    many = greys(grey_tiff(letter, [*values, *[hot] * 20]))
    assert many[-1] == 255


@pytest.mark.parametrize("count", [3, 12, 400, 999])
@pytest.mark.parametrize(
    ("letter", "most", "hot"),
    [("H", 4095, 65535), ("H", 40, 65535), ("I", 1000, 65535), ("f", 1.0, 255.0), ("f", 255.0, 65535.0)],
)
def test_one_hot_pixel_of_a_small_picture_does_not_either(
    count: int, letter: str, most: float, hot: float
) -> None:
    values = [most * x / count for x in range(1, count)]
    values = [int(value) for value in values] if letter != "f" else values
    with pytest.raises(NotAPictureError, match="not clear; save it"):
        open_picture(grey_tiff(letter, [hot, *values]))
    if letter != "f":  # of values below 256 Pillow keeps nothing
        with pytest.raises(NotAPictureError, match="lights or faults" if most > 255 else "would be black"):
            open_picture(colour_png([*map(int, values), int(hot)], False))
    assert greys(grey_tiff(letter, [0] * count + [hot])) == [0] * count + [255]  # in every range


def test_one_hot_pixel_of_colour_does_not_make_all_others_dark() -> None:
    with pytest.raises(NotAPictureError, match="nearly all values in the lowest 12:"):
        open_picture(colour_png([4095] * 2000 + [65535], False))


@pytest.mark.parametrize("count", [3, 2000])
def test_one_light_among_eight_bits_spread_over_sixteen_is_one(count: int) -> None:
    """Both bytes of each are alike: it is clear what is white, though nearly all are dark."""
    levels = [*[2, 9, 15] * (count // 3), 255]
    values = [257 * level for level in levels]
    files = [grey_tiff("H", values), grey_tiff("H", values, ">"), colour_tiff(values), colour_ppm(values)]
    for file in [*files, colour_png(values, False), colour_png(values, True), grey_alpha_png(values)]:
        assert greys(file) == levels
    with pytest.raises(NotAPictureError, match=r"to 65535, but nearly all of them up to 16383: .*lights"):
        open_picture(grey_tiff("H", [values[0] + 1, *values[1:]]))
    for file in (colour_tiff([values[0] + 1, *values[1:]]), grey_alpha_png([values[0] + 1, *values[1:]])):
        with pytest.raises(NotAPictureError, match="lights or faults"):
            open_picture(file)


def test_dark_ones_of_eight_bits_spread_over_sixteen_stay_as_dark() -> None:
    levels = [2, 10, 30, 60, 2, 10]
    values = [257 * level for level in levels]
    for file in (grey_tiff("H", values), colour_png(values, False), colour_tiff(values)):
        assert greys(file) == levels


def test_dark_pictures_black_ones_and_thin_colours_are_no_fewer_bits() -> None:
    assert greys(colour_png([0, 9000, 110 * 257], False)) == [0, 35, 110]
    assert greys(colour_png([0, 0, 0], False)) == [0, 0, 0]
    row = struct.pack(">8H", 0, 0, 0, 65535, 0, 0, 0, 0)  # black beside nothing
    assert greys(png(2, 1, 16, 6, b"\0" + row)) == [0, 255]
    half = struct.pack(">8H", 0, 0, 0, 32767, 65535, 65535, 65535, 32767)
    assert greys(png(2, 1, 16, 6, b"\0" + half)) == [128, 255]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_a_colour_map_of_eight_bits_in_sixteen_is_not_black(bits: int, order: str) -> None:
    count = 2**bits
    reds, greens, blues = ([(part + step) % 256 for step in range(count)] for part in (200, 90, 7))
    indices = bytes([0b01_000000, 0]) if bits == 1 else bytes([0x10, 0x32]) if bits == 4 else bytes([1, 0])

    def colours(scale: int) -> list[Any]:
        map_ = tuple(value * scale for value in (*reds, *greens, *blues))
        file = tiff(Directory((2, 1), indices[: 1 + (bits == 8)], (bits,), 3, {320: map_}), order=order)
        image = open_picture(file).original()
        return [image.getpixel((x, 0)) for x in range(2)]

    wanted = [(200, 90, 7), (201, 91, 8)]
    assert colours(1) == colours(257) == (wanted if bits != 8 else wanted[::-1])[:: -1 if bits == 4 else 1]


def test_sixteen_bits_a_pixel_are_not_sixteen_a_colour() -> None:
    masks = struct.pack("<3I", 0xF800, 0x07E0, 0x001F)
    header = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 3, 4, 2835, 2835, 0, 0)
    pixels = struct.pack("<2H", 0x1082, 0x2104)
    offset = 14 + len(header) + len(masks)
    file = struct.pack("<2sIHHI", b"BM", offset + len(pixels), 0, 0, offset) + header + masks + pixels
    assert greys(file) == [16, 32]
