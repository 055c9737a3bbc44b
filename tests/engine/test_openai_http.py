"""OpenAI's routes over HTTP, on an engine without a model: errors, limits, and who owns what."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import httpx
import pytest

from engine.chats import (
    PATH,
    asked,
    assert_chat_error,
    body,
    closer,
    data_url,
    events,
    image_part,
    user,
    zoom_called,
)
from engine.fake_engine import FakeEngine, jpeg, look
from engine.serving_harness import (
    SECONDS,
    assert_error,
    entered,
    first_look,
    listening,
    queued,
    served,
    serving,
    visitor,
)
from secondlook.engine.decode.flows import Request
from secondlook.engine.results import FirstLook, Question
from secondlook.engine.serve.app import create_app, create_loading_app
from secondlook.engine.serve.settings import ChatLimits, PictureStoreLimits, ServerSettings


def test_no_header_of_ours_is_needed() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        del client.headers["secondlook-protocol"]
        assert (await client.post(PATH, json=asked())).status_code == 200
        for path in ("/v1/models", "/v1/models/fake", "/health", "/version"):
            assert (await client.get(path)).status_code == 200
            assert (await client.head(path)).status_code == 200
        models = (await client.get("/v1/models")).json()
        assert models["object"] == "list"
        assert models["data"] == [(await client.get("/v1/models/fake")).json()]
        assert models["data"][0]["id"] == "fake"

    served(scenario)


@pytest.mark.parametrize("root", ["", "/eyes"])
def test_errors_of_these_routes_are_openais_and_of_others_ours(root: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert_chat_error(await client.get(f"{root}{PATH}"), 405, "method_not_allowed")
        assert_chat_error(await client.post(f"{root}/v1/models"), 405, "method_not_allowed")
        for path in ("/v1/responses", "/v1/embeddings", "/v1/chat", "/v1/chat/else"):
            assert_chat_error(await client.post(f"{root}{path}", json={}), 404, "not_found", path)
        error = assert_chat_error(
            await client.get(f"{root}/v1/models/gpt-4o"), 404, "model_not_found", "'fake'"
        )
        assert error["param"] == "model"
        assert_error(await client.get(f"{root}/v1/elsewhere"), 404, "not_found")
        assert_error(await client.post(f"{root}/healthz"), 405, "method_not_allowed")
        assert_error(await client.post(f"{root}/v1/answers"), 415, "unsupported_content_type")

    served(scenario, settings=ServerSettings(root_path=root))


def test_wrong_requests_are_told_what_is_wrong() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        wrong = [
            (asked(model="gpt-4o"), 404, "model_not_found", "gpt-4o"),
            (body(user("Lo")), 400, "image_required", "image_url"),
            (asked(question=" "), 400, "empty_question", "empty"),
            (asked(question="x" * 2001), 400, "question_too_long", "2001"),
            (asked(picture=jpeg()[:200]), 400, "not_a_picture", ""),
            (asked(picture=b"GIF89a"), 400, "not_a_picture", "neither JPEG, PNG nor WebP"),
            (body(user("Q", image_part(None, uuid="door"))), 404, "image_not_found", "send it again"),
            (body(user("Q", {"type": "image_url"})), 400, "invalid_field", "neither a url nor a uuid"),
            (asked(secondlook={"max_new_tokens": 9, "threshold": -1}), 400, "invalid_field", "threshold"),
            (asked(secondlook={"measure": "margin"}), 400, "invalid_options", "threshold of its own"),
            (asked(tools="all"), 400, "invalid_field", "tools"),
        ]
        for url in ("file:///etc/passwd", "FILE:/etc/passwd", "ftp://x/y.jpg", "/etc/passwd", "x.jpg"):
            part = {"type": "image_url", "image_url": {"url": url}}
            wrong.append((body(user("Q", part)), 400, "invalid_image_url", url))
        for url in ("http://127.0.0.1/x.jpg", "https://example.com/x.jpg"):
            part = {"type": "image_url", "image_url": url}
            wrong.append((body(user("Q", part)), 400, "image_url_not_allowed", "--allowed-media-domains"))
        for request, status, code, text in wrong:
            for stream in (False, True):
                response = await client.post(PATH, json={**request, "stream": stream})
                assert_chat_error(response, status, code, text)
        raw = await client.post(PATH, content=b"{", headers={"content-type": "application/json"})
        assert_chat_error(raw, 400, "invalid_json")
        assert_chat_error(await client.post(PATH, content=b"{}"), 415, "unsupported_content_type", "json")
        assert_chat_error(await client.post(PATH, data={"a": "b"}), 415, "unsupported_content_type")

    served(scenario)


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_has_a_limit_of_its_own(declared: bool) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        data = json.dumps(asked()).encode()
        data = data[:-1] + b" " * (60_000 - len(data)) + b"}"
        headers = {"content-type": "application/json"}

        async def pieces() -> Any:
            for at in range(0, len(large), 1000):
                yield large[at : at + 1000]

        for more, status in ((b"", 200), (b" ", 413)):
            large = data + more
            response = await client.post(PATH, content=large if declared else pieces(), headers=headers)
            assert response.status_code == status
        assert_chat_error(response, 413, "body_too_large", "60000 bytes")

    settings = ServerSettings(chat=ChatLimits(max_body_bytes=60_000), max_body_bytes=10_000)
    served(scenario, settings=settings)


def test_pictures_that_are_kept_are_of_their_client_alone_and_bounded() -> None:
    async def scenario() -> None:
        app = create_app(FakeEngine(), ServerSettings(chat=ChatLimits(pictures=PictureStoreLimits(most=2))))
        async with serving(app) as one, visitor(app, "10.0.0.2") as two:
            named = body(user("sure", image_part(jpeg(), uuid="door")))
            again = body(user("sure", image_part(None, uuid="door")))
            assert (await one.post(PATH, json=named)).status_code == 200
            assert (await one.post(PATH, json=again)).status_code == 200
            assert_chat_error(await two.post(PATH, json=again), 404, "image_not_found")
            for side in (40, 41):
                assert (await one.post(PATH, json=asked(picture=jpeg(side, side)))).status_code == 200
            assert_chat_error(await one.post(PATH, json=again), 404, "image_not_found", "'door'")

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


def test_unknown_fields_are_logged_once_and_told_each_time(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        for _ in range(3):
            reply = (await client.post(PATH, json=asked(top_k=5, tier="gold"))).json()
            assert reply["secondlook"]["ignored"] == ["top_k", "tier"]

    served(scenario)
    assert [caplog.text.count(name) for name in ("'top_k'", "'tier'")] == [1, 1]


def test_an_original_is_passed_over_where_the_server_itself_looks_closer() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        size = {"original": {"width": 4000, "height": 3000}}
        reply = (await client.post(PATH, json=asked("unsure", secondlook=size))).json()
        assert reply["choices"][0]["message"]["content"] == "second to unsure"
        assert reply["secondlook"]["ignored"] == ["secondlook.original"]

    served(scenario)


def test_the_budget_is_told_of_no_bytes_where_none_were_sent() -> None:
    engine = FakeEngine()

    async def scenario(client: httpx.AsyncClient) -> None:
        assert (await client.post(PATH, json=asked("unsure"))).status_code == 200
        assert (await client.post(PATH, json=closer(await zoom_called(client)))).status_code == 200

    served(scenario, engine)
    assert engine.local_bytes == [0, len(jpeg(96, 64))]


def test_a_full_queue_a_loading_and_a_stopping_server_say_when_to_come_back() -> None:
    engine = FakeEngine()

    async def scenario() -> None:
        app = create_app(engine, ServerSettings(queue_size=1))
        async with serving(app) as client, visitor(app, "10.0.0.2") as one, visitor(app, "10.0.0.3") as two:
            engine.gate.clear()
            busy = [asyncio.create_task(one.post(PATH, json=asked()))]
            await entered(engine)
            busy.append(asyncio.create_task(two.post(PATH, json=asked())))
            await queued(app, 1)
            response = await client.post(PATH, json=asked())
            error = assert_chat_error(response, 429, "queue_full", "waiting")
            assert error["type"] == "rate_limit_error"
            assert int(response.headers["retry-after"]) >= 1
            engine.gate.set()
            assert [response.status_code for response in await asyncio.gather(*busy)] == [200, 200]
            app.state.service.begin_shutdown()
            for path in ("/health", "/v1/models"):
                response = await client.get(path)
                assert_chat_error(response, 503, "shutting_down")
                assert int(response.headers["retry-after"]) >= 1
            assert_chat_error(await client.post(PATH, json=asked()), 503, "shutting_down")
        async with visitor(create_loading_app(FakeEngine)) as early:
            assert_chat_error(await early.get("/health"), 503, "model_not_ready", "being loaded")
            assert_chat_error(await early.post(PATH, json=asked()), 503, "model_not_ready")
            assert (await early.get("/version")).status_code == 200

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


@pytest.mark.parametrize(
    ("question", "status", "code"),
    [
        ("broken", 500, "engine_failed"),
        ("crowded", 503, "out_of_memory"),
        ("endless", 400, "question_too_long"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_fails_in_the_engine_is_told_without_its_secrets(
    question: str, status: int, code: str, stream: bool
) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        response = await client.post(PATH, json=asked(question, stream=stream))
        assert_chat_error(response, status, code)
        assert "secret" not in response.text
        assert (await client.post(PATH, json=asked())).status_code == 200

    served(scenario)


def test_a_second_look_that_fails_leaves_no_session() -> None:
    engine = FakeEngine()
    engine.break_second = True

    async def scenario() -> None:
        app = create_app(engine)
        async with serving(app) as client:
            reply = (await client.post(PATH, json=asked("unsure"))).json()
            assert reply["choices"][0]["message"]["content"] == "first to unsure"
            assert reply["secondlook"]["second"] is None
            assert app.state.service.open_sessions == 0

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


def test_a_client_that_goes_away_leaves_nothing() -> None:
    engine = FakeEngine()

    async def scenario() -> None:
        app = create_app(engine)
        async with serving(app) as client:
            for stream in (False, True):
                engine.gate.clear()
                leaving = asyncio.create_task(client.post(PATH, json=asked("unsure", stream=stream)))
                await entered(engine)
                leaving.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await leaving
                engine.gate.set()
                assert (await client.post(PATH, json=asked())).status_code == 200
                await entered(engine)
            assert app.state.service.open_sessions == 0

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


def test_a_session_that_is_being_answered_is_not_answered_twice() -> None:
    engine = FakeEngine()

    async def scenario(client: httpx.AsyncClient) -> None:
        call = await zoom_called(client)
        await entered(engine)
        engine.gate.clear()
        winner = asyncio.create_task(client.post(PATH, json=closer(call)))
        await entered(engine)
        assert_chat_error(
            await client.post(PATH, json=closer(call)), 409, "answered_session", "being answered"
        )
        engine.gate.set()
        won = (await winner).json()
        again = (await client.post(PATH, json=closer(call))).json()
        assert again["choices"] == won["choices"]

    served(scenario, engine)
    assert engine.second_looks == 1


def test_a_call_of_an_unknown_session_without_its_picture_is_gone() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert_chat_error(await client.post(PATH, json=closer("call_nobody")), 410, "expired_session")
        kept = closer("call_nobody")
        await client.post(PATH, json=body(user("sure", image_part(jpeg(400, 300), uuid="gone"))))
        arguments = '{"bbox_2d": [250, 166, 490, 380], "label": "Q", "img_idx": 0}'
        kept["messages"][1]["tool_calls"][0]["function"]["arguments"] = arguments
        reply = (await client.post(PATH, json=kept)).json()
        assert reply["choices"][0]["message"]["content"] == "second to Q"

    served(scenario)


def test_edges_and_chats_share_the_places() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        chat, edge = await asyncio.gather(client.post(PATH, json=asked()), first_look(client, "sure"))
        assert chat.json()["choices"][0]["message"]["content"] == edge.json()["answer"]["text"]

    served(scenario)


def test_a_stream_of_an_answer_that_came_whole() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        response = await client.post(PATH, json=asked("unsure", stream=True))
        assert response.headers["cache-control"] == "no-cache"
        told = events(response.text)
        assert told[1]["choices"][0]["delta"] == {"content": "second to unsure"}

    served(scenario)


def test_the_interface_describes_itself() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        schema = (await client.get("/openapi.json")).json()
        described = schema["paths"][PATH]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert "messages" in described["required"]
        assert "content" not in schema["paths"]["/health"]["get"]["responses"]["200"]
        text = json.dumps(described)
        for name in described["$defs"]:
            assert f"schema/$defs/{name}" in text

    served(scenario)


class Telling(FakeEngine):
    """Tells the beginning of an answer that stands, and then fails."""

    def start_first_look(self, question: Question, **told: Any) -> Request[FirstLook]:
        on_tokens = told["on_tokens"]

        def job() -> FirstLook:
            on_tokens(look("fir", 0.1))
            on_tokens(look("first", 0.1))
            raise RuntimeError("secret detail")

        return self._start(job)


def test_a_stream_that_fails_ends_with_an_error() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        response = await client.post(PATH, json=asked(stream=True))
        assert response.status_code == 200
        *told, failed = events(response.text)
        assert [chunk["choices"][0]["delta"]["content"] for chunk in told] == ["", "fir", "st"]
        assert set(failed) == {"error"}
        assert (failed["error"]["code"], failed["error"]["type"]) == ("engine_failed", "server_error")
        assert "secret" not in response.text

    served(scenario, Telling())


class Endless(FakeEngine):
    """Tells the beginning of an answer that never ends."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Event()

    def start_first_look(self, question: Question, **told: Any) -> Request[FirstLook]:
        told["on_tokens"](look("fir", 0.1))
        request = self._start(lambda: None)
        self._jobs.clear()
        return request

    def cancel(self, request: Request[Any]) -> None:
        super().cancel(request)
        self.ended.set()


def test_who_leaves_in_the_middle_of_a_stream_is_not_answered_on() -> None:
    engine = Endless()
    with (
        listening(create_app(engine)) as address,
        httpx.stream("POST", f"{address}{PATH}", json=asked(stream=True), timeout=SECONDS) as response,
    ):
        told = (line for line in response.iter_lines() if line)
        assert '"role":"assistant"' in next(told)
        assert '"content":"fir"' in next(told)
        assert not engine.ended.is_set()
        response.close()
        assert engine.ended.wait(SECONDS)


def test_a_data_url_may_be_a_text_of_its_own() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        part = {"type": "image_url", "image_url": data_url(jpeg())}
        assert (await client.post(PATH, json=body(user("sure", part)))).status_code == 200

    served(scenario)
