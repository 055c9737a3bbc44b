"""A stream's key frames, asked of the cloud: another server of this software, to which the site is an edge.

What the cloud wants to see of a frame the site does not have: a `KeyFrame` stands for the picture that lies
with the camera, and asks it for details.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

import httpx
import torch

from secondlook.edge.answer import EdgeAnswer
from secondlook.edge.client import AsyncEdgeClient
from secondlook.edge.geometry import Region, Size, sent_size, target
from secondlook.edge.imaging import EncodedPicture, JpegSettings
from secondlook.edge.retry import ClientSettings
from secondlook.edge.wire import AnswerOptions, ModelCard, View
from secondlook.edge.wire_stream import Wanted
from secondlook.engine.later import Later
from secondlook.engine.method.region import RegionSettings, find_region
from secondlook.engine.stream.messages import box_of

__all__ = ["MOST_TEXT", "Cloud", "CloudAnswer", "HttpCloud", "KeyFrame", "looked_at"]

MOST_TEXT: Final = 4000
"""Characters of an answer that are kept, whatever a cloud says: every reply that rests on it has them."""

Want = Callable[[Wanted], Awaitable[bytes]]
"""Has the camera send a detail; its JPEG, or LostDetailError."""


class KeyFrame:
    """A frame that lies with the camera, for an edge client: an `Original` of `secondlook.edge.imaging`.

    Args:
        number: the frame's.
        size: of the original, in pixels.
        view, jpeg: of the whole frame as the camera sent it to the site.
        want: gets everything else.

    Attributes:
        handed: bytes of the pictures that were given out so far.
    """

    def __init__(self, number: int, size: Size, view: View, jpeg: bytes, want: Want) -> None:
        self.number = number
        self.size = size
        self.handed = 0
        self._view = view
        self._jpeg = jpeg
        self._want = want

    def global_image(self, view: View, jpeg: JpegSettings) -> Awaitable[EncodedPicture]:
        """What the camera sent, where the cloud's view makes the same of the original; else a detail."""
        return Later(lambda: self._global(view))

    def local_image(self, region: Region, view: View, jpeg: JpegSettings) -> Awaitable[EncodedPicture]:
        """A detail of the region."""
        return Later(lambda: self._local(region, view))

    async def _global(self, view: View) -> EncodedPicture:
        size = sent_size(view, self.size)
        if size == sent_size(self._view, self.size):
            return self._given(self._jpeg, size)
        return self._given(await self._want(Wanted(frame=self.number, view=view)), size)

    async def _local(self, region: Region, view: View) -> EncodedPicture:
        detail = await self._want(Wanted(frame=self.number, region=box_of(region), view=view))
        return self._given(detail, sent_size(view, region.size))

    def _given(self, jpeg: bytes, size: Size) -> EncodedPicture:
        self.handed += len(jpeg)
        return EncodedPicture(jpeg, size)


@dataclass(frozen=True)
class CloudAnswer:
    """What the cloud said about a key frame.

    Attributes:
        text: its first characters, see `MOST_TEXT`.
        uncertainty: in nats.
        region: where it looked, in original pixels; None: not known.
        bytes_up: sent to it for that.
        seconds: that it took.
    """

    text: str
    uncertainty: float
    region: Region | None
    bytes_up: int
    seconds: float


class Cloud(Protocol):
    """Who is asked about key frames; several times at once."""

    async def ask(self, frame: KeyFrame, question: str) -> CloudAnswer:
        """
        Raises:
            SecondLookError: there will be no answer. Cancelled, it asks no further.
        """
        ...

    async def aclose(self) -> None: ...


class HttpCloud:
    """A server's two looks; asked once, and once more only where a server was lost between the looks.

    Args:
        url: such as `https://cloud.example`.
        settings: its key, certificates, headers and JPEGs; time-outs, and no repetitions, are set here.
        seconds: after which an answer is of no use.
        transport: in place of the network.

    Raises:
        SettingsError: see `AsyncEdgeClient`.
    """

    def __init__(
        self,
        url: str,
        seconds: float,
        settings: ClientSettings | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        given = settings or ClientSettings()
        connect = min(seconds, given.connect_timeout)
        once = replace(given, timeout=seconds, connect_timeout=connect, wait_budget=0.0, retries=0)
        self._client = AsyncEdgeClient(url, settings=once, transport=transport)

    @property
    def url(self) -> str:
        """Its address, fit to be shown."""
        return str(self._client.server_url.copy_with(userinfo=b""))

    async def ask(self, frame: KeyFrame, question: str) -> CloudAnswer:
        """See `Cloud.ask`."""
        started = time.perf_counter()
        answer = await self._client.ask(frame, question, AnswerOptions(relevance=True))
        seconds = time.perf_counter() - started
        region = await asyncio.to_thread(looked_at, answer, self._client.model_card)
        return CloudAnswer(answer.text[:MOST_TEXT], answer.uncertainty, region, sum(answer.bytes_up), seconds)

    async def aclose(self) -> None:
        """Close its connections."""
        await self._client.aclose()


def looked_at(answer: EdgeAnswer, card: ModelCard | None) -> Region | None:
    """Where an answer was read: the region of its second look, else where its relevance stands out most."""
    if answer.region is not None or answer.relevance is None or card is None:
        return answer.region
    view = card.global_view
    relative = torch.tensor(answer.relevance.rows(), dtype=torch.float32)
    settings = RegionSettings(card.crop_size)
    seen = target(view, answer.original)
    return find_region(relative, torch.ones_like(relative), answer.original, settings, seen, view.fit)
