"""Clients of every kind: edges, OpenAI's clients whole, streaming and zooming, cameras, and the page."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import httpx
from PIL import Image

from engine.chats import (
    PATH,
    ZOOM_TOOL,
    body,
    box_of,
    cropped,
    encoded,
    events,
    image_part,
    text_of,
    user,
)
from engine.serving_harness import SPOKEN
from secondlook.edge import AsyncEdgeClient, ClientSettings
from secondlook.edge.geometry import Region
from secondlook.edge.imaging import open_picture
from secondlook.edge.wire import SESSION_HEADER, AnswerOptions, AnswerReply, ModelCard
from secondlook.edge.wire_stream import FrameHeader, FrameReply, StreamCard, StreamOptions, StreamSummary

__all__ = ["CLIENTS", "Asked", "Client", "Told", "pictures"]

PATIENCE = ClientSettings(timeout=120, wait_budget=120)
SECONDS = 120
SLOW, PIECES, PAUSE = 0.1, 5, 0.02
FRAMES = 2


class Told(NamedTuple):
    """An answer, and whether it is that of a second look."""

    text: str
    refined: bool


@dataclass(frozen=True)
class Asked:
    """A picture and what is asked about it."""

    jpeg: bytes
    question: str
    options: AnswerOptions

    @cached_property
    def chat(self) -> dict[str, Any]:
        """As OpenAI's clients ask it."""
        extension = self.options.model_dump(exclude_defaults=True)
        return body(user(self.question, image_part(self.jpeg)), secondlook=extension)


class Client:
    """One that asks, each question as another kind of client; some of them slowly.

    Args:
        url: the server's.
        chance: what decides who is slow.
    """

    def __init__(self, url: str, chance: random.Random) -> None:
        self._chance = chance
        self._edge = AsyncEdgeClient(url, settings=PATIENCE)
        self._http = httpx.AsyncClient(base_url=url, timeout=SECONDS)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._edge.aclose()
        await self._http.aclose()

    async def edge(self, asked: Asked) -> Told:
        answer = await self._edge.ask(asked.jpeg, asked.question, asked.options)
        assert answer.second_look_failed is None
        return Told(answer.text, answer.looked_twice)

    async def whole(self, asked: Asked) -> Told:
        """OpenAI's client, which sends all of a picture."""
        reply = json.loads(await self._sent("POST", PATH, json=asked.chat))
        return Told(reply["choices"][0]["message"]["content"], reply["secondlook"]["second"] is not None)

    async def streaming(self, asked: Asked) -> Told:
        """The same, told piece by piece."""
        told = await self._sent("POST", PATH, json=asked.chat | {"stream": True})
        chunks = events(told.decode())
        assert all("error" not in chunk for chunk in chunks), chunks
        return Told(text_of(chunks), chunks[-1]["secondlook"]["second"] is not None)

    async def agent(self, asked: Asked) -> Told:
        """An agent with the zoom tool."""
        request = asked.chat | {"tools": [ZOOM_TOOL]}
        message = json.loads(await self._sent("POST", PATH, json=request))["choices"][0]["message"]
        if not message.get("tool_calls"):
            return Told(message["content"], False)
        (call,) = message["tool_calls"]
        seen = image_part(encoded(cropped(asked.jpeg, box_of(call))))
        answered = {"role": "tool", "tool_call_id": call["id"], "content": [seen]}
        more = request | {"messages": [*request["messages"], message, answered]}
        reply = json.loads(await self._sent("POST", PATH, json=more))
        return Told(reply["choices"][0]["message"]["content"], reply["secondlook"]["second"] is not None)

    async def page(self, asked: Asked) -> Told:
        """What the page's script does."""
        headers = SPOKEN | {SESSION_HEADER: self._chance.randbytes(8).hex()}
        card = ModelCard.model_validate_json(await self._sent("GET", "/v1/model", headers=headers))
        picture = open_picture(asked.jpeg)
        width, height = picture.size.width, picture.size.height
        form = {"question": asked.question, "width": str(width), "height": str(height)}
        first = await self._form(
            "/v1/answers",
            headers,
            picture.global_image(card.global_view).jpeg,
            form | {"options": asked.options.model_dump_json(exclude_defaults=True)},
        )
        if first.session is None or first.region is None:
            return Told(first.answer.text, False)
        box = first.region
        closer = picture.local_image(Region(box.left, box.top, box.right, box.bottom), card.local_view)
        second = await self._form(f"/v1/answers/{first.session.id}/local", headers, closer.jpeg, {})
        return Told(second.answer.text, second.second is not None)

    async def camera(self, asked: Asked) -> Told:
        """A stream of some frames, each of which is answered at the site; one that is killed stays open."""
        options = StreamOptions(question=asked.question).model_dump()
        opened = await self._sent("POST", "/v1/streams", headers=SPOKEN, json=options)
        card = StreamCard.model_validate_json(opened)
        path, picture = f"/v1/streams/{card.id}", open_picture(asked.jpeg)
        image, size = picture.global_image(card.model.global_view).jpeg, picture.size
        said = []
        for number in range(FRAMES):
            header = FrameHeader(frame=number, captured=number / 5, width=size.width, height=size.height)
            form = {"frame": header.model_dump_json()}
            reply = FrameReply.read(await self._posted(f"{path}/frames", SPOKEN, image, form))
            assert (reply.status, reply.source) == ("answered", "picture")
            said.append(reply.answer)
        summary = StreamSummary.model_validate_json(await self._sent("DELETE", path, headers=SPOKEN))
        assert summary.frames == FRAMES
        return Told(" ".join(said), False)

    async def _form(
        self, path: str, headers: dict[str, str], jpeg: bytes, form: dict[str, str]
    ) -> AnswerReply:
        return AnswerReply.model_validate_json(await self._posted(path, headers, jpeg, form))

    async def _posted(self, path: str, headers: dict[str, str], jpeg: bytes, form: dict[str, str]) -> bytes:
        files = {"image": ("image.jpg", jpeg, "image/jpeg")}
        return await self._sent("POST", path, headers=headers, data=form, files=files)

    async def _sent(self, verb: str, path: str, **content: Any) -> bytes:
        """A reply's body, its request now and then written slowly, and the reply read slowly."""
        request = self._http.build_request(verb, path, **content)
        if self._chance.random() < SLOW:
            whole = await request.aread()
            request = self._http.build_request(verb, path, headers=request.headers, content=_trickling(whole))
        pause = PAUSE if self._chance.random() < SLOW else 0
        response = await self._http.send(request, stream=True)
        read = bytearray()
        try:
            async for piece in response.aiter_bytes(1000):
                read += piece
                await asyncio.sleep(pause)
        finally:
            await response.aclose()
        assert response.status_code == 200, bytes(read)
        return bytes(read)


async def _trickling(whole: bytes) -> AsyncIterator[bytes]:
    step = max(1, len(whole) // PIECES)
    for start in range(0, len(whole), step):
        await asyncio.sleep(PAUSE)
        yield whole[start : start + step]


CLIENTS: Sequence[Callable[[Client, Asked], Awaitable[Told]]] = (
    Client.edge,
    Client.whole,
    Client.streaming,
    Client.agent,
    Client.page,
    Client.camera,
)


def pictures(number: int, chance: random.Random) -> list[bytes]:
    """JPEGs of colours without an edge."""
    coarse = [Image.frombytes("RGB", (6, 4), chance.randbytes(72)) for _ in range(number)]
    return [encoded(each.resize((480, 320)), "JPEG") for each in coarse]
