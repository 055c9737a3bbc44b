"""Running the application on a socket until a signal ends it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import Future
from types import FrameType

import uvicorn

from secondlook.edge.errors import SecondLookError
from secondlook.engine.serve.app import create_loading_app
from secondlook.engine.serve.protocol import TwoLookEngine
from secondlook.engine.serve.service import TwoLookService
from secondlook.engine.serve.settings import ServerSettings

__all__ = ["AddressError", "listen", "serve"]

_GRACE_SECONDS = 30
"""How long questions in progress may keep a server that was told to stop."""


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
    config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=_GRACE_SECONDS)
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
