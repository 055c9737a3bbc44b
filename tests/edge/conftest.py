"""Servers from a script, real and not, and what asks them: both clients, and both streams."""

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
from edge.site import QUESTION, STREAMS, Looped, Opened, Site, listening
from edge.support import NOW, ScriptedServer
from secondlook.edge import AsyncEdgeClient, ClientSettings, EdgeAnswer, EdgeClient, EdgeStream
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
def site() -> Iterator[Site]:
    with listening(Site()) as one:
        yield one


@pytest.fixture(params=STREAMS)
def opened(request: pytest.FixtureRequest, site: Site) -> Iterator[Opened]:
    """A stream of either kind to the site: `opened(deadline=…, ring=…)`."""
    made = []

    def make(question: str = QUESTION, **named: Any) -> EdgeStream | Looped:
        address = named.pop("address", site.address)
        made.append(STREAMS[request.param](address, question, **named))
        return made[-1]

    yield make
    for stream in made:
        stream.close()


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
