"""Cameras that are asked over HTTP, and those that answer with their picture of the moment."""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx

from .errors import NotAPictureError, SourceError
from .frames import PATIENCE, Frame, Source
from .imaging import open_picture
from .limits import PictureLimits
from .retry import backoff_seconds
from .route import Route, camera_name

__all__ = ["HttpCamera", "Snapshots"]

logger = logging.getLogger(__name__)

_SECONDS = 10.0
"""How long a camera may be silent."""

_WHOLE_SECONDS = 30.0
"""How long it may take to send a picture."""

# A picture is asked for no more often: many cameras do nothing else meanwhile.
_PAUSE_SECONDS = 0.1


class HttpCamera:
    """A camera's address, and how it is asked. The proxy and the certificates of the environment count.

    Args:
        address: `http://…` or `https://…`, perhaps with `user:password@`, as basic or digest.

    Attributes:
        name: fit to be shown.

    Raises:
        SourceError: the address is none.
        SettingsError: the environment's proxy or certificates cannot be used.
    """

    def __init__(self, address: str) -> None:
        self.name = camera_name(address)
        self._url = httpx.URL(address)
        self._route = Route.to(str(self._url.copy_with(userinfo=b"", raw_path=b"/", fragment=None)))

    @contextmanager
    def reply(self, parameters: Mapping[str, str] | None = None) -> Iterator[httpx.Response]:
        """A successful reply, its body not read yet.

        Args:
            parameters: more for the address's query.

        Raises:
            SourceError: there is none, or it breaks off while it is read.
        """
        options = self._route.options()
        del options["base_url"]
        url = self._url.copy_merge_params(dict(parameters)) if parameters else self._url
        # A transport, and no client: that would log the whole address.
        with httpx.HTTPTransport(**options) as transport:
            try:
                response = self._asked(transport, url)
                try:
                    yield response
                finally:
                    response.close()
            except httpx.RequestError as error:
                raise SourceError(str(self._route.lost(error))) from None

    def picture(
        self, limits: PictureLimits, parameters: Mapping[str, str] | None = None
    ) -> tuple[bytes, httpx.Headers]:
        """One picture as the camera sends it, and the headers that came with it.

        Raises:
            SourceError: there is none.
            PictureTooLargeError: it has more bytes than the limit.
        """
        end, body = time.monotonic() + _WHOLE_SECONDS, bytearray()
        with self.reply(parameters) as response:
            for chunk in self.chunks(response):
                body += chunk
                limits.check_bytes(len(body), f"the picture of {self.name}")
                if time.monotonic() > end:
                    raise SourceError(f"{self.name} has not sent its picture within {_WHOLE_SECONDS:g} s")
        return bytes(body), response.headers

    def chunks(self, response: httpx.Response) -> Iterator[bytes]:
        """What a picture's reply brings; raises SourceError if it is none."""
        told = response.headers.get("content-type", "") or "no content type"
        if not told.lower().startswith("image/"):
            raise SourceError(f"{self.name} answered with no picture, but {told[:100]}")
        return response.iter_raw()

    def _asked(self, transport: httpx.HTTPTransport, url: httpx.URL) -> httpx.Response:
        """The reply, its body not read yet. The password is given as the camera wants it."""
        plain = url.copy_with(userinfo=b"")
        timeout = httpx.Timeout(_SECONDS).as_dict()
        headers = {"accept": "multipart/x-mixed-replace, image/*", "accept-encoding": "identity"}
        request = httpx.Request("GET", plain, headers=headers, extensions={"timeout": timeout})
        response = transport.handle_request(request)
        if response.status_code == 401 and url.userinfo:
            response.close()
            response = transport.handle_request(_authorised(request, response, url, self.name))
        if response.is_success:
            return response
        response.close()
        status = f"{response.status_code} {response.reason_phrase}".strip()
        advice = ""
        if response.status_code == 401:
            said = (
                "are refused" if url.userinfo else "are wanted: write them before the host, as user:password@"
            )
            advice = f": a user's name and a password {said}"
        elif response.has_redirect_location:
            advice = ": it points elsewhere; use that address"
        raise SourceError(f"{self.name} answered {status}{advice}")


def _authorised(request: httpx.Request, refused: httpx.Response, url: httpx.URL, name: str) -> httpx.Request:
    """The request with name and password: as a digest where the camera takes one, else as they are."""
    wanted = refused.headers.get("www-authenticate", "")
    digest = re.search(r"(?:^|,)\s*(digest .*)", wanted, re.IGNORECASE)  # there may be several in a line
    if digest is None:
        return next(httpx.BasicAuth(url.username, url.password).sync_auth_flow(request))
    refused.request = request
    refused.headers["www-authenticate"] = digest[1]
    flow = httpx.DigestAuth(url.username, url.password).sync_auth_flow(request)
    next(flow)
    try:
        return flow.send(refused)
    except (KeyError, NotImplementedError, ValueError, httpx.ProtocolError):
        # Of these no text: it has what the camera sent.
        raise SourceError(
            f"{name} wants a digest of the password of a kind that is not known here (MD5 or SHA, for auth)"
        ) from None


class Snapshots(Source):
    """A camera that gives its picture of the moment whenever it is asked: one request for each frame.

    `captured` is when it was asked, so that no frame is older than that says. Once there was a frame, a
    request that fails is made again, with growing pauses.
    """

    def __init__(self, camera: HttpCamera, limits: PictureLimits) -> None:
        super().__init__(camera.name)
        self._camera = camera
        self._limits = limits
        self._stop = threading.Event()
        self._count = 0
        self._next_at = 0.0

    def newest(self, timeout: float | None = None) -> Frame | None:
        end = None if timeout is None else time.monotonic() + timeout
        failures = 0
        while not self._stop.wait(max(0.0, self._next_at - time.monotonic())):
            began = time.monotonic()
            self._next_at = began + _PAUSE_SECONDS
            try:
                picture = open_picture(self._camera.picture(self._limits)[0], self._limits)
            except (SourceError, NotAPictureError) as error:
                reason = str(error) if isinstance(error, SourceError) else f"{self.name} failed: {error}"
                wait = backoff_seconds(PATIENCE, failures, random.random())
                if not self._count or (end is not None and time.monotonic() + wait >= end):
                    raise SourceError(reason) from None
                level = logging.INFO if failures else logging.WARNING
                logger.log(level, "%s; asking again until it is back", reason)
                self._next_at, failures = time.monotonic() + wait, failures + 1
                continue
            if failures:
                logger.info("%s is back", self.name)
            self._count += 1
            return Frame(self._count - 1, began, picture)
        return None

    def close(self) -> None:
        """One that waits for the camera gets None when that has answered."""
        self._stop.set()
