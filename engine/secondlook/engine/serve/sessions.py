"""Sessions: first answers that wait for their local image.

A session is *waiting*, then *claimed* while its second look runs, and then ends: answered, expired, or given
up. Three bounds hold what is kept:

* time: a waiting session expires; its first answer stands;
* number and bytes: when one more session would be too many, or would keep too much in memory, the oldest
  waiting ones are given up, and their first answers stand. A claimed session has a place in the server's
  bounded queue, and does not count.

A session belongs to its owner, if it has one, and to whoever holds its id: to anybody else it is unknown.

Keys and values are not a session's: it holds on to what can be computed again without them.

The ends of the latest sessions are remembered, with the little that each leaves, so that a late edge learns
what happened.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, get_args

from secondlook.engine.errors import (
    AnsweredSessionError,
    ExpiredSessionError,
    SessionError,
    UnknownSessionError,
)
from secondlook.engine.serve.settings import SessionLimits

__all__ = ["Census", "SessionEnd", "SessionStore"]

KeptT = TypeVar("KeptT")
LeftT = TypeVar("LeftT")

_ID_BYTES = 24
"""192 bits of randomness: an id cannot be guessed, and is the right to a session that has no owner."""

SessionEnd = Literal["answered", "expired", "given_up", "too_many"]
"""Why a session ended: it was answered, its time was over, its edge gave it up, or the server for another."""


@dataclass(frozen=True)
class Census:
    """How many sessions there are, and were.

    Attributes:
        waiting: for their local image.
        claimed: whose second look is being computed.
        ended: from the beginning, by why.
    """

    waiting: int
    claimed: int
    ended: dict[SessionEnd, int]


@dataclass
class _Session(Generic[KeptT]):
    kept: KeptT
    owner: str
    nbytes: int
    expires_at: float
    claimed: bool = False


@dataclass(frozen=True)
class _Ended(Generic[LeftT]):
    error: SessionError
    owner: str
    left: LeftT


class SessionStore(Generic[KeptT, LeftT]):
    """Holds sessions within `limits`. Not thread-safe: one thread, the event loop's, calls it.

    Every method that takes an id raises UnknownSessionError, ExpiredSessionError (also for a session given
    up) or AnsweredSessionError (also for one whose second look is being computed).

    Args:
        limits: the bounds.
        leaves: what a session leaves that ends without a second look.
        nbytes: what it keeps takes in memory.
        clock: seconds that never run backwards.
    """

    def __init__(
        self,
        limits: SessionLimits,
        leaves: Callable[[KeptT], LeftT],
        nbytes: Callable[[KeptT], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._leaves = leaves
        self._nbytes = nbytes
        self._clock = clock
        # In the order of opening, which is also the order of expiry: all sessions live equally long.
        self._sessions: OrderedDict[str, _Session[KeptT]] = OrderedDict()
        self._ended: OrderedDict[str, _Ended[LeftT]] = OrderedDict()
        self._ends: Counter[SessionEnd] = Counter(dict.fromkeys(get_args(SessionEnd), 0))

    def __len__(self) -> int:
        """Sessions waiting or claimed."""
        return len(self._sessions)

    @property
    def census(self) -> Census:
        """How many there are, and were."""
        claimed = sum(session.claimed for session in self._sessions.values())
        return Census(len(self) - claimed, claimed, dict(self._ends))

    def open(self, kept: KeptT, owner: str = "") -> tuple[str, float]:
        """Keep what an owner's second look needs; returns the session's id and its seconds to live."""
        self.purge()
        opened = _Session(kept, owner, self._nbytes(kept), self._clock() + self._limits.seconds)
        waiting = [(name, session) for name, session in self._sessions.items() if not session.claimed]
        number, nbytes = len(waiting) + 1, opened.nbytes + sum(session.nbytes for _, session in waiting)
        for name, session in waiting:
            if number <= self._limits.max_waiting and nbytes <= self._limits.max_bytes:
                break
            self._expire(name, "too_many", "the server had too many open sessions")
            number, nbytes = number - 1, nbytes - session.nbytes
        name = secrets.token_urlsafe(_ID_BYTES)
        self._sessions[name] = opened
        return name, self._limits.seconds

    def look(self, name: str, owner: str = "") -> KeptT:
        """What a waiting session of an owner's keeps; it stays as it is."""
        self._check_owner(name, owner)
        return self._waiting(name).kept

    def claim(self, name: str) -> KeptT:
        """Take a waiting session; `finish` or `release` must follow. It does not expire meanwhile."""
        session = self._waiting(name)
        session.claimed = True
        return session.kept

    def finish(self, name: str, left: LeftT) -> None:
        """A claimed session has its final answer, and leaves that."""
        assert self._sessions[name].claimed, "only a claimed session can be finished"
        error = AnsweredSessionError(f"session {name} was already answered; ask the question again")
        self._end(name, "answered", error, left)

    def release(self, name: str) -> None:
        """A claimed session's second look could not be computed: it waits again, until its time is over."""
        assert self._sessions[name].claimed, "only a claimed session can be released"
        self._sessions[name].claimed = False

    def give_up(self, name: str, owner: str = "") -> LeftT:
        """The edge does not want the second look, or does not know what came of it: what the session leaves.

        A session that ended before stays as it ended; only one that is claimed cannot be given up.
        """
        self.purge()
        self._check_owner(name, owner)
        ended = self._ended.get(name)
        if ended is not None:
            return ended.left
        self._waiting(name)
        return self._expire(name, "given_up", "the edge gave this session up")

    def purge(self) -> int:
        """End what is over time; returns how many sessions that were."""
        now = self._clock()
        over = [
            name
            for name, session in self._sessions.items()
            if not session.claimed and session.expires_at <= now
        ]
        for name in over:
            self._expire(
                name, "expired", f"the local image did not come within {self._limits.seconds:g} seconds"
            )
        return len(over)

    def _check_owner(self, name: str, owner: str) -> None:
        session = self._sessions.get(name) or self._ended.get(name)
        if session is None or session.owner != owner:
            raise UnknownSessionError("this session does not exist; ask the question again")

    def _waiting(self, name: str) -> _Session[KeptT]:
        self.purge()
        session = self._sessions.get(name)
        if session is None:
            ended = self._ended.get(name)
            if ended is None:
                raise UnknownSessionError("this session does not exist; ask the question again")
            raise type(ended.error)(*ended.error.args)
        if session.claimed:
            raise AnsweredSessionError(f"session {name} is being answered; its local image was already sent")
        return session

    def _expire(self, name: str, end: SessionEnd, why: str) -> LeftT:
        left = self._leaves(self._sessions[name].kept)
        self._end(
            name,
            end,
            ExpiredSessionError(f"{why}: the first answer stands; ask the question again for another"),
            left,
        )
        return left

    def _end(self, name: str, end: SessionEnd, error: SessionError, left: LeftT) -> None:
        self._ends[end] += 1
        self._ended[name] = _Ended(error, self._sessions.pop(name).owner, left)
        while len(self._ended) > self._limits.max_remembered:
            self._ended.popitem(last=False)
