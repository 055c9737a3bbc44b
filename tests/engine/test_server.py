from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from engine.fake_engine import REGION, SIDE, FakeEngine, jpeg
from engine.serving_harness import (
    SECONDS,
    SPOKEN,
    assert_error,
    first_look,
    image_part,
    listening,
    second_look,
    served,
    session,
)
from secondlook.edge.errors import SettingsError
from secondlook.edge.wire import PROTOCOL, AnswerReply, Limits, ModelCard
from secondlook.engine.serve.app import AddressError, create_app, listen
from secondlook.engine.serve.requests import shown_address
from secondlook.engine.serve.settings import ServerSettings, SessionLimits


def test_a_sure_answer_is_final() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        response = await first_look(client, "sure")
        assert response.status_code == 200
        reply = AnswerReply.model_validate_json(response.content)
        assert (reply.status, reply.decision) == ("final", "sure")
        assert reply.answer == reply.first
        assert reply.answer.text == "first to sure"
        assert (reply.region, reply.session, reply.second) == (None, None, None)
        assert reply.seconds.encode == 0.25
        assert reply.seconds.decode_image > 0

    served(scenario)


def test_an_unsure_answer_asks_for_its_region_and_the_local_image_makes_it_final() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        reply = AnswerReply.model_validate_json((await first_look(client)).content)
        assert (reply.status, reply.decision) == ("region", "unsure")
        assert reply.answer == reply.first
        assert reply.region is not None
        box = reply.region
        assert (box.left, box.top, box.right, box.bottom) == REGION.as_tuple()
        assert reply.session is not None
        assert reply.session.expires_in == SessionLimits().seconds
        final = AnswerReply.model_validate_json((await second_look(client, reply.session.id)).content)
        assert (final.status, final.decision) == ("final", "took_second")
        assert final.answer == final.second
        assert final.answer.text == "second to unsure"
        assert (final.first, final.region, final.session) == (reply.first, reply.region, None)
        assert final.seconds.decode == 0.5

    served(scenario)


def test_options_reach_the_engine() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        response = await first_look(client, options='{"second_look": "never", "max_new_tokens": 3}')
        assert AnswerReply.model_validate_json(response.content).status == "final"

    served(scenario)


def test_only_the_inference_thread_calls_the_engine() -> None:
    engine = FakeEngine()

    async def scenario(client: httpx.AsyncClient) -> None:
        names = await asyncio.gather(*(session(client, f"question {number}") for number in range(5)))
        replies = await asyncio.gather(*(second_look(client, name) for name in names))
        texts = [reply.json()["answer"]["text"] for reply in replies]
        assert texts == [f"second to question {number}" for number in range(5)]

    served(scenario, engine)
    assert engine.threads == {"secondlook-inference"}


def test_the_engine_is_told_what_a_local_image_had() -> None:
    engine = FakeEngine()

    async def scenario(client: httpx.AsyncClient) -> None:
        name = await session(client)
        assert (await second_look(client, name)).status_code == 200

    served(scenario, engine)
    assert engine.local_bytes == [len(jpeg(32, 21))]


@pytest.mark.parametrize("spoken", ["1.0", "3.4", "nonsense"])
def test_a_client_of_another_version_is_told_so_in_one_line(spoken: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        client.headers["secondlook-protocol"] = spoken
        for reply in (await client.get("/v1/model"), await first_look(client)):
            assert_error(reply, 400, "incompatible_protocol", f"speaks protocol {spoken}")
        newer = PROTOCOL.partition(".")[0] + ".99"
        client.headers["secondlook-protocol"] = newer
        assert (await first_look(client, "sure")).status_code == 200
        described = (await client.get("/openapi.json")).json()["paths"]["/v1/model"]["get"]["parameters"]
        assert [bool(re.search(described[0]["schema"]["pattern"], one)) for one in (spoken, newer)] == [0, 1]

    served(scenario)


def test_a_client_that_says_no_version_is_told_which_header_to_send() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        del client.headers["secondlook-protocol"]
        told = f"send the header secondlook-protocol: {PROTOCOL}"
        for reply in (
            await client.get("/v1/model"),
            await first_look(client),
            await client.post("/v1/answers", content=b"not read"),
            await second_look(client, "any"),
            await client.delete("/v1/answers/any"),
        ):
            assert_error(reply, 400, "incompatible_protocol", told)
        assert (await client.get("/readyz")).status_code == 200

    served(scenario)


def test_relevance_travels_with_the_first_look_when_asked_for() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        plain = AnswerReply.model_validate_json((await first_look(client, "sure")).content)
        asked = await first_look(client, "sure", options='{"relevance": true}')
        relevance = AnswerReply.model_validate_json(asked.content).relevance
        assert plain.relevance is None
        assert relevance is not None
        assert relevance.rows() == [[128, 255], [0, 128]]

    served(scenario)


def test_the_model_card_the_probes_and_the_documentation() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        card = ModelCard.model_validate_json((await client.get("/v1/model")).content)
        assert card.model_copy(update={"limits": None, "version": ""}) == FakeEngine().card
        assert card.limits == Limits(
            max_body_bytes=8 * 32 * 32 + 4 * 2000 + 2 * 65536,  # of a picture, a question, and the rest
            max_question_characters=2000,
            max_new_tokens=512,
            max_original_pixels=1_000_000_000,
        )
        assert card.protocol == PROTOCOL
        assert (await client.get("/healthz")).json() == {"status": "alive"}
        assert (await client.get("/readyz")).json() == {"status": "ready"}
        schema = (await client.get("/openapi.json")).json()
        assert set(schema["paths"]) == {
            "/v1/model",
            "/v1/answers",
            "/v1/answers/{session_id}/local",
            "/v1/answers/{session_id}",
            "/v1/chat/completions",
            "/v1/models",
            "/v1/models/{name}",
            "/healthz",
            "/readyz",
            "/health",
            "/version",
            "/metrics",
        }
        documented = schema["paths"]["/v1/answers/{session_id}/local"]["post"]["responses"]
        errors = {"400", "404", "408", "409", "410", "413", "415", "422", "429"}
        errors |= {"500", "502", "503", "504"}
        assert set(documented) == errors | {"200"}
        for status, described in documented.items():
            wanted = "AnswerReply" if status == "200" else "ErrorReply"
            assert described["content"]["application/json"]["schema"]["$ref"].endswith(wanted)
        for name in ("first_look_v1_answers_post", "second_look_v1_answers__session_id__local_post"):
            fields = schema["components"]["schemas"][f"Body_{name}"]
            image = fields["properties"]["image"]
            assert "image" in fields["required"]
            assert (image["contentMediaType"], image["minLength"]) == ("image/jpeg", 1)
            assert fields["properties"].get("question", {"minLength": 1})["minLength"] == 1
        content = schema["paths"]["/v1/answers"]["post"]["requestBody"]["content"]["multipart/form-data"]
        assert content["encoding"]["image"]["contentType"] == "image/jpeg"
        model = schema["paths"]["/v1/model"]["get"]
        assert set(model["responses"]) == {"200", "400", "503"}
        giving_up = schema["paths"]["/v1/answers/{session_id}"]["delete"]
        assert set(giving_up["responses"]) == {"200", "400", "404", "409", "422", "500", "502", "503", "504"}
        for operation in (model, giving_up):
            assert operation["parameters"][-1]["name"] == "secondlook-protocol"
            assert operation["responses"]["400"]["content"]["application/json"]["schema"]["$ref"].endswith(
                "ErrorReply"
            )
        for example in documented["200"]["content"]["application/json"]["examples"].values():
            AnswerReply.model_validate(example["value"])

    served(scenario)


@pytest.mark.parametrize("root", ["", "/eyes"])
def test_the_documentation_needs_no_internet(root: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        page = (await client.get(f"{root}/docs")).text
        links = re.findall(r"(?:src|href|url)[=:] ?[\"']([^\"']+)[\"']", page)
        assert len(links) == 4
        for link in links:
            assert link.startswith(f"{root}/")
            response = await client.get(link)
            assert (response.status_code, len(response.content) > 1000) == (200, True)

    served(scenario, settings=ServerSettings(root_path=root))


@pytest.mark.parametrize(
    "path",
    [
        "/healthz",
        "/readyz",
        "/docs",
        "/openapi.json",
        "/v1/model",
        "/docs/swagger-ui.css",
        "/docs/favicon.png",
    ],
)
def test_the_head_of_all_that_can_be_got_is_told(path: str) -> None:
    with listening(create_app(FakeEngine())) as url:
        head, whole = (httpx.request(how, url + path, headers=SPOKEN) for how in ("HEAD", "GET"))
    assert (head.status_code, head.content) == (200, b"")
    kept = ("content-type", "content-length")
    assert [head.headers[name] for name in kept] == [whole.headers[name] for name in kept]


@pytest.mark.parametrize("root", ["eyes", "/eyes/", "/a?b"])
def test_an_impossible_root_path_is_refused(root: str) -> None:
    with pytest.raises(SettingsError, match="root_path"):
        ServerSettings(root_path=root)


def test_addresses_are_shown_with_brackets_where_they_have_colons() -> None:
    assert shown_address("::", 8001) == "[::]:8001"
    assert shown_address("127.0.0.1", 80) == "127.0.0.1:80"
    with pytest.raises(AddressError, match=r"cannot listen on \[2001:db8::1\]:80:"):
        listen("2001:db8::1", 80)


# Bad input


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "empty"),
        (b"GIF89a not a picture", "not a picture"),
        (jpeg()[:-200], "truncated"),
        (b"\x89PNG\r\n\x1a\n", "not a picture"),
    ],
)
def test_what_is_not_a_whole_jpeg_is_refused(data: bytes, text: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert_error(await first_look(client, files=image_part(data)), 422, "not_a_picture", text)
        assert (await first_look(client)).status_code == 200

    served(scenario)


def test_a_decompression_bomb_is_refused() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        response = await first_look(client, files=image_part(jpeg(1500, 1500)))
        assert_error(response, 422, "picture_too_large", "1500x1500")

    served(scenario)


@pytest.mark.parametrize(
    ("fields", "name", "text"),
    [
        ({"question": ""}, "empty_question", "question"),
        ({"question": " \n"}, "empty_question", "empty"),
        ({"question": "a" * 2001}, "question_too_long", "2001"),
        ({"question": "endless"}, "question_too_long", "context"),
        ({"width": 0}, "invalid_field", "width"),
        ({"height": -1}, "invalid_field", "height"),
        ({"width": "wide"}, "invalid_field", "width"),
        ({"width": 10**6, "height": 10**6}, "picture_mismatch", "1000000x1000000"),
        (
            {"files": image_part(jpeg(SIDE, SIDE + 1))},
            "picture_mismatch",
            "32x33 pixels, but of 400x300 pixels at most 32x32",
        ),
        ({"options": "{"}, "invalid_field", "options"),
        ({"options": '{"threshold": -1}'}, "invalid_field", "options.threshold"),
        ({"options": '{"thresold": 1}'}, "invalid_field", "options.thresold"),
        ({"options": '{"max_new_tokens": 1000000}'}, "invalid_options", "1000000"),
        ({"files": {"picture": ("a.jpg", jpeg(), "image/jpeg")}}, "invalid_field", "image"),
    ],
)
def test_impossible_fields_are_refused(fields: dict[str, Any], name: str, text: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert_error(await first_look(client, **fields), 422, name, text)

    served(scenario)


@pytest.mark.parametrize(
    "request_",
    [
        {"json": {"question": "why?"}},
        {"data": {"question": "why?"}},
        {"content": jpeg(), "headers": {"content-type": "image/jpeg"}},
        {"content": jpeg()},
    ],
)
def test_a_body_that_is_not_multipart_is_refused(request_: dict[str, Any]) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        for path in ("/v1/answers", "/v1/answers/x/local"):
            response = await client.post(path, **request_)
            assert_error(response, 415, "unsupported_content_type", "multipart/form-data")

    served(scenario)


def test_an_image_of_another_content_type_is_refused() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        response = await first_look(client, files=image_part(kind="image/png"))
        assert_error(response, 415, "unsupported_content_type", "'image/png'; send image/jpeg")
        assert (await first_look(client, files=image_part(kind="Image/JPEG; q=1"))).status_code == 200

    served(scenario)


@pytest.mark.parametrize("declared", [None, "100", "4000"])
def test_a_large_body_is_refused_without_reading_it_all(declared: str | None) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        while sent < 100:
            sent += 1
            yield bytes(100)

    async def scenario(client: httpx.AsyncClient) -> None:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        if declared is not None:
            headers["content-length"] = declared
        response = await client.post("/v1/answers", content=body(), headers=headers)
        assert_error(response, 413, "body_too_large", "1000 bytes")
        assert sent <= 11
        assert (await client.get("/healthz")).status_code == 200

    served(scenario, settings=ServerSettings(max_body_bytes=1000))


def test_unknown_paths_and_methods_are_refused_in_the_same_shape() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert_error(await client.get("/v2/answers"), 404, "not_found")
        response = await client.get("/v1/answers")
        assert_error(response, 405, "method_not_allowed")
        assert response.headers["allow"] == "POST"

    served(scenario)


def test_a_large_body_over_a_real_connection_is_refused_and_the_connection_survives() -> None:
    def body() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(64):
            yield bytes(4096)

    app = create_app(FakeEngine(), ServerSettings(max_body_bytes=10_000))
    with listening(app) as url, httpx.Client(base_url=url, timeout=SECONDS, headers=SPOKEN) as client:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        assert_error(client.post("/v1/answers", content=body(), headers=headers), 413, "body_too_large")
        assert client.get("/healthz").status_code == 200


def test_a_connection_lost_in_the_middle_of_a_body_harms_nobody() -> None:
    with listening(create_app(FakeEngine())) as url:
        address = httpx.URL(url)
        with socket.create_connection((address.host, address.port or 0), timeout=SECONDS) as connection:
            connection.sendall(
                b"POST /v1/answers HTTP/1.1\r\nHost: x\r\nsecondlook-protocol: 2.0\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n"
                b"Content-Length: 5000\r\n\r\n--x\r\n"
            )
        with httpx.Client(base_url=url, timeout=SECONDS, headers=SPOKEN) as client:
            form = {"question": "sure", "width": "400", "height": "300", "options": json.dumps({})}
            response = client.post("/v1/answers", data=form, files=image_part())
            assert response.json()["status"] == "final"
