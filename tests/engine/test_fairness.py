"""What the clients of one server cost each other: turns and slots together, on a clock of rounds."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.schedules import Expected, engine_of, write_expected
from properties import examples
from secondlook.engine.decode.flows import Flow, Request
from secondlook.engine.decode.scheduler import Encode, Slot
from secondlook.engine.errors import QueueFullError
from secondlook.engine.progress import Stages
from secondlook.engine.serve.places import Place, Places

LONGEST = 6
"""Rounds that a look takes, at most."""

WARM_UP = 30


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Expected:
    return write_expected(tmp_path_factory.mktemp("fairness"))


@dataclass(frozen=True)
class Client:
    """One that asks again as soon as it may: so many looks at once, each of so many rounds."""

    looks: int
    rounds: int
    second: bool


_clients = st.builds(Client, st.integers(1, 20), st.integers(1, LONGEST), st.booleans())


@dataclass(eq=False)
class Asked:
    """A look on its way: its place, and then its request."""

    client: str
    rounds: int
    second: bool
    place: Place
    request: Request[None] | None = None
    started: int | None = None


@dataclass
class Server:
    """The real places and the real scheduler; a look is a slot, held for some rounds."""

    expected: Expected
    slots: int
    decoders: int
    now: int = 0
    asked: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        engine = engine_of(self.expected.adapter, self.slots)
        self.pool, self.scheduler = engine._pool, engine._flows
        self.scheduler._encode_items = lambda items: items  # a round is time that passes, and nothing else
        self.places = Places(lambda: self.slots, 32, self.decoders, clock=lambda: float(self.now))

    def ask(self, client: str, rounds: int, second: bool) -> Asked | None:
        try:
            with self.places.taken(client, second=second) as place:
                asked = Asked(client, rounds, second, place)
        except QueueFullError:
            return None
        self.places._give_turns()
        self.asked.append(asked)
        return asked

    def round(self) -> None:
        """Whoever has its turn comes to the scheduler; a round passes; who is done leaves its place."""
        self.now += 1
        for asked in self.asked:
            if asked.request is None and asked.place.turn.done():
                self.places.decoded(asked.place)
                asked.request = self.scheduler.start(
                    self._look(asked), Stages(), urgent=asked.second, client=asked.client
                )
        self.scheduler.round()
        for asked in list(self.asked):
            if asked.request is not None and asked.request.future.done():
                asked.request.future.result()
                self.asked.remove(asked)
                self.places.leave(asked.place)

    def _look(self, asked: Asked) -> Flow[None]:
        slot, _ = yield Slot(lambda: None)
        asked.started = self.now
        for _ in range(asked.rounds):
            yield Encode(None, 1)
        self.pool.give_back(slot)


@settings(
    max_examples=examples(150),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    slots=st.integers(1, 4),
    decoders=st.integers(1, 4),
    clients=st.lists(_clients, min_size=1, max_size=6),
    second=st.booleans(),
)
@example(slots=1, decoders=4, clients=[Client(6, 5, second=False)], second=False)
def test_a_newcomer_waits_for_each_of_the_others_and_not_for_all_that_they_ask(
    expected: Expected, slots: int, decoders: int, clients: list[Client], second: bool
) -> None:
    """A look of each of the others before its turn, and one of each before its slot, however many they ask.

    And one look that is computed already, for nothing is taken from anybody.
    """

    async def scenario() -> None:
        server = Server(expected, slots, decoders)

        def greedy() -> None:
            for number, client in enumerate(clients):
                name = f"client {number}"
                mine = sum(asked.client == name for asked in server.asked)
                for _ in range(client.looks - mine):
                    server.ask(name, client.rounds, client.second)

        for _ in range(WARM_UP):
            greedy()
            server.round()
        came = server.now
        newcomer = server.ask("newcomer", LONGEST, second)
        assert newcomer is not None, "it always finds a place"
        longest = max(client.rounds for client in clients) + 1  # its slot is free in the round after its last
        while newcomer.started is None:
            greedy()
            server.round()
            assert server.now - came <= 2 * (len(clients) + 1) * longest

    asyncio.run(scenario())


def test_who_asks_alone_has_all_slots_in_the_order_it_asked(expected: Expected) -> None:
    async def scenario() -> None:
        server = Server(expected, 3, 4)
        asked = [server.ask("alone", 2, second=False) for _ in range(7)]
        while server.asked:
            server.round()
        started = [one.started for one in asked if one is not None]
        assert started == sorted(started)
        assert [started.count(time) for time in sorted(set(started), key=started.index)] == [3, 3, 1]

    asyncio.run(scenario())


def test_slots_that_become_free_go_to_who_has_the_fewest(expected: Expected) -> None:
    """One client with long answers holds all of them; another that comes has half, as they end."""

    async def scenario() -> None:
        server = Server(expected, 4, 4)
        asked: list[Asked | None] = []
        for number in range(100):
            for client, most in (("long", 12), ("late", 0 if number < 20 else 12)):
                mine = sum(one.client == client for one in server.asked)
                asked += [server.ask(client, LONGEST, second=client == "long") for _ in range(most - mine)]
            server.round()
        since = 20 + 2 * LONGEST
        started = Counter(one.client for one in asked if one is not None and (one.started or 0) > since)
        assert started["late"] >= LONGEST
        assert abs(started["late"] - started["long"]) <= 4

    asyncio.run(scenario())
