"""Crops on a camera's grid, in the form in which OpenIPC's cameras are asked for them, and of such cameras.

OpenIPC's wiki, en/majestic-streamer.md, "Camera related URLs in firmware" (2026): `/image.jpg?crop=XxYxWxH`
gives the left upper corner and the size in pixels. A crop is cut out of the coded picture, and can only begin
on a 16-pixel boundary; a corner is rounded outwards, and the header `X-Crop-Applied` tells what is shown.
What is malformed or outside is refused. Where the camera's encoder makes the crop anew (Lite builds), sizes
go by such blocks, too (OpenIPC/majestic, issue 51).
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable
from typing import Final

from PIL import ImageFile

from secondlook.edge.errors import GeometryError, SourceError
from secondlook.edge.geometry import Region, Size, sent_size
from secondlook.edge.imaging import EncodedPicture, JpegSettings, PictureLimits, open_picture
from secondlook.edge.snapshots import HttpCamera
from secondlook.edge.wire import Fixed, View
from secondlook.engine.gateway.camera import HeldFrame, in_thread
from secondlook.engine.later import Later

__all__ = ["APPLIED", "GRID", "CameraCrops", "LaterCrops", "on_grid", "parsed_crop", "written_crop"]

GRID: Final = 16
"""Pixels from one place where a crop may begin to the next: the blocks of a JPEG with 4:2:0 chroma."""

APPLIED: Final = "X-Crop-Applied"

_HEADER_BYTES: Final = 262_144

_SHAPE: Final = 0.02
"""How far two pictures of one camera may differ in their shapes: their sizes are rounded."""

_CROP: Final = re.compile(r"(\d{1,6})x(\d{1,6})x(\d{1,6})x(\d{1,6})", re.ASCII)


def _region(text: str) -> Region | None:
    found = _CROP.fullmatch(text)
    if found is None:
        return None
    left, top, width, height = map(int, found.groups())
    return Region(left, top, left + width, top + height) if width and height else None


def parsed_crop(text: str, size: Size) -> Region:
    """What a crop that is asked for shows: the corner is brought to the grid.

    Raises:
        GeometryError: it is malformed, empty, or reaches outside.
    """
    region = _region(text)
    if region is None or not region.within(size):
        raise GeometryError(
            f"a crop must look like XxYxWxH, as 640x320x160x160, and lie in the picture of {size} pixels, as "
            f"{text[:40]!r} does not"
        )
    return Region(region.left // GRID * GRID, region.top // GRID * GRID, region.right, region.bottom)


def written_crop(region: Region) -> str:
    """As XxYxWxH."""
    return f"{region.left}x{region.top}x{region.width}x{region.height}"


def on_grid(region: Region, size: Size) -> Region:
    """A region widened to the grid on all sides, but not beyond the picture: any such camera can crop it."""
    return Region(
        region.left // GRID * GRID,
        region.top // GRID * GRID,
        min(-(-region.right // GRID) * GRID, size.width),
        min(-(-region.bottom // GRID) * GRID, size.height),
    )


def _inside(region: Region, shown: Region) -> bool:
    begins = shown.left <= region.left and shown.top <= region.top
    return begins and region.right <= shown.right and region.bottom <= shown.bottom


class CameraCrops:
    """A camera's address whose pictures can be had in part. For one event loop.

    Raises:
        SourceError: the address is none.
    """

    def __init__(self, address: str, limits: PictureLimits | None = None) -> None:
        self._camera = HttpCamera(address)
        self._limits = limits or PictureLimits()
        self._size: Size | None = None

    async def of(self, frame: HeldFrame) -> LaterCrops:
        """What stands for a small frame, whose parts are asked for as they are wanted.

        Raises:
            SourceError: the camera does not say how large its whole picture is, or that has another shape.
        """
        if self._size is None:
            self._size = await in_thread(lambda: stored_size(self._camera, self._limits))
        whole, small = self._size, frame.size
        if abs(whole.width * small.height / (whole.height * small.width) - 1) > _SHAPE:
            self._size = None  # perhaps it was turned
            raise SourceError(
                f"{self._camera.name} has pictures of {whole} pixels, and the camera frames of {small}: they "
                "do not show the same"
            )
        return LaterCrops(frame, whole, self)

    async def cut(self, region: Region, size: Size, view: View, jpeg: JpegSettings) -> EncodedPicture:
        """A region of what the camera sees now: as an edge sends it.

        Raises:
            SourceError: the camera does not give it.
            PictureError: what it gives cannot be used.
        """
        asked = on_grid(region, size)
        try:
            return await in_thread(lambda: self._cut(region, asked, view, jpeg))
        except SourceError:
            self._size = None  # perhaps it has another by now
            raise

    def _cut(self, region: Region, asked: Region, view: View, jpeg: JpegSettings) -> EncodedPicture:
        body, headers = self._camera.picture(self._limits, {"crop": written_crop(asked)})
        shown = _region(headers[APPLIED]) if APPLIED in headers else asked
        picture = open_picture(body, self._limits)
        if shown is None or picture.size != shown.size or not _inside(region, shown):
            raise SourceError(
                f"{self._camera.name} was asked for the crop {written_crop(asked)}, and answered with "
                f"{picture.size} pixels: it does not crop, or not so"
            )
        part = Region(
            region.left - shown.left,
            region.top - shown.top,
            region.right - shown.left,
            region.bottom - shown.top,
        )
        return picture.local_image(part, view, jpeg)


class LaterCrops:
    """A frame, small, whose parts come from the camera at a later moment: an `Original` of
    `secondlook.edge.imaging`.

    Attributes:
        size: of the camera's whole picture.
        captured: when a part was asked for, on the scale of `time.monotonic`; None: there was none.
    """

    def __init__(self, frame: HeldFrame, size: Size, crops: CameraCrops) -> None:
        self.size = size
        self.captured: float | None = None
        self._frame, self._crops = frame, crops

    def global_image(self, view: View, jpeg: JpegSettings) -> EncodedPicture:
        """The frame, in the size that is sent of the whole picture, or smaller."""
        sent = sent_size(view, self.size)
        so = View(size=Fixed(width=sent.width, height=sent.height), filter=view.filter)
        return self._frame.picture().global_image(so, jpeg)

    def local_image(self, region: Region, view: View, jpeg: JpegSettings) -> Awaitable[EncodedPicture]:
        """What the camera shows there now."""
        return Later(lambda: self._cut(region, view, jpeg))

    async def _cut(self, region: Region, view: View, jpeg: JpegSettings) -> EncodedPicture:
        began = time.monotonic()
        cut = await self._crops.cut(region, self.size, view, jpeg)
        self.captured = began
        return cut


def stored_size(camera: HttpCamera, limits: PictureLimits) -> Size:
    """Of the picture that a camera would send, in pixels as stored; no more of that is read than its head.

    Raises:
        SourceError: there is no picture.
        PictureTooLargeError: it has more pixels than the limit.
    """
    parser, count = ImageFile.Parser(), 0
    with camera.reply() as response:
        for chunk in camera.chunks(response):
            count += len(chunk)
            try:
                parser.feed(chunk)
            except (OSError, ValueError, SyntaxError):
                break
            if parser.image is not None:
                limits.check_pixels(*parser.image.size, camera.name)
                return Size(*parser.image.size)
            if count > _HEADER_BYTES:
                break
    raise SourceError(f"{camera.name} does not say how large its picture is: it is none, or damaged")
