"""A gateway over HTTP: questions about a camera's newest frame, and that frame, whole or in part."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Message

from secondlook.edge.client import AsyncEdgeClient
from secondlook.edge.conversation import check_text
from secondlook.edge.driver import SURROUNDINGS, AsyncDriver
from secondlook.edge.errors import (
    ClientError,
    GeometryError,
    PictureError,
    ProtocolError,
    RequestRefusedError,
    SecondLookError,
    SourceError,
    UnexpectedReplyError,
)
from secondlook.edge.exchange import Call, Patience, Traffic, ask
from secondlook.edge.geometry import Region
from secondlook.edge.retry import ClientSettings
from secondlook.edge.wire import PROTOCOL, AnswerOptions, ModelCard
from secondlook.engine.errors import QueueFullError, ShuttingDownError
from secondlook.engine.gateway.camera import Camera, HeldFrame
from secondlook.engine.gateway.crops import APPLIED, CameraCrops, LaterCrops, parsed_crop, written_crop
from secondlook.engine.serve.access import guard, wants_key
from secondlook.engine.serve.app import GracefulServer
from secondlook.engine.serve.connections import ConnectionConfig
from secondlook.engine.serve.errors import (
    BodyTooLargeError,
    InvalidFieldError,
    add_error_handlers,
    describe,
)
from secondlook.engine.serve.foreign import OwnPages
from secondlook.engine.serve.keys import KeyRing
from secondlook.engine.serve.requests import EveryRequest
from secondlook.engine.serve.routes import Health, while_connected
from secondlook.engine.serve.settings import GatewaySettings, KeyLimits

__all__ = ["Gateway", "create_gateway_app", "serve_gateway"]

FRAME_HEADER: Final = "X-Frame"
AGE_HEADER: Final = "X-Frame-Age"
REACHABLE: Final = "reachable"

_MOST_BODY: Final = 65536
"""Bytes of a question and its options."""

_OURS_ALONE: Final = {"Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin"}
"""Of a picture: nobody keeps it, and no page of another origin shows it."""

_PROBE_SECONDS: Final = 5.0
_REFUSED_QUESTION: Final = 422

_CUTS: Final = 2
"""Pictures that are cut at once: each may be decoded as a whole."""


class GatewayQuestion(BaseModel):
    """What is asked about the camera's newest frame, or about one that is held."""

    model_config = ConfigDict(extra="forbid")

    question: Annotated[str, Field(min_length=1, description="The question.")]
    options: Annotated[AnswerOptions, Field(description="Where the server's defaults are not wanted.")] = (
        AnswerOptions()
    )
    frame: Annotated[
        str | None, Field(description="The id of a held frame; by default the newest is taken.")
    ] = None


class Gateway:
    """A camera before a server; for one event loop.

    Args:
        crops: the camera's own crops, in place of those of the frame that is held.
        most: questions that may be under way.

    Raises:
        SettingsError: the server's address, a proxy or certificates cannot be used.
    """

    def __init__(
        self, camera: Camera, server: str, settings: ClientSettings, crops: CameraCrops | None, most: int
    ) -> None:
        self._camera, self._crops, self._most = camera, crops, most
        self._client = AsyncEdgeClient(server, settings=settings)
        self._probe = AsyncDriver(server, settings)
        self._cutting = asyncio.Semaphore(_CUTS)
        self._asking, self._stopping = 0, False

    @property
    def url(self) -> str:
        """The server's, fit to be shown."""
        return str(self._client.server_url.copy_with(userinfo=b""))

    @property
    def open_sessions(self) -> int:
        """Of a gateway that is told to stop none: both looks are one answer, which is waited for."""
        return 0

    def begin_shutdown(self, *, at_once: bool = False) -> None:
        """Take no more questions. None is waited for but by the server, which knows of `at_once` itself."""
        self._stopping = True

    async def close(self) -> None:
        """End what is there to camera and server."""
        await self._camera.close()
        await self._client.aclose()
        await self._probe.close()

    async def ask(self, asked: GatewayQuestion) -> dict[str, Any]:
        """Both looks at one frame, and the answer as `EdgeAnswer.to_dict` has it, with the frame and its age.

        Raises:
            SourceError: the camera gives no frame. ClientError: the server no answer.
            UnknownFrameError, QueueFullError, ShuttingDownError, InvalidFieldError.
        """
        if self._stopping:
            raise ShuttingDownError("the gateway is shutting down")
        if self._asking >= self._most:
            raise QueueFullError(f"{self._asking} questions are under way, and no more are taken", 1.0)
        self._asking += 1
        try:
            with _cameras_faults():
                frame = await self.frame(asked.frame)
                with self._camera.using(frame):
                    return await self._answered(frame, asked)
        finally:
            self._asking -= 1

    async def _answered(self, frame: HeldFrame, asked: GatewayQuestion) -> dict[str, Any]:
        later = None if self._crops is None else await self._crops.of(frame)
        with _servers_faults():
            picture = frame.picture() if later is None else later
            answer = await self._client.ask(picture, asked.question, asked.options)
        return {"frame": frame.id, "age": round(frame.age, 3), **_told_of(later), **answer.to_dict()}

    async def frame(self, name: str | None) -> HeldFrame:
        """One that is held, or the newest."""
        return await self._camera.newest() if name is None else self._camera.held(name)

    async def image(self, name: str | None, crop: str | None) -> Response:
        """A frame as a JPEG, or the part of it that is asked for."""
        with _cameras_faults():
            frame = await self.frame(name)
            region = None if crop is None else _cropped(crop, frame)
            with self._camera.using(frame):
                async with self._cutting:
                    jpeg = await asyncio.to_thread(frame.jpeg, region)
        headers = {FRAME_HEADER: frame.id, AGE_HEADER: f"{frame.age:.3f}", **_OURS_ALONE}
        if region is not None:
            headers[APPLIED] = written_crop(region)
        return Response(jpeg, media_type="image/jpeg", headers=headers)

    async def states(self) -> dict[str, str]:
        """Whether camera and server can be reached: `reachable`, or why not."""
        camera, server = await asyncio.gather(_state(self._camera.newest()), _state(self._ask_card()))
        return {"camera": camera, "server": server}

    async def _ask_card(self) -> None:
        once = ClientSettings(timeout=_PROBE_SECONDS, retries=0, wait_budget=0)
        call = Call("GET", "/v1/model", timeout=_PROBE_SECONDS)
        await self._probe.drive(ask(call, ModelCard, Traffic(), Patience(once), SURROUNDINGS))


def _cropped(crop: str, frame: HeldFrame) -> Region:
    try:
        return parsed_crop(crop, frame.size)
    except GeometryError as error:
        raise InvalidFieldError(str(error)) from error


def _told_of(later: LaterCrops | None) -> dict[str, Any]:
    captured = None if later is None else later.captured
    if captured is None:
        return {"crop_of_later_frame": False, "crop_age": None}
    return {"crop_of_later_frame": True, "crop_age": round(time.monotonic() - captured, 3)}


async def _state(asking: Any) -> str:
    try:
        await asking
    except QueueFullError:  # so there is a frame
        return REACHABLE
    except SecondLookError as error:
        return str(error)
    return REACHABLE


@contextmanager
def _cameras_faults() -> Iterator[None]:
    """A picture that cannot be used is the camera's fault here, not that of whoever asks."""
    try:
        yield
    except PictureError as error:
        raise SourceError(f"the camera's picture cannot be used: {error}") from error


@contextmanager
def _servers_faults() -> Iterator[None]:
    """What the server says of a question is passed on; the rest is between the gateway and the server."""
    try:
        yield
    except ProtocolError as error:
        raise UnexpectedReplyError(str(error)) from error
    except RequestRefusedError as error:
        if error.status == _REFUSED_QUESTION:
            raise InvalidFieldError(error.reason) from error
        raise


def _gateway(request: Request) -> Gateway:
    gateway = request.app.state.gateway
    assert isinstance(gateway, Gateway), "create_gateway_app sets it"
    return gateway


Service = Annotated[Gateway, Depends(_gateway)]


class _QuestionRoute(APIRoute):
    """Takes a little JSON, whatever its sender calls it: curl calls all that it sends a form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_small(request: Request) -> Response:
            read = 0

            async def receive() -> Message:
                nonlocal read
                message = await request.receive()
                read += len(message.get("body", b""))
                if read > _MOST_BODY:
                    raise BodyTooLargeError(_MOST_BODY)
                return message

            kept = [each for each in request.scope["headers"] if each[0] != b"content-type"]
            headers = [*kept, (b"content-type", b"application/json")]
            return await handle(Request({**request.scope, "headers": headers}, receive))

        return handle_small


routes = APIRouter()
questions = APIRouter(route_class=_QuestionRoute)


@questions.post(
    "/v1/ask",
    summary="Ask about the camera's newest frame",
    responses=describe(400, 404, 413, 422, 429, 502, 503),
)
async def ask_question(request: Request, service: Service, asked: GatewayQuestion) -> JSONResponse:
    """Both looks at one frame. The answer is what `secondlook-edge ask --json` prints, with the `frame`, its
    `age` in seconds, and whether the second look saw a later one."""
    try:
        check_text(asked.question)
    except ClientError as error:
        raise InvalidFieldError(str(error)) from error
    return JSONResponse(await while_connected(request, service.ask(asked)))


routes.include_router(questions)


@routes.get(
    "/image.jpg",
    summary="The newest frame, or one that is held, or a part of it",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}, **describe(404, 422, 503)},
)
async def image(service: Service, frame: str | None = None, crop: str | None = None) -> Response:
    """The frame's id is in the header `X-Frame`, its age in seconds in `X-Frame-Age`.

    `crop` is XxYxWxH, whose corner is brought to a grid of 16 pixels, outwards: `X-Crop-Applied` tells what
    is shown.
    """
    return await service.image(frame, crop)


@routes.head("/healthz", include_in_schema=False)
@routes.get("/healthz", summary="Is the gateway alive?")
async def healthz() -> Health:
    """Answers as long as the process does."""
    return Health(status="alive")


@routes.head("/readyz", include_in_schema=False)
@routes.get("/readyz", summary="Can camera and server be reached?", responses=describe(503))
async def readyz(service: Service) -> JSONResponse:
    """Asks both; 503 tells which cannot be reached, and why."""
    states = await service.states()
    lost = [f"the {name}: {state}" for name, state in states.items() if state != REACHABLE]
    if lost:
        return JSONResponse({"error": "not_ready", "message": "; ".join(lost), **states}, 503)
    return JSONResponse({"status": "ready", **states})


def create_gateway_app(gateway: Gateway, settings: GatewaySettings | None = None) -> FastAPI:
    """An application that serves a gateway, and closes it in the end.

    Raises:
        SettingsError: the keys cannot be read.
    """
    settings = settings or GatewaySettings()
    keys = None if settings.api_key_file is None else KeyRing(settings.api_key_file, KeyLimits())
    described = {} if keys is None else wants_key()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await gateway.close()

    app = FastAPI(
        title="secondlook gateway",
        version=PROTOCOL,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        **described | {"responses": describe(403) | described.get("responses", {})},
    )
    app.state.gateway = gateway
    app.include_router(routes)
    # The last is the outermost.
    if keys is not None:
        guard(app, keys)
    app.add_middleware(OwnPages, hosts=settings.allowed_hosts)
    app.add_middleware(EveryRequest)
    add_error_handlers(app)
    return app


def serve_gateway(
    gateway: Gateway, settings: GatewaySettings, listener: socket.socket, on_ready: Callable[[], None]
) -> None:
    """Answer on `listener` until SIGINT or SIGTERM; then what is being answered is finished.

    `on_ready` is called once nothing is known that would keep it from that.

    Raises:
        SettingsError: more connections than this process may open, or keys that cannot be read.
        KeyboardInterrupt: after SIGINT, once everything has ended.
    """
    config = ConnectionConfig(create_gateway_app(gateway, settings), settings.connections)
    on_ready()
    GracefulServer(config, gateway, settings.grace_seconds).run(sockets=[listener])
