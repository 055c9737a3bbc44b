"""What is checked of a request before and while its body arrives."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response, UploadFile
from fastapi.routing import APIRoute
from starlette.types import Message, Receive

from secondlook.engine.serve.errors import BodyTooLargeError, UnsupportedContentError

__all__ = ["UploadRoute", "read_jpeg_part"]


class UploadRoute(APIRoute):
    """A route that takes a multipart body no larger than the server's settings allow.

    The declared length is only a first check: bytes are counted while they arrive, and reading stops at the
    limit. A server without room for the question says so before it reads the body.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_checked(request: Request) -> Response:
            service = request.app.state.service
            _check_content_type("the request", request.headers.get("content-type"), "multipart/form-data")
            max_bytes = service.settings.max_body_bytes
            # A length that is no number is left to the counting.
            declared = request.headers.get("content-length", "")
            if declared.isdecimal() and int(declared) > max_bytes:
                raise BodyTooLargeError(max_bytes)
            service.check_room(second="session_id" in request.path_params)
            return await handle(Request(request.scope, _counted(request.receive, max_bytes)))

        return handle_checked


async def read_jpeg_part(part: UploadFile) -> bytes:
    """The bytes of an `image/jpeg` part.

    Raises:
        UnsupportedContentError: the part declares another content type, or none.
    """
    _check_content_type("the part `image`", part.content_type, "image/jpeg")
    return await part.read()


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
