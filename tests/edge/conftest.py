"""A scripted server, and both clients to ask it; and servers on the loopback interface."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from edge.loopback import Handler
from edge.support import NOW, ScriptedServer
from secondlook.edge import AsyncEdgeClient, ClientSettings, EdgeAnswer, EdgeClient
from secondlook.edge.exchange import Surroundings

ADDRESS = "http://server:8000"
Ask = Callable[..., EdgeAnswer]


@pytest.fixture
def server() -> ScriptedServer:
    return ScriptedServer()


@pytest.fixture(params=["blocking", "asynchronous"])
def ask(request: pytest.FixtureRequest, server: ScriptedServer) -> Ask:
    """Asks one question with either client: `ask(picture, question, options, settings=…)`."""
    surroundings = Surroundings(clock=server.clock, now=lambda: NOW, jitter=lambda: 0.0)

    def blocking(
        *arguments: Any, settings: ClientSettings | None = None, address: str = ADDRESS, **named: Any
    ) -> EdgeAnswer:
        with EdgeClient(
            address,
            settings=settings,
            transport=httpx.MockTransport(server),
            sleep=server.slept.append,
            surroundings=surroundings,
        ) as client:
            return client.ask(*arguments, **named)

    def asynchronous(
        *arguments: Any, settings: ClientSettings | None = None, address: str = ADDRESS, **named: Any
    ) -> EdgeAnswer:
        async def sleep(seconds: float) -> None:
            server.slept.append(seconds)

        async def run() -> EdgeAnswer:
            async with AsyncEdgeClient(
                address,
                settings=settings,
                transport=httpx.MockTransport(server),
                sleep=sleep,
                surroundings=surroundings,
            ) as client:
                return await client.ask(*arguments, **named)

        return asyncio.run(run())

    return blocking if request.param == "blocking" else asynchronous


@pytest.fixture
def handler() -> type[Handler]:
    return type("FreshHandler", (Handler,), {"bodies": [], "drop": []})


@pytest.fixture
def address(handler: type[Handler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def closed_address() -> Iterator[str]:
    """An address where nobody listens; its port stays taken meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
