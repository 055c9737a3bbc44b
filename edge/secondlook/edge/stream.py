"""The camera's two clients of a site, which answers every frame by a deadline: one blocks, one does not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import TracebackType

import httpx

from .camera import Camera, RingLimits
from .driver import AsyncDriver, Driver
from .exchange import Surroundings
from .imaging import Picture, PictureSource
from .retry import ClientSettings
from .wire_stream import FrameReply, StreamCard, StreamSummary, Window

__all__ = ["AsyncEdgeStream", "EdgeStream"]


class _Stream:
    """What both streams share: everything but sending, sleeping and computing."""

    def __init__(self, camera: Camera) -> None:
        self._camera = camera

    @property
    def settings(self) -> ClientSettings:
        """As they were given."""
        return self._camera.settings

    @property
    def card(self) -> StreamCard | None:
        """The stream as the site opened it; None while none is open, or the site has forgotten it."""
        return self._camera.card

    @property
    def latest(self) -> FrameReply | None:
        """The reply to the newest frame that has one."""
        return self._camera.latest

    @property
    def summary(self) -> StreamSummary | None:
        """What the stream came to, once it is closed; None where the site could not tell."""
        return self._camera.summary

    @property
    def bytes_up(self) -> int:
        """Of all requests' bodies so far."""
        return self._camera.traffic.up

    @property
    def bytes_down(self) -> int:
        """Of all replies' bodies so far."""
        return self._camera.traffic.down


class EdgeStream(_Stream):
    """Shows a camera's frames to a site, one after another; each is answered by the site's deadline.

    A context manager. The stream is opened with the first frame, and ended by `close`. Not for several
    threads at once.

    Args:
        site_url: such as `http://192.168.0.7:8000`.
        question: asked of every frame, in the user's words.
        deadline: seconds from a frame's arrival at the site to its answer, up to 60; None: the site's own.
        settings: as for `EdgeClient`; but a frame is sent once, unless `retries` says otherwise.
        ring: what is kept of the last frames, for details that the cloud may want.
        transport, sleep, surroundings: as for `EdgeClient`.

    Raises:
        SettingsError: the address or the deadline cannot be used.
        ClientError: the question is empty, or no text.
    """

    def __init__(
        self,
        site_url: str,
        question: str,
        *,
        deadline: float | None = None,
        settings: ClientSettings | None = None,
        ring: RingLimits | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        surroundings: Surroundings | None = None,
    ) -> None:
        super().__init__(Camera(question, deadline, settings, ring, surroundings))
        self._driver = Driver(site_url, self.settings, transport, sleep)

    def show(
        self, picture: PictureSource | Picture, captured: float | None = None, window: Window | None = None
    ) -> FrameReply:
        """Show the next frame, and wait for what holds for it.

        Args:
            picture: as for `EdgeClient.ask`.
            captured: seconds on the camera's own clock; by default now.
            window: what it shows of the world, where the camera knows its motion.

        Raises:
            PictureError, GeometryError: the picture cannot be used; nothing of it was sent.
            ClientError: the frame has no answer, or no stream could be opened. The stream goes on with the
                next frame; one that the site has forgotten (404) is opened anew by that.
        """
        number, captured = self._camera.begin(captured)
        return self._driver.drive(self._camera.show(number, captured, picture, window))

    def close(self) -> StreamSummary | None:
        """End the stream and close the connection; what it came to, if the site could tell."""
        try:
            return self._driver.drive(self._camera.close())
        finally:
            self._driver.close()

    def __enter__(self) -> EdgeStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncEdgeStream(_Stream):
    """`EdgeStream` for asyncio: frames may be shown while earlier ones wait for their replies."""

    def __init__(
        self,
        site_url: str,
        question: str,
        *,
        deadline: float | None = None,
        settings: ClientSettings | None = None,
        ring: RingLimits | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        surroundings: Surroundings | None = None,
    ) -> None:
        super().__init__(Camera(question, deadline, settings, ring, surroundings))
        self._driver = AsyncDriver(site_url, self.settings, transport, sleep)
        self._opening: asyncio.Task[StreamCard] | None = None

    async def show(
        self, picture: PictureSource | Picture, captured: float | None = None, window: Window | None = None
    ) -> FrameReply:
        """As `EdgeStream.show`."""
        number, captured = self._camera.begin(captured)
        while self._camera.card is None:  # one opens the stream, and all wait for it
            if self._opening is None or self._opening.done():
                self._opening = asyncio.create_task(self._driver.drive(self._camera.open()))
            try:
                await asyncio.shield(self._opening)
            except asyncio.CancelledError:
                self._camera.check_open()  # closed meanwhile; else it was this frame that is not waited for
                raise
        return await self._driver.drive(self._camera.show(number, captured, picture, window))

    async def aclose(self) -> StreamSummary | None:
        """As `EdgeStream.close`."""
        try:
            self._camera.shut()
            if self._opening is not None:
                self._opening.cancel()
                await asyncio.gather(self._opening, return_exceptions=True)
            return await self._driver.drive(self._camera.close())
        finally:
            await self._driver.close()

    async def __aenter__(self) -> AsyncEdgeStream:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
