"""Cameras that send MJPEG over HTTP on the loopback interface: what a test tells them to, and no more."""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from typing import TypeVar

USER, PASSWORD = "zoe7", "s3cret"


class Camera:
    """What the test and the camera's server share.

    Attributes:
        statuses: of the next replies; once they are used up, 200.
        content_type: of the reply.
        scheme: of authentication, "basic" or "digest"; None for none.
        challenge: what is told of it in place of the usual.
        asked: the paths of all requests.
        stop: what ends it before the end of its block.
    """

    def __init__(self) -> None:
        self.address = ""
        self.statuses: list[int] = []
        self.content_type = "multipart/x-mixed-replace; boundary=frame"
        self.scheme: str | None = None
        self.challenge = ""
        self.asked: list[str] = []
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self.stop: Callable[[], object] = lambda: None

    def show(self, picture: bytes) -> None:
        """Send one picture."""
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
        self.send(head.encode() + picture + b"\r\n")

    def send(self, text: bytes) -> None:
        """Send anything."""
        self._queue.put(text)

    def hang_up(self) -> None:
        """Close the connection after what was sent."""
        self._queue.put(None)

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request, until the connection is closed."""
        status = self.begin(handler)
        handler.send_header("content-type", self.content_type)
        handler.end_headers()
        with suppress(ConnectionError):  # nobody looks any more
            while status == 200 and (text := self._queue.get()) is not None:
                handler.wfile.write(text)

    def begin(self, handler: BaseHTTPRequestHandler) -> int:
        """The status of a reply, which has been sent."""
        self.asked.append(handler.path)
        status = self.statuses.pop(0) if self.statuses else 200
        if self.scheme is not None and not self._admits(handler.path, handler.headers["authorization"]):
            status = 401
        handler.send_response(status)
        if status == 401:
            extra = ', nonce="abc", qop="auth"' if self.scheme == "digest" else ""
            handler.send_header("www-authenticate", self.challenge or f'{self.scheme} realm="camera"{extra}')
        return status

    def _admits(self, path: str, told: str | None) -> bool:
        if told is None or self.scheme == "basic":
            return told == "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        said = dict(re.findall(r'(\w+)="?([^",]*)"?', told.partition(" ")[2]))
        wanted = _hash(f"{USER}:camera:{PASSWORD}"), _hash(f"GET:{path}")
        middle = f"abc:{said['nc']}:{said['cnonce']}:auth"
        return said["response"] == _hash(f"{wanted[0]}:{middle}:{wanted[1]}")


def _hash(text: str) -> str:
    return md5(text.encode()).hexdigest()  # what RFC 7616 calls for


CameraT = TypeVar("CameraT", bound=Camera)


@contextmanager
def mjpeg_camera() -> Iterator[Camera]:
    """A camera at `address`, a path such as /video, until the end of the block."""
    with listening(Camera(), "video") as camera:
        yield camera


@contextmanager
def listening(camera: CameraT, path: str, port: int = 0) -> Iterator[CameraT]:
    """A camera at `address`, until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            camera.serve(self)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        camera.stop = lambda: (server.shutdown(), server.server_close())
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        camera.address = f"127.0.0.1:{server.server_port}/{path}"
        try:
            yield camera
        finally:
            for _ in range(10):  # whoever is connected
                camera.hang_up()
            server.shutdown()
            thread.join()
