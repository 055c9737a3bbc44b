"""Many requests on one decoder: what one wants next is computed together with what the others want.

A request is a *flow*, a generator that yields what it needs and is sent the result. Each round gives out
slots, then makes one pass for all pictures to encode, one for all prompts to compute, one for all attention
rows, and one decode step; requests join and leave between rounds.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

from secondlook.engine.decode.cache import KeptPrefix, SlotPool
from secondlook.engine.decode.decoder import Decoder, Prompted
from secondlook.engine.decode.record import Decoded
from secondlook.engine.devices import on_device
from secondlook.engine.errors import OutOfMemoryError

__all__ = [
    "AttentionRow",
    "Decode",
    "Encode",
    "Flow",
    "Prefill",
    "Request",
    "Scheduler",
    "Slot",
    "Stages",
    "Wait",
]

ResultT = TypeVar("ResultT")
WantT = TypeVar("WantT")
PassT = TypeVar("PassT", "Encode", "Prefill", "AttentionRow")


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Slot:
    """A slot of the cache; sent `(slot, the prefix that it holds, or None)`. The flow gives it back.

    Attributes:
        find: the prefix wanted, if there is one, as of the moment that the slot is given.
    """

    find: Callable[[], KeptPrefix | None]


@dataclass(frozen=True)
class Encode:
    """What the scheduler's `encode` makes of an item, such as a picture's features; sent that.

    Attributes:
        tokens: what it costs in a pass.
    """

    item: Any
    tokens: int


@dataclass(frozen=True)
class Prefill:
    """The rest of a prompt and the first token; sent the attention row [N], or None without `probe`."""

    prompt: Prompted
    probe: bool = False


@dataclass(frozen=True)
class AttentionRow:
    """An attention row and nothing else; sent [N]."""

    prompt: Prompted


@dataclass(frozen=True)
class Decode:
    """An answer's first tokens; sent Decoded with so many of them, or fewer where it ends before.

    Attributes:
        seen: called with what there is of them, each time that there may be more; it must not raise.
    """

    slot: int
    tokens: int
    seen: Callable[[Decoded], None] | None = None


@dataclass(frozen=True)
class Wait:
    """Another request's result; sent that, or what it raised is thrown."""

    request: Request[Any]


Want: TypeAlias = Slot | Encode | Prefill | AttentionRow | Decode | Wait
# What is sent into a flow depends on what it yielded, which Python's types cannot say: hence Any.
Flow: TypeAlias = Generator[Want, Any, ResultT]

_STAGES: Final[dict[type, str]] = {
    Slot: "queue",
    Encode: "encode",
    Prefill: "prefill",
    AttentionRow: "prefill",
    Decode: "decode",
    Wait: "queue",
}


class Stages:
    """Where a request's time goes: at every moment it is in one stage, so that they add up to all of it.

    A stage begins when a flow wants something of it, or says so, and lasts until the next begins: what was
    computed for others meanwhile is included. The first is "queue".

    Attributes:
        first_token: seconds until a decode was first wanted, and so the first token was there.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._stage, self._since = "queue", clock()
        self._seconds: dict[str, float] = {}
        self.first_token = 0.0

    def enter(self, stage: str) -> None:
        """From now on it is in that stage."""
        now = self._clock()
        first_decode = stage == "decode" and stage not in self._seconds and stage != self._stage
        self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now
        if first_decode:
            self.first_token = sum(self._seconds.values())

    @property
    def seconds(self) -> dict[str, float]:
        """Of each stage until now."""
        self.enter(self._stage)
        return dict(self._seconds)


@dataclass(eq=False)
class Request(Generic[ResultT]):
    """A request in progress.

    Attributes:
        flow: what it does.
        urgent: whether it gets a slot before those of its client that are not.
        stages: where its time goes.
        client: who asks; slots are shared out by client.
        future: its result, or what it raised.
    """

    flow: Flow[ResultT]
    urgent: bool
    stages: Stages
    client: str = ""
    future: Future[ResultT] = field(default_factory=Future)
    want: Want | None = None
    begun: bool = False  # it was given its slot


class Scheduler:
    """Runs flows in rounds. All calls belong on one thread.

    Args:
        decoder: what computes.
        pool: the decoder's slots.
        encode: computes what `Encode` wants, in one pass for several.
        most_rows: rows of prompts, or tokens to encode, in one pass, unless one alone has more. Answers that
            are being decoded wait for such a pass.
    """

    def __init__(
        self,
        decoder: Decoder,
        pool: SlotPool,
        encode: Callable[[list[Any]], Sequence[Any]],
        most_rows: int,
    ) -> None:
        self._decoder = decoder
        self._pool = pool
        self._encode_items = encode
        self._most_rows = most_rows
        self._requests: list[Request[Any]] = []

    @property
    def requests(self) -> int:
        """Requests in progress."""
        return len(self._requests)

    def start(
        self, flow: Flow[ResultT], stages: Stages, *, urgent: bool = False, client: str = ""
    ) -> Request[ResultT]:
        """Take a request in; nothing is computed before the next round."""
        request = Request(flow, urgent, stages, client)
        self._requests.append(request)
        self._resume(request, partial(next, flow))
        return request

    def run(self, request: Request[ResultT]) -> ResultT:
        """Make rounds until a request is done; its result."""
        while not request.future.done():
            self.round()
        return request.future.result()

    def cancel(self, request: Request[Any]) -> None:
        """End a request; its slot is free at once. Nothing happens to one that is done."""
        if request in self._requests:
            self._requests.remove(request)
            request.flow.close()
            request.future.cancel()

    def round(self) -> bool:
        """One pass of every kind for whoever wants it; returns whether anything is in progress still."""
        with on_device(self._decoder.model.device):
            for request, want in self._wanting(Wait):
                if want.request.future.done():
                    self._resume(request, partial(_pass_on, request, want.request))
            self._give_slots()
            self._together(self._fitting(self._wanting(Encode)), self._encode)
            self._together(self._fitting(self._wanting(Prefill)), self._prefill)
            self._together(self._fitting(self._wanting(AttentionRow)), self._rows)
            self._decode()
        return bool(self._requests)

    def _give_slots(self) -> None:
        for request, want in self._by_share():
            prefix = want.find()
            taken = self._pool.take(prefix)
            if taken is None:
                return
            slot, source = taken
            if source is not None and prefix is not None:
                self._decoder.cache.copy(source, slot, prefix.length)
            there = prefix is not None and prefix.slot is not None
            request.begun = True
            self._send(request, (slot, prefix if there else None))

    def _by_share(self) -> list[tuple[Request[Any], Slot]]:
        """Who wants a slot: first whose client would have the fewest with it, and then who came first.

        So one client may have all slots, but gets none more while another waits that has fewer, and who waits
        is overtaken only by others' first: max-min fairness, as slots become free.
        """
        wanting = sorted(self._wanting(Slot), key=_slot_order)
        if len(wanting) < 2:
            return wanting
        shares = Counter(request.client for request in self._requests if request.begun)
        came = {request: number for number, request in enumerate(self._requests)}
        ranks = dict[tuple[Request[Any], Slot], tuple[int, int]]()
        for pair in wanting:
            shares[pair[0].client] += 1
            ranks[pair] = shares[pair[0].client], came[pair[0]]
        return sorted(ranks, key=ranks.__getitem__)

    def _encode(self, wants: list[Encode]) -> Sequence[Any]:
        return self._encode_items([want.item for want in wants])

    def _prefill(self, wants: list[Prefill]) -> Sequence[Tensor | None]:
        probe = any(want.probe for want in wants)
        return self._decoder.prefill([want.prompt for want in wants], probe=probe) or [None] * len(wants)

    def _rows(self, wants: list[AttentionRow]) -> Sequence[Tensor]:
        return self._decoder.attention_rows([want.prompt for want in wants])

    def _decode(self) -> None:
        progress = self._decoder.progress
        progress.catch_up()
        wanted = [pair for pair in self._wanting(Decode) if not progress.has(pair[1].slot, pair[1].tokens)]
        for _, want in wanted:  # before the next step, which would delay them
            if want.seen is not None and progress.known(want.slot):
                want.seen(self._decoder.record.read(want.slot, want.tokens))
        going = [pair for pair in wanted if progress.begun(pair[1].slot) < pair[1].tokens]
        self._together(going, self._step)
        if wanted:
            progress.catch_up(wait=not going)
        known = [pair for pair in self._wanting(Decode) if progress.has(pair[1].slot, pair[1].tokens)]
        self._together(known, self._read)

    def _step(self, wants: list[Decode]) -> None:
        self._decoder.step([want.slot for want in wants])

    def _read(self, wants: list[Decode]) -> Sequence[Decoded]:
        return [self._decoder.record.read(want.slot, want.tokens) for want in wants]

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

    def _fitting(self, pairs: list[tuple[Request[Any], PassT]]) -> list[tuple[Request[Any], PassT]]:
        """As many of the first as fit one pass, and at least one."""
        rows = itertools.accumulate(
            want.tokens if isinstance(want, Encode) else len(want.prompt.rows) for _, want in pairs
        )
        fitting = sum(1 for total in rows if total <= self._most_rows)
        return pairs[: max(1, fitting)]

    def _send(self, request: Request[Any], result: object) -> None:
        self._resume(request, partial(request.flow.send, result))

    def _resume(self, request: Request[Any], go_on: Callable[[], Want]) -> None:
        """Let a flow go on to its next want, or its end."""
        request.want = None
        try:
            request.want = go_on()
            request.stages.enter(_STAGES[type(request.want)])
            return
        except StopIteration as end:
            request.future.set_result(end.value)
        except Exception as error:  # noqa: BLE001 -- the request's end, told to whoever waits for it
            request.future.set_exception(_named(error))
        self._requests.remove(request)


def _slot_order(pair: tuple[Request[Any], Slot]) -> int:
    """Of one client second looks first, of these first those that another's slot might be taken from."""
    request, want = pair
    if not request.urgent:
        return 2
    prefix = want.find()
    return 1 if prefix is None or prefix.slot is None else 0


def _named(error: Exception) -> Exception:
    """What a request failed of; by our name if there was no memory for it."""
    out = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    # The CPU's allocator, cuBLAS and the CUDA driver have no type of their own for it.
    signs = ("DefaultCPUAllocator", "_ALLOC_FAILED", "out of memory")
    if not out and not any(sign in str(error) for sign in signs):
        return error
    _log.warning("no memory for a question: %s", error)
    return OutOfMemoryError("there is no memory for this question at the moment; try again later")


def _pass_on(request: Request[Any], other: Request[Any]) -> Want:
    """Send a request another's result, or throw what it raised."""
    error = other.future.exception()
    return request.flow.send(other.future.result()) if error is None else request.flow.throw(error)
