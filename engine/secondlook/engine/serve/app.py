"""The application: routes, errors and the inference thread's life put together, and run until a signal."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from types import FrameType
from typing import Any, Protocol, cast

import uvicorn
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from secondlook.edge.errors import SecondLookError
from secondlook.edge.wire import PROTOCOL
from secondlook.engine.serve.access import OnlyMetrics, guard, wants_key
from secondlook.engine.serve.connections import Connection, ConnectionConfig
from secondlook.engine.serve.errors import add_error_handlers
from secondlook.engine.serve.keys import KeyRing
from secondlook.engine.serve.metrics import Metrics
from secondlook.engine.serve.openai.chat import Chat
from secondlook.engine.serve.openai.routes import chats
from secondlook.engine.serve.page import add_page
from secondlook.engine.serve.protocol import TwoLookEngine
from secondlook.engine.serve.requests import REQUEST_ID_HEADER, EveryRequest, shown_address
from secondlook.engine.serve.routes import answers, documentation, watching
from secondlook.engine.serve.service import TwoLookService
from secondlook.engine.serve.settings import ServerSettings
from secondlook.engine.serve.tls import server_context
from secondlook.engine.serve.uploads import Bodies

__all__ = [
    "AddressError",
    "Extension",
    "GracefulServer",
    "Stoppable",
    "address_url",
    "create_app",
    "create_loading_app",
    "listen",
    "serve",
]


_BACKLOG = 128
"""Connections that the system keeps until they are accepted."""

_LAST_SECONDS = 1
"""How long requests may take to end that were told so."""

_log = logging.getLogger(__name__)

_DESCRIPTION = """\
Ask about a picture by sending little of it. The first look takes the whole picture at the model's own small
size. Where the model is unsure, the reply names the region of the original that it wants to see, and the
second look takes that. Every error has the same body, an `ErrorReply`.
"""


Extension = Callable[[FastAPI, TwoLookService], AbstractAsyncContextManager[None]]
"""Adds to an application what else it serves; what it returns lasts as long as the application serves."""


def create_app(
    engine: TwoLookEngine, settings: ServerSettings | None = None, extend: Extension | None = None
) -> FastAPI:
    """An application that serves `engine`, ready as soon as its lifespan has begun.

    The lifespan starts the inference thread, the only one that calls `engine`, and ends it after the
    questions it has. `app.state.service` is the TwoLookService behind it, `app.state.metrics` its Metrics.

    Raises:
        SettingsError: the keys cannot be read.
    """
    return _create(lambda: engine, settings, extend, wait=True)


def create_loading_app(
    load: Callable[[], TwoLookEngine],
    settings: ServerSettings | None = None,
    extend: Extension | None = None,
) -> FastAPI:
    """An application that answers probes at once and questions when `load`, called on the inference thread,
    is done.

    Until then `/readyz` and `/v1` answer 503. `app.state.service.loaded` is the future of the loading.

    Raises:
        SettingsError: the keys cannot be read.
    """
    return _create(load, settings, extend, wait=False)


def _create(
    load: Callable[[], TwoLookEngine], settings: ServerSettings | None, extend: Extension | None, wait: bool
) -> FastAPI:
    settings = settings or ServerSettings()
    keys = None if settings.api_key_file is None else KeyRing(settings.api_key_file, settings.key_limits)
    service = TwoLookService(load, settings)
    metrics = Metrics(service)
    service.observe(metrics)
    chat = Chat(service)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.start()
        if wait:
            await asyncio.wrap_future(service.loaded)
        purging = asyncio.create_task(service.purge_regularly(chat.pictures.purge))
        try:
            async with extension:
                yield
        finally:
            purging.cancel()
            await service.stop()
            if tracing is not None:
                await asyncio.to_thread(tracing.close)

    app = FastAPI(
        title="secondlook",
        summary="Two-look inference for vision-language models",
        description=_DESCRIPTION,
        version=PROTOCOL,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        **({} if keys is None else wants_key()),
    )
    app.state.service = service
    app.state.created = int(time.time())
    app.state.chat = chat
    app.state.metrics = metrics
    tracing = None
    if settings.otlp_endpoint is not None:
        from secondlook.engine.serve.tracing import Joining, Tracing, exporter_to  # an extra

        tracing = Tracing(exporter_to(settings.otlp_endpoint), service)
        service.observe(tracing)
        app.add_middleware(Joining)
    largest = max(settings.max_body_bytes, settings.chat.max_body_bytes)
    app.state.bodies = Bodies(max(settings.max_bodies_bytes, 2 * largest))
    app.include_router(answers)
    app.include_router(chats)
    app.include_router(watching)
    app.include_router(documentation)
    add_page(app)
    extension = nullcontext() if extend is None else extend(app, service)
    app.mount("/docs", StaticFiles(packages=[("fastapi_offline", "static")]))
    # The last is the outermost.
    if keys is not None:
        guard(app, keys)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("DELETE", "GET", "HEAD", "POST"),
            allow_headers=("*",),  # clients of OpenAI's send many; what counts here is the key
            expose_headers=("Retry-After", REQUEST_ID_HEADER),
        )
    app.add_middleware(EveryRequest, root_path=settings.root_path, on_response=metrics.responded)
    if settings.forwarded_allow_ips:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=list(settings.forwarded_allow_ips))
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
        raise AddressError(f"cannot listen on {shown_address(host, port)}: {error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Now, not when the loop runs: a second server on this port must fail before it loads its model.
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise AddressError(
            f"cannot listen on {shown_address(host, port)}: {why}; choose another host or port"
        ) from error
    return listener


def address_url(listener: socket.socket, tls: bool = False) -> str:
    """The URL of a listening socket."""
    return f"{'https' if tls else 'http'}://{shown_address(*listener.getsockname()[:2])}"


def serve(
    load: Callable[[], TwoLookEngine],
    settings: ServerSettings,
    listener: socket.socket,
    on_ready: Callable[[TwoLookService], None],
    extend: Extension | None = None,
    metrics: socket.socket | None = None,
) -> None:
    """Answer on `listener` until SIGINT or SIGTERM.

    Then new questions are refused, and those in progress finished; and while sessions are open, their second
    looks are answered, until `settings.grace_seconds` are over. A second signal ends all of it.

    `on_ready` is called, on another thread, when the model is loaded. On `metrics`, another listening socket,
    the application's metrics are told, and nothing else. Call this on the main thread.

    Raises:
        SettingsError: more connections than this process may open, or keys or certificates that cannot be
            used.
        KeyboardInterrupt: after SIGINT, once everything has ended.
        SecondLookError: whatever `load` raised.
    """
    tls = None if settings.tls is None else server_context(settings.tls)
    app = create_loading_app(load, settings, extend)
    service: TwoLookService = app.state.service
    config = ConnectionConfig(app, settings.connections, tls, prefix=settings.root_path)
    server = GracefulServer(config, service, settings.grace_seconds, metrics)

    def on_loaded(loaded: Future[TwoLookEngine]) -> None:
        if loaded.exception() is None:
            on_ready(service)
        else:
            server.should_exit = True

    service.loaded.add_done_callback(on_loaded)
    server.run(sockets=[listener])
    if service.loaded.done():
        service.loaded.result()


class Stoppable(Protocol):
    """What a server that is told to stop asks of what it serves."""

    @property
    def open_sessions(self) -> int:
        """How many second looks may still come."""
        ...

    def begin_shutdown(self, *, at_once: bool = False) -> None:
        """Take no more questions; with `at_once`, wait for none that was taken."""
        ...


class GracefulServer(uvicorn.Server):
    """Stays, after the first signal, for what was promised: answers in progress, and open sessions."""

    def __init__(
        self,
        config: ConnectionConfig,
        service: Stoppable,
        grace_seconds: float,
        metrics: socket.socket | None = None,
    ) -> None:
        super().__init__(config)
        self._metrics = metrics
        self._limits = config.limits
        self._notices = config.notices
        self._service, self._grace_seconds = service, grace_seconds
        self._stop_by: float | None = None
        self._told = False
        config.timeout_graceful_shutdown = _LAST_SECONDS

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(_BACKLOG)  # uvicorn's is also how many are accepted at once, which are few
        if self._metrics is not None:
            config = ConnectionConfig(OnlyMetrics(cast(ASGIApp, self.config.app)), self._limits)
            config.load()
            protocol: Any = config.http_protocol_class
            made = partial(
                protocol, config=config, server_state=self.server_state, app_state=self.lifespan.state
            )
            loop = asyncio.get_running_loop()
            self.servers.append(await loop.create_server(made, sock=self._metrics))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        second = self._stop_by is not None
        self._service.begin_shutdown(at_once=second)
        super().handle_exit(sig, frame)
        self.should_exit = self.force_exit = second
        if not second:
            self._stop_by = time.monotonic() + self._grace_seconds

    async def on_tick(self, counter: int) -> bool:
        if self._stop_by is not None and not self._told and self._service.open_sessions > 0:
            self._told = True
            _log.warning(
                "stopping; sessions open: %d; their second looks are answered for up to %g s, or until a "
                "second signal",
                self._service.open_sessions,
                self._grace_seconds,
            )
        if self._stop_by is not None and (time.monotonic() >= self._stop_by or not self._promised):
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:
            # Which uvicorn leaves to the end of the loop, and logs a traceback of it.
            await self.lifespan.shutdown()
        self._notices.tell_rest()

    @property
    def _promised(self) -> bool:
        answering = any(one.answering for one in self.server_state.connections if isinstance(one, Connection))
        return answering or self._service.open_sessions > 0
