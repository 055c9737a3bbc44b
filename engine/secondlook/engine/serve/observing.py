"""Who is told of every look, what it came to or what it failed of: measurements and traces are made of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Protocol, TypeVar

from secondlook.engine.serve.served import Served

__all__ = ["LookName", "Observation", "Observer", "Observers"]

_log = logging.getLogger(__name__)

LookName = Literal["first", "second"]

ResultT = TypeVar("ResultT")


class Observer(Protocol):
    """Told on the event loop, where whatever it does delays every answer: it must be quick. What it raises is
    logged, once, and neither the answer nor the other observers know of it."""

    def began(self, look: Observation) -> None:
        """A look has come, and has no place yet."""
        ...

    def ended(self, look: Observation, served: Served) -> None:
        """Its answer is complete."""
        ...

    def failed(self, look: Observation, error: BaseException) -> None:
        """It has no answer; CancelledError: nobody waits for one."""
        ...


class Observers:
    """Those of one server."""

    def __init__(self) -> None:
        self._all: list[Observer] = []
        self._failed = set[Observer]()

    def add(self, observer: Observer) -> None:
        """Tell it of every look from now on."""
        self._all.append(observer)

    def tell(self, what: Callable[[Observer], None]) -> None:
        """Tell each of them, whatever becomes of the others."""
        for observer in self._all:
            self._tell(observer, what)

    def _tell(self, observer: Observer, what: Callable[[Observer], None]) -> None:
        try:
            what(observer)
        except Exception:  # noqa: BLE001 -- whichever: nobody's answer depends on being observed
            if observer not in self._failed:
                self._failed.add(observer)
                _log.exception("%s fails on looks, which is told once", type(observer).__name__)


class Observation:
    """One look as its observers see it, from its coming to its one end.

    As a context manager it fails of what is raised in the block.

    Attributes:
        look: which one it is.
        after: a second look's first one.
        started: when it came, in seconds of `time.perf_counter`.
    """

    def __init__(self, look: LookName, observers: Observers, after: Observation | None = None) -> None:
        self.look = look
        self.after = after
        self.started = time.perf_counter()
        self._observers = observers
        self._ended = False
        observers.tell(lambda observer: observer.began(self))

    def end(self, served: Served) -> None:
        """It came to that."""
        if not self._ended:
            self._ended = True
            self._observers.tell(lambda observer: observer.ended(self, served))

    def fail(self, error: BaseException) -> None:
        """It failed of that; once it has ended, it stays so."""
        if not self._ended:
            self._ended = True
            self._observers.tell(lambda observer: observer.failed(self, error))

    def settle(self, served: Callable[[ResultT], Served], done: asyncio.Future[ResultT]) -> None:
        """It ends as its future did."""
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        if error is None:
            self.end(served(done.result()))
        else:
            self.fail(error)

    def __enter__(self) -> Observation:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.fail(error)
