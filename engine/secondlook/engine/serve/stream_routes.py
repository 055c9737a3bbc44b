"""The endpoints of `secondlook.edge.wire_stream`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, ClassVar, Final

from fastapi import APIRouter, Depends, FastAPI, File, Form, Path, Request, UploadFile
from fastapi.responses import StreamingResponse

from secondlook.edge.wire_stream import (
    MOST_DETAILS,
    FrameHeader,
    FrameReply,
    StreamCard,
    StreamEvent,
    StreamOptions,
    StreamSummary,
)
from secondlook.engine.serve.app import Extension
from secondlook.engine.serve.errors import InvalidFieldError, describe
from secondlook.engine.serve.routes import read_field, while_connected
from secondlook.engine.serve.service import TwoLookService
from secondlook.engine.serve.uploads import (
    FormText,
    UploadRoute,
    VersionedRoute,
    check_each_once,
    client_of,
    jpeg_parts,
    read_jpeg_part,
)
from secondlook.engine.stream.cloud import Cloud
from secondlook.engine.stream.service import StreamService, StreamSettings

__all__ = ["streaming"]

_DETAILS: Final = tuple(f"detail{number}" for number in range(MOST_DETAILS))
_JPEG: Final[dict[str, Any]] = {"contentMediaType": "image/jpeg", "minLength": 1}
_EVENTS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "A StreamEvent as JSON a line, until the stream ends.",
        "content": {"application/x-ndjson": {"schema": StreamEvent.model_json_schema()}},
    }
}
_MOST_OPTIONS: Final = 65536
"""Bytes of a question and its options."""


def streaming(settings: StreamSettings, cloud: Cloud | None) -> Extension:
    """Streams, for an application that answers questions.

    `app.state.streams` is the StreamService behind them.
    """

    def extend(app: FastAPI, looks: TwoLookService) -> AbstractAsyncContextManager[None]:
        service = app.state.streams = StreamService(looks, cloud, settings)
        app.state.metrics.streams = service
        app.include_router(streams)
        return service.running()

    return extend


def _service(request: Request) -> StreamService:
    service = request.app.state.streams
    assert isinstance(service, StreamService), "`streaming` sets it"
    return service


Service = Annotated[StreamService, Depends(_service)]
StreamId = Annotated[str, Path(description="The stream's id, from its card.", max_length=200)]


class _OpenRoute(UploadRoute):
    """Takes a few options as JSON."""

    described: ClassVar[dict[str, Any]] = {}
    content: ClassVar[str] = "application/json"

    def max_bytes(self, request: Request) -> int:
        return _MOST_OPTIONS

    def check_room(self, request: Request) -> None:
        """Streams have a bound of their own."""


class _FrameRoute(UploadRoute):
    """Takes a frame's pictures, some of which are as large as the cloud wants them."""

    described: ClassVar[dict[str, Any]] = jpeg_parts("image", "focus", *_DETAILS)

    def max_bytes(self, request: Request) -> int:
        most: int = request.app.state.service.settings.max_body_bytes
        return most

    def check_room(self, request: Request) -> None:
        """A frame that finds no place is answered by what held before, so there need be a stream only."""
        _service(request).check(request.path_params["stream_id"], client_of(request))


streams = APIRouter(prefix="/v1", tags=["streams"], route_class=VersionedRoute)
openings = APIRouter(route_class=_OpenRoute)
frames = APIRouter(route_class=_FrameRoute, dependencies=[Depends(check_each_once)])


@openings.post(
    "/streams", summary="Open a stream", responses=describe(400, 408, 413, 415, 422, 429, 500, 503)
)
async def open_stream(request: Request, service: Service, options: StreamOptions) -> StreamCard:
    """A question about every frame that will come; how the frames are prepared, and by when each is answered.

    A stream ends by `DELETE`, when no frame comes for the card's `idle_seconds`, or with the server.
    """
    return await while_connected(request, service.open(options, client_of(request)))


@frames.post(
    "/streams/{stream_id}/frames",
    summary="Send a frame",
    responses=describe(400, 404, 408, 413, 415, 422, 429, 500, 503),
)
async def send_frame(
    request: Request,
    service: Service,
    stream_id: StreamId,
    frame: Annotated[
        FormText,
        Form(
            description="A FrameHeader as JSON.",
            examples=['{"frame": 7, "captured": 1.4, "width": 1280, "height": 960}'],
        ),
    ],
    image: Annotated[
        UploadFile,
        File(
            description="The whole frame: a JPEG (`image/jpeg`) of the card's global view, or smaller.",
            json_schema_extra=_JPEG,
        ),
    ],
    focus: Annotated[
        UploadFile | None,
        File(description="The header's `focus`: a JPEG of the card's local view, or smaller."),
    ] = None,
    detail0: Annotated[UploadFile | None, File(description="The first of the header's `details`.")] = None,
    detail1: Annotated[UploadFile | None, File()] = None,
    detail2: Annotated[UploadFile | None, File()] = None,
    detail3: Annotated[UploadFile | None, File()] = None,
) -> FrameReply:
    """What holds for the frame, at its deadline at the latest.

    `answered` from the frame's picture; `held`, where that takes longer or fails, and what held before goes
    on; `superseded`, where a newer frame came before its turn. An error is of this frame only.
    """
    header = read_field(FrameHeader, "frame", frame)
    if (header.focus is None) != (focus is None):
        raise InvalidFieldError("frame.focus: the part `focus` and where it lies come together")
    given = [part for part in (detail0, detail1, detail2, detail3) if part is not None]
    if len(given) != len(header.details):
        raise InvalidFieldError(f"frame.details: {len(header.details)} are told, and {len(given)} came")
    jpeg = await read_jpeg_part(image)
    closer = None if focus is None else await read_jpeg_part(focus, "focus")
    details = [await read_jpeg_part(part, name) for part, name in zip(given, _DETAILS, strict=False)]
    look = service.frame(stream_id, header, jpeg, closer, details, client_of(request))
    return await while_connected(request, look)


streams.include_router(openings)
streams.include_router(frames)


@streams.get(
    "/streams/{stream_id}/events",
    summary="Watch a stream",
    response_class=StreamingResponse,
    responses=_EVENTS | describe(400, 404, 429, 503),
)
async def watch(request: Request, service: Service, stream_id: StreamId) -> StreamingResponse:
    """What happens from now on. Who does not read loses the oldest."""
    events = service.events(stream_id, client_of(request))
    return StreamingResponse(_lines(events), media_type="application/x-ndjson")


@streams.delete("/streams/{stream_id}", summary="End a stream", responses=describe(400, 404, 500, 503))
async def close_stream(request: Request, service: Service, stream_id: StreamId) -> StreamSummary:
    """What it came to."""
    return service.close(stream_id, client_of(request))


async def _lines(events: AsyncIterator[StreamEvent]) -> AsyncIterator[bytes]:
    async for event in events:
        yield event.model_dump_json().encode() + b"\n"
