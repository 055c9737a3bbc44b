"""An asynchronous stream whose frames are shown while earlier ones wait for their replies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from edge.site import (
    QUESTION,
    REGION,
    Site,
    focus_at,
    frames_of,
    picture,
    wants,
)
from secondlook.edge import (
    AsyncEdgeStream,
    Box,
    ClientError,
    FrameReply,
    RequestRefusedError,
)


class Held:
    """Frames whose replies are given later: by hand, over httpx's own transport."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._free: dict[int, asyncio.Event] = {}
        self._came: dict[int, asyncio.Event] = {}
        self.opening = asyncio.Event()
        self.opening.set()

    def _event(self, events: dict[int, asyncio.Event], frame: int) -> asyncio.Event:
        return events.setdefault(frame, asyncio.Event())

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        content = await request.aread()
        kind = request.headers.get("content-type", "")
        if request.url.path == "/v1/streams":
            await self.opening.wait()
        before = len(self._site.shown)
        answer = self._site.answer(request.method, request.url.path, kind, content)
        if len(self._site.shown) > before:
            frame = self._site.shown[-1].header.frame
            self._event(self._came, frame).set()
            await self._event(self._free, frame).wait()
        assert answer is not None
        return httpx.Response(answer[0], json=answer[1])

    async def came(self, frame: int) -> None:
        await self._event(self._came, frame).wait()

    def free(self, frame: int) -> None:
        self._event(self._free, frame).set()


def concurrently(scenario: Callable[[AsyncEdgeStream, Held, Site], Any]) -> Site:
    site = Site()

    async def main() -> None:
        held = Held(site)
        transport = httpx.MockTransport(held)
        async with AsyncEdgeStream("http://site", QUESTION, transport=transport) as stream:
            await scenario(stream, held, site)

    asyncio.run(asyncio.wait_for(main(), 60))
    return site


Showing = asyncio.Task[FrameReply]


async def show(stream: AsyncEdgeStream, held: Held, number: int) -> Showing:
    """A frame that the site has, but has not answered."""
    task = asyncio.create_task(stream.show(picture(number), number / 30))
    await held.came(number)
    return task


def test_frames_at_once_have_each_its_reply() -> None:
    async def scenario(stream: AsyncEdgeStream, held: Held, site: Site) -> None:
        statuses = ["answered", "superseded", "answered"]
        site.reply = lambda shown: {"status": statuses[shown.header.frame]}
        tasks = [await show(stream, held, number) for number in range(3)]
        for number in (2, 0, 1):
            held.free(number)
            reply = await tasks[number]
            assert (reply.frame, reply.status) == (number, statuses[number])
        assert stream.latest is not None
        assert stream.latest.frame == 2

    site = concurrently(scenario)
    assert site.asked.count("POST /v1/streams") == 1


def test_the_focus_is_of_the_newest_frame_whatever_came_last() -> None:
    async def scenario(stream: AsyncEdgeStream, held: Held, site: Site) -> None:
        newer = Box(left=0, top=0, right=80, bottom=80)
        site.reply = lambda shown: focus_at(shown.header.frame, newer if shown.header.frame else REGION)
        tasks = [await show(stream, held, number) for number in range(2)]
        for number in (1, 0):
            held.free(number)
            await tasks[number]
        held.free(2)
        await (await show(stream, held, 2))
        assert site.shown[2].header.focus == newer

    concurrently(scenario)


def test_details_wanted_of_several_replies_are_sent_once() -> None:
    async def scenario(stream: AsyncEdgeStream, held: Held, site: Site) -> None:
        site.reply = lambda shown: wants(0, 1) if shown.header.frame == 1 else wants(0)
        tasks = [await show(stream, held, number) for number in range(2)]
        for number in (1, 0):
            held.free(number)
            await tasks[number]
        tasks = [await show(stream, held, number) for number in (2, 3)]
        held.free(2)
        held.free(3)
        await asyncio.gather(*tasks)
        assert [frames_of(shown.header.details) for shown in site.shown] == [[], [], [1, 0], []]

    concurrently(scenario)


def test_frames_at_once_open_one_stream_and_fail_together() -> None:
    async def scenario(stream: AsyncEdgeStream, held: Held, site: Site) -> None:
        held.opening.clear()
        site.refuse_opening = [422]
        tasks = [asyncio.create_task(stream.show(picture(number))) for number in range(3)]
        await asyncio.sleep(0)
        held.opening.set()
        failed = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in failed] == [RequestRefusedError] * 3
        assert site.asked == ["POST /v1/streams"]
        tasks = [await show(stream, held, number) for number in (3, 4)]
        for number in (3, 4):
            held.free(number)
        assert [reply.frame for reply in await asyncio.gather(*tasks)] == [3, 4]

    site = concurrently(scenario)
    assert site.asked.count("POST /v1/streams") == 2


def test_a_stream_forgotten_under_several_frames_is_opened_anew_once() -> None:
    async def scenario(stream: AsyncEdgeStream, held: Held, site: Site) -> None:
        held.free(0)
        await (await show(stream, held, 0))
        site.forgotten.add("0")
        failed = await asyncio.gather(
            *(stream.show(picture(number)) for number in (1, 2)), return_exceptions=True
        )
        assert all(isinstance(one, RequestRefusedError) and one.status == 404 for one in failed)
        tasks = [asyncio.create_task(stream.show(picture(number))) for number in (3, 4)]
        held.free(3)
        held.free(4)
        assert [reply.frame for reply in await asyncio.gather(*tasks)] == [3, 4]

    site = concurrently(scenario)
    assert site.asked.count("POST /v1/streams") == 2


def test_a_stream_may_be_closed_while_it_is_being_opened() -> None:
    async def scenario(stream: AsyncEdgeStream, held: Held, site: Site) -> None:
        held.opening.clear()
        task = asyncio.create_task(stream.show(picture(0)))
        await asyncio.sleep(0)
        await stream.aclose()
        with pytest.raises(ClientError, match="the stream is closed"):
            await task
        with pytest.raises(ClientError, match="the stream is closed"):
            await stream.show(picture(1))

    assert concurrently(scenario).shown == []
