"""Reading pictures: from bytes in any usual format and mode to checked, upright RGB.

Nothing here decodes before the declared size has been checked, and nothing changes Pillow's global settings.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError
from pydantic import PositiveInt

from .errors import NotAPictureError, PictureTooLargeError
from .geometry import Region, Size
from .validation import validated

__all__ = ["PictureLimits", "decode_jpeg"]

# Opened by content, never by file name. Formats that need an external program (EPS) are left out on purpose.
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "BMP", "GIF", "PPM", "JPEG2000", "TGA", "ICO")

ORIENTATION_TAG = 0x0112
SIDEWAYS = (5, 6, 7, 8)
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What Pillow's readers raise on damaged files, beside their own UnidentifiedImageError (an OSError).
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    SystemError,
    struct.error,
    zlib.error,
)


@validated(frozen=True)
class PictureLimits:
    """What a picture may cost.

    Pillow's own guard stays in force beneath: it warns above `Image.MAX_IMAGE_PIXELS` (89 megapixels unless
    the program changed it) and refuses twice that, whatever is allowed here.

    Attributes:
        max_pixels: most pixels (width · height) that are decoded.
        max_bytes: most bytes of an encoded picture that are read.
    """

    max_pixels: PositiveInt = 64_000_000
    max_bytes: PositiveInt = 512 * 1024 * 1024

    def check_pixels(self, width: int, height: int, name: str) -> None:
        """Raise `PictureTooLargeError` if a picture of this size is not to be decoded."""
        if width * height > self.max_pixels:
            raise PictureTooLargeError(
                f"{name} has {width}x{height} = {width * height} pixels; the limit is {self.max_pixels}"
            )

    def check_bytes(self, count: int, name: str) -> None:
        """Raise `PictureTooLargeError` if an encoded picture has too many bytes to be read."""
        if count > self.max_bytes:
            raise PictureTooLargeError(f"{name} has more than the limit of {self.max_bytes} bytes")


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn what Pillow raises on damaged or oversized files into picture errors of our own."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureTooLargeError(f"{name} is too large: {_one_line(error)}") from error
    except UnidentifiedImageError as error:
        raise NotAPictureError(f"{name} is not a picture in a known format") from error
    except _DAMAGED as error:
        raise NotAPictureError(f"{name} is damaged or truncated: {_one_line(error)}") from error


def open_encoded(data: bytes, limits: PictureLimits, name: str, formats: tuple[str, ...]) -> Image.Image:
    """Read the header of an encoded picture and check its declared size; pixels are not decoded yet."""
    if not data:
        raise NotAPictureError(f"{name} is empty (0 bytes)")
    limits.check_bytes(len(data), name)
    with reading(name):
        image = Image.open(io.BytesIO(data), formats=formats)
    limits.check_pixels(image.width, image.height, name)
    return image


def decode_jpeg(data: bytes, limits: PictureLimits | None = None) -> Image.Image:
    """Decode one JPEG to RGB, as it is: without looking at an EXIF orientation.

    Raises:
        NotAPictureError: empty, not a JPEG, damaged or truncated.
        PictureTooLargeError: the declared size is above the limit; nothing was decoded.
    """
    image = open_encoded(data, limits or PictureLimits(), "the JPEG", ("JPEG",))
    with reading("the JPEG"):
        image.load()
        return to_rgb(image)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or it is none of these."""
    value = image.getexif().get(ORIENTATION_TAG, 1)
    return value if value in TRANSPOSITIONS else 1


def upright_size(image: Image.Image) -> Size:
    """The picture's size after its EXIF orientation has been applied."""
    width, height = image.size
    return Size(height, width) if orientation(image) in SIDEWAYS else Size(width, height)


def stored_box(region: Region, size: Size, turn: int) -> tuple[int, int, int, int]:
    """Where a region of the upright picture of this size is stored, as `crop` takes it."""
    left, top, right, bottom = region.as_tuple()
    width, height = size.width, size.height
    if turn in SIDEWAYS:
        left, top, right, bottom = top, left, bottom, right
        width, height = height, width
    if turn in (2, 3, 7, 8):
        left, right = width - right, width - left
    if turn in (3, 4, 6, 7):
        top, bottom = height - bottom, height - top
    return left, top, right, bottom


def upright_rgb(image: Image.Image) -> Image.Image:
    """The image decoded, in RGB, with the EXIF orientation applied. May return `image` itself."""
    image.load()
    turn = orientation(
        image
    )  # after loading: some formats are turned by Pillow itself, which then drops the tag
    rgb = to_rgb(image)
    return rgb.transpose(TRANSPOSITIONS[turn]) if turn in TRANSPOSITIONS else rgb


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode → 8-bit RGB; transparency is laid over white. May return `image` itself.

    16-bit grey is scaled by 1/257. The modes I and F do not say their range: values up to 255 are taken as
    8-bit, else as 16-bit (a 16-bit picture without a value above 255 is black either way).
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_to_grey(image).convert("RGB")
    if image.mode in ("La", "RGBa"):  # premultiplied alpha
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _deep_to_grey(image: Image.Image) -> Image.Image:
    """Modes I;16*, I and F → L."""
    values = image.convert("I") if image.mode.startswith("I;16") else image
    extrema = values.getextrema()
    highest = extrema[1]
    assert isinstance(highest, int | float), "one-band images have one pair of extrema"
    if image.mode.startswith("I;16") or highest > 255:
        values = values.point(lambda value: value * (1 / 257) + 0.5)
    return values.convert("L")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
