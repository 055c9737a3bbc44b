"""What the camera's side of a stream knows, and its steps: what it keeps, sends and learns.

The steps are as a conversation's (`exchange`); the blocking stream and the asynchronous one take the same.
"""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import dataclass, replace
from urllib.parse import quote

from pydantic import PositiveFloat, PositiveInt, ValidationError

from .conversation import check_text
from .driver import SURROUNDINGS
from .errors import (
    ClientError,
    GeometryError,
    PictureError,
    RequestRefusedError,
    SecondLookError,
    SettingsError,
)
from .exchange import Call, Patience, Steps, Surroundings, Traffic, ask, work
from .geometry import Rectangle, Region, Size, inside, moved
from .imaging import EncodedPicture, Picture, PictureSource, open_picture
from .retry import ClientSettings
from .validation import told, validated
from .wire import Box
from .wire_stream import (
    MOST_DETAILS,
    MOST_REFUSED,
    Detail,
    FocusAt,
    FrameHeader,
    FrameReply,
    StreamCard,
    StreamOptions,
    StreamSummary,
    Wanted,
    Window,
)

__all__ = ["Camera", "RingLimits"]

logger = logging.getLogger(__name__)

_MOST_NOTED = 4096
"""Frames that a site knows."""

_END_SECONDS = 2.0
"""How long the end of a stream may take to be told; untold, the site ends it by itself."""


@validated(frozen=True)
class RingLimits:
    """What a stream keeps of the originals of its last frames, from which the cloud may want details.

    Attributes:
        bytes: of all together: a JPEG's own, of any other picture three a pixel. The oldest go first.
        seconds: nothing older, by the times of capture; nor than the site's card says.
    """

    bytes: PositiveInt = 64_000_000
    seconds: PositiveFloat = 10.0


@dataclass(frozen=True)
class _Kept:
    """A frame and its original."""

    number: int
    captured: float
    window: Window | None
    picture: Picture


class _Ring:
    """The originals of the last frames."""

    def __init__(self, limits: RingLimits) -> None:
        self._limits = limits
        self._kept: dict[int, _Kept] = {}
        self._bytes = 0
        self._newest = -math.inf

    def get(self, number: int) -> _Kept | None:
        return self._kept.get(number)

    def put(self, kept: _Kept, seconds: float) -> None:
        """Keep a frame, and none that is so much older than the newest."""
        self._kept[kept.number] = kept
        self._bytes += kept.picture.held_bytes
        self._newest = max(self._newest, kept.captured)
        oldest = self._newest - min(seconds, self._limits.seconds)
        for number in sorted(self._kept):  # they may come in any order
            if self._bytes > self._limits.bytes or self._kept[number].captured < oldest:
                self._bytes -= self._kept.pop(number).picture.held_bytes


@dataclass(frozen=True)
class _Place:
    """Where the site would look closer, in a frame that was."""

    region: Box
    captured: float
    window: Window | None
    size: Size

    def brought_to(self, kept: _Kept, seconds: float) -> Region | None:
        """Where that is in another frame; None: outside, or unknown, as it is after so many seconds."""
        size = kept.picture.size
        if self.size != size or abs(kept.captured - self.captured) > seconds:
            return None
        place = Rectangle(self.region.left, self.region.top, self.region.right, self.region.bottom)
        if self.window is not None and kept.window is not None:
            place = moved(place, _rectangle(self.window), _rectangle(kept.window), size)
        return inside(place, size)


class Camera:
    """What one camera knows of its stream. Holds no connection.

    Attributes:
        card: how the site wants its frames; None while no stream is open.
        latest: the reply to the newest frame that has one.
        summary: what the stream came to, once it is closed, if the site could tell.

    Raises:
        SettingsError: the deadline is out of its range.
        ClientError: the question is empty, or no text.
    """

    def __init__(
        self,
        question: str,
        deadline: float | None,
        settings: ClientSettings | None,
        ring: RingLimits | None,
        surroundings: Surroundings | None,
    ) -> None:
        check_text(question)
        try:
            self._options = StreamOptions(question=question, deadline=deadline)
        except ValidationError as error:
            raise SettingsError(told(error, StreamOptions.model_fields)) from None
        self.settings = settings or ClientSettings()
        self._surroundings = surroundings or SURROUNDINGS
        self._ring = _Ring(ring or RingLimits())
        self._next = 0
        self._told = -1  # the newest frame of which the site told where it would look closer, or nowhere
        self._place: _Place | None = None
        self._wanted: list[Wanted] = []  # to be sent
        self._noted: set[Wanted] = set()  # those, and what was sent or refused, as long as it is asked for
        self._refused: list[Detail] = []  # to be told
        self._has_refused = self._closed = False
        self.card: StreamCard | None = None
        self.latest: FrameReply | None = None
        self.summary: StreamSummary | None = None
        self.traffic = Traffic()

    def begin(self, captured: float | None) -> tuple[int, float]:
        """Number and time of a new frame; raises as `check_open`."""
        self.check_open()
        if captured is None:
            captured = self._surroundings.clock()
        elif not math.isfinite(captured):
            raise SettingsError(f"the time of a frame's capture must be a finite number, not {captured}")
        self._next += 1
        return self._next - 1, captured

    def shut(self) -> None:
        """Take no more frames."""
        self._closed = True

    def check_open(self) -> None:
        """Raise ClientError once it was shut."""
        if self._closed:
            raise ClientError("the stream is closed; make another one")

    def open(self) -> Steps[StreamCard]:
        """Open a stream, with the patience of a question."""
        call, patience = Call("POST", "/v1/streams", message=self._options), Patience(self.settings)
        card = yield from ask(call, StreamCard, self.traffic, patience, self._surroundings)
        self.card, self._told, self._place = card, -1, None
        self._wanted.clear()
        self._noted.clear()
        self._refused.clear()
        return card

    def show(
        self, number: int, captured: float, source: PictureSource | Picture, window: Window | None
    ) -> Steps[FrameReply]:
        """Show a frame, with what the replies so far ask for."""
        card = self.card or (yield from self.open())
        picture = yield from work(lambda: self._opened(source))
        kept = _Kept(number, captured, window, picture)
        self._ring.put(kept, card.history_seconds)
        focus = None if self._place is None else self._place.brought_to(kept, card.history_seconds)
        details, refused = self._take_details()
        try:
            call = yield from work(lambda: self._call(card, kept, focus, details, refused))
            reply = yield from ask(call, FrameReply, self.traffic, self._patience(card), self._surroundings)
        except SecondLookError as error:
            if self.card is card:
                if isinstance(error, RequestRefusedError) and error.status == 404:
                    self.card = None  # the site has forgotten the stream: the next frame opens another
                self._wanted += [wanted for _, wanted in details]  # with a later frame, perhaps
                self._refused = (refused + self._refused)[:MOST_REFUSED]
            raise
        if self.card is card:
            self._learn(kept, reply)
        return reply

    def close(self) -> Steps[StreamSummary | None]:
        """End the stream, if one is open."""
        self.shut()
        card, self.card = self.card, None
        if card is None:
            return self.summary
        call = Call("DELETE", _path(card), timeout=min(self.settings.timeout, _END_SECONDS))
        patience = Patience(replace(self.settings, retries=0))
        try:
            self.summary = yield from ask(call, StreamSummary, self.traffic, patience, self._surroundings)
        except ClientError as error:
            logger.warning("the site could not be told that the stream ends: %s", error)
        return self.summary

    def _opened(self, source: PictureSource | Picture) -> Picture:
        """A picture that nobody else decodes: what is kept stays as small as it came."""
        return (
            copy.copy(source) if isinstance(source, Picture) else open_picture(source, self.settings.limits)
        )

    def _patience(self, card: StreamCard) -> Patience:
        """A frame is sent once, unless the settings have repetitions; these while it is of any worth."""
        settings = self.settings
        budget = min(settings.wait_budget, card.deadline)
        return Patience(replace(settings, retries=settings.retries or 0, wait_budget=budget))

    def _take_details(self) -> tuple[list[tuple[_Kept, Wanted]], list[Detail]]:
        """What goes with the next frame, the newest first, and what is refused."""
        there = list[tuple[_Kept, Wanted]]()
        for wanted in self._wanted:
            if kept := self._ring.get(wanted.frame):
                there.append((kept, wanted))
            else:
                self._refuse(wanted, "it is no longer kept")
        there.sort(key=lambda pair: pair[1].frame, reverse=True)
        self._wanted = [wanted for _, wanted in there[MOST_DETAILS:]]
        refused, self._refused = self._refused[:MOST_REFUSED], self._refused[MOST_REFUSED:]
        return there[:MOST_DETAILS], refused

    def _refuse(self, wanted: Wanted, why: str) -> None:
        """Tell the site, which else would wait."""
        level = logging.INFO if self._has_refused else logging.WARNING
        logger.log(level, "a detail of frame %d cannot be sent: %s", wanted.frame, why)
        self._has_refused = True
        self._refused.append(Detail(frame=wanted.frame, region=wanted.region))

    def _call(
        self,
        card: StreamCard,
        kept: _Kept,
        focus: Region | None,
        details: list[tuple[_Kept, Wanted]],
        refused: list[Detail],
    ) -> Call:
        """A frame with its parts. A detail that cannot be made is refused with the next one."""
        settings, size = self.settings, kept.picture.size
        picture = copy.copy(kept.picture)
        images = {"image": picture.global_image(card.model.global_view, settings.global_jpeg).jpeg}
        if focus is not None:
            images["focus"] = picture.local_image(focus, card.model.local_view, settings.local_jpeg).jpeg
        sent: list[Detail] = []
        for earlier, wanted in details:
            try:
                image = _detail(copy.copy(earlier.picture), wanted, settings)
            except (GeometryError, PictureError) as error:
                self._refuse(wanted, str(error))
                continue
            images[f"detail{len(sent)}"] = image.jpeg
            sent.append(Detail(frame=wanted.frame, region=wanted.region))
        header = FrameHeader(
            frame=kept.number,
            captured=kept.captured,
            width=size.width,
            height=size.height,
            window=kept.window,
            focus=None if focus is None else _box(focus),
            details=tuple(sent),
            refused=tuple(refused),
        )
        data = {"frame": header.model_dump_json(exclude_none=True)}
        seconds = min(settings.timeout, card.deadline + settings.connect_timeout)
        return Call("POST", f"{_path(card)}/frames", data, images, timeout=seconds)

    def _learn(self, kept: _Kept, reply: FrameReply) -> None:
        if self.latest is None or reply.frame > self.latest.frame:
            self.latest = reply
        # Of a frame that was not looked at, no focus is no news.
        tells = reply.status == "answered" or reply.focus is not None
        if tells and reply.frame > self._told:
            self._told, self._place = reply.frame, self._where(kept, reply.focus)
        for wanted in reply.wanted:
            if wanted not in self._noted:
                self._noted.add(wanted)
                self._wanted.append(wanted)
        oldest = reply.frame - _MOST_NOTED
        self._noted = {wanted for wanted in self._noted if wanted.frame >= oldest}

    def _where(self, kept: _Kept, focus: FocusAt | None) -> _Place | None:
        if focus is None:
            return None
        frame = kept if focus.frame == kept.number else self._ring.get(focus.frame)
        if frame is None:
            return None
        return _Place(focus.region, frame.captured, frame.window, frame.picture.size)


def _detail(picture: Picture, wanted: Wanted, settings: ClientSettings) -> EncodedPicture:
    box = wanted.region
    if box is None:
        return picture.global_image(wanted.view, settings.global_jpeg)
    region = Region(box.left, box.top, box.right, box.bottom)
    return picture.local_image(region, wanted.view, settings.local_jpeg)


def _box(region: Region) -> Box:
    return Box(left=region.left, top=region.top, right=region.right, bottom=region.bottom)


def _rectangle(window: Window) -> Rectangle:
    return Rectangle(window.left, window.top, window.right, window.bottom)


def _path(card: StreamCard) -> str:
    return f"/v1/streams/{quote(card.id, safe='')}"
