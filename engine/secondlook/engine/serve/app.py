"""The application: routes, errors and the inference thread's life put together, and run until a signal."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from secondlook.edge.errors import SecondLookError
from secondlook.edge.wire import PROTOCOL
from secondlook.engine.serve.errors import add_error_handlers
from secondlook.engine.serve.protocol import TwoLookEngine
from secondlook.engine.serve.routes import answers, watching
from secondlook.engine.serve.service import TwoLookService
from secondlook.engine.serve.settings import ServerSettings

__all__ = ["AddressError", "address_url", "create_app", "create_loading_app", "listen", "serve"]


_GRACE_SECONDS = 30
"""How long questions in progress may keep a server that was told to stop."""

_DESCRIPTION = """\
Ask about a picture by sending little of it. The first look takes the whole picture at the model's own small
size. Where the model is unsure, the reply names the region of the original that it wants to see, and the
second look takes that. Every error has the same body, an `ErrorReply`.
"""


def create_app(engine: TwoLookEngine, settings: ServerSettings | None = None) -> FastAPI:
    """An application that serves `engine`, ready as soon as its lifespan has begun.

    The lifespan starts the inference thread, the only one that calls `engine`, and ends it after the
    questions it has. `app.state.service` is the TwoLookService behind it.
    """
    return _create(lambda: engine, settings, wait=True)


def create_loading_app(load: Callable[[], TwoLookEngine], settings: ServerSettings | None = None) -> FastAPI:
    """An application that answers probes at once and questions when `load`, called on the inference thread,
    is done.

    Until then `/readyz` and `/v1` answer 503. `app.state.service.loaded` is the future of the loading.
    """
    return _create(load, settings, wait=False)


def _create(load: Callable[[], TwoLookEngine], settings: ServerSettings | None, wait: bool) -> FastAPI:
    service = TwoLookService(load, settings or ServerSettings())

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.start()
        if wait:
            await asyncio.wrap_future(service.loaded)
        purging = asyncio.create_task(service.purge_regularly())
        try:
            yield
        finally:
            purging.cancel()
            await service.stop()

    app = FastAPI(
        title="secondlook",
        summary="Two-look inference for vision-language models",
        description=_DESCRIPTION,
        version=PROTOCOL,
        lifespan=lifespan,
    )
    app.state.service = service
    app.include_router(answers)
    app.include_router(watching)
    add_error_handlers(app)
    return app


class AddressError(SecondLookError):
    """The server cannot listen on the given address."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        AddressError: the name is unknown, the port is taken or out of range, or listening on it is not
            allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise AddressError(f"cannot listen on {host}:{port}: {error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Now, not when the loop runs: a second server on this port must fail before it loads its model.
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise AddressError(f"cannot listen on {host}:{port}: {why}; choose another host or port") from error
    return listener


def address_url(listener: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    load: Callable[[], TwoLookEngine],
    settings: ServerSettings,
    listener: socket.socket,
    on_ready: Callable[[TwoLookService], None],
) -> None:
    """Answer on `listener` until SIGINT or SIGTERM; questions in progress are finished first.

    `on_ready` is called, on another thread, when the model is loaded. Call this on the main thread.

    Raises:
        KeyboardInterrupt: after SIGINT, once everything has ended.
        SecondLookError: whatever `load` raised.
    """
    app = create_loading_app(load, settings)
    service: TwoLookService = app.state.service
    # Logging is the caller's: no configuration of uvicorn's own.
    config = uvicorn.Config(
        app,
        log_config=None,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        proxy_headers=bool(settings.forwarded_allow_ips),  # uvicorn would believe whoever is on this machine
        forwarded_allow_ips=list(settings.forwarded_allow_ips),
    )
    server = _Server(config, service)

    def on_loaded(loaded: Future[TwoLookEngine]) -> None:
        if loaded.exception() is None:
            on_ready(service)
        else:
            server.should_exit = True

    service.loaded.add_done_callback(on_loaded)
    server.run(sockets=[listener])
    if service.loaded.done():
        service.loaded.result()


class _Server(uvicorn.Server):
    """Refuses new questions from the moment of the signal, also on connections that are still open."""

    def __init__(self, config: uvicorn.Config, service: TwoLookService) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.begin_shutdown()
        super().handle_exit(sig, frame)
