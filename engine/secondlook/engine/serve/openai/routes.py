"""The endpoints of OpenAI's interface: chat completions, the model, and what probes of other servers ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute

from secondlook.edge.errors import SecondLookError
from secondlook.edge.versions import installed_version
from secondlook.engine.serve.access import ASKING
from secondlook.engine.serve.errors import told
from secondlook.engine.serve.keys import Asking
from secondlook.engine.serve.openai.chat import Asker, Chat, Chatted
from secondlook.engine.serve.openai.errors import ChatError, error_body
from secondlook.engine.serve.openai.messages import ChatRequest, read_request
from secondlook.engine.serve.openai.replies import DONE, Completion, event, models_list, shown_model
from secondlook.engine.serve.routes import Service, while_connected
from secondlook.engine.serve.uploads import Body, Handler, begin_upload, client_of, counted_body

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from secondlook.engine.results import Look

__all__ = ["chats"]

_JSON: Final = "application/json"
_STREAM_HEADERS: Final = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Proxies pass each event on at once."""


class _ChatRoute(APIRoute):
    """A route with a body of JSON, no larger than the settings allow; counted while it arrives."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def handle_counted(request: Request) -> Response:
            service = request.app.state.service
            service.check_alive()  # whether there is room is known when it is read: a closer look has its own
            most = begin_upload(request, _JSON, lambda: service.settings.chat.max_body_bytes)
            with ExitStack() as counting:
                request.state.body, receive = counting.enter_context(counted_body(request, most))
                response = await handle(Request(request.scope, receive))
                if isinstance(response, _EventStream):  # which is answered when the last event is sent
                    response.end_with(counting.pop_all())
                return response

        return handle_counted


def _schema() -> dict[str, Any]:
    """What OpenAPI says of the body."""
    place = "#/paths/~1v1~1chat~1completions/post/requestBody/content/application~1json/schema/$defs/{model}"
    schema = ChatRequest.model_json_schema(ref_template=place)
    return {"requestBody": {"required": True, "content": {_JSON: {"schema": schema}}}}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI `responses`."""
    return {status: {"description": "`{error: {message, type, param, code}}`"} for status in statuses}


chats = APIRouter(tags=["OpenAI"])
_completions = APIRouter(route_class=_ChatRoute)


@_completions.post(
    "/v1/chat/completions",
    summary="Ask about a picture as OpenAI's clients do",
    response_class=JSONResponse,
    responses={
        200: {"description": "All of it, or with `stream` its chunks", "content": {"text/event-stream": {}}},
        **_errors(400, 404, 408, 409, 410, 413, 415, 429, 500, 502, 503, 504),
    },
    openapi_extra=_schema(),
)
async def complete(request: Request, service: Service) -> Response:
    """Both looks in one reply, or, with the tool `image_zoom_in_tool` and an unsure answer, its call."""
    asked = await _read(request, service)
    chat: Chat = request.app.state.chat
    engine = service.loaded.result()
    completion = Completion(engine.card.name, asked, engine.token_texts)
    asker = _asker(request)
    if asked.stream:
        return await _streamed(request, chat, asked, asker, completion)
    return JSONResponse(completion.whole(await while_connected(request, chat.answer(asked, asker))))


def _asker(request: Request) -> Asker:
    """Who asks. What is fetched is a part of the body, and a key pays for it as for a second look."""
    body: Body = request.state.body
    asking: Asking | None = request.scope.get(ASKING)

    def take(nbytes: int) -> None:
        body.take(nbytes)
        if asking is not None:
            asking.arrived(nbytes)

    def look() -> None:
        if asking is not None:
            asking.looked()

    return Asker(client_of(request), take, look)


async def _read(request: Request, service: Service) -> ChatRequest:
    """The request, read on another thread; its body is not kept, which may be large."""
    body = bytearray()
    async for more in request.stream():
        body += more
    return await service.decoding.run(lambda: read_request(bytes(body)))


async def _streamed(
    request: Request, chat: Chat, asked: ChatRequest, asker: Asker, completion: Completion
) -> Response:
    """Server-sent events, once there is something to tell; what fails before is an error like any other."""
    looks: asyncio.Queue[Look | None] = asyncio.Queue()
    asker = replace(asker, on_tokens=looks.put_nowait)
    working = asyncio.ensure_future(chat.answer(asked, asker))
    working.add_done_callback(lambda _: looks.put_nowait(None))
    try:
        first = await while_connected(request, looks.get())
        if first is None:
            working.result()
    except BaseException:
        working.cancel()
        raise
    return _EventStream(_events(first, looks, working, completion), working)


class _EventStream(StreamingResponse):
    """Events of an answer, which is given up when nobody reads them: also before the first was asked for."""

    def __init__(self, events: AsyncIterator[str], working: asyncio.Future[Chatted]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=_STREAM_HEADERS)
        self._last = ExitStack()
        self._last.callback(working.cancel)

    def end_with(self, last: ExitStack) -> None:
        """Do that too, once it is sent, or nobody reads it any more."""
        self._last.push(last)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._last:
            await super().__call__(scope, receive, send)


async def _events(
    look: Look | None,
    looks: asyncio.Queue[Look | None],
    working: asyncio.Future[Chatted],
    completion: Completion,
) -> AsyncIterator[str]:
    try:
        yield completion.first_chunk()
        while look is not None:
            chunk = completion.tokens_chunk(look)
            if chunk:
                yield chunk
            look = await looks.get()
        yield completion.last_chunks(working.result())
    except SecondLookError as error:  # the status is sent already
        status, name, _ = told(error)
        yield event(error_body(status, name, str(error))) + DONE


chats.include_router(_completions)


@chats.head("/v1/models", include_in_schema=False)
@chats.get("/v1/models", summary="The model", responses=_errors(503))
async def models(request: Request, service: Service) -> dict[str, Any]:
    """A list of one."""
    return models_list(service.card.name, _created(request))


@chats.head("/v1/models/{name:path}", include_in_schema=False)
@chats.get("/v1/models/{name:path}", summary="The model by its name", responses=_errors(404, 503))
async def model(name: str, request: Request, service: Service) -> dict[str, Any]:
    """404 for any other."""
    known = service.card.name
    if name != known:
        raise ChatError(
            f"there is no model {name[:200]!r} here; this server has {known!r}",
            code="model_not_found",
            param="model",
            status=404,
        )
    return shown_model(known, _created(request))


@chats.head("/health", include_in_schema=False)
@chats.get(
    "/health", summary="As /readyz, without a body", response_class=Response, responses=_errors(502, 503, 504)
)
async def health(service: Service) -> Response:
    """200 when questions are taken."""
    await service.check_whole()
    return Response()


@chats.head("/version", include_in_schema=False)
@chats.get("/version", summary="Of the server's software")
async def version() -> dict[str, str]:
    """The version."""
    return {"version": installed_version("secondlook") or ""}


def _created(request: Request) -> int:
    """When the server began."""
    created: int = request.app.state.created
    return created
