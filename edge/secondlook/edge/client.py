"""The edge's two clients: one blocks, one is asynchronous; both hold the same conversation."""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from types import TracebackType
from typing import Any

import httpx

from .answer import EdgeAnswer
from .conversation import Conversation, Stage
from .errors import SecondLookError
from .exchange import Call, Effect, Failure, Pause, Steps, Surroundings, resume
from .imaging import Original, Picture, PictureSource
from .retry import ClientSettings
from .route import Route
from .wire import PROTOCOL, PROTOCOL_HEADER, AnswerOptions, ModelCard

__all__ = ["AsyncEdgeClient", "EdgeClient"]


class _Client:
    """What both clients share: everything but sending, sleeping and computing."""

    def __init__(
        self,
        server_url: str,
        settings: ClientSettings | None,
        surroundings: Surroundings | None,
        direct: bool,
    ) -> None:
        self.settings = settings or ClientSettings()
        self._route = Route.to(server_url, self.settings.ca, direct)
        self.server_url = self._route.url
        self._conversation = Conversation(self.settings, surroundings or SURROUNDINGS)

    @property
    def model_card(self) -> ModelCard | None:
        """The server's model; None before the first question."""
        return self._conversation.card

    def _http_options(self) -> dict[str, Any]:
        settings = self.settings
        key = {} if settings.api_key is None else {"authorization": f"Bearer {settings.api_key}"}
        # Replies are small; without compression, their length is what travels.
        ours = {"accept": "application/json", "accept-encoding": "identity", PROTOCOL_HEADER: PROTOCOL}
        headers = httpx.Headers(ours | key)
        headers.update(settings.headers)  # whatever the case of their names
        return {
            **self._route.options(),
            "timeout": httpx.Timeout(settings.timeout, connect=settings.connect_timeout),
            "headers": headers,
        }


class EdgeClient(_Client):
    """Asks a secondlook server questions about pictures and answers its requests for a closer look.

    A context manager; one connection is kept between questions. Not for several threads at once.

    Args:
        server_url: such as `http://192.168.0.7:8000`; a path before the server's own is kept.
        settings: preparation of pictures, timeouts, repetitions and what the server wants to see.
        transport: an httpx transport, in place of the network and of the environment's proxy.
        sleep: lets seconds pass between repetitions.
        surroundings: clock, date and chance.

    Raises:
        SettingsError: the address is not one of HTTP, or a proxy or certificates cannot be used.
    """

    def __init__(
        self,
        server_url: str,
        *,
        settings: ClientSettings | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        surroundings: Surroundings | None = None,
    ) -> None:
        super().__init__(server_url, settings, surroundings, direct=transport is not None)
        self._http = httpx.Client(transport=transport, **self._http_options())
        self._sleep = sleep

    def ask(
        self,
        picture: PictureSource | Picture,
        question: str,
        options: AnswerOptions | None = None,
        *,
        on_stage: Callable[[Stage], None] | None = None,
    ) -> EdgeAnswer:
        """The server's answer to one question about one picture.

        Args:
            picture: a path, the bytes of an encoded picture, a Pillow image, or what `open_picture` returned.
            question: in the user's words.
            options: where the server's defaults are not wanted.
            on_stage: called as each stage begins.

        Raises:
            PictureError: the picture cannot be used.
            GeometryError: it is too slender for the model; nothing of it was sent.
            ClientError: the first look failed for good. A failed second look does not raise: the first answer
                stands, and `second_look_failed` says why.
        """
        return self._drive(self._conversation.answer(picture, question, options, on_stage or _ignore))

    def _drive(self, steps: Steps[EdgeAnswer]) -> EdgeAnswer:
        try:
            effect = next(steps)
            while True:
                effect = resume(steps, self._perform(effect))
        except StopIteration as finished:
            answer: EdgeAnswer = finished.value
            return answer

    def _perform(self, effect: Effect) -> object:
        try:
            if isinstance(effect, Call):
                return self._http.send(_request(self._http, effect))
            if isinstance(effect, Pause):
                self._sleep(effect.seconds)
                return None
            return effect.function()
        except httpx.RequestError as error:
            return Failure(self._route.lost(error))
        except SecondLookError as error:
            return Failure(error)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> EdgeClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncEdgeClient(_Client):
    """`EdgeClient` for asyncio: pictures are prepared in a thread, so the event loop goes on.

    An asynchronous context manager. Several questions may be asked at once, each about its own picture.
    """

    def __init__(
        self,
        server_url: str,
        *,
        settings: ClientSettings | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        surroundings: Surroundings | None = None,
    ) -> None:
        super().__init__(server_url, settings, surroundings, direct=transport is not None)
        self._http = httpx.AsyncClient(transport=transport, **self._http_options())
        self._sleep = sleep

    async def ask(
        self,
        picture: PictureSource | Original,
        question: str,
        options: AnswerOptions | None = None,
        *,
        on_stage: Callable[[Stage], None] | None = None,
    ) -> EdgeAnswer:
        """As `EdgeClient.ask`; also about a picture that lies elsewhere, whose images come later."""
        return await self._drive(self._conversation.answer(picture, question, options, on_stage or _ignore))

    async def _drive(self, steps: Steps[EdgeAnswer]) -> EdgeAnswer:
        try:
            effect = next(steps)
            while True:
                effect = resume(steps, await self._perform(effect))
        except StopIteration as finished:
            answer: EdgeAnswer = finished.value
            return answer

    async def _perform(self, effect: Effect) -> object:
        try:
            if isinstance(effect, Call):
                return await self._http.send(_request(self._http, effect))
            if isinstance(effect, Pause):
                await self._sleep(effect.seconds)
                return None
            outcome = await asyncio.to_thread(effect.function)
            return await outcome if inspect.isawaitable(outcome) else outcome
        except httpx.RequestError as error:
            return Failure(self._route.lost(error))
        except SecondLookError as error:
            return Failure(error)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncEdgeClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


SURROUNDINGS = Surroundings(
    clock=time.perf_counter,
    now=lambda: datetime.now(timezone.utc),
    jitter=random.random,
)


def _ignore(stage: Stage) -> None:
    """Nobody watches."""


def _request(http: httpx.Client | httpx.AsyncClient, call: Call) -> httpx.Request:
    request = http.build_request(call.method, call.path, **call.parts())
    request.read()  # whole, or each part of its body would travel in a packet of its own
    return request
