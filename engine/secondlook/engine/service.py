"""Both looks as a server sees them: checks, sessions, and the queue to the inference thread. Free of HTTP.

Everything here runs on the event loop, except images' decoding (worker threads) and the engine (its own
thread).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from PIL import Image

from secondlook.edge.errors import SettingsError
from secondlook.edge.geometry import Region, Size, shrunk
from secondlook.edge.imaging import PictureLimits, decode_jpeg
from secondlook.edge.wire import AnswerOptions, AnswerReply, ModelCard, PendingSession
from secondlook.engine.errors import PictureMismatchError
from secondlook.engine.prompts import check_question
from secondlook.engine.protocol import TwoLookEngine
from secondlook.engine.replies import final_reply, first_reply
from secondlook.engine.sessions import Claim, SessionStore
from secondlook.engine.settings import ServerSettings
from secondlook.engine.worker import InferenceThread, Timed

if TYPE_CHECKING:
    from secondlook.engine.looks import FinalAnswer, Look, Pending

__all__ = ["TwoLookService"]

ResultT = TypeVar("ResultT")

_DECODED_OVERSIZE = 4
"""A JPEG with more than this many times the encoder's pixels is refused before it is decoded."""

_PURGE_SECONDS = 1.0
"""How often sessions over time are looked for; what they keep is freed at most this much later."""


@dataclass(frozen=True)
class _Question:
    """What a session keeps as long as it lives; small, and enough to compute the rest again."""

    jpeg: bytes
    text: str
    original: Size
    options: AnswerOptions
    first: Look
    region: Region


class TwoLookService:
    """Answers first and second looks with one engine. Its coroutines belong to one event loop.

    Args:
        load: makes the engine, on the inference thread.
        settings: the bounds.
        clock: for sessions' lives; seconds that never run backwards.
    """

    def __init__(
        self,
        load: Callable[[], TwoLookEngine],
        settings: ServerSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._sessions: SessionStore[_Question, Pending] = SessionStore(settings.sessions, clock)
        self._inference = InferenceThread(load, settings.queue_size)
        self._decoders = ThreadPoolExecutor(settings.decoding_threads, thread_name_prefix="secondlook-decode")

    @property
    def loaded(self) -> Future[TwoLookEngine]:
        """Resolved with the engine, or with what prevented its loading."""
        return self._inference.loaded

    @property
    def card(self) -> ModelCard:
        """The model's card; raises ModelNotReadyError or ShuttingDownError like `check_ready`."""
        self.check_ready()
        return self.loaded.result().card

    @property
    def waiting(self) -> int:
        """Questions in the queue, without the one being answered."""
        return self._inference.waiting

    def start(self) -> None:
        """Begin to load the engine."""
        self._inference.start()

    def begin_shutdown(self) -> None:
        """Refuse what comes from now on (ShuttingDownError); what was accepted is still answered."""
        self._inference.close()

    async def stop(self) -> None:
        """Begin the shutdown, if that was not done, and wait for what was accepted."""
        self.begin_shutdown()
        # A model that is still being read cannot be interrupted, and need not be waited for.
        if self.loaded.done():
            await asyncio.to_thread(self._inference.join)
        self._decoders.shutdown(wait=False, cancel_futures=True)

    async def purge_regularly(self) -> None:
        """End sessions that are over time, until cancelled."""
        while True:
            await asyncio.sleep(_PURGE_SECONDS)
            self._sessions.purge()

    def check_ready(self) -> None:
        """Raise ModelNotReadyError or ShuttingDownError unless questions are taken; the queue may be full."""
        self._inference.check_ready()

    def check_room(self) -> None:
        """Like `check_ready`; also raise QueueFullError when a question would find no place."""
        self._inference.check_room()

    async def first_look(
        self, jpeg: bytes, question: str, original: Size, options: AnswerOptions
    ) -> AnswerReply:
        """Answer from the global image, and open a session where a second look is wanted.

        Raises:
            EmptyQuestionError, QuestionTooLongError, and other QuestionErrors of the engine.
            SettingsError: options that the server does not allow.
            NotAPictureError, PictureTooLargeError: not one whole JPEG of about the encoder's size.
            PictureMismatchError: not a global image, or an impossible original.
            QueueFullError, ShuttingDownError, ModelNotReadyError, EngineFailedError: see InferenceThread.
        """
        side = self.card.image_size
        check_question(question, self.settings.max_question_characters)
        self._check_options(options)
        self._check_original(original)
        image, decode_seconds = await self._decode(jpeg, side)
        if image.size != (side, side):
            raise PictureMismatchError(
                f"the global image must have {side}x{side} pixels, not {image.width}x{image.height}"
            )
        timed = await self._run(lambda engine: engine.first_look(image, question, original, options))
        pending, session = timed.result.pending, None
        if pending is not None:
            kept = _Question(jpeg, question, original, options, pending.first, pending.region)
            name, seconds = self._sessions.open(kept, pending, pending.nbytes)
            session = PendingSession(id=name, expires_in=seconds)
        return first_reply(
            timed.result, session, queue_seconds=timed.queue_seconds, decode_seconds=decode_seconds
        )

    async def second_look(self, session_id: str, jpeg: bytes) -> AnswerReply:
        """Answer from both images, and end the session; whatever is raised later than SessionErrors leaves it
        waiting.

        Raises:
            UnknownSessionError, ExpiredSessionError, AnsweredSessionError: see SessionStore.
            NotAPictureError, PictureTooLargeError, PictureMismatchError: not the local image of the session's
            region. QueueFullError, ShuttingDownError, ModelNotReadyError, EngineFailedError: see
            InferenceThread.
        """
        side = self.card.image_size
        region = self._sessions.look(session_id).region
        local_image, decode_seconds = await self._decode(jpeg, side)
        _check_local_size(local_image, shrunk(region.size, side), region)
        async with self._claimed(session_id) as claim:
            question, pending = claim.question, claim.cache
            global_image: Image.Image | None = None
            if pending is None:  # its cache was given up
                global_image, more_seconds = await self._decode(question.jpeg, side)
                decode_seconds += more_seconds

            def look(engine: TwoLookEngine) -> FinalAnswer:
                kept = pending or _look_again(engine, question, global_image)
                return engine.second_look(kept, local_image)

            timed = await self._run(look)
        return final_reply(timed.result, queue_seconds=timed.queue_seconds, decode_seconds=decode_seconds)

    def give_up(self, session_id: str) -> None:
        """End a session without a second look. Raises SessionErrors; see SessionStore."""
        self._sessions.give_up(session_id)

    @asynccontextmanager
    async def _claimed(self, session_id: str) -> AsyncIterator[Claim[_Question, Pending]]:
        claim = self._sessions.claim(session_id)
        try:
            yield claim
        except BaseException:
            self._sessions.release(session_id)
            raise
        self._sessions.finish(session_id)

    async def _run(self, job: Callable[[TwoLookEngine], ResultT]) -> Timed[ResultT]:
        return await asyncio.wrap_future(self._inference.submit(job))

    async def _decode(self, jpeg: bytes, side: int) -> tuple[Image.Image, float]:
        """The image, and the seconds from here until it was there."""
        started = time.perf_counter()
        limits = PictureLimits(max_pixels=_DECODED_OVERSIZE * side * side)
        image = await asyncio.get_running_loop().run_in_executor(self._decoders, decode_jpeg, jpeg, limits)
        return image, time.perf_counter() - started

    def _check_options(self, options: AnswerOptions) -> None:
        if (options.max_new_tokens or 0) > self.settings.max_new_tokens:
            raise SettingsError(
                f"max_new_tokens is {options.max_new_tokens}; the limit is {self.settings.max_new_tokens}"
            )

    def _check_original(self, original: Size) -> None:
        if original.pixels > self.settings.max_original_pixels:
            raise PictureMismatchError(
                f"the original is said to have {original} = {original.pixels} pixels; the limit is "
                f"{self.settings.max_original_pixels}"
            )


def _check_local_size(image: Image.Image, expected: Size, region: Region) -> None:
    if image.size != (expected.width, expected.height):
        raise PictureMismatchError(
            f"the local image has {image.width}x{image.height} pixels; the region {region} gives {expected}"
        )


def _look_again(engine: TwoLookEngine, question: _Question, global_image: Image.Image | None) -> Pending:
    """What a first look left behind, computed again; the answer and region that the edge knows stay."""
    assert global_image is not None, "decoded where no pending look is kept"
    always = question.options.model_copy(update={"second_look": "always"})
    pending = engine.first_look(global_image, question.text, question.original, always).pending
    assert pending is not None, "this question about this picture asked for a region before"
    return replace(pending, first=question.first, region=question.region)
