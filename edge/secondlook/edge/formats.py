"""Opening pictures: from the bytes of any usual format to something whose size is checked and known.

Nothing here decodes before the declared size has been checked, and nothing changes Pillow's global settings.
"""

from __future__ import annotations

import io
import re
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from PIL import Image, ImageFile, ImagePalette

from .colours import check_depth, is_deep, to_rgb
from .errors import NotAPictureError, PictureTooLargeError
from .geometry import Region, Size
from .jpeg import START, Jpeg, read_jpeg
from .limits import PictureLimits
from .tiff import exif_orientation, whole_picture

__all__ = ["decode_jpeg", "open_encoded"]

# Opened by content, never by file name: Pillow's name of a format → the module that reads it. JPEG is read by
# `jpeg`; formats that need an external program (EPS) are left out on purpose. TGA has no signature: last.
FORMATS = {
    "PNG": "PngImagePlugin",
    "TIFF": "TiffImagePlugin",
    "WEBP": "WebPImagePlugin",
    "AVIF": "AvifImagePlugin",
    "BMP": "BmpImagePlugin",
    "GIF": "GifImagePlugin",
    "PPM": "PpmImagePlugin",
    "JPEG2000": "Jpeg2KImagePlugin",
    "ICO": "IcoImagePlugin",
    "TGA": "TgaImagePlugin",
}

# Matroska, AVI, QuickTime and fragments of MP4 without their type, MPEG streams of three kinds, bare H.264
# and H.265, Flash, Windows Media, Ogg, YUV4MPEG, IVF, MXF.
_VIDEO = (
    rb"\x1aE\xdf\xa3|RIFF....AVI |[\0-\x1f]...(moov|mdat|moof|wide|free|skip|pnot|styp|sidx)|"
    rb"\0\0\x01[\xb3\xba]|(....)?G(?!IF8).{187}(....)?G.{187}(....)?G|\0\0\0\x01[\x09\x27\x40\x46\x67]|FLV\x01|"
    rb"0&\xb2u\x8ef\xcf\x11|OggS|YUV4MPEG2 |DKIF|\x06\x0e\x2b\x34"
)

# What people take for pictures that can be read: a signature, its name, and what to do instead.
_OTHERS = (
    (rb"FUJIFILMCCD-RAW|II\x1a\0\0\0HEAPCCDR|IIRO|IIU\0", "raw sensor data", "develop it first"),
    (_VIDEO, "a video", "save one of its frames as JPEG"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL picture", "save it as JPEG"),
    (rb"\xff\xd8|\xff\xff\xff\xd8", "a damaged JPEG", "save it anew"),
    (rb"%PDF", "a PDF document", "save the page as JPEG"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript document", "save the page as JPEG"),
    (rb"8BPS", "a Photoshop document", "save it as JPEG"),
    (rb"\s*(<\?xml|<svg|<!DOCTYPE svg)", "an XML file, perhaps SVG", "save it as PNG"),
    (rb"version https://git-lfs", "a Git LFS pointer", "fetch the file itself: git lfs pull"),
)

_LONGEST_SIGNATURE = 400  # of MPEG's packets, three begin

# By the brands of an ISO base media file (ISO/IEC 14496-12): the first kind of which it has any. HEIF
# (ISO/IEC 23008-12) is what HEIC and AVIF are kinds of.
_PHONE = "save it as JPEG, as a phone can by itself"
_MEDIA = (
    (rb"avi[fos]", "an AVIF picture", "save it as JPEG"),
    (rb"hei[cxms]|hev[cxms]", "a HEIC picture", _PHONE),
    (rb"crx ", "raw sensor data", "develop it first"),
    (rb"heif|mi[af][1-3f]|msf1|avc[is]|j2[ki][is]|jp(eg|gs)|vvi[cs]|evb[is]", "a HEIF picture", _PHONE),
    (rb"", "a video", "save one of its frames as JPEG"),
)
_MOST_BRANDS = 64

# An entry of an AVIF file's list of items (infe, of version 2 or 3) that names EXIF data. These have no say
# in how an AVIF picture is turned, but Pillow reads all that they point at.
_AVIF_EXIF = re.compile(rb"(infe(?:.{8}|.{10}))Exif", re.DOTALL)

_COLOUR_MAP = 320  # of TIFF
_GREY_WITH_ALPHA = "LA;16B"  # of PNG: how Pillow's decoder is told
_EXIF_TEXT = "Raw profile type exif"  # of PNG: what ImageMagick calls a text chunk of EXIF data

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

# Pillow reads numbers in text, and binary ones of odd ranges, one by one in Python: so many in seconds. Each
# comment costs it a copy of what follows.
_MOST_SLOW_PIXELS = 2_000_000
_MOST_COMMENTS = 1000

# What Pillow's readers raise on damaged files.
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


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn what Pillow raises on damaged or oversized files into picture errors of our own."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureTooLargeError(
            f"{name} is too large for Pillow, whatever the limit here: {_one_line(error)}"
        ) from error
    except _DAMAGED as error:
        raise NotAPictureError(f"{name} is damaged or truncated: {_one_line(error)}") from error


def open_encoded(data: bytes, limits: PictureLimits, name: str) -> Jpeg | Image.Image:
    """Read the header of an encoded picture and check its declared size; pixels are not decoded yet."""
    if not data:
        raise NotAPictureError(f"{name} is empty (0 bytes)")
    limits.check_bytes(len(data), name)
    if data.startswith(START):
        return read_jpeg(data, limits, name)
    image = _opened(data, name)
    limits.check_pixels(image.width, image.height, name)
    if isinstance(image, ImageFile.ImageFile) and image.format == "PPM":
        _spare_slow_readers(image, data, name)
    return image


def _spare_slow_readers(image: ImageFile.ImageFile, data: bytes, name: str) -> None:
    """Have 16 bits a colour of a PPM file read as those of other formats; refuse much that is read slowly."""
    (tile,) = image.tile
    if tile.codec_name == "ppm" and tile.args == ("RGB", 65535):
        image.tile = [tile._replace(codec_name="raw", args="RGB;16B")]
    elif tile.codec_name != "raw":
        slow = image.width * image.height > _MOST_SLOW_PIXELS
        if slow or (tile.codec_name == "ppm_plain" and data.count(b"#") > _MOST_COMMENTS):
            raise PictureTooLargeError(
                f"{name} is a PPM picture as text or of an odd range, with more than {_MOST_SLOW_PIXELS} "
                f"pixels or {_MOST_COMMENTS} comments: save it in binary with 8 bits, or as PNG"
            )


def _opened(data: bytes, name: str) -> Image.Image:
    """As `Image.open`, which has its own limit on pixels and takes damage for another format."""
    complaint = ""
    for signature, what, advice in _OTHERS:  # first: TGA's reader takes some for its own
        if re.match(signature, data[:_LONGEST_SIGNATURE], re.DOTALL):
            raise NotAPictureError(f"{name} is {what}, which is not read: {advice}")
    for kind, module in FORMATS.items():
        import_module(f"PIL.{module}")
        reader, accepts = Image.OPEN.get(kind, (None, None))  # AVIF and WebP may not be built in
        if reader is None or (accepts is not None and accepts(data[:16]) is not True):
            continue
        file, turn = whole_picture(data, name) if kind == "TIFF" else (io.BytesIO(data), 1)
        if kind == "AVIF":
            file = io.BytesIO(_AVIF_EXIF.sub(rb"\1none", data))
        try:
            with reading(name):
                image = reader(file, "")
                _mend_palette(image)
                if turn != 1 and ORIENTATION_TAG not in image.getexif():
                    image.getexif()[ORIENTATION_TAG] = turn
                return image
        except NotAPictureError as error:
            if accepts is not None:
                article = "an" if kind[0] in "AI" else "a"
                complaint = complaint or (
                    f"is {article} {kind} picture that cannot be read: {_one_line(error.__cause__)}"
                )
    if (media := _media(data)) is not None:
        what, advice = media
        if not (complaint and "AVIF" in what):
            raise NotAPictureError(f"{name} is {what}, which is not read: {advice}")
    known = ", ".join(("JPEG", *FORMATS))
    raise NotAPictureError(f"{name} {complaint or f'is not a picture in a known format ({known})'}")


def _media(data: bytes) -> tuple[str, str] | None:
    """What an ISO base media file is, and what to do instead; None for what is no such file."""
    if data[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(data[:4], "big"), 8 + 4 * _MOST_BRANDS)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, end, 4))]  # between them a version
    return next(
        (what, advice)
        for pattern, what, advice in _MEDIA
        if not pattern or any(re.fullmatch(pattern, brand) for brand in brands)
    )


def _mend_palette(image: Image.Image) -> None:
    """Take a TIFF file's colours for 8-bit ones where all are below 256, as old writers have them, and as
    libtiff does: of 16 bits, which they should have, they would all be black. So would a PNG be without any.

    Raises:
        ValueError: it has none.
    """
    if image.format == "PNG" and image.mode == "P" and image.palette is None:
        raise ValueError("it has no palette")
    colours = getattr(image, "tag_v2", {}).get(_COLOUR_MAP, ())
    if image.mode in ("P", "PA") and max(colours, default=256) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))


def decode_jpeg(data: bytes, limits: PictureLimits | None = None) -> Image.Image:
    """Decode one JPEG to RGB, as it is: without looking at an EXIF orientation.

    Raises:
        NotAPictureError: empty, not a JPEG, damaged or truncated.
        PictureTooLargeError: it would cost more than a limit (see `PictureLimits` and `read_jpeg`); nothing
            was decoded.
    """
    limits, name = limits or PictureLimits(), "the JPEG"
    if not data:
        raise NotAPictureError(f"{name} is empty (0 bytes)")
    limits.check_bytes(len(data), name)
    jpeg = read_jpeg(data, limits, name)
    with reading(name):
        image = jpeg.open()
        image.load()
    return to_rgb(image)


def _stored_orientation(image: Image.Image) -> int:
    """The orientation of an image that was opened here, and is decoded.

    EXIF data that lie apart are read here: Pillow reads all that their directory points at, however often.
    """
    exif, text = image.info.pop("exif", None), image.info.pop(_EXIF_TEXT, "")
    if exif is None:
        try:
            exif = bytes.fromhex("".join(text.split("\n")[3:]))
        except ValueError:
            exif = b""
    if not isinstance(exif, bytes):
        exif = b""  # a text of that name, in PNG
    found = exif_orientation(exif.removeprefix(b"Exif\0\0").removeprefix(b"Exif\0\0"))
    # Otherwise a TIFF file's own, or that of XMP.
    return found if found is not None and 1 <= found <= 8 else _orientation(image)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, it is none of these, or the data are damaged."""
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
        return value if value in TRANSPOSITIONS else 1
    except (*_DAMAGED, UserWarning):  # of the latter only where warnings are made errors
        return 1


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


def _lower_bytes(image: Image.Image) -> Callable[[], Image.Image] | None:
    """What decodes the lower bytes of a picture of 16 bits a colour, which Pillow drops: it reads them as the
    upper ones of numbers in the other byte order. None for an image that no file is behind.
    """
    if not isinstance(image, ImageFile.ImageFile):
        return None
    file, kind = image.fp, type(image)
    assert file is not None, "nothing is decoded yet"
    tiles = [tile._replace(args=_swapped(tile.args)) for tile in image.tile]
    grey_with_alpha = any(tile.args == _GREY_WITH_ALPHA for tile in image.tile)

    def decoded() -> Image.Image:
        file.seek(0)
        if grey_with_alpha:
            again = kind(io.BytesIO(_as_four_colours(file.read())), "")
            return Image.merge("RGB", [again.getchannel("G")] * 3)
        again = kind(file, "")
        again.tile = tiles
        again.load()
        return again

    return decoded


def _as_four_colours(png: bytes) -> bytes:
    """A PNG of 16 bits of grey and alpha, as one of 8 bits of four colours: the upper and the lower byte of
    each, for they lie in the file alike. Pillow has no other byte order for it.
    """
    at = png.index(b"IHDR")
    header = png[at : at + 12] + bytes((8, 6)) + png[at + 14 : at + 17]
    checked = header + struct.pack(">I", zlib.crc32(header))
    return png[:at] + checked + png[at + len(checked) :]


def _swapped(args: Any) -> Any:
    """A decoder's arguments with the other byte order."""
    if isinstance(args, tuple):
        return tuple(_swapped(one) for one in args)
    order = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
    swap = re.fullmatch("(.*;16)([BLN])", args) if isinstance(args, str) else None
    return swap[1] + order[swap[2]] if swap else args


def upright_rgb(image: Image.Image, name: str, opened: bool) -> Image.Image:
    """The image decoded, in RGB, with the EXIF orientation applied. May return `image` itself.

    Args:
        opened: it was by `open_encoded`; otherwise by the caller, who may have changed its EXIF data.

    Raises:
        NotAPictureError: damaged or truncated, or of values whose range is not clear.
    """
    deep = is_deep(image)
    lower = _lower_bytes(image) if deep and opened else None
    with reading(name):
        image.load()
        if deep:
            check_depth(image, lower, name)
        # After loading: some formats are turned by Pillow itself, which then drops the tag.
        turn = _stored_orientation(image) if opened else _orientation(image)
        rgb = to_rgb(image, name)
        return rgb.transpose(TRANSPOSITIONS[turn]) if turn in TRANSPOSITIONS else rgb


def _one_line(error: BaseException | None) -> str:
    return " ".join(str(error).split()) or type(error).__name__
