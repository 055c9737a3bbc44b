"""One open stream at the site: its frames answered by their deadlines, and its key frames sent to the cloud.

One frame is computed at a time, and one waits; a newer one takes that one's place. What is computed too late
for its own frame still enters the history. No frame waits for the cloud. All of it belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal

from secondlook.edge.console import one_line
from secondlook.edge.errors import GeometryError, PictureError, SecondLookError
from secondlook.edge.wire import AnswerOptions, View
from secondlook.edge.wire_stream import FrameHeader, FrameReply, StreamEvent, StreamSummary
from secondlook.engine.errors import PictureMismatchError, UnknownStreamError
from secondlook.engine.serve.errors import InvalidFieldError
from secondlook.engine.serve.service import TwoLookService
from secondlook.engine.stream.cloud import Cloud, KeyFrame
from secondlook.engine.stream.details import Details
from secondlook.engine.stream.messages import box_of, frame_info, frame_reply
from secondlook.engine.stream.state import Ask, FrameInfo, Said, Stream, Verdict

__all__ = ["LiveStream"]

_log = logging.getLogger(__name__)

_CAMERAS_FAULT: Final = (PictureError, PictureMismatchError, GeometryError)
"""Said of a frame's own pictures: the camera is told, and its next frame may be better."""


@dataclass(frozen=True)
class _Outcome:
    """What came of a frame, and what failed about it."""

    status: Literal["answered", "held", "superseded"]
    verdict: Verdict
    reason: str = ""


@dataclass(eq=False)
class _Frame:
    """A frame at the site.

    Attributes:
        focus: the JPEG of `info.focus`.
        arrived: on the service's clock.
        late: whether its reply has gone out before its outcome was there.
        context: that of its request, for logs and traces: the task that computes it began with another's.
    """

    info: FrameInfo
    image: bytes = field(repr=False)
    focus: bytes | None = field(repr=False)
    arrived: float
    outcome: asyncio.Future[_Outcome] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    late: bool = False
    context: Context = field(default_factory=copy_context)


class LiveStream:
    """One of a `StreamService`'s.

    Args:
        client: whose pictures these are, to the engine.
        view: of the whole frames.
        deadline: seconds from a frame's arrival to its reply.
        watched: events that are kept for one who does not read them.
        clock: seconds that never run backwards.
    """

    def __init__(
        self,
        client: str,
        stream: Stream,
        looks: TwoLookService,
        cloud: Cloud | None,
        view: View,
        deadline: float,
        watched: int,
        clock: Callable[[], float],
    ) -> None:
        self.client = client
        self.deadline = deadline
        self.touched = clock()
        self._stream = stream
        self._looks = looks
        self._cloud = cloud
        self._view = view
        self._watched = watched
        self._clock = clock
        self._newest: tuple[int, float] = -1, -math.inf  # number, captured
        self._working: asyncio.Task[None] | None = None
        self._computed: _Frame | None = None  # by it
        self._waiting: _Frame | None = None
        self._asking: dict[asyncio.Task[None], KeyFrame] = {}
        self._without_cloud = False
        self._details = Details(stream.method.history_seconds)
        self._watchers: set[asyncio.Queue[StreamEvent]] = set()
        self._ended: StreamEvent | None = None
        self._counts = dict.fromkeys(StreamSummary.model_fields, 0)

    @property
    def busy(self) -> bool:
        """Whether a frame is being computed."""
        return self._working is not None

    @property
    def summary(self) -> StreamSummary:
        """What it came to until now."""
        return StreamSummary(**self._counts)

    @property
    def watchers(self) -> int:
        return len(self._watchers)

    async def frame(
        self, header: FrameHeader, image: bytes, focus: bytes | None, details: Sequence[bytes]
    ) -> FrameReply:
        """See `StreamService.frame`. Cancelled, it leaves the frame to be computed."""
        arrived = self.touched = self._clock()
        self._counts["bytes_from_camera"] += len(image) + len(focus or b"") + sum(map(len, details))
        for detail, jpeg in zip(header.details, details, strict=True):
            self._details.take(detail, jpeg)
        for detail in header.refused:
            self._details.miss(detail, "has no such detail any more")
        info = frame_info(header)
        number, captured = self._newest
        if info.number <= number:
            return self._reply(info, _Outcome("superseded", self._stream.held(info)), arrived)
        if info.captured < captured:
            raise InvalidFieldError(
                f"frame.captured: frame {info.number} was captured at {info.captured:g} s, before frame "
                f"{number} at {captured:g} s; where a camera's clock was set back, open another stream"
            )
        self._newest = info.number, info.captured
        self._details.forget(info.captured)
        frame = _Frame(info, image, focus, arrived)
        frame.outcome.add_done_callback(_heard)
        self._queue(frame)
        left = max(0.0, arrived + self.deadline - self._clock())
        await asyncio.wait({frame.outcome}, timeout=left)
        if frame.outcome.done():
            return self._reply(info, frame.outcome.result(), arrived)
        frame.late = True
        return self._reply(info, _Outcome("held", self._stream.held(info)), arrived, missed=True)

    async def events(self) -> AsyncIterator[StreamEvent]:
        """What happens from now on, to the end."""
        queue: asyncio.Queue[StreamEvent] = asyncio.Queue(self._watched)
        if self._ended is not None:  # before the first of them was asked for
            queue.put_nowait(self._ended)
        self._watchers.add(queue)
        try:
            while True:
                event = await queue.get()
                yield event
                if event.kind == "ended":
                    return
        finally:
            self._watchers.discard(queue)

    def end(self, reason: str) -> StreamSummary:
        """Give everything up that is going on; requests in progress get UnknownStreamError."""
        for frame in (self._computed, self._waiting):
            if frame is not None and not frame.outcome.done():
                frame.outcome.set_exception(UnknownStreamError(f"this stream has ended: {reason}"))
        self._waiting = None
        for task in (*self._asking, *([] if self._working is None else [self._working])):
            task.cancel()
        self._counts["cloud_lost"] += len(self._asking)
        self._counts["bytes_to_cloud"] += sum(key_frame.handed for key_frame in self._asking.values())
        self._ended = StreamEvent(kind="ended", frame=max(0, self._newest[0]), reason=reason)
        self._event(self._ended)
        return self.summary

    def _queue(self, frame: _Frame) -> None:
        if self._working is None:
            self._computed, self._working = frame, asyncio.create_task(self._work(frame))
            return
        before, self._waiting = self._waiting, frame
        if before is not None:
            before.outcome.set_result(_Outcome("superseded", self._stream.held(before.info)))

    async def _work(self, frame: _Frame) -> None:
        following: _Frame | None = frame
        try:
            while following is not None:
                self._computed = following
                await following.context.run(asyncio.ensure_future, self._compute(following))
                following, self._waiting = self._waiting, None
        finally:
            self._computed = self._working = None

    async def _compute(self, frame: _Frame) -> None:
        """A frame's outcome, and what follows from it. Nothing that fails here fails a later frame."""
        info, reason, looked = frame.info, "", False
        fault: SecondLookError | None = None
        steps = self._stream.frame(info)
        try:
            ask = next(steps)
            while True:
                said: Said | None = None
                if looked and frame.late:  # nobody waits for what it says with history, which is not kept
                    ask = steps.send(None)
                    continue
                try:
                    said, less = await self._look(frame, ask)
                    looked, reason = True, less or reason
                except SecondLookError as error:
                    reason = one_line(str(error))
                    if looked:
                        self._event(StreamEvent(kind="dropped", frame=info.number, reason=reason))
                    elif isinstance(error, _CAMERAS_FAULT):
                        fault = error
                ask = steps.send(said)
        except StopIteration as stopped:
            verdict: Verdict = stopped.value
        except Exception as error:  # noqa: BLE001 -- the boundary between one frame's failure and the stream
            _log.exception("a frame failed")
            frame.outcome.set_exception(error)
            return
        outcome = _Outcome("answered" if looked else "held", verdict, reason)
        if fault is None:
            frame.outcome.set_result(outcome)
        else:
            frame.outcome.set_exception(fault)
        if frame.late:
            reply = self._told(info, outcome, frame.arrived, missed=True)
            self._event(StreamEvent(kind="answered", frame=info.number, reply=reply))
        if fault is None:
            self._ask_cloud(frame)

    async def _look(self, frame: _Frame, ask: Ask) -> tuple[Said, str]:
        """What the small model says, and why it could not look closer where it should have."""
        focus = frame.focus if ask.focus is not None else None
        options = AnswerOptions(second_look="never", relevance=ask.relevance)
        if focus is not None and ask.focus is not None:
            options = AnswerOptions(threshold=ask.sure, region=box_of(ask.focus), relevance=ask.relevance)
        original = frame.info.original
        client = self.client
        look = await self._looks.first_look(frame.image, ask.question, original, options, client)
        reply = first = look.reply
        reason = ""
        if first.session is not None:
            assert focus is not None, "sessions are opened for given regions only"
            try:
                reply = (await self._looks.second_look(first.session.id, focus, client)).reply
            except SecondLookError as error:
                reason = one_line(f"not looked at closer: {error}")
                reply = (await self._looks.give_up(first.session.id, client)).reply
            except asyncio.CancelledError:  # see `end`; the server would wait for a session that is open
                with suppress(SecondLookError):
                    await self._looks.give_up(first.session.id, client)
                raise
        cells = None if first.relevance is None else first.relevance.rows()
        answer, closer = reply.answer, reply.decision == "took_second"
        return Said(answer.text, answer.uncertainty, reply.first.uncertainty, closer, cells), reason

    def _ask_cloud(self, frame: _Frame) -> None:
        number = frame.info.number
        if self._cloud is None or not self._stream.wants_cloud(number):
            return
        self._stream.asked(number)
        self._counts["cloud_calls"] += 1
        self._event(StreamEvent(kind="asked", frame=number))
        info = frame.info
        want = partial(self._details.want, captured=info.captured)
        key_frame = KeyFrame(number, info.original, self._view, frame.image, want)
        task = asyncio.create_task(self._hear_cloud(self._cloud, key_frame, info))
        self._asking[task] = key_frame
        task.add_done_callback(self._asking.pop)

    async def _hear_cloud(self, cloud: Cloud, key_frame: KeyFrame, info: FrameInfo) -> None:
        seconds = self._stream.method.history_seconds
        try:
            said = await asyncio.wait_for(cloud.ask(key_frame, self._stream.question), seconds)
        except asyncio.TimeoutError:
            self._lost(key_frame, f"the cloud did not answer within {seconds:g} s")
        except SecondLookError as error:
            self._lost(key_frame, one_line(str(error)))
        except Exception as error:  # noqa: BLE001 -- whatever the cloud does, the stream goes on
            if self._ended is not None:  # and so does the cloud, whose client may be closed by now
                return
            _log.exception("a key frame failed")
            self._lost(key_frame, f"{type(error).__name__}; the log says more")
        else:
            counts = self._stream.answered(
                info.number, info.captured, said.text, said.uncertainty, said.region
            )
            self._counts["cloud_answers"] += 1
            self._without_cloud = False
            self._counts["cloud_counted"] += counts
            self._counts["bytes_to_cloud"] += said.bytes_up
            region = None if said.region is None else box_of(said.region)
            self._event(
                StreamEvent(
                    kind="cloud",
                    frame=info.number,
                    text=said.text,
                    uncertainty=said.uncertainty,
                    region=region,
                    counts=counts,
                    seconds=said.seconds,
                    bytes_up=said.bytes_up,
                )
            )

    def _lost(self, frame: KeyFrame, reason: str) -> None:
        if self._ended is not None:  # it was counted then
            return
        self._stream.lost(frame.number)
        self._counts["cloud_lost"] += 1
        level = logging.INFO if self._without_cloud else logging.WARNING  # the first of them
        _log.log(level, "a key frame has no answer: %s", reason)
        self._without_cloud = True
        self._counts["bytes_to_cloud"] += frame.handed
        self._event(StreamEvent(kind="lost", frame=frame.number, reason=reason, bytes_up=frame.handed))

    def _reply(self, info: FrameInfo, outcome: _Outcome, arrived: float, missed: bool = False) -> FrameReply:
        """The reply that goes out, counted; from then on the stream waits for the next frame."""
        self.touched = self._clock()
        wanted = {"wanted": self._details.wanted}
        reply = self._told(info, outcome, arrived, missed).model_copy(update=wanted)
        self._counts["frames"] += 1
        self._counts[outcome.status] += 1
        self._counts["deadline_misses"] += missed
        self._event(StreamEvent(kind="answered", frame=info.number, reply=reply))
        return reply

    def _told(self, info: FrameInfo, outcome: _Outcome, arrived: float, missed: bool) -> FrameReply:
        seconds = self._clock() - arrived
        return frame_reply(info, outcome.status, outcome.verdict).model_copy(
            update={"deadline_missed": missed, "reason": outcome.reason, "seconds": seconds}
        )

    def _event(self, event: StreamEvent) -> None:
        """Tell whoever watches; who does not read loses the oldest."""
        for queue in self._watchers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)


def _heard(future: asyncio.Future[_Outcome]) -> None:
    """asyncio logs errors that nobody asked for: of a frame that was answered already, say."""
    if not future.cancelled():
        future.exception()
