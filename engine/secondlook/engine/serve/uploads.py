"""What is checked of a request before and while its body arrives."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from fastapi import Request, Response, UploadFile
from fastapi.routing import APIRoute
from starlette.types import Message, Receive

from secondlook.edge.errors import ProtocolError
from secondlook.edge.wire import PROTOCOL, PROTOCOL_HEADER, check_protocol
from secondlook.engine.serve.errors import BodyTooLargeError, UnsupportedContentError

__all__ = ["UploadRoute", "VersionedRoute", "read_jpeg_part"]

Handler: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]

_HEADER: dict[str, Any] = {
    "name": PROTOCOL_HEADER,
    "in": "header",
    "required": True,
    "description": "The version of this interface that the client speaks; the same major number as here.",
    "schema": {"type": "string", "default": PROTOCOL},
}


class VersionedRoute(APIRoute):
    """A route for clients of this protocol's major version; others are refused before anything is read."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        options["openapi_extra"] = {"parameters": [_HEADER]}
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def handle_spoken(request: Request) -> Response:
            _check_client(request.headers.get(PROTOCOL_HEADER))
            return await self.handled(request, handle)

        return handle_spoken

    async def handled(self, request: Request, handle: Handler) -> Response:
        """What is done with a request of the right version."""
        return await handle(request)


class UploadRoute(VersionedRoute):
    """A route that takes a multipart body no larger than the server's settings allow.

    The declared length is only a first check: bytes are counted while they arrive, and reading stops at the
    limit. A server without room for the question says so before it reads the body.
    """

    async def handled(self, request: Request, handle: Handler) -> Response:
        service = request.app.state.service
        _check_content_type("the request", request.headers.get("content-type"), "multipart/form-data")
        max_bytes = service.settings.max_body_bytes
        # A length that is no number is left to the counting.
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > max_bytes:
            raise BodyTooLargeError(max_bytes)
        service.check_room(second="session_id" in request.path_params)
        return await handle(Request(request.scope, _counted(request.receive, max_bytes)))


async def read_jpeg_part(part: UploadFile) -> bytes:
    """The bytes of an `image/jpeg` part.

    Raises:
        UnsupportedContentError: the part declares another content type, or none.
    """
    _check_content_type("the part `image`", part.content_type, "image/jpeg")
    return await part.read()


def _check_client(spoken: str | None) -> None:
    """
    Raises:
        ProtocolError: the client speaks another major version, or says none, as those of version 1.
    """
    if spoken is None:
        raise ProtocolError(
            "the request does not say which protocol its client speaks, so that is taken for 1: send the "
            f"header {PROTOCOL_HEADER}: {PROTOCOL}, or install the server's version of secondlook on the edge"
        )
    check_protocol(spoken, "the client")


def _check_content_type(what: str, found: str | None, wanted: str) -> None:
    kind = (found or "").partition(";")[0].strip().lower()
    if kind != wanted:
        described = f"is {kind!r}" if kind else "has no content type"
        raise UnsupportedContentError(f"{what} {described}; send {wanted}")


def _counted(receive: Receive, max_bytes: int) -> Receive:
    received = 0

    async def receive_counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise BodyTooLargeError(max_bytes)
        return message

    return receive_counted
