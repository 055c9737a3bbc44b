"""Places and turns, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import pytest

from secondlook.engine.errors import QueueFullError
from secondlook.engine.serve.places import Place, Places


def on_a_loop(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(scenario(), 60)

    asyncio.run(main())


def take(places: Places, client: str, *, second: bool = False) -> Place:
    with places.taken(client, second=second) as place:
        return place


def fill(places: Places, client: str, *, second: bool = False) -> list[Place]:
    """All places that a client may have."""
    taken = []
    with ExitStack() as refused:
        refused.enter_context(pytest.raises(QueueFullError))
        while True:
            taken.append(take(places, client, second=second))
    return taken


def places(slots: int = 2, queue: int = 10, decoders: int = 1) -> Places:
    return Places(lambda: slots, queue, decoders)


def test_one_client_gets_half_two_a_third_and_a_newcomer_a_place() -> None:
    async def scenario() -> None:
        shared = places(slots=2, queue=10)
        assert len(fill(shared, "greedy")) == 6
        assert len(fill(shared, "next")) == 3
        for number in range(3):
            take(shared, f"newcomer {number}")
        with pytest.raises(QueueFullError, match=r"^10 questions are waiting"):
            take(shared, "too late")

    on_a_loop(scenario)


def test_who_has_its_share_is_told_so_and_may_come_back_when_others_have_left() -> None:
    async def scenario() -> None:
        shared = places(slots=1, queue=3)
        mine = fill(shared, "a")
        assert len(mine) == 2
        with pytest.raises(QueueFullError, match="2 questions from this client are in progress") as refused:
            shared.check("a")
        assert refused.value.retry_after >= 1
        shared.check("b")
        shared.leave(mine[0])
        shared.leave(mine[0])  # once
        assert shared.waiting == 0
        take(shared, "a")

    on_a_loop(scenario)


def test_while_slots_are_free_one_client_may_have_them_all() -> None:
    async def scenario() -> None:
        shared = places(slots=20, queue=4)
        assert len(fill(shared, "a")) == 20
        shared.check("b")

    on_a_loop(scenario)


def test_second_looks_have_places_of_their_own() -> None:
    async def scenario() -> None:
        shared = places(slots=1, queue=1)
        take(shared, "a")
        take(shared, "b")
        for client in "ab":
            with pytest.raises(QueueFullError):
                shared.check(client)
        take(shared, "c", second=True)
        take(shared, "d", second=True)
        with pytest.raises(QueueFullError, match="3 questions are waiting"):
            shared.check("e", second=True)

    on_a_loop(scenario)


def test_second_looks_keep_no_first_look_out() -> None:
    async def scenario() -> None:
        shared = places(slots=1, queue=9)
        for client in "abc":
            fill(shared, client, second=True)
        shared.check("newcomer")
        shared.check("newcomer", second=True)

    on_a_loop(scenario)


def test_turns_go_round_and_of_one_client_second_looks_come_first() -> None:
    async def scenario() -> None:
        shared = places(slots=1, queue=40, decoders=1)
        order: list[str] = []

        async def ask(name: str, second: bool = False) -> None:
            with shared.taken(name[0], second=second) as place:
                await shared.turn(place)
                order.append(name)
                await asyncio.sleep(0)
                shared.decoded(place)
            shared.leave(place)

        names = ["a1", "a2", "a3", "a4", "b1", "b2", "c1"]
        asking = [asyncio.create_task(ask(name)) for name in names]
        asking.append(asyncio.create_task(ask("a second", second=True)))
        await asyncio.gather(*asking)
        assert order == ["a1", "b1", "c1", "a second", "b2", "a2", "a3", "a4"]
        assert shared.waiting == 0

    on_a_loop(scenario)


def test_turns_wait_for_a_decoder_and_for_a_slot() -> None:
    async def scenario() -> None:
        shared = places(slots=1, queue=9, decoders=2)
        taken = [take(shared, name) for name in "abcdef"]
        turns = [asyncio.create_task(shared.turn(place)) for place in taken]

        async def with_turns() -> int:
            await asyncio.sleep(0)
            return sum(place.turn.done() for place in taken)

        assert await with_turns() == 2
        shared.decoded(taken[0])
        assert await with_turns() == 3
        shared.decoded(taken[1])
        shared.decoded(taken[2])
        assert await with_turns() == 3, "one on the slot, and two that wait for it"
        shared.leave(taken[0])
        assert await with_turns() == 4
        for place in taken:
            shared.leave(place)
        for turn in turns:
            turn.cancel()

    on_a_loop(scenario)


@pytest.mark.parametrize("given", [False, True])
def test_who_leaves_before_or_in_its_turn_gives_it_up(given: bool) -> None:
    async def scenario() -> None:
        shared = places(slots=1, queue=9, decoders=1)

        async def ask(client: str) -> None:
            with shared.taken(client) as place:
                await shared.turn(place)
                await asyncio.sleep(60)

        leaving = [asyncio.create_task(ask(client)) for client in "ab"]
        await asyncio.sleep(0)
        assert leaving[not given].cancel()
        await asyncio.wait([leaving[not given]])
        last = take(shared, "c")
        turn = asyncio.create_task(shared.turn(last))
        await asyncio.sleep(0)
        leaving[given].cancel()
        await turn
        shared.leave(last)
        assert shared.waiting == 0

    on_a_loop(scenario)
