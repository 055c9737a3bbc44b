"""Sessions: first answers that wait for their local image.

A session is *waiting*, then *claimed* while its second look runs, and then ends: answered, expired, or given
up. Three bounds hold what is kept:

* time: a waiting session expires; its first answer stands;
* number: when one more session would be too many, the oldest waiting one is given up, and its first answer
  stands. A claimed session has a place in the server's bounded queue, and does not count;
* bytes: keys and values are worth up to hundreds of megabytes a session, and can be had again from the global
  image (tens of kilobytes). When they grow too large together the oldest caches are dropped, never the
  sessions: such a second look is slower, not lost.

The ends of the latest sessions are remembered by their ids alone, so that a late edge learns what happened.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from secondlook.engine.errors import (
    AnsweredSessionError,
    ExpiredSessionError,
    SessionError,
    UnknownSessionError,
)
from secondlook.engine.settings import SessionLimits

__all__ = ["Claim", "SessionStore"]

QuestionT = TypeVar("QuestionT")
CacheT = TypeVar("CacheT")

_ID_BYTES = 24
"""192 bits of randomness: an id cannot be guessed, and holding it is the right to use the session."""


@dataclass
class _Session(Generic[QuestionT, CacheT]):
    question: QuestionT
    cache: CacheT | None
    cache_bytes: int
    expires_at: float
    claimed: bool = False


@dataclass(frozen=True)
class Claim(Generic[QuestionT, CacheT]):
    """A session whose second look one caller alone may now compute. `cache` is None if it was dropped."""

    question: QuestionT
    cache: CacheT | None


class SessionStore(Generic[QuestionT, CacheT]):
    """Holds sessions within `limits`. Not thread-safe: one thread, the event loop's, calls it.

    Every method that takes an id raises UnknownSessionError, ExpiredSessionError (also for a session given
    up) or AnsweredSessionError (also for one whose second look is being computed).

    Args:
        limits: the bounds.
        clock: seconds that never run backwards.
    """

    def __init__(self, limits: SessionLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        # In the order of opening, which is also the order of expiry: all sessions live equally long.
        self._sessions: OrderedDict[str, _Session[QuestionT, CacheT]] = OrderedDict()
        self._ended: OrderedDict[str, SessionError] = OrderedDict()

    def __len__(self) -> int:
        """Sessions waiting or claimed."""
        return len(self._sessions)

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values kept, those of claimed sessions included."""
        return sum(session.cache_bytes for session in self._sessions.values())

    def open(self, question: QuestionT, cache: CacheT, cache_bytes: int) -> tuple[str, float]:
        """Keep a question whose region was asked for; returns the session's id and its seconds to live."""
        self.purge()
        waiting = [name for name, session in self._sessions.items() if not session.claimed]
        for name in waiting[: max(0, len(waiting) + 1 - self._limits.max_waiting)]:
            self._end(name, ExpiredSessionError(_given_up_reason("the server had too many open sessions")))
        name = secrets.token_urlsafe(_ID_BYTES)
        expires_at = self._clock() + self._limits.seconds
        self._sessions[name] = _Session(question, cache, cache_bytes, expires_at)
        self._drop_caches()
        return name, self._limits.seconds

    def look(self, name: str) -> QuestionT:
        """The question of a waiting session, which stays as it is."""
        return self._waiting(name).question

    def claim(self, name: str) -> Claim[QuestionT, CacheT]:
        """Take a waiting session; `finish` or `release` must follow. It does not expire meanwhile."""
        session = self._waiting(name)
        session.claimed = True
        return Claim(session.question, session.cache)

    def finish(self, name: str) -> None:
        """A claimed session has its final answer."""
        assert self._sessions[name].claimed, "only a claimed session can be finished"
        self._end(name, AnsweredSessionError(f"session {name} was already answered; ask the question again"))

    def release(self, name: str) -> None:
        """A claimed session's second look could not be computed: it waits again, until its time is over."""
        assert self._sessions[name].claimed, "only a claimed session can be released"
        self._sessions[name].claimed = False

    def give_up(self, name: str) -> None:
        """The edge does not want the second look: the first answer stands."""
        self._waiting(name)
        self._end(name, ExpiredSessionError(_given_up_reason("the edge gave this session up")))

    def purge(self) -> int:
        """End what is over time; returns how many sessions that were."""
        now = self._clock()
        over = [
            name
            for name, session in self._sessions.items()
            if not session.claimed and session.expires_at <= now
        ]
        for name in over:
            reason = f"the local image did not come within {self._limits.seconds:g} seconds"
            self._end(name, ExpiredSessionError(_given_up_reason(reason)))
        return len(over)

    def _waiting(self, name: str) -> _Session[QuestionT, CacheT]:
        self.purge()
        session = self._sessions.get(name)
        if session is None:
            ended = self._ended.get(name)
            if ended is None:
                raise UnknownSessionError("this session does not exist; ask the question again")
            raise type(ended)(*ended.args)
        if session.claimed:
            raise AnsweredSessionError(f"session {name} is being answered; its local image was already sent")
        return session

    def _end(self, name: str, end: SessionError) -> None:
        del self._sessions[name]
        self._ended[name] = end
        while len(self._ended) > self._limits.max_remembered:
            self._ended.popitem(last=False)

    def _drop_caches(self) -> None:
        surplus = self.cache_bytes - self._limits.max_cache_bytes
        for session in self._sessions.values():
            if surplus <= 0:
                return
            if not session.claimed and session.cache is not None:
                surplus -= session.cache_bytes
                session.cache, session.cache_bytes = None, 0


def _given_up_reason(why: str) -> str:
    return f"{why}: the first answer stands; ask the question again for another"
