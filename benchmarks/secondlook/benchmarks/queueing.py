"""Edges that ask replicas of a server, simulated event by event, with the service that was measured of one.

A replica shares its speed out evenly among the looks that it has in progress (processor sharing), and its
speed depends on their number, for an engine computes many looks at once: n of them get what was measured with
n edges that ask without a pause. Work is counted in looks: a sure question's is 1, a second look as much more
as an unsure question took alone. Looks beyond a replica's slots wait in the order in which they came.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from secondlook.edge.errors import SettingsError

_WARM_UP = 0.1
"""Share of the questions that do not count: the first ones find all replicas idle."""


@dataclass(frozen=True)
class LoadCurve:
    """How fast one replica works.

    Attributes:
        edges: numbers of looks in progress that were measured, ascending.
        speed: work a second in all, at each.
        second: work of a second look.
        slots: looks in progress at once; infinity: not known.
    """

    edges: tuple[int, ...]
    speed: tuple[float, ...]
    second: float
    slots: float

    @classmethod
    def of(cls, report: dict[str, Any]) -> LoadCurve:
        """From what `secondlook bench load` reports; or `bench latency`, of one question at a time, by which
        several looks at once are no faster than one after another.

        Raises:
            SettingsError: it is of something else, or of too little.
        """
        rows = report.get("rows", [])
        whole = {
            row["request"]: row["p50_ms"]
            for row in rows
            if (row.get("flow"), row.get("metric")) == ("ours", "final_answer")
        }
        if whole:
            return cls((1,), (1000 / whole["sure"],), whole["unsure"] / whole["sure"] - 1, math.inf)
        if not rows or "answers_per_second" not in rows[0]:
            raise SettingsError("it has no load curve: give the JSON file of secondlook bench load --output")
        if rows[0]["edges"] != 1 or len(rows) < 2 or report["delay_ms"] or report.get("rate"):
            raise SettingsError(
                "a load curve begins with one edge, has more, and is measured without a delay and without "
                "pauses: secondlook bench load --edges 2 --edges 4 --edges 16"
            )
        alone = rows[0]["sure_p50_ms"], rows[0]["unsure_p50_ms"]
        if None in alone:
            raise SettingsError("a load curve has questions of both kinds: --retransmission-rate 0.4, say")
        second = max(0.0, alone[1] / alone[0] - 1)
        speed = tuple(row["answers_per_second"] * (1 + second * row["looked_twice"]) for row in rows)
        return cls(tuple(row["edges"] for row in rows), speed, second, report["slots"] or math.inf)

    def speed_of(self, looks: int) -> float:
        """Work a second in all with so many in progress; beyond the largest number, as with that."""
        return float(np.interp(looks, self.edges, self.speed))


@dataclass(frozen=True)
class Demand:
    """What is asked.

    Attributes:
        edges: each asks one question at a time.
        rate: questions a second of each edge, at random times; 0: the next as soon as one is answered.
        unsure: of each question of a sample, whether it is looked at twice.
        delay: seconds of the network, each way.
    """

    edges: int
    rate: float
    unsure: tuple[bool, ...]
    delay: float = 0.0


@dataclass(frozen=True)
class Served:
    """What came of it, without the warm-up.

    Attributes:
        answers_per_second: of all replicas.
        seconds: of each question to its final answer.
        busy: share of the time that a replica has something to do, on average.
        looks: in progress or waiting, of a replica that has something to do, on average.
    """

    answers_per_second: float
    seconds: tuple[float, ...]
    busy: float
    looks: float

    def percentile_ms(self, percent: float) -> float:
        return 1000 * float(np.percentile(self.seconds, percent))


@dataclass
class _Question:
    """Of one edge to one replica; `second` turns true when its second look begins."""

    edge: int
    asked_at: float
    replica: int
    unsure: bool
    second: bool = False


class _Replica:
    """Looks in progress, by the amount of work that each of all had been given when it will be done."""

    def __init__(self, curve: LoadCurve) -> None:
        self._curve = curve
        self._progress = list[tuple[float, int, _Question]]()
        self._waiting = deque[tuple[float, _Question]]()
        self._given, self.now = 0.0, 0.0
        self._order = itertools.count()
        self.busy, self.looks = 0.0, 0.0

    @property
    def _each(self) -> float:
        return self._curve.speed_of(len(self._progress)) / len(self._progress)

    def forward(self, now: float) -> None:
        """Let time pass, up to no later than the next look's end."""
        passed, self.now = now - self.now, now
        if self._progress:
            self._given += passed * self._each
            self.busy += passed
            self.looks += passed * (len(self._progress) + len(self._waiting))

    def ends_at(self) -> float:
        if not self._progress:
            return math.inf
        return self.now + (self._progress[0][0] - self._given) / self._each

    def add(self, work: float, question: _Question) -> None:
        self._waiting.append((work, question))
        self._fill()

    def take(self) -> _Question:
        """The look that has ended."""
        _, _, question = heapq.heappop(self._progress)
        self._fill()
        return question

    def _fill(self) -> None:
        while self._waiting and len(self._progress) < self._curve.slots:
            work, question = self._waiting.popleft()
            heapq.heappush(self._progress, (self._given + work, next(self._order), question))


def simulate(curve: LoadCurve, demand: Demand, replicas: int, questions: int, seed: int = 0) -> Served:
    """Let the edges ask so many questions; each goes to a replica at random, as by a hash of its name."""
    chance = np.random.default_rng(seed)
    servers = [_Replica(curve) for _ in range(replicas)]
    order = itertools.count()
    events = list[tuple[float, int, float, _Question]]()
    ended = list[tuple[float, float]]()
    due = [0.0] * demand.edges

    def ask(edge: int, now: float) -> None:
        unsure = demand.unsure[chance.integers(len(demand.unsure))]
        question = _Question(edge, max(now, due[edge]), int(chance.integers(replicas)), unsure)
        due[edge] = question.asked_at + (chance.exponential(1 / demand.rate) if demand.rate else 0.0)
        heapq.heappush(events, (question.asked_at + demand.delay, next(order), 1.0, question))

    for edge in range(demand.edges):
        due[edge] = chance.exponential(1 / demand.rate) if demand.rate else 0.0
        ask(edge, 0.0)
    for now, server in _steps(servers, events):
        if server is None:
            _, _, work, question = heapq.heappop(events)
            servers[question.replica].add(work, question)
            continue
        question = server.take()
        if question.unsure and not question.second:
            question.second = True
            heapq.heappush(events, (now + 2 * demand.delay, next(order), curve.second, question))
            continue
        ended.append((now + demand.delay, now + demand.delay - question.asked_at))
        if len(ended) == questions:
            break
        ask(question.edge, now + demand.delay)
    counted = sorted(ended)[int(_WARM_UP * questions) :]
    total, busy = servers[0].now, sum(one.busy for one in servers)
    return Served(
        answers_per_second=(len(counted) - 1) / (counted[-1][0] - counted[0][0]),
        seconds=tuple(seconds for _, seconds in counted),
        busy=busy / (replicas * total),
        looks=sum(one.looks for one in servers) / busy,
    )


def _steps(servers: list[_Replica], events: list[Any]) -> Iterator[tuple[float, _Replica | None]]:
    """The time of what happens next, everywhere, and the replica where a look ends; None: one arrives."""
    while True:
        server = min(servers, key=_Replica.ends_at)
        ends_at = server.ends_at()
        arrives_at = events[0][0] if events else math.inf
        now = min(ends_at, arrives_at)
        for each in servers:
            each.forward(now)
        yield now, None if arrives_at <= ends_at else server
