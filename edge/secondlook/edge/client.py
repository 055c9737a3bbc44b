"""The edge's two clients: one blocks, one is asynchronous; both hold the same conversation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import TracebackType

import httpx

from .answer import EdgeAnswer
from .conversation import Conversation, Stage
from .driver import SURROUNDINGS, AsyncDriver, Driver
from .exchange import Surroundings
from .imaging import Original, Picture, PictureSource
from .retry import ClientSettings
from .wire import AnswerOptions, ModelCard

__all__ = ["AsyncEdgeClient", "EdgeClient"]


class _Client:
    """What both clients share: everything but sending, sleeping and computing."""

    def __init__(self, settings: ClientSettings | None, surroundings: Surroundings | None) -> None:
        self.settings = settings or ClientSettings()
        self._conversation = Conversation(self.settings, surroundings or SURROUNDINGS)

    @property
    def model_card(self) -> ModelCard | None:
        """The server's model; None before the first question."""
        return self._conversation.card


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
        super().__init__(settings, surroundings)
        self._driver = Driver(server_url, self.settings, transport, sleep)
        self.server_url = self._driver.route.url

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
        return self._driver.drive(self._conversation.answer(picture, question, options, on_stage or _ignore))

    def close(self) -> None:
        """Close the connection."""
        self._driver.close()

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
        super().__init__(settings, surroundings)
        self._driver = AsyncDriver(server_url, self.settings, transport, sleep)
        self.server_url = self._driver.route.url

    async def ask(
        self,
        picture: PictureSource | Original,
        question: str,
        options: AnswerOptions | None = None,
        *,
        on_stage: Callable[[Stage], None] | None = None,
    ) -> EdgeAnswer:
        """As `EdgeClient.ask`; also about a picture that lies elsewhere, whose images come later."""
        return await self._driver.drive(
            self._conversation.answer(picture, question, options, on_stage or _ignore)
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._driver.close()

    async def __aenter__(self) -> AsyncEdgeClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


def _ignore(stage: Stage) -> None:
    """Nobody watches."""
