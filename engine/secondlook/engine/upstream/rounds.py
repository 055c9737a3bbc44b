"""Looks as coroutines of one event loop, which runs while a round does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from secondlook.engine.progress import InProgress, Stages

__all__ = ["Rounds"]

ResultT = TypeVar("ResultT")


@dataclass(eq=False)
class _Request(Generic[ResultT]):
    """A look in progress."""

    task: asyncio.Task[None]
    stages: Stages
    future: Future[ResultT]


@dataclass(eq=False)
class Rounds:
    """Runs looks, many at once. All calls but `wake` belong on one thread, without a loop of its own.

    Args:
        slots: looks at once; more of them wait, in the order they came.
    """

    slots: int
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _requests: list[_Request[Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._woken, self._free = asyncio.Event(), asyncio.Semaphore(self.slots)

    def __len__(self) -> int:
        """Looks in progress."""
        return len(self._requests)

    def run(self, coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
        """What something comes to, while nothing else need go on."""
        return self.loop.run_until_complete(coroutine)

    def start(self, flow: Callable[[Stages], Coroutine[Any, Any, ResultT]]) -> InProgress[ResultT]:
        """Take a look in; it begins with the next round."""
        stages, future = Stages(), Future[ResultT]()
        task = self.loop.create_task(self._run(flow, stages, future))
        request = _Request(task, stages, future)
        self._requests.append(request)
        return request

    def round(self) -> bool:
        """Wait until a look is over, or `wake` is called; False when there is none."""
        if self._requests:
            self.run(self._turn())
            self._requests = [request for request in self._requests if not request.task.done()]
        return bool(self._requests)

    def cancel(self, request: InProgress[Any]) -> None:
        """End a look; what it holds is given back in the next round."""
        for known in self._requests:
            if known is request:
                known.future.cancel()
                known.task.cancel()

    def wake(self) -> None:
        """Have `round` return. On any thread."""
        with suppress(RuntimeError):  # the loop is closed, and no round waits any more
            self.loop.call_soon_threadsafe(self._woken.set)

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """End all looks, then what runs last, and then the loop."""
        for request in self._requests:
            self.cancel(request)
        while self.round():
            pass
        self.run(last)
        self.run(self.loop.shutdown_asyncgens())
        self.run(self.loop.shutdown_default_executor())
        self.loop.close()

    async def _turn(self) -> None:
        woken = asyncio.ensure_future(self._woken.wait())
        tasks = [request.task for request in self._requests]
        await asyncio.wait([*tasks, woken], return_when=asyncio.FIRST_COMPLETED)
        woken.cancel()
        self._woken.clear()

    async def _run(
        self,
        flow: Callable[[Stages], Coroutine[Any, Any, ResultT]],
        stages: Stages,
        future: Future[ResultT],
    ) -> None:
        try:
            async with self._free:
                stages.enter("prefill")
                result = await flow(stages)
        except Exception as error:  # noqa: BLE001 -- the look's end, told to whoever waits for it
            future.set_exception(error)
        else:
            future.set_result(result)
