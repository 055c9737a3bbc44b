"""Colours and depths: from any Pillow mode to 8-bit RGB, or an error that says what is not clear."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from PIL import Image, ImageChops

from .errors import NotAPictureError

__all__ = ["check_depth", "is_deep", "to_rgb"]

# How many bits whole numbers are taken to have: the fewest of these that hold the largest.
_DEPTHS = range(8, 17)
# What is white in floating-point numbers; without a value above a sixteenth of it all would be nearly black.
_WHITES = (1.0, 255.0, 65535.0)
_DARK = 1 / 16
# Of 16 bits a colour, Pillow keeps the upper 8: of 14 bits in them and of 12, no more than this is left.
# Cameras have so many; 15 cannot be told from a dark picture.
_OF_14, _OF_12 = 63, 15
# One pixel, or less than a thousandth of them, may be hot, or a glint. Where they alone have more than a
# quarter of the range, it is not clear whether it is that of the others: unless 0, they would be dark. Of
# 8 bits that were spread over 16 it is.
_FEW, _FAR = 1000, 4
_LIGHTS_OR_FAULTS = (
    "whether the few above are lights or faults, and so what is white, is not clear; save it with 8 bits"
)

_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


def to_rgb(image: Image.Image, name: str = "the image") -> Image.Image:
    """Any Pillow mode → 8-bit RGB; transparency is laid over white. May return `image` itself.

    Deep modes do not say their range. Whole numbers are taken to have 8 to 16 bits, the fewest that hold the
    largest; floating-point numbers to reach to 1, 255 or 65535. Where all is transparent, and the colours are
    not all the same, the transparency is dropped.

    Raises:
        NotAPictureError: there are values beyond any range, below 0 or not finite, or the range is not clear.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_to_grey(image, name).convert("RGB")
    if image.mode in ("La", "RGBa"):  # premultiplied alpha
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if not _extrema(rgba.getchannel("A"))[1]:
            colours = rgba.convert("RGB")
            if any(low != high for low, high in map(_extrema, colours.split())):
                return colours
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def is_deep(image: Image.Image) -> bool:
    """Whether an encoded picture, not decoded yet, has 16 bits a colour, of which Pillow keeps 8."""
    if image.mode not in ("RGB", "RGBA", "RGBX", "LA", "CMYK"):
        return False
    # How Pillow's decoders are told: the raw mode (`BGR;16` has 16 bits a pixel); of PPM the
    # mode and the largest value.
    coded = [str(tile[3]) for tile in getattr(image, "tile", ())]
    return any(re.search(";16[BLN]", how) or (image.format == "PPM" and "65535" in how) for how in coded)


def _colours(image: Image.Image) -> tuple[Image.Image, ...]:
    """The bands, without what is or may be alpha."""
    bands = image.split()
    return bands[: {"LA": 1, "RGBA": 3, "RGBX": 3}.get(image.mode, len(bands))]


def check_depth(image: Image.Image, lower: Callable[[], Image.Image] | None, name: str) -> None:
    """Refuse a decoded `is_deep` picture whose values may lie in the dropped bits: dark, or pale. Where there
    is none but 0, it is the same with any number of bits.

    Args:
        lower: decodes the lower bytes of its colours, band for band; None if they are not to be had.
    """
    colours = _colours(image)
    highest = max(_extrema(band)[1] for band in colours)
    if lower is not None and all(_few_above(band, 0) for band in colours):
        dropped = _colours(lower())
        if any(_extrema(band)[1] if highest == 0 else not _few_above(band, 0) for band in dropped):
            no = "nearly no" if highest else "no"
            raise NotAPictureError(
                f"{name} has 16 bits a colour, but {no} value that needs more than 8: it would be black; "
                "save it with 8 bits"
            )
    # Colours multiplied by an alpha of fewer bits are right again, but the alpha is not.
    thin = any(0 < _extrema(band)[1] <= _OF_12 for band in image.split()[len(colours) :])
    dark = 0 < highest <= _OF_14
    few = all(_few_above(band, _OF_12) for band in colours) and any(
        _some_below(band, _OF_12) for band in colours
    )
    if (dark or few) and lower is not None and _all_alike(colours, _colours(lower())):
        dark = few = False  # 8 bits spread over 16
    if dark or thin:
        what = "alpha" if thin else "value"
        raise NotAPictureError(
            f"{name} has 16 bits a colour, but no {what} that needs more than 14: with fewer bits it would "
            "be too dark or too pale; save it with 8 bits"
        )
    if few:
        raise NotAPictureError(
            f"{name} has 16 bits a colour, but nearly all values in the lowest 12: {_LIGHTS_OR_FAULTS}"
        )


def _deep_to_grey(image: Image.Image, name: str) -> Image.Image:
    """Modes I;16*, I and F → L."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF file
    inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    values = image.convert("I") if image.mode.startswith("I;16") else image
    lowest, highest = _extrema(values)
    white = _white_of_floats(values, highest) if image.mode == "F" else _white_of_integers(highest)
    if image.mode != "F" and 255 < highest < 2 ** _DEPTHS[-1] and _is_spread(values):
        white = 2.0 ** _DEPTHS[-1] - 1
    if inverted and white is not None and image.mode != "F":  # what is black is not seen in what is light
        full = 2.0 ** tags[_BITS][0] - 1
        white = full if 2 * highest > full else None
    if white is None or lowest < 0:
        odd = "" if _all_finite(values) else ", some of them not finite"
        raise NotAPictureError(
            f"{name} has grey values from {lowest:g} to {highest:g}{odd}: which is black and which is white "
            "is not clear; save it with 8 bits"
        )
    if (limit := _limit_of_most(values, white)) is not None:
        raise NotAPictureError(
            f"{name} has grey values from {lowest:g} to {highest:g}, but nearly all of them up to {limit:g}: "
            f"{_LIGHTS_OR_FAULTS}"
        )
    if inverted:
        return values.point(lambda value: value * (-255 / white) + 255.5).convert("L")
    return values.point(lambda value: value * (255 / white) + 0.5).convert("L")


def _limit_of_most(values: Image.Image, white: float) -> float | None:
    """What nearly all values, of mode I or F, are up to, if that is another range than the largest's."""
    if values.mode == "F":
        lower = [one for one in _WHITES if one < white]
    else:
        lower = [int(white) // _FAR] if white > 2 ** _DEPTHS[0] else []
    limit = next((one for one in lower if _few_above(values, one) and _some_below(values, one)), None)
    return None if limit is None or (values.mode == "I" and _is_spread(values)) else limit


def _is_spread(values: Image.Image) -> bool:
    """Whether whole numbers of up to 16 bits, of mode I, are of 8 bits spread over 16: both bytes alike."""
    both = Image.frombytes("LA", values.size, values.convert("I;16").tobytes())
    return _all_alike(both.split()[:1], both.split()[1:])


def _all_alike(bands: tuple[Image.Image, ...], others: tuple[Image.Image, ...]) -> bool:
    """Whether bands of 8 bits are equal, one for one."""
    return all(ImageChops.difference(*pair).getbbox() is None for pair in zip(bands, others, strict=True))


def _few_above(band: Image.Image, threshold: float) -> bool:
    """Whether only one pixel, of three or more, or less than a thousandth of all have a larger value."""
    total = band.width * band.height
    above = total - _count(band, threshold)
    return above < total / _FEW or (above <= 1 and total > 2)


def _some_below(band: Image.Image, threshold: float) -> bool:
    """Whether there are values up to the threshold that are not black in every range."""
    least = band.histogram() if band.mode == "L" else band.histogram(extrema=(0, 1))
    return _count(band, threshold) > least[0]


def _count(band: Image.Image, threshold: float) -> int:
    """The pixels whose value is from 0 to the threshold."""
    if band.mode == "L":
        return sum(band.histogram()[: int(threshold) + 1])
    return sum(band.histogram(extrema=(0, threshold)))


def _extrema(band: Image.Image) -> tuple[float, float]:
    """The lowest and the highest value of an image of one band."""
    lowest, highest = band.getextrema()
    assert isinstance(lowest, int | float), "one pair for the one band"
    assert isinstance(highest, int | float), "one pair for the one band"
    return lowest, highest


def _white_of_integers(highest: float) -> float | None:
    return next((2.0**bits - 1 for bits in _DEPTHS if highest < 2**bits), None)


def _white_of_floats(values: Image.Image, highest: float) -> float | None:
    white = next((white for white in _WHITES if highest <= white), None)
    if white is None or 0 < highest < _DARK * white or not _all_finite(values):
        return None
    return white


def _all_finite(values: Image.Image) -> bool:
    """Whether there is neither an infinity nor a NaN: either shows in the mean."""
    if values.mode != "F":
        return True
    mean = values.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    return isinstance(mean, float) and math.isfinite(mean)
