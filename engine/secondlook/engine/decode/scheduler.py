"""Many requests on one decoder: what one wants next is computed together with what the others want.

Each round gives out slots, then makes one pass for all pictures to encode, one for all prompts to compute,
one for all attention rows, and one decode step; requests join and leave between rounds.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from secondlook.engine.decode.cache import KeptPrefix, SlotPool
from secondlook.engine.decode.decoder import Decoder, Prompted
from secondlook.engine.decode.flows import Decode, Flows, Request
from secondlook.engine.decode.record import Decoded
from secondlook.engine.devices import on_device

__all__ = ["AttentionRow", "Encode", "Prefill", "Scheduler", "Slot"]

PassT = TypeVar("PassT", "Encode", "Prefill", "AttentionRow")


@dataclass(frozen=True)
class Slot:
    """A slot of the cache; sent `(slot, the prefix that it holds, or None)`. The flow gives it back.

    Attributes:
        find: the prefix wanted, if there is one, as of the moment that the slot is given.
    """

    find: Callable[[], KeptPrefix | None]
    stage: ClassVar[str] = "queue"


@dataclass(frozen=True)
class Encode:
    """What the scheduler's `encode` makes of an item, such as a picture's features; sent that.

    Attributes:
        tokens: what it costs in a pass.
    """

    item: Any
    tokens: int
    stage: ClassVar[str] = "encode"


@dataclass(frozen=True)
class Prefill:
    """The rest of a prompt and the first token; sent the attention row [N], or None without `probe`."""

    prompt: Prompted
    probe: bool = False
    stage: ClassVar[str] = "prefill"


@dataclass(frozen=True)
class AttentionRow:
    """An attention row and nothing else; sent [N]."""

    prompt: Prompted
    stage: ClassVar[str] = "prefill"


class Scheduler(Flows):
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
        super().__init__()
        self._given = dict[str, int]()  # when clients were last given a slot
        self._decoder = decoder
        self._pool = pool
        self._encode_items = encode
        self._most_rows = most_rows

    def round(self) -> bool:
        """One pass of every kind for whoever wants it; returns whether anything is in progress still."""
        with on_device(self._decoder.model.device):
            self._pass_on_results()
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
            self._given[request.client] = next(self._count)
            self._send(request, (slot, prefix if there else None))

    def _by_share(self) -> list[tuple[Request[Any], Slot]]:
        """Who wants a slot: whose client would have the fewest with it, and of those who waits longest, since
        it came or its client was last given one.

        So one client may have all slots, but gets none more while another waits that has fewer, and who waits
        is overtaken only by others' first, of one slot too: max-min fairness, as slots become free.
        """
        wanting = sorted(self._wanting(Slot), key=_slot_order)
        if len(wanting) < 2:
            return wanting
        shares = Counter(request.client for request in self._requests if request.begun)
        here = {request.client for request in self._requests}
        self._given = {client: when for client, when in self._given.items() if client in here}
        ranks = dict[tuple[Request[Any], Slot], tuple[int, int, int]]()
        for request, want in wanting:
            shares[request.client] += 1
            since = max(request.came, self._given.get(request.client, -1))
            ranks[request, want] = shares[request.client], since, request.came
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

    def _fitting(self, pairs: list[tuple[Request[Any], PassT]]) -> list[tuple[Request[Any], PassT]]:
        """As many of the first as fit one pass, and at least one."""
        rows = itertools.accumulate(
            want.tokens if isinstance(want, Encode) else len(want.prompt.rows) for _, want in pairs
        )
        fitting = sum(1 for total in rows if total <= self._most_rows)
        return pairs[: max(1, fitting)]


def _slot_order(pair: tuple[Request[Any], Slot]) -> int:
    """Of one client second looks first, of these first those that another's slot might be taken from."""
    request, want = pair
    if not request.urgent:
        return 2
    prefix = want.find()
    return 1 if prefix is None or prefix.slot is None else 0
