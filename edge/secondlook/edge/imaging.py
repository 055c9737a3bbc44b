"""The two pictures an edge sends: the whole, shrunk, and a part at the original's sharpness."""

from __future__ import annotations

import io
import os
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol, TypeAlias, runtime_checkable

from PIL import Image
from pydantic import Field

from .colours import to_rgb
from .errors import GeometryError, NotAPictureError
from .formats import (
    SIDEWAYS,
    TRANSPOSITIONS,
    decode_jpeg,
    open_encoded,
    reading,
    stored_box,
    upright_rgb,
)
from .geometry import Region, Size, place, sent_size, target
from .jpeg import Jpeg
from .limits import PictureLimits
from .validation import validated
from .wire import Filter, View

__all__ = [
    "GLOBAL_JPEG",
    "LOCAL_JPEG",
    "EncodedPicture",
    "JpegSettings",
    "Original",
    "Picture",
    "PictureLimits",
    "PictureSource",
    "Subsampling",
    "decode_jpeg",
    "encode_jpeg",
    "fit_to_view",
    "open_picture",
]

PictureSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image
"""A file's path, the bytes of an encoded picture, or a Pillow image."""

Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]
"""Chroma resolution of a JPEG: full, halved across, or halved both ways."""

_RESAMPLING: dict[Filter, Image.Resampling] = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}

# JPEG's scaled decoding stops at an image at least this many times larger than wanted, and the antialiased
# filter does the rest. 1 would be fastest, but the inverse DCT's box filter then shows.
_DRAFT_MARGIN = 2


@validated(frozen=True)
class JpegSettings:
    """How a JPEG is compressed: quality 1 to 100 (libjpeg's scale) and chroma subsampling."""

    quality: Annotated[int, Field(ge=1, le=100)] = 90
    subsampling: Subsampling = "4:2:0"


GLOBAL_JPEG = JpegSettings(90, "4:4:4")
"""For the first look: few pixels, so their colour is kept in full."""

LOCAL_JPEG = JpegSettings(90, "4:2:0")
"""For the second look: pixels at the original's sharpness, whose chroma cameras mostly subsample anyway."""


@dataclass(frozen=True)
class EncodedPicture:
    """A JPEG as it is sent, and its size in pixels."""

    jpeg: bytes
    size: Size


@runtime_checkable
class Original(Protocol):
    """What questions can be asked about: a `Picture`, or what stands for one that lies elsewhere.

    The pictures of one that lies elsewhere may come later: then they are awaited, which `AsyncEdgeClient`
    alone can do.
    """

    @property
    def size(self) -> Size:
        """Upright, in pixels."""

    def global_image(self, view: View, jpeg: JpegSettings) -> EncodedPicture | Awaitable[EncodedPicture]:
        """As `Picture.global_image`."""

    def local_image(
        self, region: Region, view: View, jpeg: JpegSettings
    ) -> EncodedPicture | Awaitable[EncodedPicture]:
        """As `Picture.local_image`."""


def encode_jpeg(image: Image.Image, settings: JpegSettings) -> EncodedPicture:
    """Compress an RGB image. Metadata (EXIF, colour profile, comments) does not travel."""
    try:
        jpeg = _saved(image, settings, optimize=True)
    except OSError:  # Pillow's buffer for two passes holds a byte or two a pixel: noise takes more
        jpeg = _saved(image, settings, optimize=False)
    return EncodedPicture(jpeg, Size(*image.size))


def _saved(image: Image.Image, settings: JpegSettings, optimize: bool) -> bytes:
    buffer = io.BytesIO()
    chroma = settings.subsampling
    image.save(buffer, "JPEG", quality=settings.quality, subsampling=chroma, optimize=optimize, comment=b"")
    return buffer.getvalue()


def fit_to_view(image: Image.Image, view: View, original: Size | None = None) -> Image.Image:
    """A new RGB image of the size that the model takes, antialiased.

    `squash` stretches the picture to it; `pad` centres it, its shape kept, on the view's colour
    (`secondlook.edge.geometry.place` says where). An RGB picture of that size already comes back unchanged.
    Resampled as models' own processors do it: with the view's filter alone, however much smaller it becomes.

    Args:
        original: the size of what the image shows, if that was shrunk; by default its own.

    Raises:
        GeometryError: see `secondlook.edge.geometry.target`.
    """
    shown = Size(*image.size) if original is None else original
    wanted = target(view, shown)
    placed = place(shown, wanted, view.fit)
    resized = _resized(to_rgb(image), placed.size, view, gap=None)
    if placed.size == wanted:
        return resized
    canvas = Image.new("RGB", (wanted.width, wanted.height), view.pad_colour)
    canvas.paste(resized, (placed.left, placed.top))
    return canvas


def _resized(
    image: Image.Image,
    size: Size,
    view: View,
    box: tuple[float, float, float, float] | None = None,
    gap: float | None = 3.0,
) -> Image.Image:
    """An image, or the box of it, in another size.

    Args:
        gap: how many times larger than wanted a fast box filter may leave it before; None: without that.
    """
    if box is None and image.size == (size.width, size.height):
        return image.copy()
    return image.resize((size.width, size.height), _RESAMPLING[view.filter], box=box, reducing_gap=gap)


class Picture:
    """One original, kept until its answer is final. Made by `open_picture`.

    A JPEG stays compressed, unless it is too small for JPEG's own scaled decoding, which gives the global
    image; each local image comes from decoding the rows down to its region. A second region costs that time
    again, but nothing large is held between them. Other formats are decoded when opened. Not to be shared
    between threads that run at the same time.

    Attributes:
        size: the upright size, after the EXIF orientation, in pixels.
    """

    def __init__(self, size: Size, source: Image.Image | Jpeg, name: str) -> None:
        """`source` is upright RGB, or a JPEG."""
        self.size = size
        self._source = source
        self._name = name

    def __repr__(self) -> str:
        return f"Picture({self._name}, {self.size})"

    @property
    def held_bytes(self) -> int:
        """What it keeps in memory: the JPEG, or three bytes a pixel."""
        return len(self._source.data) if isinstance(self._source, Jpeg) else 3 * self.size.pixels

    @property
    def upright_jpeg(self) -> bytes | None:
        """The JPEG that it is kept as, without metadata; None where it is decoded, or a JPEG to be turned."""
        kept = self._source
        return kept.data if isinstance(kept, Jpeg) and kept.orientation == 1 else None

    def again(self) -> Picture:
        """The same picture, for another thread; nothing is copied."""
        return Picture(self.size, self._source, self._name)

    def original(self) -> Image.Image:
        """The whole picture, upright, RGB. Not to be changed. A large JPEG is decoded each time.

        Raises:
            NotAPictureError: a JPEG whose damage only a full decode shows.
        """
        if isinstance(self._source, Image.Image):
            return self._source
        with reading(self._name):
            return _upright(to_rgb(self._source.open()), self._source.orientation)

    def shrunk(self, view: View, shown: Size | None = None) -> Image.Image:
        """The global image before compression: RGB, in the size that is sent, neither enlarged nor padded.

        Args:
            shown: the size of what the picture shows, if that was shrunk or enlarged before; by default its
                own.

        Raises:
            NotAPictureError: the picture is damaged or truncated.
            GeometryError: see `secondlook.edge.geometry.target`.
        """
        size = sent_size(view, self.size if shown is None else shown)
        size = Size(min(size.width, self.size.width), min(size.height, self.size.height))
        if isinstance(self._source, Image.Image):
            return _resized(self._source, size, view)
        turn = self._source.orientation
        stored_size = Size(size.height, size.width) if turn in SIDEWAYS else size
        with reading(self._name):
            image = self._source.open()
            stored = image.size
            wanted = (stored_size.width * _DRAFT_MARGIN, stored_size.height * _DRAFT_MARGIN)
            # The box says, in decoded pixels, how far the picture reaches: libjpeg rounds its size up.
            drafted = image.draft(None, wanted)
            box = drafted[1] if drafted else (0, 0, *image.size)
            image.load()
            decoded = to_rgb(image)
            resized = _upright(_resized(decoded, stored_size, view, box), turn)
        if decoded.size == stored:  # too small for scaled decoding: a local image need not decode it again
            self._source = _upright(decoded, turn)
        return resized

    def global_image(self, view: View, jpeg: JpegSettings = GLOBAL_JPEG) -> EncodedPicture:
        """The whole picture as a JPEG, in the size that is sent for a view."""
        return encode_jpeg(self.shrunk(view), jpeg)

    def local_image(self, region: Region, view: View, jpeg: JpegSettings = LOCAL_JPEG) -> EncodedPicture:
        """One region of the original as a JPEG, in the size that is sent for a view: never enlarged.

        Raises:
            GeometryError: the region reaches outside the picture.
            NotAPictureError: a JPEG that is damaged or truncated above the region's end.
        """
        return encode_jpeg(self.closer(region, view), jpeg)

    def closer(self, region: Region, view: View) -> Image.Image:
        """The local image before compression: RGB. Raises as `local_image`."""
        if not region.within(self.size):
            raise GeometryError(f"region {region} reaches outside the picture of {self.size} pixels")
        return _resized(self._part(region), sent_size(view, region.size), view)

    def _part(self, region: Region) -> Image.Image:
        """A region's pixels, upright, RGB."""
        if isinstance(self._source, Image.Image):
            return self._source.crop(region.as_tuple())
        turn = self._source.orientation
        box = stored_box(region, self.size, turn)
        with reading(self._name):
            # Cropped first: turning the whole would hold it twice.
            return _upright(to_rgb(self._source.upper_rows(rows=box[3]).crop(box)), turn)


def _upright(stored: Image.Image, turn: int) -> Image.Image:
    return stored.transpose(TRANSPOSITIONS[turn]) if turn in TRANSPOSITIONS else stored


def open_picture(source: PictureSource, limits: PictureLimits | None = None) -> Picture:
    """Open a picture from a file, from the bytes of one, or from a Pillow image (its current frame).

    A file is read at once, so a camera may overwrite it afterwards. A Pillow image is copied.

    Raises:
        NotAPictureError: no such file, empty, of no known format, damaged or truncated. What only decoding
            shows in a JPEG is raised by the first use instead.
        PictureTooLargeError: above a limit; nothing was decoded.
    """
    limits = limits or PictureLimits()
    if isinstance(source, Image.Image):
        name = "the image"
        limits.check_pixels(source.width, source.height, name)
        decoded = upright_rgb(source, name, opened=False)
        if decoded is source:
            decoded = source.copy()
        return Picture(Size(*decoded.size), decoded, name)
    if isinstance(source, bytes):
        name, data = "the picture", source
    else:
        name, data = str(Path(source)), _read(Path(source), limits)
    image = open_encoded(data, limits, name)
    if isinstance(image, Jpeg):
        return Picture(image.upright_size, image, name)
    decoded = upright_rgb(image, name, opened=True)
    return Picture(Size(*decoded.size), decoded, name)


def _read(path: Path, limits: PictureLimits) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limits.max_bytes + 1)
    except OSError as error:
        raise NotAPictureError(f"cannot read the picture {path}: {error.strerror or error}") from error
    except ValueError as error:  # a name that no file can have
        raise NotAPictureError(f"cannot read the picture {str(path)!r}: {error}") from error
    limits.check_bytes(len(data), str(path))
    return data
