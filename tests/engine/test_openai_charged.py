"""What a chat costs whoever asks: looks and bytes of its key, and room for its body until its stream ends."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.chats import PATH, asked, assert_chat_error, body, closer, user, zoom_called
from engine.fake_engine import FakeEngine, jpeg
from engine.serving_harness import SECONDS, listening
from engine.test_access import asking, run, settings
from engine.test_keys import line
from engine.test_openai_http import Endless
from engine.test_openai_pictures import anywhere, gives, hosting
from secondlook.engine.serve.app import create_app
from secondlook.engine.serve.settings import ChatLimits, ServerSettings


@pytest.mark.parametrize("stream", [False, True])
def test_each_look_of_a_chat_is_one_of_its_keys(tmp_path: Path, stream: bool) -> None:
    async def scenario() -> None:
        app = create_app(FakeEngine(), settings(tmp_path, line("ann", "a", ":looks=4")))
        async with asking(app, "a") as (ann,):
            assert (await ann.post(PATH, json=asked("sure", stream=stream))).status_code == 200
            # Before the second of these one look is left; what it takes too much is waited for.
            for _ in range(2):
                assert (await ann.post(PATH, json=asked("unsure", stream=stream))).status_code == 200
            refused = await ann.post(PATH, json=asked("sure"))
            assert_chat_error(refused, 429, "rate_limited", "'ann' has used its 4 looks a minute")
            assert 16 <= int(refused.headers["retry-after"]) <= 30  # for the fifth look too

    run(scenario)


def test_a_closer_look_by_the_tool_is_paid_for_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = create_app(FakeEngine(), settings(tmp_path, line("ann", "a", ":looks=2")))
        async with asking(app, "a") as (ann,):
            assert (await ann.post(PATH, json=closer(await zoom_called(ann)))).status_code == 200
            refused = await ann.post(PATH, json=asked("sure"))
            assert_chat_error(refused, 429, "rate_limited")
            assert 1 <= int(refused.headers["retry-after"]) <= 30

    run(scenario)


def test_what_is_fetched_for_a_chat_is_among_its_keys_bytes(tmp_path: Path) -> None:
    picture = jpeg() + bytes(30_000)  # behind a JPEG's end anything may stand

    async def scenario() -> None:
        chosen = settings(tmp_path, line("ann", "a", ":bytes=20K"))
        app = create_app(FakeEngine(), chosen)
        with hosting(gives(picture)) as port:
            app.state.chat.fetcher = anywhere(f"localhost:{port}", most=100_000)
            part = {"type": "image_url", "image_url": {"url": f"http://localhost:{port}/a.jpg"}}
            async with asking(app, "a") as (ann,):
                fetched = await ann.post(PATH, json=body(user("sure", part)))
                assert fetched.json()["secondlook"]["bytes"] == len(picture)
                refused = await ann.post(PATH, json=body(user("sure", part)))
                assert_chat_error(refused, 429, "rate_limited", "20480 bytes a minute")

    run(scenario)


def streaming(url: str, **headers: str) -> Any:
    content = json.dumps(asked(stream=True)).encode()
    content = content[:-1] + b" " * (40_000 - len(content)) + b"}"
    kind = {"content-type": "application/json", **headers}
    return httpx.stream("POST", f"{url}{PATH}", content=content, headers=kind, timeout=SECONDS)


def test_a_streams_body_is_held_until_its_last_event() -> None:
    chosen = ServerSettings(
        chat=ChatLimits(max_body_bytes=60_000), max_body_bytes=60_000, max_bodies_bytes=1
    )  # one of the largest a client
    kind = {"content-type": "application/json"}

    def status() -> int:
        return httpx.post(f"{url}{PATH}", content=b" " * 40_000, headers=kind, timeout=SECONDS).status_code

    with listening(create_app(Endless(), chosen)) as url:
        with streaming(url) as response:
            told = (line for line in response.iter_lines() if line)
            assert '"content":""' in next(told)
            assert status() == 429
        ends = time.monotonic() + SECONDS
        while status() != 400 and time.monotonic() < ends:
            pass
        assert status() == 400


def test_a_stream_is_in_progress_until_its_last_event(tmp_path: Path) -> None:
    app = create_app(Endless(), settings(tmp_path, line("ann", "a", ":concurrent=1")))
    keyed = {"authorization": "Bearer a"}
    with listening(app) as url:

        def another() -> httpx.Response:
            return httpx.post(f"{url}{PATH}", json={}, headers=keyed, timeout=SECONDS)

        with streaming(url, **keyed) as response:
            told = (line for line in response.iter_lines() if line)
            assert '"content":""' in next(told)
            assert_chat_error(another(), 429, "rate_limited", "1 questions in progress")
        ends = time.monotonic() + SECONDS
        while another().status_code != 400 and time.monotonic() < ends:
            pass
        assert another().status_code == 400


def test_a_stream_that_ends_by_itself_leaves_nothing() -> None:
    async def scenario() -> None:
        app = create_app(FakeEngine())
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
                for question in ("sure", "unsure", "broken"):
                    await client.post(PATH, json=asked(question, stream=True))
                with app.state.bodies.one_more("127.0.0.1") as body:
                    body.check(app.state.service.settings.max_bodies_bytes // 2)

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))
