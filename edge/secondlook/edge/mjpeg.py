"""Cameras that send one JPEG after another in an HTTP reply: `multipart/x-mixed-replace`.

RFC 2046, section 5.1, as cameras write it: lines may end in LF alone, and the boundary may be told with its
dashes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from email.message import Message
from functools import partial

import httpx

from .errors import PictureTooLargeError, SourceError, StillPictureError
from .frames import Take, Takes
from .imaging import open_picture
from .limits import PictureLimits
from .snapshots import HttpCamera

__all__ = ["mjpeg_takes", "parts"]

_LONGEST_LINE = 8192
_MOST_HEADERS = 100


def mjpeg_takes(camera: HttpCamera, limits: PictureLimits) -> Takes:
    """The frames of one connection, each as soon as it is there, timed by the arrival of its head.

    Raises:
        SourceError: there is no connection, it breaks off, or what comes is no MJPEG.
        StillPictureError: it is one picture.
        PictureTooLargeError: a frame has more bytes than the limit.
    """
    with camera.reply() as response:
        boundary = _boundary(response, camera.name)
        for arrived, body in parts(response.iter_raw(), boundary, limits.max_bytes, camera.name):
            yield Take(arrived, partial(open_picture, body, limits))


def _boundary(response: httpx.Response, name: str) -> bytes:
    head = Message()
    head["content-type"] = response.headers.get("content-type", "")
    if head.get_content_maintype() == "image":
        raise StillPictureError(f"{name} answered with one picture, which is no MJPEG stream")
    boundary = head.get_boundary("").lstrip("-")
    if head.get_content_maintype() != "multipart" or not boundary:
        told = head["content-type"] or "no content type"
        raise SourceError(
            f"{name} is no MJPEG stream (multipart/x-mixed-replace with a boundary): it answered {told[:100]}"
        )
    return boundary.encode("latin-1", "replace")


def parts(chunks: Iterator[bytes], boundary: bytes, most: int, name: str) -> Iterator[tuple[float, bytes]]:
    """The pictures of a multipart body, with the times at which their heads were there.

    A part that says its length is there with its last byte, any other with the boundary behind it.

    Args:
        chunks: the body.
        boundary: without dashes.
        most: bytes of a part.

    Raises:
        PictureTooLargeError: a part has more.
        SourceError: it is no such body.
    """
    buffer, delimiter = _Buffer(chunks, name), b"--" + boundary
    try:
        buffer.until(delimiter, most)
        while not buffer.until(b"\n", _LONGEST_LINE).startswith(b"--"):
            head = buffer.head()
            arrived = time.monotonic()
            length = re.search(rb"^content-length:\s*([0-9]{1,15})\s*$", head, re.MULTILINE | re.IGNORECASE)
            kind = re.search(rb"^content-type:\s*([^\s;]*)", head, re.MULTILINE | re.IGNORECASE)
            body = buffer.take(int(length[1]), most) if length else b""
            if not length:
                body = buffer.until(delimiter, most)
            if body and (kind is None or kind[1].lower().startswith(b"image/")):
                yield arrived, body
            if length:
                buffer.until(delimiter, most)
    except EOFError:
        return


class _Buffer:
    """Bytes that arrive in chunks, read by marks and by lengths; `EOFError` at their end."""

    def __init__(self, chunks: Iterator[bytes], name: str) -> None:
        self._chunks = chunks
        self._name = name
        self._held = bytearray()

    def until(self, mark: bytes, most: int) -> bytes:
        """What stands before a mark; the mark is read too."""
        searched = 0
        while (at := self._held.find(mark, searched)) < 0:
            searched = max(0, len(self._held) - len(mark) + 1)
            if searched > most:
                raise self._too_long(mark, most)
            self._more()
        if at > most:
            raise self._too_long(mark, most)
        found = bytes(memoryview(self._held)[:at])
        del self._held[: at + len(mark)]
        return found

    def head(self) -> bytes:
        """The lines of a part's head, and the empty one behind them."""
        lines = []
        for _ in range(_MOST_HEADERS):
            lines.append(self.until(b"\n", _LONGEST_LINE).strip())
            if not lines[-1]:
                return b"\n".join(lines)
        raise SourceError(f"{self._name} sends a part with more than {_MOST_HEADERS} headers")

    def take(self, count: int, most: int) -> bytes:
        """The next bytes."""
        if count > most:
            raise self._too_long(b"", most)
        while len(self._held) < count:
            self._more()
        found = bytes(memoryview(self._held)[:count])
        del self._held[:count]
        return found

    def _more(self) -> None:
        chunk = next(self._chunks, None)
        if chunk is None:
            raise EOFError
        self._held += chunk

    def _too_long(self, mark: bytes, most: int) -> Exception:
        if mark == b"\n":
            return SourceError(f"{self._name} sends a line of more than {most} bytes: no MJPEG stream")
        return PictureTooLargeError(f"{self._name} sends a picture of more than the limit of {most} bytes")
