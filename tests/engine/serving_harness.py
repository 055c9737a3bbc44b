"""What the tests of the server share: an application over fake engines, and what one asks of it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from engine.fake_engine import ORIGINAL, FakeEngine, jpeg
from secondlook.edge.wire import PROTOCOL, PROTOCOL_HEADER, AnswerReply, ErrorReply
from secondlook.engine.serve.app import address_url, create_app, listen
from secondlook.engine.serve.connections import ConnectionConfig
from secondlook.engine.serve.settings import ConnectionLimits, ServerSettings

SECONDS = 60
SPOKEN = {PROTOCOL_HEADER: PROTOCOL}
Scenario = Callable[[httpx.AsyncClient], Awaitable[None]]


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with app.router.lifespan_context(app), visitor(app) as client:
        yield client


def visitor(app: FastAPI, address: str = "127.0.0.1") -> httpx.AsyncClient:
    """A client of an application that is served already, with an address of its own."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(address, 123))
    return httpx.AsyncClient(transport=transport, base_url="http://server", timeout=SECONDS, headers=SPOKEN)


def served(
    scenario: Scenario, engine: FakeEngine | None = None, settings: ServerSettings | None = None
) -> None:
    async def main() -> None:
        async with serving(create_app(engine or FakeEngine(), settings)) as client:
            await asyncio.wait_for(scenario(client), SECONDS)

    asyncio.run(main())


def image_part(data: bytes | None = None, kind: str = "image/jpeg") -> dict[str, Any]:
    return {"image": ("global.jpg", jpeg() if data is None else data, kind)}


async def first_look(client: httpx.AsyncClient, question: str = "unsure", **fields: Any) -> httpx.Response:
    files = fields.pop("files", None) or image_part()
    form = {"question": question, "width": ORIGINAL.width, "height": ORIGINAL.height, **fields}
    return await client.post("/v1/answers", data=form, files=files)


async def second_look(client: httpx.AsyncClient, name: str, data: bytes | None = None) -> httpx.Response:
    return await client.post(f"/v1/answers/{name}/local", files=image_part(data or jpeg(32, 21)))


async def session(client: httpx.AsyncClient, question: str = "unsure") -> str:
    reply = AnswerReply.model_validate_json((await first_look(client, question)).content)
    assert reply.session is not None
    return reply.session.id


def assert_error(response: httpx.Response, status: int, name: str, text: str = "") -> None:
    assert response.status_code == status, response.text
    error = ErrorReply.model_validate_json(response.content)
    assert error.error == name
    assert text in error.message
    assert "\n" not in error.message
    assert "Traceback" not in error.message


async def entered(engine: FakeEngine, looks: int = 1) -> None:
    """Wait until that many looks have begun."""
    for _ in range(looks):
        assert await asyncio.to_thread(engine.entered.acquire, timeout=SECONDS)


async def queued(app: FastAPI, questions: int) -> None:
    """Wait, one turn of the loop after another, until that many questions wait for the engine."""
    while app.state.service.waiting < questions:
        await asyncio.sleep(0)


@contextmanager
def listening(
    app: FastAPI,
    limits: ConnectionLimits | None = None,
    tls: ssl.SSLContext | None = None,
    prefix: str = "",
) -> Iterator[str]:
    """The URL of a server, on a socket like the command's: one that was not opened as TCP's would hold each
    reply for 40 ms, as asyncio sets TCP_NODELAY by that."""
    started = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started.set()

    with listen("127.0.0.1", 0) as listener:
        server = Server(ConnectionConfig(app, limits or ConnectionLimits(), tls, prefix))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        assert started.wait(SECONDS)
        try:
            yield address_url(listener, tls is not None)
        finally:
            server.should_exit = True
            thread.join(SECONDS)
    assert not thread.is_alive()
