"""Who may come in, and whose turn it is: places for questions, shared out among clients.

A question takes a place before its picture is decoded and keeps it until it is answered, so that decoding,
too, is bounded and refused. In its place it waits for its *turn*: then its picture is decoded, and it goes on
to the engine. Turns come when there is a thread to decode on and, soon, a slot.

* Shares: while slots are free, anyone is let in. Beyond that a client may hold no more places than are still
  free. One client alone so gets half of them, two get a third each, and a newcomer always finds one: the
  dynamic thresholds of Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet
  switches", IEEE/ACM Transactions on Networking 6(2), 1998, with their factor 1. First looks and second looks
  have as many places each, so that neither keep the other out.
* Turns: in rounds, in each of which every client that waits has one. So whoever comes waits for no more turns
  than there are other clients. Of one client, and of those that have not had their turn in a round, second
  looks come first.

Who is a client, the caller says.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from secondlook.engine.errors import QueueFullError

__all__ = ["Place", "Places"]

_FIRST_GUESS_SECONDS = 1.0
"""How long a place is taken to be held before the first was left; only Retry-After depends on it."""

_NEW_DURATION_WEIGHT = 0.2
"""Weight of the latest question in the moving average of durations."""


@dataclass(eq=False)
class Place:
    """A question's place.

    Attributes:
        since: when it was taken.
        turn: done when its turn has come.
    """

    client: str
    second: bool
    since: float
    turn: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Places:
    """Shares out places and turns. All calls belong to one event loop.

    Args:
        slots: tells how many looks the engine computes at once, once it is loaded.
        queue: places besides those, for first looks and for second looks each.
        decoders: pictures decoded at one time; as many looks may be decoded and wait for a slot.
        clock: seconds that never run backwards.
    """

    def __init__(
        self,
        slots: Callable[[], int],
        queue: int,
        decoders: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._slots = slots
        self._queue = queue
        self._decoders = decoders
        self._clock = clock
        self._taken: set[Place] = set()
        self._held: Counter[tuple[str, bool]] = Counter()  # by client, of first looks or second looks
        self._line: list[Place] = []  # of those taken: who waits for a turn, in the order they came
        self._decoding: set[Place] = set()
        self._served: set[str] = set()  # clients that have had their turn in this round
        self._mean_seconds = _FIRST_GUESS_SECONDS

    @property
    def waiting(self) -> int:
        """Places taken, without those of looks that the engine may compute."""
        return max(0, len(self._taken) - self._slots()) if self._taken else 0

    @property
    def running(self) -> int:
        """Places of looks that the engine may compute."""
        return len(self._taken) - self.waiting

    def check(self, client: str, *, second: bool = False) -> None:
        """Raise QueueFullError, with an estimate of when to come back, if there is no place for a client."""
        taken, slots = len(self._taken), self._slots()
        if taken < slots:
            return
        free = slots + self._queue - sum(place.second == second for place in self._taken)
        held = self._held[client, second]
        if free > 0 and held < max(1, free):
            return
        # By Little's law one of them is done every mean / taken seconds.
        retry_after = max(1.0, self._mean_seconds * (max(0, -free) + 1) / taken)
        waiting = taken - slots
        if free > 0:
            raise QueueFullError(
                f"{held} questions from this client are in progress already, and {waiting} are waiting; "
                "try again later",
                retry_after,
            )
        raise QueueFullError(f"{waiting} questions are waiting already; try again later", retry_after)

    @contextmanager
    def taken(self, client: str, *, second: bool = False) -> Iterator[Place]:
        """Take a place; it is left again if something is raised, and otherwise by `leave`.

        Raises:
            QueueFullError: see `check`.
        """
        self.check(client, second=second)
        place = Place(client, second, self._clock())
        self._taken.add(place)
        self._held[client, second] += 1
        self._line.append(place)
        try:
            yield place
        except BaseException:
            self.leave(place)
            raise

    async def turn(self, place: Place) -> float:
        """Wait for a place's turn to decode, which ends with `decoded`; the seconds since it was taken."""
        self._give_turns()
        await place.turn
        return self._clock() - place.since

    def decoded(self, place: Place) -> None:
        """Another may decode."""
        self._decoding.discard(place)
        self._give_turns()

    def leave(self, place: Place) -> None:
        """The question is answered, or nobody waits for it any more. Once left, it stays so."""
        if place not in self._taken:
            return
        self._taken.remove(place)
        self._decoding.discard(place)
        kind = place.client, place.second
        self._held[kind] -= 1
        if not self._held[kind]:
            del self._held[kind]
        if place in self._line:
            self._line.remove(place)
        else:
            seconds = self._clock() - place.since
            self._mean_seconds += _NEW_DURATION_WEIGHT * (seconds - self._mean_seconds)
        self._give_turns()

    def _give_turns(self) -> None:
        most = self._slots() + self._decoders
        while (
            self._line and len(self._decoding) < self._decoders and len(self._taken) - len(self._line) < most
        ):
            place = min(self._line, key=lambda one: (one.client in self._served, not one.second))
            if place.client in self._served:  # and so has everyone: another round
                self._served.clear()
            self._line.remove(place)
            self._decoding.add(place)
            self._served.add(place.client)
            if not place.turn.done():  # cancelled: its place is about to be left
                place.turn.set_result(None)
        if not self._line:
            # The others had better be forgotten: they may never come again.
            self._served &= {client for client, _ in self._held}
