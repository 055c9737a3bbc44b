"""What one client can do to the others, on a server: it keeps to its share, and waits for its turn."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import httpx
import pytest
from PIL import Image

from engine.fake_engine import SIDE, FakeEngine, jpeg
from engine.serving_harness import (
    SECONDS,
    SPOKEN,
    assert_error,
    entered,
    first_look,
    image_part,
    listening,
    queued,
    served,
    serving,
    session,
    visitor,
)
from secondlook.edge.geometry import Size
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.results import Question
from secondlook.engine.serve.app import create_app
from secondlook.engine.serve.settings import ServerSettings

CONNECTIONS, QUESTIONS = 120, 4


class SlowEngine(FakeEngine):
    """A look takes some milliseconds, so that questions wait."""

    def round(self) -> bool:
        if self._jobs:
            time.sleep(0.003)
        return super().round()


class GatedDecoding(FakeEngine):
    """Pictures are held where they are decoded until `decode` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.decode = threading.Event()
        self.begun = threading.Semaphore(0)
        self.decoded: list[str] = []

    def prepare(
        self,
        global_image: Image.Image,
        question: str,
        original: Size,
        options: AnswerOptions | None = None,
        *,
        client: str = "",
        jpeg: bytes | None = None,
    ) -> Question:
        self.begun.release()
        assert self.decode.wait(SECONDS)
        self.decoded.append(question)
        return super().prepare(global_image, question, original, options, client=client)

    async def began(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=SECONDS)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 for itself")
def test_three_honest_clients_are_answered_beside_one_with_120_connections() -> None:
    statuses: list[int] = []

    async def flood(client: httpx.AsyncClient, over: asyncio.Event) -> None:
        while not over.is_set():
            with suppress(httpx.ReadError):  # the server may give up a connection that it waits for for long
                statuses.append((await first_look(client, "sure")).status_code)

    async def honest(url: str, address: str) -> list[int]:
        async with connected(url, address) as client:
            return [(await first_look(client, "sure")).status_code for _ in range(QUESTIONS)]

    def connected(url: str, address: str) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(
            local_address=address, limits=httpx.Limits(max_connections=CONNECTIONS)
        )
        return httpx.AsyncClient(transport=transport, base_url=url, timeout=SECONDS, headers=SPOKEN)

    async def scenario(url: str) -> None:
        over = asyncio.Event()
        async with connected(url, "127.0.0.9") as greedy:
            flooding = [asyncio.create_task(flood(greedy, over)) for _ in range(CONNECTIONS)]
            while 429 not in statuses:
                await asyncio.sleep(0.01)
            answered = await asyncio.gather(*(honest(url, f"127.0.0.{number}") for number in (2, 3, 4)))
            over.set()
            await asyncio.gather(*flooding)
        assert answered == [[200] * QUESTIONS] * 3
        assert set(statuses) == {200, 429}

    with listening(create_app(SlowEngine(), ServerSettings(queue_size=8))) as url:
        asyncio.run(asyncio.wait_for(scenario(url), SECONDS))


def test_questions_are_computed_by_client_in_turn() -> None:
    engine = GatedDecoding()
    engine.decode.set()

    async def scenario() -> None:
        app = create_app(engine, ServerSettings(decoding_threads=1))
        async with serving(app) as client, visitor(app, "10.0.0.2") as other:
            engine.gate.clear()
            asked = [asyncio.create_task(first_look(client, "sure")) for _ in range(6)]
            await queued(app, 5)
            for _ in range(2):
                await engine.began()
            asked.append(asyncio.create_task(first_look(other, "sure")))
            await queued(app, 6)
            engine.gate.set()
            assert {response.status_code for response in await asyncio.gather(*asked)} == {200}

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))
    # One was on the engine, and one decoded, when the other came.
    assert engine.clients.index("10.0.0.2") == 2


def test_decoding_has_the_queues_places_and_what_is_above_them_is_refused() -> None:
    engine = GatedDecoding()

    async def scenario() -> None:
        app = create_app(engine, ServerSettings(queue_size=1, decoding_threads=1))
        async with serving(app) as client, visitor(app, "10.0.0.2") as other:
            asked = [asyncio.create_task(first_look(one, "sure")) for one in (client, other)]
            await engine.began()
            await queued(app, 1)
            response = await first_look(client, "sure")
            assert_error(response, 429, "queue_full", "waiting")
            assert int(response.headers["retry-after"]) >= 1
            engine.decode.set()
            assert [response.status_code for response in await asyncio.gather(*asked)] == [200, 200]

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))
    assert len(engine.decoded) == 2


def test_a_picture_whose_client_has_left_is_not_decoded() -> None:
    engine = GatedDecoding()

    async def scenario() -> None:
        app = create_app(engine, ServerSettings(decoding_threads=1))
        async with serving(app) as client:
            first = asyncio.create_task(first_look(client, "sure"))
            await engine.began()
            leaving = asyncio.create_task(first_look(client, "left"))
            await queued(app, 1)
            leaving.cancel()
            await asyncio.wait([leaving])
            assert app.state.service.waiting == 0
            engine.decode.set()
            assert (await first).status_code == 200
            assert (await first_look(client, "sure")).status_code == 200

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))
    assert engine.decoded == ["sure", "sure"]


def test_the_place_of_a_failed_question_is_free_again() -> None:
    engine = FakeEngine()

    async def scenario() -> None:
        app = create_app(engine, ServerSettings(queue_size=1))
        async with serving(app) as client:
            for _ in range(4):
                assert_error(await first_look(client, files=image_part(b"x")), 422, "not_a_picture")
                assert_error(await first_look(client, "endless"), 422, "question_too_long")
                assert_error(await first_look(client, "broken"), 500, "engine_failed")
            await session(client)
            await entered(engine, 5)
            assert app.state.service._places._taken == set()

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


def test_a_body_may_have_what_a_picture_of_the_models_size_has_and_no_more() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        limit = (await client.get("/v1/model")).json()["limits"]["max_body_bytes"]
        assert limit < 200_000
        padded: Any = jpeg()[:2] + b"\xff\xfe\xff\xff" + bytes(65533) + jpeg()[2:]  # a comment of 64 kB
        assert len(padded) < 8 * SIDE * SIDE + 65536
        assert (await first_look(client, files=image_part(padded))).status_code == 200
        twice = await first_look(client, files=image_part(jpeg()[:2] + 2 * padded[2:65539] + jpeg()[2:]))
        assert_error(twice, 422, "picture_too_large", "73728 bytes")
        large = await first_look(client, files=image_part(jpeg() + bytes(limit)))
        assert_error(large, 413, "body_too_large", f"{limit} bytes")

    served(scenario)


@pytest.mark.parametrize(
    ("trusted", "address"), [((), "127.0.0.1"), (("10.0.0.9",), "127.0.0.1"), (("127.0.0.0/8",), "10.1.2.3")]
)
def test_whom_a_proxy_asks_for_is_believed_of_those_that_are_named(
    trusted: tuple[str, ...], address: str
) -> None:
    engine = FakeEngine()
    with listening(create_app(engine, ServerSettings(forwarded_allow_ips=trusted))) as url:
        headers = SPOKEN | {"X-Forwarded-For": "10.1.2.3"}
        form = {"question": "sure", "width": "400", "height": "300"}
        response = httpx.post(f"{url}/v1/answers", data=form, files=image_part(), headers=headers)
        assert response.status_code == 200
    assert engine.clients == [address]
