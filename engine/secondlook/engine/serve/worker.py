"""The inference thread: the one thread that touches the model.

It takes looks in as they come, and has the engine compute a little of each in turn. Callers on other threads
wait for futures, and may cancel them at any time.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from secondlook.edge.errors import SecondLookError
from secondlook.engine.errors import EngineFailedError, ModelNotReadyError, ShuttingDownError
from secondlook.engine.serve.protocol import Outside, TwoLookEngine
from secondlook.engine.serve.requests import request_id

if TYPE_CHECKING:
    from secondlook.engine.progress import InProgress

__all__ = ["InferenceThread", "Submitted"]

ResultT = TypeVar("ResultT")

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Submitted(Generic[ResultT]):
    """A look that was handed in.

    Attributes:
        future: its result; cancelled, the look ends, and its memory is free.
        start: begins it; None from then on.
        request: the look itself, once the engine has taken it in. Only for the inference thread.
        waited: seconds until then.
        named: the HTTP request's id, for the log.
    """

    start: Callable[[TwoLookEngine], InProgress[ResultT]] | None
    submitted_at: float
    future: Future[ResultT] = field(default_factory=Future)
    request: InProgress[ResultT] | None = None
    waited: float = 0.0
    named: str = field(default_factory=request_id.get)


class InferenceThread:
    """Loads an engine, then computes looks on it, many at once; how many, its caller bounds.

    Args:
        load: makes the engine; called once, on the thread.
        clock: seconds that never run backwards.
    """

    def __init__(
        self, load: Callable[[], TwoLookEngine], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._load = load
        self._clock = clock
        self._inbox: deque[Callable[[TwoLookEngine], None]] = deque()
        self._changed = threading.Condition()
        self._accepted: set[Submitted[Any]] = set()
        self._closing = False
        self._loaded: Future[TwoLookEngine] = Future()
        self._outside: Outside | None = None
        # A daemon, so that a process may end while a large model is still being read from disk.
        self._thread = threading.Thread(target=self._run, name="secondlook-inference", daemon=True)

    @property
    def loaded(self) -> Future[TwoLookEngine]:
        """Resolved when the engine can be used, or with what prevented its loading."""
        return self._loaded

    def start(self) -> None:
        """Begin loading. Once."""
        self._thread.start()

    def check_ready(self) -> None:
        """Raise ModelNotReadyError or ShuttingDownError if `submit` would."""
        if self._closing:
            raise ShuttingDownError("the server is shutting down; ask another one, or later")
        if not self._loaded.done():
            raise ModelNotReadyError("the model is still being loaded; try again soon")
        if self._loaded.exception() is not None:
            raise ModelNotReadyError("the model could not be loaded; the server's log says why")

    def submit(self, start: Callable[[TwoLookEngine], InProgress[ResultT]]) -> Submitted[ResultT]:
        """Hand a look in; `start` begins it, on the inference thread.

        Its future raises what the look raises when that is a SecondLookError, and EngineFailedError for
        anything else.

        Raises:
            ModelNotReadyError: the engine is still being loaded, or could not be.
            ShuttingDownError: `close` was called.
        """
        submitted = Submitted(start, self._clock())
        with self._changed:
            self.check_ready()
            self._accepted.add(submitted)
            self._tell(partial(self._begin, submitted))
        # The set of those accepted holds it until then; its own future must not.
        submitted.future.add_done_callback(partial(self._settled, weakref.ref(submitted)))
        return submitted

    def close(self) -> None:
        """Take no more looks; the thread ends after those it has."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended (after `close`), or `timeout` seconds."""
        self._thread.join(timeout)

    def _run(self) -> None:
        try:
            engine = self._load()
        except BaseException as error:  # noqa: BLE001 -- handed to whoever waits on `loaded`, in another thread
            self._loaded.set_exception(error)
            return
        self._outside = engine.outside
        self._loaded.set_result(engine)
        try:
            self._work(engine)
        finally:
            if self._outside is not None:
                self._outside.close()

    def _work(self, engine: TwoLookEngine) -> None:
        busy = False
        while (messages := self._messages(wait=not busy)) is not None:
            # Neither a look nor its result may outlive the answer: they hold images and caches.
            while messages:
                messages.popleft()(engine)
            try:
                busy = engine.round()
            except Exception as error:  # noqa: BLE001 -- nothing a look did: all that are in progress are lost
                _log.exception("the engine failed")
                self._fail_all(engine, error)

    def _messages(self, *, wait: bool) -> deque[Callable[[TwoLookEngine], None]] | None:
        """What came in since the last round; None when there is nothing more to do, ever."""
        with self._changed:
            while wait and not self._inbox:
                if self._closing:
                    return None
                self._changed.wait()
            messages, self._inbox = self._inbox, deque()
            return messages

    def _tell(self, message: Callable[[TwoLookEngine], None]) -> None:
        with self._changed:
            self._inbox.append(message)
            self._changed.notify()
            if self._outside is not None:
                self._outside.wake()

    def _begin(self, submitted: Submitted[Any], engine: TwoLookEngine) -> None:
        if submitted.future.cancelled():
            return
        submitted.waited = self._clock() - submitted.submitted_at
        start, submitted.start = submitted.start, None
        assert start is not None, "a look begins once"
        try:
            request = start(engine)
        except Exception as error:  # noqa: BLE001 -- the boundary between one question's failure and the server
            _fail(submitted.future, error, submitted.named)
            return
        submitted.request = request
        request.future.add_done_callback(partial(_pass_on, submitted.future, submitted.named))

    def _settled(self, look: weakref.ref[Submitted[Any]], future: Future[Any]) -> None:
        """On whatever thread: a look has its result, or was cancelled."""
        submitted = look()
        assert submitted is not None, "it is among those accepted"
        with self._changed:
            self._accepted.discard(submitted)
            if future.cancelled():
                self._tell(partial(_cancel, submitted))

    def _fail_all(self, engine: TwoLookEngine, error: Exception) -> None:
        with self._changed:
            lost = [submitted for submitted in self._accepted if submitted.request is not None]
        for submitted in lost:
            _fail(submitted.future, error, submitted.named)
            _cancel(submitted, engine)


def _cancel(submitted: Submitted[Any], engine: TwoLookEngine) -> None:
    if submitted.request is not None:
        engine.cancel(submitted.request)


def _pass_on(to: Future[Any], named: str, done: Future[Any]) -> None:
    if done.cancelled():
        return
    error = done.exception()
    if isinstance(error, Exception):
        _fail(to, error, named)
    elif to.set_running_or_notify_cancel():
        to.set_result(done.result())


def _fail(future: Future[Any], error: Exception, named: str) -> None:
    """Raise an error of ours from a future as it is; of any other only the log tells."""
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(error, SecondLookError):
        future.set_exception(error)
        return
    _log.error("the engine failed on a question", exc_info=error, extra={"request_id": named})
    failure = EngineFailedError("the model failed on this question; the server's log says why")
    failure.__cause__ = error
    future.set_exception(failure)
