"""Who may ask a server: keys, what belongs to them, their limits, and pages of other origins."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from engine.chats import ZOOM_TOOL, body, image_part, sign, user
from engine.fake_engine import FakeEngine, jpeg
from engine.serving_harness import (
    SECONDS,
    SPOKEN,
    assert_error,
    entered,
    first_look,
    listening,
    second_look,
    served,
    serving,
    session,
    visitor,
)
from engine.streaming import opened, send, shown, site
from engine.test_keys import line, written
from secondlook.edge.client import EdgeClient
from secondlook.edge.errors import RequestRefusedError, SettingsError
from secondlook.edge.retry import ClientSettings
from secondlook.engine import Engine, load_model
from secondlook.engine.serve.app import GracefulServer, address_url, create_app, listen
from secondlook.engine.serve.connections import ConnectionConfig
from secondlook.engine.serve.settings import KeyLimits, ServerSettings

ORIGIN = "https://page.example"


def settings(folder: Path, *lines: str, **chosen: Any) -> ServerSettings:
    path = written(folder / "keys", *(lines or (line("ann", "a"), line("bob", "b"))))
    return ServerSettings(api_key_file=path, **chosen)


@asynccontextmanager
async def asking(app: Any, *secrets: str) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Clients of one address, with keys."""
    async with app.router.lifespan_context(app):
        clients = [visitor(app) for _ in secrets]
        for client, secret in zip(clients, secrets, strict=True):
            client.headers["authorization"] = f"Bearer {secret}"
        yield clients
        for client in clients:
            await client.aclose()


def run(scenario: Any) -> None:
    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer c", "Bearer A", "Basic a", "a", "Bearer a b"]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/model"), ("POST", "/v1/answers"), ("DELETE", "/v1/answers/x"), ("GET", "/nothing")],
)
def test_who_has_no_key_is_asked_for_one(tmp_path: Path, header: str | None, method: str, path: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        headers = {} if header is None else {"authorization": header}
        reply = await client.request(method, path, headers=headers)
        assert_error(reply, 401, "unauthorized", "Authorization: Bearer KEY")
        assert reply.headers["www-authenticate"] == "Bearer"
        assert reply.headers["x-request-id"]

    served(scenario, settings=settings(tmp_path))


def test_a_client_of_openais_is_told_in_its_own_words(tmp_path: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        reply = await client.post("/v1/chat/completions", json={})
        assert (reply.status_code, reply.json()["error"]["code"]) == (401, "unauthorized")
        assert reply.headers["www-authenticate"] == "Bearer"
        known = await client.get("/v1/models", headers={"authorization": "Bearer a"})
        assert known.status_code == 200

    served(scenario, settings=settings(tmp_path))


@pytest.mark.parametrize("root", ["", "/eyes"])
def test_probes_and_documents_need_no_key(tmp_path: Path, root: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        for before in {"", root}:
            for path in ("/healthz", "/readyz", "/docs", "/docs/swagger-ui.css", "/openapi.json"):
                assert (await client.get(f"{before}{path}")).status_code == 200
            for path in ("/v1/model", "/docsv1", "/healthz/../v1/model", "/docs/../v1/model"):
                told = await client.get(f"{before}{path}")
                assert told.status_code in (401, 404), path
                assert "global_view" not in told.text
        assert (await client.get(f"{root}/v1/model")).status_code == 401
        described = (await client.get("/openapi.json")).json()
        assert described["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
        paths = described["paths"]
        for path in ("/healthz", "/readyz"):
            assert "security" not in paths[path]["get"]
            assert "401" not in paths[path]["get"]["responses"]
        assert "401" in paths["/v1/answers"]["post"]["responses"]
        assert paths["/v1/answers"]["post"]["security"] == [{"HTTPBearer": []}]

    served(scenario, settings=settings(tmp_path, root_path=root))


def test_the_scheme_is_of_any_case_and_both_keys_of_a_name_are_one_client(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = create_app(FakeEngine(), settings(tmp_path, line("ann", "old"), line("ann", "new")))
        async with asking(app, "old", "new") as (old, new):
            new.headers["authorization"] = "bEARER  new"
            name = await session(old)
            assert (await second_look(new, name)).json()["decision"] == "took_second"

    run(scenario)


def test_a_session_is_its_keys(tmp_path: Path) -> None:
    async def scenario() -> None:
        engine = FakeEngine()
        app = create_app(engine, settings(tmp_path))
        async with asking(app, "a", "b") as (ann, bob):
            waits, answered = await session(ann), await session(ann)
            assert (await second_look(ann, answered)).status_code == 200
            for name in (waits, answered):
                unknown = await bob.delete("/v1/answers/never")
                assert_error(unknown, 404, "unknown_session")
                for reply in (await second_look(bob, name), await bob.delete(f"/v1/answers/{name}")):
                    assert_error(reply, 404, "unknown_session")
                    assert reply.json() == unknown.json()
            assert (await second_look(ann, waits)).json()["decision"] == "took_second"
            assert engine.clients == ["key:ann"] * 2

    run(scenario)


def test_a_stream_is_its_keys_and_clients_share_streams(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = site(FakeEngine(), server=settings(tmp_path), max_streams=4)
        async with asking(app, "a", "b") as (ann, bob):
            name = await opened(ann)
            assert_error(await send(bob, name, 0), 404, "unknown_stream")
            assert_error(await bob.get(f"/v1/streams/{name}/events"), 404, "unknown_stream")
            assert_error(await bob.delete(f"/v1/streams/{name}"), 404, "unknown_stream")
            assert (await shown(ann, name, 0)).status == "answered"
            await opened(ann)
            refused = await ann.post("/v1/streams", json={"question": "more"})
            assert_error(refused, 429, "too_many_streams", "2 of this client's")
            await opened(bob)
            assert (await ann.delete(f"/v1/streams/{name}")).json()["frames"] == 1

    run(scenario)


def test_the_question_of_a_stream_is_checked_in_its_turn(tmp_path: Path) -> None:
    async def scenario() -> None:
        engine = FakeEngine()
        app = site(engine, server=ServerSettings(queue_size=1))
        async with serving(app) as client:
            engine.gate.clear()
            asked = asyncio.create_task(first_look(client, "sure"))
            await entered(engine)
            refused = await client.post("/v1/streams", json={"question": "more"})
            assert_error(refused, 429, "queue_full", "from this client")
            engine.gate.set()
            assert (await asked).status_code == 200
            await opened(client)

    run(scenario)


def test_a_keys_limits_are_told_with_when_to_come_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        engine = FakeEngine()
        limits = KeyLimits(looks_per_minute=2)
        lines = (line("ann", "a"), line("bob", "b", ":concurrent=1,looks=100"), line("cy", "c", ":bytes=1K"))
        app = create_app(engine, settings(tmp_path, *lines, key_limits=limits))
        async with asking(app, "a", "b", "c") as (ann, bob, cy):
            for _ in range(2):
                assert (await first_look(ann, "sure")).status_code == 200
            refused = await first_look(ann, "sure")
            assert_error(refused, 429, "rate_limited", "'ann' has used its 2 looks a minute")
            assert 1 <= int(refused.headers["retry-after"]) <= 30
            assert (await ann.get("/v1/model")).status_code == 200, "this is no look"

            engine.gate.clear()
            going = asyncio.create_task(first_look(bob, "sure"))
            await entered(engine, 3)
            assert_error(await first_look(bob, "sure"), 429, "rate_limited", "1 questions in progress")
            engine.gate.set()
            assert (await going).status_code == 200
            assert (await first_look(bob, "sure")).status_code == 200

            assert len(jpeg()) > 600
            statuses = [(await first_look(cy, "sure")).status_code for _ in range(3)]
            assert statuses[-1] == 429
            assert 200 in statuses

    run(scenario)


def test_a_page_of_a_named_origin_may_ask(tmp_path: Path) -> None:
    """As browsers do: first whether it may, without the key, then with it."""

    async def scenario(client: httpx.AsyncClient) -> None:
        wanted = "authorization, content-type, secondlook-protocol, x-request-id, x-session-id"
        asked = {"origin": ORIGIN, "access-control-request-method": "POST"}
        may = await client.options("/v1/answers", headers={**asked, "access-control-request-headers": wanted})
        assert may.status_code == 200
        assert may.headers["access-control-allow-origin"] == ORIGIN
        allowed = may.headers["access-control-allow-headers"].lower()
        assert all(name in allowed for name in wanted.split(", "))
        assert "POST" in may.headers["access-control-allow-methods"]
        for headers, status in (({}, 401), ({"authorization": "Bearer a"}, 200)):
            reply = await client.get("/v1/model", headers={"origin": ORIGIN, **headers})
            assert reply.status_code == status
            assert reply.headers["access-control-allow-origin"] == ORIGIN
            exposed = reply.headers["access-control-expose-headers"].lower()
            assert "retry-after" in exposed
            assert "x-request-id" in exposed
        other = await client.options("/v1/answers", headers={**asked, "origin": "https://other.example"})
        assert other.status_code == 400
        assert "access-control-allow-origin" not in other.headers

    served(scenario, settings=settings(tmp_path, cors_origins=("http://first.example", ORIGIN)))


def test_without_named_origins_no_page_of_another_may_ask() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert (
            "access-control-allow-origin"
            not in (await client.get("/v1/model", headers={"origin": ORIGIN})).headers
        )

    served(scenario)


@pytest.mark.parametrize(
    "origin", ["page.example", "https://page.example/", "https://a.example,https://b.example", ""]
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(SettingsError, match="--cors-origin"):
        ServerSettings(cors_origins=(origin,))


def test_an_edge_says_which_option_takes_the_key(tmp_path: Path) -> None:
    with listening(create_app(FakeEngine(), settings(tmp_path))) as url:
        with EdgeClient(url, settings=ClientSettings(api_key="a")) as client:
            assert client.ask(jpeg(400, 300), "sure").text == "first to sure"
        for wrong in (None, "c"):
            with (
                EdgeClient(url, settings=ClientSettings(api_key=wrong)) as client,
                pytest.raises(
                    RequestRefusedError, match=r"\(401\).*--api-key, or in SECONDLOOK_API_KEY"
                ) as refused,
            ):
                client.ask(jpeg(400, 300), "sure")
            assert refused.value.status == 401


def test_an_exchanged_key_counts_at_once(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    assert chosen.api_key_file is not None
    with (
        listening(create_app(FakeEngine(), chosen)) as url,
        httpx.Client(base_url=url, headers=SPOKEN) as client,
    ):

        def status(secret: str) -> int:
            return client.get("/v1/model", headers={"authorization": f"Bearer {secret}"}).status_code

        assert (status("a"), status("z")) == (200, 401)
        written(chosen.api_key_file, line("ann", "z"))
        assert (status("a"), status("z")) == (401, 200)


def test_a_second_port_tells_metrics_alone_and_without_a_key(tmp_path: Path) -> None:
    chosen = settings(tmp_path, root_path="/eyes")
    app = create_app(FakeEngine(), chosen)
    with listen("127.0.0.1", 0) as main, listen("127.0.0.1", 0) as second:
        server = GracefulServer(
            ConnectionConfig(app, chosen.connections), app.state.service, chosen.grace_seconds, second
        )
        thread = threading.Thread(target=lambda: server.run([main]))
        thread.start()
        try:
            with httpx.Client(headers=SPOKEN, timeout=SECONDS) as client:
                metrics, asked = address_url(second), address_url(main)
                assert "secondlook:build_info" in client.get(f"{metrics}/metrics").text
                for path in ("/healthz", "/v1/model", "/metrics/", "/eyes/v1/model", "/"):
                    assert client.get(f"{metrics}{path}").status_code == 404
                assert client.post(f"{metrics}/v1/answers").status_code == 404
                assert client.get(f"{asked}/metrics").status_code == 401
                keyed = {"authorization": "Bearer a"}
                assert client.get(f"{asked}/metrics", headers=keyed).status_code == 200
        finally:
            server.handle_exit(signal.SIGTERM, None)
            thread.join(SECONDS)
    assert not thread.is_alive()


def test_pictures_and_open_tool_calls_of_openais_clients_are_their_keys(tmp_path: Path) -> None:
    """On the embedded model: both looks, a picture named again, and a call that another key cannot answer."""
    drawn = sign()
    asked = user(drawn.question, image_part(drawn.jpeg, uuid="one"))
    named = user(drawn.question, image_part(None, uuid="one"))
    with listening(create_app(Engine(load_model("demo")), settings(tmp_path))) as url, ExitStack() as stack:

        def client(key: str) -> httpx.Client:
            headers = {"authorization": f"Bearer {key}"}
            return stack.enter_context(httpx.Client(base_url=url, timeout=SECONDS, headers=headers))

        def chat(of: httpx.Client, *messages: Any, **fields: Any) -> Any:
            return of.post("/v1/chat/completions", json=body(*messages, **fields)).json()

        ann, bob = client("a"), client("b")
        assert chat(ann, asked)["secondlook"]["decision"] == "took_second"
        assert chat(ann, named)["choices"][0]["message"]["content"] == drawn.answer
        unknown = chat(bob, named)
        assert "error" in unknown
        message = chat(ann, asked, tools=[ZOOM_TOOL])["choices"][0]["message"]
        [call] = message["tool_calls"]
        [left, top, right, bottom] = json.loads(call["function"]["arguments"])["bbox_2d"]
        with Image.open(io.BytesIO(drawn.jpeg)) as whole:
            scale = whole.width / 1000, whole.height / 1000
            box = (left * scale[0], top * scale[1], right * scale[0], bottom * scale[1])
            crop, out = whole.crop(tuple(map(round, box))), io.BytesIO()
            crop.save(out, "jpeg")
        came = {"role": "tool", "tool_call_id": call["id"], "content": [image_part(out.getvalue())]}
        told = (user(drawn.question, image_part(None, uuid="never sent")), message, came)
        assert chat(bob, *told, tools=[ZOOM_TOOL])["error"]["code"] == "expired_session"
        reply = chat(ann, *told, tools=[ZOOM_TOOL])
        assert reply["secondlook"]["decision"] == "took_second"
        assert reply["choices"][0]["message"]["content"] == drawn.answer
