"""How conversations in OpenAI's format end where something does not come."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from engine.chats import PATH, asked, assert_chat_error, body, closer, image_part, user, zoom_called
from engine.fake_engine import FakeEngine, jpeg
from engine.serving_harness import SECONDS, served, serving
from secondlook.engine.errors import OutOfMemoryError, QueueFullError
from secondlook.engine.serve.app import create_app


def test_a_closer_look_is_taken_while_the_server_stops() -> None:
    async def scenario() -> None:
        app = create_app(FakeEngine())
        async with serving(app) as client:
            call = await zoom_called(client)
            app.state.service.begin_shutdown()
            assert_chat_error(await client.post(PATH, json=asked()), 503, "shutting_down")
            reply = await client.post(PATH, json=closer(call))
            assert reply.status_code == 200
            assert reply.json()["secondlook"]["second"]

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


def test_a_second_look_that_fails_leaves_the_first_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()

    def fail(*_arguments: Any, **_named: Any) -> Any:
        raise OutOfMemoryError("there is no memory for this question")

    monkeypatch.setattr(engine, "start_second_look", fail)

    async def scenario(client: httpx.AsyncClient) -> None:
        reply = (await client.post(PATH, json=asked("unsure"))).json()
        assert reply["choices"][0]["message"]["content"]
        assert reply["secondlook"]["second"] is None

    served(scenario, engine)


def test_another_question_after_a_tool_that_brought_nothing_is_answered() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        call = await zoom_called(client)
        calls = [{"id": call, "function": {"name": "image_zoom_in_tool", "arguments": "{}"}}]
        failed = {"role": "tool", "tool_call_id": call, "content": "there is no such picture"}
        before = (
            user("unsure", image_part(jpeg(400, 300))),
            {"role": "assistant", "tool_calls": calls},
            failed,
        )
        reply = (await client.post(PATH, json=body(*before, user("sure")))).json()
        assert reply["secondlook"]["decision"] == "sure"
        told = (await client.post(PATH, json=body(*before))).json()
        assert told["secondlook"]["decision"] == "unsure"

    served(scenario)


def test_a_picture_that_is_none_is_blamed_on_the_message_that_means_it_now() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        sent = body(user("sure", image_part(b"GIF89a", uuid="door")))
        assert assert_chat_error(await client.post(PATH, json=sent), 400, "not_a_picture")["param"] == (
            "messages.0"
        )
        named = user("sure", image_part(None, uuid="door"))
        later = body(user("Hello"), {"role": "assistant", "content": "Hello"}, named)
        error = assert_chat_error(await client.post(PATH, json=later), 400, "not_a_picture")
        assert error["param"] == "messages.2"

    served(scenario)


@pytest.mark.parametrize("stream", [False, True])
def test_without_a_place_for_the_second_look_the_first_answer_stands(
    stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        app = create_app(FakeEngine())
        service = app.state.service

        async def look_closer(*_given: Any, **_named: Any) -> Any:
            raise QueueFullError("there are too many second looks", 1.0)

        monkeypatch.setattr(service, "look_closer", look_closer)
        async with serving(app) as client:
            reply = await client.post(PATH, json=asked("unsure", stream=stream))
            assert reply.status_code == 200
            assert "first to unsure" in reply.text
            assert service.open_sessions == 0

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))
