"""Requests as flows: generators that yield what they need, and are sent the result.

What is needed, and how it is computed for many requests together, a `Flows` of its own kind says: the
scheduler of this package's decoder, or that of another engine.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

import torch

from secondlook.engine.decode.record import Decoded
from secondlook.engine.errors import OutOfMemoryError
from secondlook.engine.progress import InProgress, Stages

__all__ = ["Decode", "Flow", "Flows", "Request", "Wait", "Want"]

ResultT = TypeVar("ResultT")
WantT = TypeVar("WantT")

_log = logging.getLogger(__name__)


class Want(Protocol):
    """What a flow may yield.

    Attributes:
        stage: of a request's time, that goes by until it is there.
    """

    stage: ClassVar[str]


# What is sent into a flow depends on what it yielded, which Python's types cannot say: hence Any.
Flow: TypeAlias = Generator[Want, Any, ResultT]


@dataclass(frozen=True)
class Decode:
    """An answer's first tokens; sent Decoded with so many of them, or fewer where it ends before.

    Attributes:
        slot: names the answer, as what computes it knows it.
        seen: called with what there is of them, each time that there may be more; it must not raise.
    """

    slot: int
    tokens: int
    seen: Callable[[Decoded], None] | None = None
    stage: ClassVar[str] = "decode"


@dataclass(frozen=True)
class Wait:
    """Another request's result; sent that, or what it raised is thrown."""

    request: InProgress[Any]
    stage: ClassVar[str] = "queue"


@dataclass(eq=False)
class Request(Generic[ResultT]):
    """A request in progress.

    Attributes:
        flow: what it does.
        urgent: whether it gets a slot before those of its client that are not.
        stages: where its time goes.
        client: who asks; slots are shared out by client.
        came: when, by the count of its `Flows`.
        future: its result, or what it raised.
    """

    flow: Flow[ResultT]
    urgent: bool
    stages: Stages
    client: str = ""
    came: int = 0
    future: Future[ResultT] = field(default_factory=Future)
    want: Want | None = None
    begun: bool = False  # it was given its slot


class Flows(ABC):
    """Runs flows in rounds. All calls belong on one thread."""

    def __init__(self) -> None:
        self._requests: list[Request[Any]] = []
        self._count = count()

    def start(
        self, flow: Flow[ResultT], stages: Stages, *, urgent: bool = False, client: str = ""
    ) -> Request[ResultT]:
        """Take a request in; nothing is computed before the next round."""
        request = Request(flow, urgent, stages, client, next(self._count))
        self._requests.append(request)
        self._resume(request, partial(next, flow))
        return request

    def run(self, request: Request[ResultT]) -> ResultT:
        """Make rounds until a request is done; its result."""
        while not request.future.done():
            self.round()
        return request.future.result()

    def cancel(self, request: InProgress[Any]) -> None:
        """End a request; its slot is free at once. Nothing happens to one that is done."""
        known = next((one for one in self._requests if one is request), None)
        if known is not None:
            self._requests.remove(known)
            known.flow.close()
            known.future.cancel()

    @abstractmethod
    def round(self) -> bool:
        """Compute a little for every request; returns whether anything is in progress still."""

    def _pass_on_results(self) -> None:
        """What other requests came to, to those that wait for it."""
        for request, want in self._wanting(Wait):
            if want.request.future.done():
                self._resume(request, partial(_pass_on, request, want.request))

    def _together(
        self, pairs: list[tuple[Request[Any], WantT]], compute: Callable[[list[WantT]], Sequence[Any] | None]
    ) -> None:
        """Compute what several want; if that fails each alone, so that one's failure is not the others'."""
        if not pairs:
            return
        results, alone = None, False
        try:
            results = compute([want for _, want in pairs])
        except Exception as error:  # noqa: BLE001 -- thrown into the flow that it belongs to
            alone = len(pairs) > 1
            if not alone:
                request = pairs[0][0]
                self._resume(request, partial(request.flow.throw, error))
        if alone:  # out here no traceback holds what the failed pass had allocated
            for pair in pairs:
                self._together([pair], compute)
        elif results is not None:
            for (request, _), result in zip(pairs, results, strict=True):
                self._send(request, result)

    def _wanting(self, kind: type[WantT]) -> list[tuple[Request[Any], WantT]]:
        """Who wants that, the urgent first, then in the order they came."""
        found = [(request, request.want) for request in self._requests if isinstance(request.want, kind)]
        return sorted(found, key=lambda pair: not pair[0].urgent)

    def _send(self, request: Request[Any], result: object) -> None:
        self._resume(request, partial(request.flow.send, result))

    def _resume(self, request: Request[Any], go_on: Callable[[], Want]) -> None:
        """Let a flow go on to its next want, or its end."""
        request.want = None
        try:
            request.want = go_on()
            request.stages.enter(request.want.stage)
            return
        except StopIteration as end:
            request.future.set_result(end.value)
        except Exception as error:  # noqa: BLE001 -- the request's end, told to whoever waits for it
            request.future.set_exception(_named(error))
        self._requests.remove(request)


def _named(error: Exception) -> Exception:
    """What a request failed of; by our name if there was no memory for it."""
    out = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    # The CPU's allocator, cuBLAS and the CUDA driver have no type of their own for it.
    signs = ("DefaultCPUAllocator", "_ALLOC_FAILED", "out of memory")
    if not out and not any(sign in str(error) for sign in signs):
        return error
    _log.warning("no memory for a question: %s", error)
    return OutOfMemoryError("there is no memory for this question at the moment; try again later")


def _pass_on(request: Request[Any], other: InProgress[Any]) -> Want:
    """Send a request another's result, or throw what it raised."""
    error = other.future.exception()
    return request.flow.send(other.future.result()) if error is None else request.flow.throw(error)
