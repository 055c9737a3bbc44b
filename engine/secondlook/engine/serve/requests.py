"""What is done with every request, whatever it asks: its id, its path behind a proxy, its line in the log.

A request's id is the client's own `X-Request-Id`, or made here. The reply has it, and so has every line that
is logged while the request is handled: `request_id` is for whoever formats these.

Nothing secret is logged. A session's id is the right to use the session, so of long parts of a path only the
beginning is told; the query and the body are never.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["CLIENT_LEFT", "REQUEST_ID_HEADER", "EveryRequest", "request_id", "shown_address", "shown_path"]

REQUEST_ID_HEADER = "X-Request-Id"

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that is being handled; empty outside of requests."""

_log = logging.getLogger(__name__)

_TAKEN_ID = re.compile(rb"[A-Za-z0-9._:+/=@-]{1,128}")
"""What a client's id may be, as it is written into logs and headers."""

_LONG_PART = re.compile(r"([^/]{6})[^/]{20,}")
_LONGEST_PATH = 200
CLIENT_LEFT = 499
"""What proxies log for a request whose client did not wait for the reply."""


class EveryRequest:
    """ASGI middleware; the outermost but the one for unforeseen errors, and the one that believes proxies.

    Args:
        root_path: where a proxy serves `app`; the proxy may pass that part of the path on, or take it away.
        on_response: told the status of every reply.
    """

    def __init__(
        self, app: ASGIApp, root_path: str = "", on_response: Callable[[int], None] = lambda _status: None
    ) -> None:
        self._app = app
        self._on_response = on_response
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        named = _named(scope)
        # Not taken back: what went wrong may be logged outside of here, and every request has its own task.
        request_id.set(named)
        started, status = time.perf_counter(), CLIENT_LEFT

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                name = REQUEST_ID_HEADER.lower().encode()
                message = {**message, "headers": [*message.get("headers", ()), (name, named.encode())]}
            await send(message)

        try:
            await self._app(self._rooted(scope), receive, send_named)
        except Exception:
            status = 500
            raise
        finally:
            self._on_response(status)
            client = shown_address(*scope["client"]) if scope.get("client") else "-"
            path, seconds = shown_path(scope["path"]), time.perf_counter() - started
            _log.info("%s %s %s: %d in %.3f s", client, scope["method"], path, status, seconds)

    def _rooted(self, scope: Scope) -> Scope:
        if not self._root_path:
            return scope
        path, root = scope["path"], self._root_path
        passed_on = path == root or path.startswith(f"{root}/")
        return {**scope, "root_path": root, "path": path if passed_on else root + path}


def shown_address(host: str, port: int) -> str:
    """Host and port in one text; the colons of an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def shown_path(path: str) -> str:
    """A path for the log: in one line, and without what gives the right to something."""
    return _LONG_PART.sub(r"\1...", quote(path))[:_LONGEST_PATH]


def _named(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == REQUEST_ID_HEADER.lower().encode() and _TAKEN_ID.fullmatch(value):
            return bytes(value).decode("ascii")
    return secrets.token_hex(8)
