"""What the server does with a question: from a JPEG and a text to an answer, and a session between two looks.

Images and questions are prepared on worker threads, and looked at on the inference thread; all else runs on
the event loop. A request is held to the server's settings here, a question and its picture to the model in
`prepare`. Nothing here knows of HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from PIL import Image

from secondlook.edge.geometry import Size, most_pixels, sent_size
from secondlook.edge.versions import installed_version
from secondlook.edge.wire import AnswerOptions, Limits, ModelCard, PendingSession
from secondlook.engine.errors import SessionError, ShuttingDownError
from secondlook.engine.serve.decoding import FEW_BYTES, Decoding, Made, most_bytes
from secondlook.engine.serve.futures import on_loop, settle
from secondlook.engine.serve.kept import KeptLook, without_second
from secondlook.engine.serve.keys import owner_of
from secondlook.engine.serve.observing import Observation, Observer, Observers
from secondlook.engine.serve.places import Place, Places
from secondlook.engine.serve.protocol import TwoLookEngine
from secondlook.engine.serve.served import Served
from secondlook.engine.serve.sessions import Census, SessionStore
from secondlook.engine.serve.settings import ServerSettings
from secondlook.engine.serve.worker import InferenceThread, Submitted

if TYPE_CHECKING:
    from secondlook.engine.progress import InProgress
    from secondlook.engine.results import FirstLook, LocalImage, Look, Pending, Question

__all__ = ["TwoLookService"]

ResultT = TypeVar("ResultT")

_BYTES_A_CHARACTER = 4
"""Of UTF-8, at most."""

_VERSION = installed_version("secondlook") or ""

_PURGE_SECONDS = 1.0
"""How often sessions over time are looked for; what they keep is freed at most this much later."""


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
        self._sessions: SessionStore[KeptLook, Future[Served]] = SessionStore(
            settings.sessions, lambda kept: kept.stands, lambda kept: kept.nbytes, clock
        )
        self._inference = InferenceThread(load)
        self._places = Places(
            lambda: self.loaded.result().slots, settings.queue_size, settings.decoding_threads
        )
        self._observers = Observers()
        self._stopping = self._at_once = False
        self.decoding = Decoding(self._places, settings.decoding_threads)

    @property
    def loaded(self) -> Future[TwoLookEngine]:
        """Resolved with the engine, or with what prevented its loading."""
        return self._inference.loaded

    @property
    def card(self) -> ModelCard:
        """The model's card, with the server's limits; raises ModelNotReadyError or ShuttingDownError like
        `check_ready`."""
        self.check_ready()
        settings, engine = self.settings, self.loaded.result()
        limits = Limits(
            max_body_bytes=self.max_body_bytes,
            max_question_characters=engine.max_question_characters,
            max_new_tokens=settings.max_new_tokens,
            max_original_pixels=settings.max_original_pixels,
        )
        return engine.card.model_copy(update={"version": _VERSION, "limits": limits})

    @property
    def max_body_bytes(self) -> int:
        """What a request may have: the settings' limit, or less where no picture of the model's views has so
        much. Raises ModelNotReadyError, and ShuttingDownError once not even second looks are taken."""
        self._inference.check_ready()
        engine = self.loaded.result()
        card = engine.card
        picture = most_bytes(max(most_pixels(view) for view in (card.global_view, card.local_view)))
        question = _BYTES_A_CHARACTER * engine.max_question_characters
        return min(self.settings.max_body_bytes, picture + question + FEW_BYTES)

    @property
    def context(self) -> str | None:
        """See `TwoLookEngine.context`; raises like `card`."""
        self.check_ready()
        return self.loaded.result().context

    @property
    def waiting(self) -> int:
        """Questions accepted, without those being answered."""
        return self._places.waiting

    @property
    def running(self) -> int:
        """Questions being answered."""
        return self._places.running

    @property
    def sessions(self) -> Census:
        """How many there are, and were."""
        return self._sessions.census

    def observe(self, observer: Observer) -> None:
        """Tell it of every look from now on."""
        self._observers.add(observer)

    def start(self) -> None:
        """Begin to load the engine."""
        self._inference.start()

    @property
    def stopping(self) -> bool:
        """Whether the shutdown has begun."""
        return self._stopping

    @property
    def open_sessions(self) -> int:
        """Sessions that wait for their second look, or have it computed."""
        return len(self._sessions)

    def begin_shutdown(self, *, at_once: bool = False) -> None:
        """Refuse new questions from now on (ShuttingDownError); what was accepted is still answered, and so
        are the second looks of open sessions until `stop`, which waits for none if that must be `at_once`."""
        self._stopping, self._at_once = True, at_once

    async def stop(self) -> None:
        """Begin the shutdown, if that was not done, and wait for what was accepted."""
        self._stopping = True
        self._inference.close()
        # A model that is still being read cannot be interrupted, and need not be waited for.
        if self.loaded.done() and not self._at_once:
            # Not on asyncio's own threads, which may all wait for a name to be looked up, a cloud's say.
            await self.decoding.run(self._inference.join)
        self.decoding.close()

    async def purge_regularly(self, also: Callable[[], object]) -> None:
        """End sessions that are over time, and what else is, until cancelled."""
        while True:
            await asyncio.sleep(_PURGE_SECONDS)
            self._sessions.purge()
            also()

    def check_alive(self) -> None:
        """Raise ModelNotReadyError, or ShuttingDownError once not even second looks are taken."""
        self._inference.check_ready()

    def check_ready(self) -> None:
        """Raise ModelNotReadyError or ShuttingDownError unless questions are taken; the queue may be full."""
        if self._stopping:
            raise ShuttingDownError("the server is shutting down; ask another one, or later")
        self._inference.check_ready()

    async def check_whole(self) -> None:
        """Raise what `check_ready` does, or what says that the engine waits in vain for what computes."""
        self.check_ready()
        outside = self.loaded.result().outside
        if outside is not None:
            await self.decoding.run(outside.check)

    def check_room(self, client: str, *, second: bool) -> None:
        """Raise what `check_ready` does, and QueueFullError when a client's look would find no place.

        While the service stops, there is still room for second looks.
        """
        if second:
            self._inference.check_ready()
        else:
            self.check_ready()
        self._places.check(client, second=second)

    async def check_question(self, question: str, original: Size, client: str = "") -> None:
        """Raise what `first_look` would of a question and its original's size, whatever its picture."""
        engine = self.loaded.result()
        sent = sent_size(engine.card.global_view, original)
        blank = Image.new("RGB", (sent.width, sent.height))
        check = partial(engine.prepare, blank, question, original, AnswerOptions(), client=client)
        with self._places.taken(client) as place:
            await self.decoding.in_turn(place, check)
        self._places.leave(place)

    async def first_look(
        self, jpeg: bytes, question: str, original: Size, options: AnswerOptions, client: str = ""
    ) -> Served:
        """Answer from the global image, or, as soon as a region is known, open a session for it.

        Cancelled, it ends the look.

        Args:
            client: who asks; places are shared out by client, and pictures asked about again known by it.

        Raises:
            QuestionError: the engine cannot take the question.
            SettingsError: options that the server does not allow.
            NotAPictureError, PictureTooLargeError: not one whole JPEG of about the encoder's size.
            PictureMismatchError, GeometryError: not a global image, or an impossible original.
            QueueFullError: see Places. ShuttingDownError, ModelNotReadyError, EngineFailedError: see
            InferenceThread.
        """
        view = self.card.global_view
        self.settings.check_allowed(options, original)
        engine = self.loaded.result()
        most = sent_size(view, original)

        def prepare(image: Image.Image) -> Question:
            return engine.prepare(image, question, original, options, client=client, jpeg=jpeg)

        return await self.look(
            client, lambda place: self.decoding.jpeg(place, jpeg, most, prepare), received_bytes=len(jpeg)
        )

    async def look(
        self,
        client: str,
        make: Callable[[Place], Awaitable[Made[Question]]],
        *,
        received_bytes: int,
        on_tokens: Callable[[Look], None] | None = None,
    ) -> Served:
        """A first look at whatever is made in its place; see `first_look`.

        Args:
            make: a question, in the client's turn.
            on_tokens: see `TwoLookEngine.start_first_look`; called on the event loop.
        """
        loop = asyncio.get_running_loop()
        region: asyncio.Future[FirstLook] = loop.create_future()

        def on_region(found: FirstLook) -> None:
            loop.call_soon_threadsafe(settle, region, found)

        with Observation("first", self._observers) as observed, self._places.taken(client) as place:
            made = await make(place)
            submitted, complete = self._submit(
                place,
                lambda engine: engine.start_first_look(
                    made.prepared, on_region=on_region, on_tokens=on_loop(loop, on_tokens)
                ),
            )
        served = partial(Served.of, made=made, submitted=submitted, received_bytes=received_bytes)
        complete.add_done_callback(partial(observed.settle, served))
        try:
            await asyncio.wait({region, complete}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            complete.cancel()
            raise
        found = complete.result() if complete.done() else region.result()
        session = None
        if found.pending is not None:
            stands = Future[Served]()
            submitted.future.add_done_callback(partial(without_second, stands))
            kept = KeptLook(found.pending, submitted, stands, found.nbytes, observed)
            name, seconds = self._sessions.open(kept, owner_of(client))
            session = PendingSession(id=name, expires_in=seconds)
        return served(found, session=session, complete=complete.done())

    async def second_look(self, session_id: str, jpeg: bytes, client: str = "") -> Served:
        """Answer from both images, and end the session; whatever is raised later than SessionErrors leaves it
        waiting.

        Raises:
            UnknownSessionError, ExpiredSessionError, AnsweredSessionError: see SessionStore.
            NotAPictureError, PictureTooLargeError, PictureMismatchError: not the local image of the session's
            region. QueueFullError: see Places. ShuttingDownError, ModelNotReadyError, EngineFailedError: see
            InferenceThread.
        """
        self._inference.check_ready()
        engine = self.loaded.result()

        def make(place: Place, pending: Pending) -> Awaitable[Made[LocalImage]]:
            most = sent_size(engine.card.local_view, pending.region.size)
            return self.decoding.jpeg(
                place, jpeg, most, lambda image: engine.prepare_local(pending, image, jpeg=jpeg)
            )

        return await self.look_closer(session_id, make, client, received_bytes=len(jpeg))

    async def look_closer(
        self,
        session_id: str,
        make: Callable[[Place, Pending], Awaitable[Made[LocalImage]]],
        client: str = "",
        *,
        received_bytes: int,
        on_tokens: Callable[[Look], None] | None = None,
    ) -> Served:
        """A second look at whatever is made in its place; see `second_look`.

        Args:
            make: the local image, in the client's turn.
            received_bytes: of it; 0 where no edge sent it.
            on_tokens: see `TwoLookEngine.start_second_look`; called on the event loop.
        """
        self._inference.check_ready()
        kept = self._sessions.look(session_id, owner_of(client))
        loop = asyncio.get_running_loop()
        with (
            Observation("second", self._observers, kept.observed) as observed,
            self._places.taken(kept.pending.question.client, second=True) as place,
        ):
            made = await make(place, kept.pending)
            async with self._claimed(session_id) as stands:
                submitted, complete = self._submit(
                    place,
                    lambda engine: engine.start_second_look(
                        kept.pending,
                        made.prepared,
                        after=kept.submitted.request,
                        sent_bytes=received_bytes,
                        on_tokens=on_loop(loop, on_tokens),
                    ),
                )
                found = await complete
                served = Served.of(found, made=made, submitted=submitted, received_bytes=received_bytes)
                observed.end(served)
                stands.set_result(served)
        return served

    async def give_up(self, session_id: str, client: str = "") -> Served:
        """End a session without a second look; what stands, its first answer complete.

        A session that has ended stays as it is: this tells what stands again, if the reply that had it was
        lost.

        Raises:
            UnknownSessionError: it never existed, or was forgotten.
            AnsweredSessionError: its second look is being computed.
            EngineFailedError, NonFiniteError, OutOfMemoryError: the first answer could not be completed.
        """
        left = self._sessions.give_up(session_id, owner_of(client))
        return await asyncio.shield(asyncio.wrap_future(left))

    def end_session(self, session_id: str, client: str = "") -> None:
        """End a session that nobody asks about any more; nothing happens to one that is over."""
        with suppress(SessionError):
            self._sessions.give_up(session_id, owner_of(client))

    @asynccontextmanager
    async def _claimed(self, session_id: str) -> AsyncIterator[Future[Served]]:
        """The session is claimed; it waits again unless the future given has what stands in the end."""
        self._sessions.claim(session_id)
        stands = Future[Served]()
        try:
            yield stands
        finally:
            if stands.done():
                self._sessions.finish(session_id, stands)
            else:
                self._sessions.release(session_id)

    def _submit(
        self, place: Place, start: Callable[[TwoLookEngine], InProgress[ResultT]]
    ) -> tuple[Submitted[ResultT], asyncio.Future[ResultT]]:
        """Hand a look in, which leaves its place when it ends; also its future for this loop."""
        submitted = self._inference.submit(start)
        complete = asyncio.wrap_future(submitted.future)
        complete.add_done_callback(lambda _: self._places.leave(place))
        return submitted, complete
