"""What is checked of a request before and while its body arrives."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Final, TypeAlias

from fastapi import Request, Response, UploadFile
from fastapi.routing import APIRoute
from pydantic import BeforeValidator
from starlette.types import Message, Receive, Scope

from secondlook.edge.errors import ProtocolError
from secondlook.edge.wire import PROTOCOL, PROTOCOL_HEADER, check_protocol
from secondlook.engine.serve.access import CLIENT
from secondlook.engine.serve.errors import (
    BodyTooLargeError,
    ClientLeftError,
    InvalidFieldError,
    TooManyBodiesError,
    UnsupportedContentError,
)

__all__ = [
    "Bodies",
    "Body",
    "FormText",
    "Handler",
    "UploadRoute",
    "VersionedRoute",
    "begin_upload",
    "check_each_once",
    "client_of",
    "counted_body",
    "jpeg_parts",
    "read_jpeg_part",
]

Handler: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]

_SPOKEN: Final = rf"^{PROTOCOL.partition('.')[0]}(\.[ -~]*)?$"
"""What `check_protocol` takes."""

_HEADER: dict[str, Any] = {
    "name": PROTOCOL_HEADER,
    "in": "header",
    "required": True,
    "description": "The version of this interface that the client speaks; the same major number as here.",
    "schema": {"type": "string", "default": PROTOCOL, "pattern": _SPOKEN},
}


def jpeg_parts(*names: str) -> dict[str, Any]:
    """What OpenAPI says of a form's parts that are JPEGs."""
    encoding = {name: {"contentType": "image/jpeg"} for name in names}
    return {"requestBody": {"content": {"multipart/form-data": {"encoding": encoding}}}}


class VersionedRoute(APIRoute):
    """A route for clients of this protocol's major version; others are refused before anything is read.

    Attributes:
        described: what OpenAPI says of such a route besides.
    """

    described: ClassVar[dict[str, Any]] = {}

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        options["openapi_extra"] = {"parameters": [_HEADER]} | self.described
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
    limit. A server without room for the question, or for its bytes, says so before it reads the body.

    Attributes:
        content: the type of its body.
    """

    described: ClassVar[dict[str, Any]] = jpeg_parts("image")
    content: ClassVar[str] = "multipart/form-data"

    def max_bytes(self, request: Request) -> int:
        """Of a body; raises where nothing is taken now."""
        most: int = request.app.state.service.max_body_bytes
        return most

    def check_room(self, request: Request) -> None:
        """Raise where there is no room for what is asked."""
        second = "session_id" in request.path_params
        request.app.state.service.check_room(client_of(request), second=second)

    async def handled(self, request: Request, handle: Handler) -> Response:
        max_bytes = begin_upload(request, self.content, lambda: self.max_bytes(request))
        self.check_room(request)
        with counted_body(request, max_bytes) as (_, receive):
            return await handle(Request(_undecoded(request.scope), receive))


def begin_upload(request: Request, content: str, max_bytes: Callable[[], int]) -> int:
    """The most bytes that a body may have, if its headers promise a body of that type that is no larger.

    Raises:
        UnsupportedContentError, BodyTooLargeError: they do not.
    """
    _check_content_type("the request", request.headers.get("content-type"), content)
    most = max_bytes()
    if _declared(request) > most:
        raise BodyTooLargeError(most)
    return most


@contextmanager
def counted_body(request: Request, max_bytes: int) -> Iterator[tuple[Body, Receive]]:
    """A body among the server's, and what receives it, counted while it arrives; that raises ClientLeftError
    where the rest does not.

    Raises:
        TooManyBodiesError: there is no room for what it declares.
    """
    bodies: Bodies = request.app.state.bodies
    with bodies.one_more(client_of(request)) as body:
        body.check(_declared(request))
        yield body, _counted(request.receive, max_bytes, body)


def _declared(request: Request) -> int:
    """A body's declared length; one that is no number is left to the counting."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isdecimal() else 0


class Bodies:
    """The bytes of all bodies that are arriving, or whose requests are being answered.

    Only what has arrived counts: a length that was declared takes no room from others.

    Args:
        most: bytes of all; of one client at most half.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: Counter[str] = Counter()

    @contextmanager
    def one_more(self, client: str) -> Iterator[Body]:
        """A body, which no longer counts in the end."""
        body = Body(self, client)
        try:
            yield body
        finally:
            self._held[client] -= body.nbytes
            if not self._held[client]:
                del self._held[client]

    def check(self, client: str, more: int) -> None:
        """
        Raises:
            TooManyBodiesError: so many bytes more would be too many.
        """
        if self._held[client] + more > self._most // 2:
            raise TooManyBodiesError("of this client", self._most // 2)
        if self._held.total() + more > self._most:
            raise TooManyBodiesError("of all clients", self._most)

    def take(self, client: str, more: int) -> None:
        """Count them, if `check` does not raise."""
        self.check(client, more)
        self._held[client] += more


class Body:
    """One of them; `nbytes` have arrived."""

    def __init__(self, bodies: Bodies, client: str) -> None:
        self._bodies = bodies
        self._client = client
        self.nbytes = 0

    def check(self, more: int) -> None:
        """See Bodies.check."""
        self._bodies.check(self._client, more)

    def take(self, more: int) -> None:
        """See Bodies.take."""
        self._bodies.take(self._client, more)
        self.nbytes += more


def client_of(request: Request) -> str:
    """Who asks: whose key it is, or without keys the address, as far as the server knows it
    (`ServerSettings.forwarded_allow_ips`)."""
    named: str | None = request.scope.get(CLIENT)
    if named is not None:
        return named
    return request.client.host if request.client is not None else ""


def _from_utf8(text: object) -> str:
    if not isinstance(text, str):
        raise ValueError("is a file, but should be text: send it without filename=")
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8: send it so") from error


FormText = Annotated[str, BeforeValidator(_from_utf8)]
"""The text of a form's part, of an `UploadRoute`'s."""

_CHARSET: Final = re.compile(rb";\s*charset\s*=\s*(\"[^\"]*\"|[^;]*)", re.IGNORECASE)


def _undecoded(scope: Scope) -> Scope:
    """The request with each byte of its texts as one character, for `FormText` to decode.

    The framework would take for Latin-1, in silence, what is no UTF-8.
    """
    headers = [
        (name, _CHARSET.sub(b"", value) + b"; charset=latin-1" if name == b"content-type" else value)
        for name, value in scope["headers"]
    ]
    return {**scope, "headers": headers}


async def check_each_once(request: Request) -> None:
    """
    Raises:
        InvalidFieldError: two parts of the form have one name, so that it is not clear which is meant.
    """
    names = Counter(name for name, _ in (await request.form()).multi_items())
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        name = twice[0].encode("latin-1").decode("utf-8", "replace")  # see `_undecoded`
        raise InvalidFieldError(f"there is more than one part {name[:100]!r}; send it once")


async def read_jpeg_part(part: UploadFile, name: str = "image") -> bytes:
    """The bytes of an `image/jpeg` part.

    Raises:
        UnsupportedContentError: the part declares another content type, or none.
    """
    _check_content_type(f"the part `{name}`", part.content_type, "image/jpeg")
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


def _counted(receive: Receive, max_bytes: int, body: Body) -> Receive:
    arriving = True

    async def receive_counted() -> Message:
        nonlocal arriving
        message = await receive()
        if arriving and message["type"] == "http.disconnect":
            raise ClientLeftError
        arriving = message.get("more_body", False)
        more = len(message.get("body", b""))
        if body.nbytes + more > max_bytes:
            raise BodyTooLargeError(max_bytes)
        body.take(more)
        return message

    return receive_counted
