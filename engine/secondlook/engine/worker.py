"""The inference thread: the one thread that touches the model, fed through a bounded queue.

A model's forward passes use every core, or the whole GPU, and gain nothing from being interleaved by threads;
one thread also keeps the engine's state free of locks. Callers on other threads hand it small jobs and wait
for futures.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from secondlook.edge.errors import SecondLookError
from secondlook.engine.errors import EngineFailedError, ModelNotReadyError, QueueFullError, ShuttingDownError

__all__ = ["InferenceThread", "Timed"]

EngineT = TypeVar("EngineT")
ResultT = TypeVar("ResultT")

_log = logging.getLogger(__name__)

_FIRST_GUESS_SECONDS = 1.0
"""What a job is taken to last before the first one was measured; only Retry-After depends on it."""

_NEW_DURATION_WEIGHT = 0.2
"""Weight of the latest job in the moving average of durations."""


@dataclass(frozen=True)
class Timed(Generic[ResultT]):
    """A job's result and the seconds it waited in the queue."""

    result: ResultT
    queue_seconds: float


@dataclass
class _Job(Generic[EngineT]):
    function: Callable[[EngineT], Any]
    future: Future[Timed[Any]]
    submitted_at: float


class InferenceThread(Generic[EngineT]):
    """Loads an engine, then runs jobs on it, one after another, in the order they came.

    Args:
        load: makes the engine; called once, on the thread.
        queue_size: how many jobs may wait, besides the one that runs.
        clock: seconds that never run backwards.
    """

    def __init__(
        self, load: Callable[[], EngineT], queue_size: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._load = load
        self._queue_size = queue_size
        self._clock = clock
        self._jobs: deque[_Job[EngineT]] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._closing = False
        self._mean_seconds = _FIRST_GUESS_SECONDS
        self._loaded: Future[EngineT] = Future()
        # A daemon, so that a process may end while a large model is still being read from disk.
        self._thread = threading.Thread(target=self._run, name="secondlook-inference", daemon=True)

    @property
    def loaded(self) -> Future[EngineT]:
        """Resolved when the engine can be used, or with what prevented its loading."""
        return self._loaded

    @property
    def waiting(self) -> int:
        """Jobs in the queue, without the one that runs."""
        with self._changed:
            return sum(not job.future.cancelled() for job in self._jobs)

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

    def check_room(self) -> None:
        """Raise what `submit` would raise now: a caller may save itself the work before it."""
        self.check_ready()
        with self._changed:
            waiting = self.waiting
            # A job queued while the thread is idle is about to run: it takes no place in the queue.
            taken = waiting + self._busy
            if taken > self._queue_size:
                raise QueueFullError(
                    f"{waiting} questions are waiting already; try again later",
                    retry_after=max(1.0, self._mean_seconds * taken),
                )

    def submit(self, job: Callable[[EngineT], ResultT]) -> Future[Timed[ResultT]]:
        """Queue a job; its future can be cancelled until it runs.

        The future raises what the job raises when that is a SecondLookError, and EngineFailedError for
        anything else.

        Raises:
            QueueFullError: too many jobs wait; carries an estimate of when there is room.
            ModelNotReadyError: the engine is still being loaded, or could not be.
            ShuttingDownError: `close` was called.
        """
        future: Future[Timed[ResultT]] = Future()
        with self._changed:
            self.check_room()
            self._jobs.append(_Job(job, future, self._clock()))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Take no more jobs; the thread ends after those it has."""
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
        self._loaded.set_result(engine)
        while (job := self._next_job()) is not None:
            self._run_job(engine, job)
            # Neither the job nor its result may outlive the answer: they hold images and caches.
            del job

    def _next_job(self) -> _Job[EngineT] | None:
        with self._changed:
            self._busy = False
            while not self._jobs:
                if self._closing:
                    return None
                self._changed.wait()
            self._busy = True
            return self._jobs.popleft()

    def _run_job(self, engine: EngineT, job: _Job[EngineT]) -> None:
        if not job.future.set_running_or_notify_cancel():
            return
        started = self._clock()
        try:
            result = job.function(engine)
        except SecondLookError as error:
            job.future.set_exception(error)
            return
        except Exception as error:  # noqa: BLE001 -- the boundary between one question's failure and the server
            _log.exception("the engine failed on a question")
            failure = EngineFailedError("the model failed on this question; the server's log says why")
            failure.__cause__ = error
            job.future.set_exception(failure)
            return
        seconds = self._clock() - started
        self._mean_seconds += _NEW_DURATION_WEIGHT * (seconds - self._mean_seconds)
        job.future.set_result(Timed(result, started - job.submitted_at))
