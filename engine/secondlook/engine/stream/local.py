"""A camera, a site and a cloud in one process: for trying a stream, and for measuring one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import httpx

from secondlook.edge.errors import PictureError
from secondlook.edge.frames import Frame, Source
from secondlook.edge.stream import AsyncEdgeStream
from secondlook.edge.wire_stream import FrameReply, StreamSummary
from secondlook.engine.serve.app import create_app
from secondlook.engine.serve.protocol import TwoLookEngine
from secondlook.engine.serve.stream_routes import streaming
from secondlook.engine.stream.cloud import Cloud, CloudAnswer, HttpCloud, KeyFrame
from secondlook.engine.stream.service import StreamSettings

__all__ = ["LateCloud", "stream_locally"]

_ANYWHERE = "http://localhost"
"""No request to it leaves the process."""


@dataclass(frozen=True)
class LateCloud:
    """A cloud that is further away: none of its answers comes before `seconds` are over."""

    cloud: Cloud
    seconds: float

    async def ask(self, frame: KeyFrame, question: str) -> CloudAnswer:
        """See `Cloud.ask`."""
        started = time.perf_counter()
        least = asyncio.create_task(asyncio.sleep(self.seconds))
        try:
            answer = await self.cloud.ask(frame, question)
            await least
        finally:
            least.cancel()
        return replace(answer, seconds=time.perf_counter() - started)

    async def aclose(self) -> None:
        """See `Cloud.aclose`."""
        await self.cloud.aclose()


async def stream_locally(
    small: TwoLookEngine,
    large: TwoLookEngine | None,
    source: Source,
    question: str,
    settings: StreamSettings,
    delay: float,
    step: float,
    on_reply: Callable[[Frame, FrameReply], None],
    on_damage: Callable[[Frame, PictureError], None],
    on_end: Callable[[StreamSummary], None],
) -> None:
    """Show a source's frames to a site, to its end, over everything that a request passes but the network.

    Args:
        small, large: the site's model, and the cloud's; None: there is no cloud.
        source: is closed in the end.
        delay: seconds that each of the cloud's answers takes at least.
        step: seconds from frame to frame at least.
        on_reply: called with each.
        on_damage: called with what cannot be shown; the next frame may be better.
        on_end: called with what the stream came to, also if it is interrupted.

    Raises:
        SecondLookError: the stream cannot go on.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(source)
        cloud = None
        if large is not None:
            above = create_app(large)
            await stack.enter_async_context(above.router.lifespan_context(above))
            settings_seconds = settings.method.history_seconds
            cloud = LateCloud(
                HttpCloud(_ANYWHERE, settings_seconds, transport=httpx.ASGITransport(above)), delay
            )
        site = create_app(small, extend=streaming(settings, cloud))
        await stack.enter_async_context(site.router.lifespan_context(site))
        camera = AsyncEdgeStream(_ANYWHERE, question, transport=httpx.ASGITransport(site))
        # Called once it is closed.
        stack.callback(lambda: None if camera.summary is None else on_end(camera.summary))
        await stack.enter_async_context(camera)
        loop = asyncio.get_running_loop()
        while (frame := await asyncio.to_thread(source.newest)) is not None:
            begin = loop.time()
            try:
                on_reply(frame, await camera.show(frame.picture, frame.captured))
            except PictureError as error:
                on_damage(frame, error)
            await asyncio.sleep(max(0.0, begin + step - loop.time()))
