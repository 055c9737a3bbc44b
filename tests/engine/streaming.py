"""What the tests of streams share: a site over a fake engine or a real one, and what a camera asks of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI

from engine.fake_engine import ORIGINAL, FakeEngine, jpeg
from engine.serving_harness import SECONDS, serving
from secondlook.edge.wire_stream import FrameReply, StreamEvent, StreamOptions
from secondlook.engine.serve.app import create_app
from secondlook.engine.serve.settings import ServerSettings
from secondlook.engine.serve.stream_routes import streaming
from secondlook.engine.stream.cloud import Cloud, CloudAnswer, KeyFrame
from secondlook.engine.stream.rules import Newest
from secondlook.engine.stream.service import StreamService, StreamSettings
from secondlook.engine.stream.state import Method

PATIENT = 30.0
"""A deadline that no test reaches."""


class ScriptedCloud:
    """Answers when it is told to: `answers` holds a future for each key frame it was asked about."""

    def __init__(self) -> None:
        self.asked: dict[int, asyncio.Future[CloudAnswer]] = {}
        self.frames: dict[int, KeyFrame] = {}
        self.cancelled: list[int] = []
        self.closed = False

    async def ask(self, frame: KeyFrame, question: str) -> CloudAnswer:
        future: asyncio.Future[CloudAnswer] = asyncio.get_running_loop().create_future()
        self.asked[frame.number], self.frames[frame.number] = future, frame
        try:
            return await future
        except asyncio.CancelledError:
            self.cancelled.append(frame.number)
            raise

    def answer(self, number: int, text: str, doubt: float = 0.1) -> None:
        self.asked[number].set_result(CloudAnswer(text, doubt, None, 1000, 0.5))

    async def aclose(self) -> None:
        self.closed = True


def method(**choices: Any) -> Method:
    """One that never takes the fake engine's answers of doubt 0.1 for sure, unless told."""
    sure = choices.get("sure", 0.05)
    return Method(**{"rule": Newest(sure=sure, own=0.2), "sure": sure, "memory": False, **choices})


def site(
    engine: Any, cloud: Cloud | None = None, server: ServerSettings | None = None, **settings: Any
) -> FastAPI:
    given = {"method": method(), "deadline": PATIENT, **settings}
    return create_app(engine, server, streaming(StreamSettings(**given), cloud))


@asynccontextmanager
async def streams(
    engine: Any = None, cloud: Cloud | None = None, **settings: Any
) -> AsyncIterator[tuple[StreamService, httpx.AsyncClient]]:
    """A service, and a client of its routes."""
    app = site(FakeEngine() if engine is None else engine, cloud, **settings)
    async with serving(app) as client:
        yield app.state.streams, client


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


async def opened(client: httpx.AsyncClient, question: str = "unsure", **options: Any) -> str:
    asked = StreamOptions(question=question, **options)
    reply = await client.post("/v1/streams", json=asked.model_dump())
    assert reply.status_code == 200, reply.text
    name: str = reply.json()["id"]
    return name


async def send(
    client: httpx.AsyncClient, name: str, number: int, parts: dict[str, bytes] | None = None, **header: Any
) -> httpx.Response:
    """A frame, five a second; more of its header, and pictures by the names of their parts."""
    width, height = ORIGINAL.width, ORIGINAL.height
    told = {"frame": number, "captured": number / 5, "width": width, "height": height, **header}
    sent = {"image": jpeg()} | (parts or {})
    files = {part: (f"{part}.jpg", data, "image/jpeg") for part, data in sent.items()}
    return await client.post(f"/v1/streams/{name}/frames", data={"frame": json.dumps(told)}, files=files)


async def shown(
    client: httpx.AsyncClient, name: str, number: int, parts: dict[str, bytes] | None = None, **header: Any
) -> FrameReply:
    reply = await send(client, name, number, parts, **header)
    assert reply.status_code == 200, reply.text
    return FrameReply.read(reply.content)


async def until(condition: Callable[[], object]) -> None:
    """Wait, one turn of the loop after another."""
    while not condition():
        await asyncio.sleep(0)


class Watching:
    """What happens in a stream, from when it is made on, in a task of its own."""

    def __init__(self, service: StreamService, name: str) -> None:
        self.seen: list[StreamEvent] = []
        self._events = service.events(name)
        self.task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        async for event in self._events:
            self.seen.append(event)

    def kinds(self) -> list[tuple[str, int]]:
        return [(event.kind, event.frame) for event in self.seen]
