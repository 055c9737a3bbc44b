"""The streams that are open at a site: opened, found by their ids, ended when nobody sends frames any more.

They are shared out among clients as places are (`secondlook.engine.serve.places`): a client may have no more
open than are still free, so that a newcomer always finds one. A stream belongs to its client's key, if that
has one, and to whoever holds its id.

Nothing here knows of HTTP.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Annotated, Final

from pydantic import Field, PositiveFloat, PositiveInt

from secondlook.edge.geometry import Size
from secondlook.edge.limits import PictureLimits
from secondlook.edge.validation import validated
from secondlook.edge.wire_stream import (
    FrameHeader,
    FrameReply,
    StreamCard,
    StreamEvent,
    StreamOptions,
    StreamSummary,
)
from secondlook.engine.errors import TooManyStreamsError, UnknownStreamError
from secondlook.engine.serve.keys import owner_of
from secondlook.engine.serve.service import TwoLookService
from secondlook.engine.stream.cloud import Cloud
from secondlook.engine.stream.live import LiveStream
from secondlook.engine.stream.state import Method, Stream

__all__ = ["StreamService", "StreamSettings"]

_ID_BYTES: Final = 24
"""192 bits of randomness: an id cannot be guessed, and without keys holding it is the right to the stream."""

_LOOK_SECONDS: Final = 0.25
"""How often streams over time are looked for."""

_TRIED_ON: Final = Size(640, 480)
"""An original, for the check of a question before there is one."""


@validated(frozen=True)
class StreamSettings:
    """What a site does with frames, and its bounds.

    Attributes:
        method: see `Method`; its `context` is the checkpoint's, see `use_context`.
        use_context: whether an earlier answer is put behind the question, where the checkpoint has learnt to
            read that; else it stands in place of an unsure answer.
        deadline: seconds from a frame's arrival to its reply, for streams that do not say.
        idle_seconds: without a frame for so long, a stream ends.
        max_streams: open at once; of one client half of them, or fewer where others have some.
        max_watchers: of one stream's events.
        watched: events that are kept for a watcher who does not read them; the oldest go.
    """

    method: Method = Method()
    use_context: bool = True
    deadline: Annotated[float, Field(gt=0, le=60)] = 0.2
    idle_seconds: PositiveFloat = 30.0
    max_streams: PositiveInt = 64
    max_watchers: PositiveInt = 16
    watched: PositiveInt = 256


class StreamService:
    """Answers streams with a small model, and has a cloud teach it. Its coroutines belong to one event loop.

    Args:
        looks: the small model's.
        cloud: who is asked about key frames; None: nobody.
        settings: the method, and the bounds.
        clock: seconds that never run backwards.
    """

    def __init__(
        self,
        looks: TwoLookService,
        cloud: Cloud | None,
        settings: StreamSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._looks = looks
        self._cloud = cloud
        self._clock = clock
        self._open: dict[str, LiveStream] = {}
        self._past: Counter[str] = Counter(dict.fromkeys(StreamSummary.model_fields, 0))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While the block runs, streams end that are idle, and all of them once the server shuts down."""
        looking = asyncio.create_task(self._look_regularly())
        try:
            yield
        finally:
            looking.cancel()
            self._end_all("the server is shutting down")
            if self._cloud is not None:
                await self._cloud.aclose()

    def __len__(self) -> int:
        """Streams that are open."""
        return len(self._open)

    @property
    def totals(self) -> StreamSummary:
        """What all streams came to, those that have ended too."""
        counts = Counter(self._past)
        for live in self._open.values():
            counts.update(live.summary.model_dump())
        return StreamSummary(**counts)

    def check(self, name: str, client: str = "") -> None:
        """
        Raises:
            UnknownStreamError: no such stream is open, or it is not this client's.
        """
        self._found(name, client)

    async def open(self, options: StreamOptions, client: str = "") -> StreamCard:
        """Begin a client's stream.

        Raises:
            QuestionError: the engine cannot take the question.
            TooManyStreamsError: there are as many as there may be.
            QueueFullError: the question finds no place to be checked in.
            ModelNotReadyError, ShuttingDownError: no questions are taken now.
        """
        settings, card = self.settings, self._looks.card
        self._check_room(client)
        await self._looks.check_question(options.question, _TRIED_ON, client)
        self._check_room(client)  # others may have come meanwhile
        context = self._looks.context if settings.use_context else None
        method = replace(settings.method, context=context)
        view, name = card.global_view, secrets.token_urlsafe(_ID_BYTES)
        deadline = options.deadline or settings.deadline
        self._open[name] = LiveStream(
            client,
            Stream(options.question, method, view),
            self._looks,
            self._cloud,
            view,
            deadline,
            settings.watched,
            self._clock,
        )
        return StreamCard(
            id=name,
            model=card,
            deadline=deadline,
            idle_seconds=settings.idle_seconds,
            history_seconds=method.history_seconds,
        )

    async def frame(
        self,
        name: str,
        header: FrameHeader,
        image: bytes,
        focus: bytes | None = None,
        details: Sequence[bytes] = (),
        client: str = "",
    ) -> FrameReply:
        """What holds for a frame, by its deadline.

        Args:
            image: the whole frame as a JPEG of the card's global view.
            focus: the JPEG of `header.focus`.
            details: those of `header.details`.

        Raises:
            UnknownStreamError: see `check`.
            PictureError, PictureMismatchError, GeometryError: of this frame's own pictures; the next may be
                better.
            InvalidFieldError: its time of capture is before that of an earlier frame.
            ShuttingDownError, ModelNotReadyError: see TwoLookService.
        """
        live = self._found(name, client)
        self._looks.check_ready()
        limits = PictureLimits(max_bytes=self._looks.max_body_bytes)  # now, for it may wait
        for jpeg in (image, focus or b""):
            limits.check_bytes(len(jpeg), "the JPEG")
        return await live.frame(header, image, focus, details)

    def events(self, name: str, client: str = "") -> AsyncIterator[StreamEvent]:
        """What happens in a stream from now on, to its end.

        Raises:
            UnknownStreamError: see `check`.
            TooManyStreamsError: as many watch it as may.
        """
        live = self._found(name, client)
        if live.watchers >= self.settings.max_watchers:
            raise TooManyStreamsError(f"{live.watchers} watch this stream already; try again later", 1.0)
        return live.events()

    def close(self, name: str, client: str = "") -> StreamSummary:
        """End a stream.

        Raises:
            UnknownStreamError: see `check`.
        """
        self._found(name, client)
        return self._end(name, "it was closed")

    def _check_room(self, client: str) -> None:
        self._looks.check_ready()
        free = self.settings.max_streams - len(self._open)
        held = sum(live.client == client for live in self._open.values())
        if free <= 0 or held >= max(1, free):
            raise TooManyStreamsError(
                f"{len(self._open)} streams are open already, {held} of this client's; end one, or try again "
                "later",
                1.0,
            )

    def _found(self, name: str, client: str) -> LiveStream:
        live = self._open.get(name)
        if live is None or owner_of(live.client) != owner_of(client):
            raise UnknownStreamError("this stream does not exist, or has ended; open another one")
        return live

    async def _look_regularly(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if self._looks.stopping:
                self._end_all("the server is shutting down")
            self._end_idle()

    def _end_idle(self) -> None:
        """A function of its own, so that no stream that has ended is held on to until the next look."""
        idle = self.settings.idle_seconds
        for name, live in list(self._open.items()):
            if not live.busy and self._clock() - live.touched >= idle:
                self._end(name, f"no frame came within {idle:g} s")

    def _end_all(self, reason: str) -> None:
        for name in list(self._open):
            self._end(name, reason)

    def _end(self, name: str, reason: str) -> StreamSummary:
        summary = self._open.pop(name).end(reason)
        self._past.update(summary.model_dump())
        return summary
