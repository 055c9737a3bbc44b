"""Who may ask: an ASGI middleware that lets in whoever has a key, within its limits."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Final

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from secondlook.edge.errors import SecondLookError
from secondlook.edge.wire import ErrorReply
from secondlook.engine.serve.errors import describe, reply_to
from secondlook.engine.serve.keys import Asking, KeyRing, Meter

__all__ = ["ASKING", "CLIENT", "OPEN_FOLDERS", "OPEN_PATHS", "Access", "OnlyMetrics", "guard", "wants_key"]

OPEN_PATHS: Final = frozenset({"/", "/docs", "/health", "/healthz", "/openapi.json", "/readyz"})
"""What needs no key, for it tells nothing of anybody's and computes nothing."""

OPEN_FOLDERS: Final = ("/docs/", "/page/")
"""Nor does what is below these."""

_METRICS: Final = "/metrics"

CLIENT: Final = "secondlook.client"
"""Where a request's scope has the client's name, see `Key.client`."""


ASKING: Final = "secondlook.asking"
"""Where the scope of a request with a key and a body has its `Asking`."""


class Access:
    """Refuses who has no key (401), or has reached a limit of it (429).

    Each POST is a look, and its body counts while it arrives; whoever handles it tells what it takes besides.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing, meter: Meter) -> None:
        self._app = app
        self._keys = keys
        self._meter = meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or CLIENT in scope or _is_open(scope):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        with ExitStack() as stack:
            try:
                key = self._keys.find(_bearer(request))
                known = {**scope, CLIENT: key.client}
                if request.method == "POST":
                    known[ASKING] = asking = stack.enter_context(self._meter.asking(key))
                    receive = _counted(receive, asking)
            except SecondLookError as error:
                refusal = await reply_to(request, error)
                await refusal(scope, receive, send)
                return
            await self._app(known, receive, send)


class OnlyMetrics:
    """Of an application its metrics alone, and without a key: for a port that only their reader can reach."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == _METRICS:
            await self._app({**scope, CLIENT: "metrics"}, receive, send)
            return
        told = ErrorReply(error="not_found", message=f"this port has {_METRICS} and nothing else")
        await JSONResponse(told.model_dump(), 404)(scope, receive, send)


def wants_key() -> dict[str, Any]:
    """Arguments for a FastAPI that is to be guarded, for its documents: it is `Access` that refuses, before
    anything is read."""
    return {"dependencies": [Depends(HTTPBearer(auto_error=False))], "responses": describe(401)}


def guard(app: FastAPI, keys: KeyRing) -> None:
    """Let in who has a key; and have the documents of `app`, made with `wants_key`, say what needs none."""
    app.add_middleware(Access, keys=keys, meter=Meter())
    described = app.openapi

    def openapi() -> dict[str, Any]:
        schema = described()
        for path in OPEN_PATHS & schema["paths"].keys():
            for operation in schema["paths"][path].values():
                operation.pop("security", None)
                operation["responses"].pop("401", None)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI has it


def _is_open(scope: Scope) -> bool:
    path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)


def _bearer(request: Request) -> bytes | None:
    scheme, _, secret = request.headers.get("authorization", "").strip().partition(" ")
    return secret.strip().encode("latin-1") if scheme.lower() == "bearer" and secret.strip() else None


def _counted(receive: Receive, asking: Asking) -> Receive:
    async def receive_counted() -> Message:
        message = await receive()
        asking.arrived(len(message.get("body", b"")))
        return message

    return receive_counted
