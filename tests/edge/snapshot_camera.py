"""A camera that gives its picture when it is asked, as OpenIPC's do: another one at every request, whole or
in part, on a grid of 16 pixels.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from PIL import Image

from edge.cameras import Camera, listening

Fault = Literal["breaks off", "is truncated", "is no JPEG", "waits"]
QUALITY = 92


class SnapshotCamera(Camera):
    """What the test and the camera's server share.

    Args:
        draw: what the camera sees at the request of this number, from 0.

    Attributes:
        faults: of the next replies.
        crops: whether it makes them; else the query is passed over.
        shown: the numbers of the pictures, and which part of each was sent: as XxYxWxH, or "".
        go_on: what lets a reply go on that waits.
        waiting: set once one does.
    """

    def __init__(self, draw: Callable[[int], Image.Image]) -> None:
        super().__init__()
        self.content_type = "image/jpeg"
        self.faults: list[Fault] = []
        self.crops = True
        self.shown: list[tuple[int, str]] = []
        self.go_on, self.waiting = threading.Event(), threading.Event()
        self._draw = draw

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        fault = self.faults.pop(0) if self.faults else None
        if fault == "waits":
            self.waiting.set()
            self.go_on.wait()
        status = self.begin(handler)
        if status != 200:
            handler.end_headers()
            return
        picture = self._draw(len(self.shown))
        wanted = parse_qs(urlsplit(handler.path).query).get("crop", [""])[0] if self.crops else ""
        if wanted:
            numbers = re.fullmatch(r"(\d+)x(\d+)x(\d+)x(\d+)", wanted)
            assert numbers is not None
            left, top, width, height = map(int, numbers.groups())
            right, bottom = left + width, top + height
            assert right <= picture.width
            assert bottom <= picture.height
            left, top = left // 16 * 16, top // 16 * 16
            picture = picture.crop((left, top, right, bottom))
            wanted = f"{left}x{top}x{right - left}x{bottom - top}"
            handler.send_header("X-Crop-Applied", wanted)
        self.shown.append((len(self.shown), wanted))
        body = coded(picture)
        if fault == "is no JPEG":
            body = b"\xff\xd8\xff\xe0no picture"
        elif fault == "is truncated":
            body = body[: len(body) // 2]
        handler.send_header("content-type", self.content_type)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        with suppress(ConnectionError):  # nobody looks any more
            handler.wfile.write(body[: len(body) // 2] if fault == "breaks off" else body)


def coded(picture: Image.Image) -> bytes:
    """As the camera compresses it."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return buffer.getvalue()


@contextmanager
def snapshot_camera(draw: Callable[[int], Image.Image], port: int = 0) -> Iterator[SnapshotCamera]:
    """A camera at `address`, until the end of the block, when it is dead."""
    with listening(SnapshotCamera(draw), "image.jpg", port) as camera:
        try:
            yield camera
        finally:
            camera.go_on.set()
