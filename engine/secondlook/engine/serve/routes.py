"""The endpoints of `secondlook.edge.wire`, and two for whoever watches over the server."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, File, Form, Path, Request, UploadFile
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from pydantic import BaseModel, ValidationError

from secondlook.edge.geometry import Size
from secondlook.edge.wire import AnswerOptions, AnswerReply, ModelCard
from secondlook.engine.serve.errors import ClientLeftError, InvalidFieldError, describe
from secondlook.engine.serve.service import TwoLookService
from secondlook.engine.serve.uploads import (
    FormText,
    UploadRoute,
    VersionedRoute,
    check_each_once,
    client_of,
    read_jpeg_part,
)

__all__ = ["Health", "Service", "answers", "documentation", "read_field", "watching", "while_connected"]

ResultT = TypeVar("ResultT")
MessageT = TypeVar("MessageT", bound=BaseModel)

_MODEL = (500, 502, 503, 504)
"""How a look may fail: here, or where an upstream has the model."""

_SURE: dict[str, Any] = {
    "status": "final",
    "decision": "sure",
    "answer": {"text": "12", "uncertainty": 0.02, "tokens": 3, "visual_tokens": 576},
    "first": {"text": "12", "uncertainty": 0.02, "tokens": 3, "visual_tokens": 576},
    "seconds": {"queue": 0.001, "decode_image": 0.002, "encode": 0.03, "prefill": 0.02, "decode": 0.01},
}
_UNSURE: dict[str, Any] = {
    "status": "region",
    "decision": "unsure",
    "answer": {"text": "18", "uncertainty": 0.71, "tokens": 3, "visual_tokens": 576},
    "first": {"text": "18", "uncertainty": 0.71, "tokens": 3, "visual_tokens": 576},
    "region": {"left": 1200, "top": 640, "right": 1536, "bottom": 976},
    "session": {"id": "mU2hr0Jx0Jt5m4h9rV3kXqkqO0Zb1w9c", "expires_in": 60.0},
    "seconds": {"queue": 0.001, "decode_image": 0.002, "encode": 0.03, "prefill": 0.02, "decode": 0.01},
}
_GIVEN_UP: dict[str, Any] = {
    "status": "final",
    "decision": "unsure",
    "answer": {"text": "18", "uncertainty": 0.71, "tokens": 3, "visual_tokens": 576},
    "first": {"text": "18", "uncertainty": 0.71, "tokens": 3, "visual_tokens": 576},
    "seconds": {"queue": 0.001, "encode": 0.03, "prefill": 0.02, "decode": 0.01},
}
_REFINED: dict[str, Any] = {
    "status": "final",
    "decision": "took_second",
    "answer": {"text": "16", "uncertainty": 0.05, "tokens": 3, "visual_tokens": 1152},
    "first": {"text": "18", "uncertainty": 0.71, "tokens": 3, "visual_tokens": 576},
    "second": {"text": "16", "uncertainty": 0.05, "tokens": 3, "visual_tokens": 1152},
    "region": {"left": 1200, "top": 640, "right": 1536, "bottom": 976},
    "seconds": {"queue": 0.001, "decode_image": 0.002, "encode": 0.03, "prefill": 0.02, "decode": 0.01},
}

_JPEG: dict[str, Any] = {"contentMediaType": "image/jpeg", "minLength": 1}
"""What OpenAPI says of an image."""


def _examples(**replies: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    named = {name: {"value": value} for name, value in replies.items()}
    return {200: {"content": {"application/json": {"examples": named}}}}


class Health(BaseModel):
    """What a probe is told."""

    status: str


def _service(request: Request) -> TwoLookService:
    service = request.app.state.service
    assert isinstance(service, TwoLookService), "create_app sets it"
    return service


Service = Annotated[TwoLookService, Depends(_service)]
SessionId = Annotated[str, Path(description="The session's id, from the first look's reply.", max_length=200)]


answers = APIRouter(prefix="/v1", tags=["answers"], route_class=VersionedRoute)
uploads = APIRouter(route_class=UploadRoute, dependencies=[Depends(check_each_once)])
watching = APIRouter(tags=["health"])
documentation = APIRouter(include_in_schema=False)


@answers.head("/model", include_in_schema=False)
@answers.get("/model", summary="What an edge must know to prepare pictures", responses=describe(400, 503))
async def model(service: Service) -> ModelCard:
    """The sizes of global and local images, the default threshold, and the server's limits."""
    return service.card


@uploads.post(
    "/answers",
    summary="First look: ask about a global image",
    responses=_examples(sure=_SURE, unsure=_UNSURE) | describe(400, 408, 413, 415, 422, 429, *_MODEL),
)
async def first_look(
    request: Request,
    service: Service,
    image: Annotated[
        UploadFile,
        File(
            description="The global image: a JPEG (`image/jpeg`) of the card's global view, or smaller.",
            json_schema_extra=_JPEG,
        ),
    ],
    question: Annotated[
        FormText,
        Form(min_length=1, description="The question.", examples=["What number is on the red sign?"]),
    ],
    width: Annotated[
        int, Form(ge=1, description="Width of the original picture in pixels.", examples=[4000])
    ],
    height: Annotated[
        int, Form(ge=1, description="Height of the original picture in pixels.", examples=[3000])
    ],
    options: Annotated[
        FormText | None,
        Form(
            description="An AnswerOptions as JSON; absent: the defaults.",
            examples=['{"second_look": "auto"}'],
        ),
    ] = None,
) -> AnswerReply:
    """The final answer where the model is sure, or no detail could be gained, or `options` forbid a second
    look.

    Otherwise, as soon as it is known, the `region` of the original that the server wants to see, and the
    `session` to send it to before it expires, with as much of the first answer as there is. If it never
    comes, the first answer stands; `DELETE` tells all of it.
    """
    jpeg = await read_jpeg_part(image)
    original = Size(width, height)
    chosen = AnswerOptions() if options is None else read_field(AnswerOptions, "options", options)
    look = service.first_look(jpeg, question, original, chosen, client_of(request))
    return (await while_connected(request, look)).reply


@uploads.post(
    "/answers/{session_id}/local",
    summary="Second look: send the local image",
    responses=_examples(refined=_REFINED) | describe(400, 404, 408, 409, 410, 413, 415, 422, 429, *_MODEL),
)
async def second_look(
    request: Request,
    service: Service,
    session_id: SessionId,
    image: Annotated[
        UploadFile,
        File(
            description="The original's region: a JPEG (`image/jpeg`) of the card's local view, or smaller.",
            json_schema_extra=_JPEG,
        ),
    ],
) -> AnswerReply:
    """The final answer from both images.

    After any error but 404, 409 and 410 the session still waits, and the local image can be sent again.
    """
    look = service.second_look(session_id, await read_jpeg_part(image), client_of(request))
    return (await while_connected(request, look)).reply


answers.include_router(uploads)


@answers.delete(
    "/answers/{session_id}",
    summary="Give a session up",
    responses=_examples(unsure=_GIVEN_UP) | describe(400, 404, 409, 422, *_MODEL),
)
async def give_up(request: Request, service: Service, session_id: SessionId) -> AnswerReply:
    """The edge will not send the local image: the first answer, complete by now, stands.

    Of a session that has ended this tells again what stands.
    """
    return (await while_connected(request, service.give_up(session_id, client_of(request)))).reply


@watching.head("/healthz", include_in_schema=False)
@watching.get("/healthz", summary="Is the server alive?")
async def healthz() -> Health:
    """Answers as long as the process does."""
    return Health(status="alive")


@watching.head("/readyz", include_in_schema=False)
@watching.get("/readyz", summary="Does the server take questions?", responses=describe(502, 503, 504))
async def readyz(service: Service) -> Health:
    """503 while the model is being loaded, during the shutdown, or while an upstream is away or
    vLLM's processes are dead. A full queue is still ready."""
    await service.check_whole()
    return Health(status="ready")


@watching.head("/metrics", include_in_schema=False)
@watching.get(
    "/metrics",
    summary="What the server measures of itself",
    response_class=PlainTextResponse,
    responses={200: {"description": "As Prometheus or OpenMetrics have it, by the Accept header."}},
)
async def metrics(request: Request) -> Response:
    """Looks by what was decided, where their time went, how things are; no question, answer or picture."""
    text, kind = request.app.state.metrics.exposed(request.headers.get("accept", ""))
    return Response(text, headers={"Content-Type": kind})


@documentation.head("/docs")
@documentation.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """The interface to try out. Its script and style are served from here: many networks have no internet."""
    root = request.scope.get("root_path", "").rstrip("/")
    return get_swagger_ui_html(
        openapi_url=f"{root}{request.app.openapi_url}",
        title=request.app.title,
        swagger_js_url=f"{root}/docs/swagger-ui-bundle.js",
        swagger_css_url=f"{root}/docs/swagger-ui.css",
        swagger_favicon_url=f"{root}/docs/favicon.png",
    )


def read_field(kind: type[MessageT], name: str, text: str) -> MessageT:
    """A message that a form's field has as JSON.

    Raises:
        InvalidFieldError: it is none; told are all that is wrong.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        told = "; ".join(
            f"{'.'.join([name, *map(str, problem['loc'])])}: {problem['msg']}" for problem in error.errors()
        )
        raise InvalidFieldError(told) from error


async def while_connected(request: Request, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """The work's result; the work is cancelled when the client goes away, its body read by then.

    Raises:
        ClientLeftError: it did.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeftError
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
