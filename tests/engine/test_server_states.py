from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

import httpx
import pytest

from engine.fake_engine import FakeEngine, FakeQuestion, jpeg
from engine.serving_harness import (
    SECONDS,
    assert_error,
    entered,
    first_look,
    image_part,
    queued,
    second_look,
    served,
    serving,
    session,
    visitor,
)
from secondlook.edge.wire import AnswerReply
from secondlook.engine.errors import EngineFailedError, ModelNotFoundError
from secondlook.engine.serve.app import create_app, create_loading_app
from secondlook.engine.serve.kept import without_second
from secondlook.engine.serve.service import TwoLookService
from secondlook.engine.serve.settings import ServerSettings, SessionLimits

# Sessions


@pytest.mark.parametrize("size", [(32, 32), (96, 64), (33, 21), (32, 22)])
def test_a_larger_local_image_is_refused_and_the_session_still_waits(size: tuple[int, int]) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        name = await session(client)
        response = await second_look(client, name, jpeg(*size))
        assert response.status_code == 422
        assert response.json()["error"] in ("picture_mismatch", "picture_too_large")
        assert (await second_look(client, name, jpeg(32, 21))).status_code == 200

    served(scenario)


def test_a_broken_local_image_leaves_the_session_waiting() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        name = await session(client)
        assert_error(await second_look(client, name, jpeg(32, 21)[:-200]), 422, "not_a_picture")
        wrong = await client.post(f"/v1/answers/{name}/local", files=image_part(kind="text/plain"))
        assert_error(wrong, 415, "unsupported_content_type")
        assert_error(await client.post(f"/v1/answers/{name}/local", files={"x": b""}), 422, "invalid_field")
        assert (await second_look(client, name)).status_code == 200

    served(scenario)


def test_unknown_answered_and_given_up_sessions() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert_error(await second_look(client, "nobody"), 404, "unknown_session")
        assert_error(await client.delete("/v1/answers/nobody"), 404, "unknown_session")
        name = await session(client)
        final = await second_look(client, name)
        assert_error(await second_look(client, name), 409, "answered_session")
        assert (
            await client.delete(f"/v1/answers/{name}")
        ).json() == final.json()  # a lost reply is told again
        name = await session(client)
        response = await client.delete(f"/v1/answers/{name}")
        kept = AnswerReply.model_validate_json(response.content)
        assert (kept.status, kept.decision, kept.answer.text) == ("final", "unsure", "first to unsure")
        assert (kept.session, kept.region) == (None, None)
        assert_error(await second_look(client, name), 410, "expired_session", "the first answer stands")
        assert (await client.delete(f"/v1/answers/{name}")).json() == response.json()

    served(scenario)


def test_the_oldest_session_goes_when_there_are_too_many() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        names = [await session(client) for _ in range(3)]
        assert_error(await second_look(client, names[0]), 410, "expired_session")
        for name in names[1:]:
            assert (await second_look(client, name)).status_code == 200

    served(scenario, settings=ServerSettings(sessions=SessionLimits(max_waiting=2)))


def test_the_oldest_sessions_go_when_they_keep_too_much() -> None:
    kept = FakeQuestion.nbytes + 2 * 4 * 4  # a picture and two maps
    limits = SessionLimits(max_bytes=2 * kept)

    async def scenario(client: httpx.AsyncClient) -> None:
        names = [await session(client) for _ in range(3)]
        assert_error(await second_look(client, names[0]), 410, "expired_session", "too many open sessions")
        assert (await client.delete(f"/v1/answers/{names[0]}")).json()["answer"]["text"] == "first to unsure"
        for name in names[1:]:
            assert (await second_look(client, name)).status_code == 200

    served(scenario, settings=ServerSettings(sessions=limits))


def test_an_expired_session_is_gone() -> None:
    now = 0.0

    async def scenario() -> None:
        nonlocal now
        service = TwoLookService(FakeEngine, ServerSettings(), clock=lambda: now)
        app = create_app(FakeEngine())
        async with serving(app) as client:
            service.start()
            await asyncio.wrap_future(service.loaded)
            app.state.service = service
            name = await session(client)
            now = SessionLimits().seconds
            assert_error(await second_look(client, name), 410, "expired_session", "60 seconds")
            await service.stop()

    asyncio.run(scenario())


def test_a_region_is_told_before_the_answer_is_complete() -> None:
    engine = FakeEngine()

    async def scenario(client: httpx.AsyncClient) -> None:
        reply = AnswerReply.model_validate_json((await first_look(client, "long")).content)
        assert (reply.status, reply.answer.text, reply.answer.complete) == ("region", "first to long", False)
        assert reply.session is not None
        second = asyncio.create_task(second_look(client, reply.session.id))
        await entered(engine)
        engine.rest.set()
        final = AnswerReply.model_validate_json((await second).content)
        assert (final.first.text, final.first.complete) == ("first to long, and more", True)
        assert final.answer.text == "second to long"

    served(scenario, engine)


def test_who_gives_up_gets_the_whole_first_answer() -> None:
    engine = FakeEngine()

    async def scenario(client: httpx.AsyncClient) -> None:
        name = await session(client, "long")
        giving_up = asyncio.create_task(client.delete(f"/v1/answers/{name}"))
        await entered(engine)
        engine.rest.set()
        kept = AnswerReply.model_validate_json((await giving_up).content)
        assert (kept.answer.text, kept.answer.complete) == ("first to long, and more", True)

    served(scenario, engine)


def test_of_two_local_images_at_once_one_wins() -> None:
    engine = FakeEngine()

    async def scenario(client: httpx.AsyncClient) -> None:
        name = await session(client)
        await entered(engine)
        engine.gate.clear()
        winner = asyncio.create_task(second_look(client, name))
        await entered(engine)
        assert_error(await second_look(client, name), 409, "answered_session", "being answered")
        assert_error(await client.delete(f"/v1/answers/{name}"), 409, "answered_session")
        engine.gate.set()
        assert (await winner).status_code == 200

    served(scenario, engine)
    assert engine.second_looks == 1


# A busy, failing or ending server


def test_a_full_queue_answers_429_and_recovers() -> None:
    engine = FakeEngine()

    async def scenario() -> None:
        app = create_app(engine, ServerSettings(queue_size=1))
        async with serving(app) as client, visitor(app, "10.0.0.2") as one, visitor(app, "10.0.0.3") as two:
            name, other = await session(client), await session(client)
            await entered(engine, 2)
            engine.gate.clear()
            busy = [asyncio.create_task(first_look(one, "sure"))]
            await entered(engine)
            busy.append(asyncio.create_task(first_look(two, "sure")))
            await queued(app, 1)
            busy.append(asyncio.create_task(second_look(client, name)))  # it has a place of its own
            await queued(app, 2)
            for response in (await first_look(client, "sure"), await second_look(client, other)):
                assert_error(response, 429, "queue_full", "waiting")
                assert int(response.headers["retry-after"]) >= 1
            assert (await client.get("/readyz")).status_code == 200
            engine.gate.set()
            assert [response.status_code for response in await asyncio.gather(*busy)] == [200] * 3
            assert (await second_look(client, other)).status_code == 200

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


def test_an_engine_failure_is_500_and_the_server_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        response = await first_look(client, "broken")
        assert_error(response, 500, "engine_failed")
        assert "secret" not in response.text
        assert "secret detail" in caplog.text
        assert (await first_look(client, "sure")).status_code == 200

    served(scenario)


def test_no_memory_for_a_question_is_503_and_the_server_goes_on() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        response = await first_look(client, "crowded")
        assert_error(response, 503, "out_of_memory", "no memory for this question")
        assert int(response.headers["retry-after"]) >= 1
        assert (await first_look(client, "sure")).status_code == 200

    served(scenario)


def test_an_engine_failure_in_the_second_look_leaves_the_session_waiting() -> None:
    engine = FakeEngine()

    async def scenario(client: httpx.AsyncClient) -> None:
        name = await session(client)
        engine.break_second = True
        assert_error(await second_look(client, name), 500, "engine_failed")
        engine.break_second = False
        assert (await second_look(client, name)).status_code == 200

    served(scenario, engine)


def test_a_shutdown_finishes_what_was_accepted_and_refuses_the_rest() -> None:
    engine = FakeEngine()

    async def scenario() -> None:
        app = create_app(engine)
        async with serving(app) as client:
            name = await session(client)
            await entered(engine)
            engine.gate.clear()
            accepted = asyncio.create_task(first_look(client, "sure"))
            await entered(engine)
            app.state.service.begin_shutdown()
            for response in (
                await first_look(client),
                await client.get("/v1/model"),
                await client.get("/readyz"),
            ):
                assert_error(response, 503, "shutting_down")
                assert int(response.headers["retry-after"]) >= 1
            assert (await client.get("/healthz")).status_code == 200
            promised = asyncio.create_task(second_look(client, name))
            engine.gate.set()
            assert (await accepted).status_code == 200
            assert (await promised).json()["decision"] == "took_second"

    asyncio.run(scenario())


def test_while_the_model_is_loaded_only_the_probe_of_life_answers() -> None:
    go = threading.Event()

    def load() -> FakeEngine:
        assert go.wait(SECONDS)
        return FakeEngine()

    async def scenario() -> None:
        app = create_loading_app(load)
        async with serving(app) as client:
            assert (await client.get("/healthz")).status_code == 200
            for response in (
                await client.get("/readyz"),
                await client.get("/v1/model"),
                await first_look(client),
            ):
                assert_error(response, 503, "model_not_ready", "being loaded")
                assert "retry-after" in response.headers
            go.set()
            await asyncio.wrap_future(app.state.service.loaded)
            assert (await client.get("/readyz")).status_code == 200
            assert (await first_look(client)).status_code == 200

    asyncio.run(scenario())


def test_a_model_that_cannot_be_loaded_never_becomes_ready() -> None:
    def load() -> FakeEngine:
        raise ModelNotFoundError("no folder here")

    async def scenario() -> None:
        app = create_loading_app(load)
        async with serving(app) as client:
            with pytest.raises(ModelNotFoundError):
                await asyncio.wrap_future(app.state.service.loaded)
            assert_error(await client.get("/readyz"), 503, "model_not_ready", "could not be loaded")

    asyncio.run(scenario())


def test_a_client_that_goes_away_harms_nobody() -> None:
    engine = FakeEngine()

    async def scenario(client: httpx.AsyncClient) -> None:
        name = await session(client)
        await entered(engine)
        engine.gate.clear()
        leaving = asyncio.create_task(second_look(client, name))
        await entered(engine)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        engine.gate.set()
        assert (await first_look(client, "sure")).status_code == 200
        assert (await second_look(client, name)).status_code == 200

    served(scenario, engine)


def test_of_a_first_look_that_failed_nothing_but_the_error_stays() -> None:
    first, stands = Future[Any](), Future[Any]()
    try:
        raise EngineFailedError("the model failed")
    except EngineFailedError as error:
        first.set_exception(error)
    without_second(stands, first)
    left = stands.exception(0)
    assert isinstance(left, EngineFailedError)
    assert str(left) == "the model failed"
    assert left.__traceback__ is None  # it would hold pictures and claims
