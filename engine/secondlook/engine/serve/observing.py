"""Who is told of every look, what it came to or what it failed of: measurements and traces are made of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Literal, Protocol, TypeVar

from secondlook.engine.serve.served import Served

__all__ = ["LookName", "Observation", "Observer"]

LookName = Literal["first", "second"]

ResultT = TypeVar("ResultT")


class Observer(Protocol):
    """Told on the event loop, where whatever it does delays every answer: it must be quick, and not raise."""

    def began(self, look: Observation) -> None:
        """A look has come, and has no place yet."""
        ...

    def ended(self, look: Observation, served: Served) -> None:
        """Its answer is complete."""
        ...

    def failed(self, look: Observation, error: BaseException) -> None:
        """It has no answer; CancelledError: nobody waits for one."""
        ...


class Observation:
    """One look as its observers see it, from its coming to its one end.

    As a context manager it fails of what is raised in the block.

    Attributes:
        look: which one it is.
        after: a second look's first one.
        started: when it came, in seconds of `time.perf_counter`.
    """

    def __init__(
        self, look: LookName, observers: Sequence[Observer], after: Observation | None = None
    ) -> None:
        self.look = look
        self.after = after
        self.started = time.perf_counter()
        self._observers = observers
        self._ended = False
        for observer in observers:
            observer.began(self)

    def end(self, served: Served) -> None:
        """It came to that."""
        if not self._ended:
            self._ended = True
            for observer in self._observers:
                observer.ended(self, served)

    def fail(self, error: BaseException) -> None:
        """It failed of that; once it has ended, it stays so."""
        if not self._ended:
            self._ended = True
            for observer in self._observers:
                observer.failed(self, error)

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
