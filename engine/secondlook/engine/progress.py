"""A look in progress, whatever computes it: its result to come, and where its time goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

__all__ = ["InProgress", "Stages"]

ResultT = TypeVar("ResultT")


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


class InProgress(Protocol[ResultT]):
    """What is known of a look that was begun."""

    @property
    def stages(self) -> Stages:
        """Where its time goes."""
        ...

    @property
    def future(self) -> Future[ResultT]:
        """Its result, or what it raised."""
        ...
