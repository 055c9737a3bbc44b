"""Frames that are looked at closer, in the focus that comes with them."""

from __future__ import annotations

import asyncio
from typing import Any

from engine.fake_engine import REGION, FakeEngine, jpeg
from engine.serving_harness import assert_error, entered
from engine.streaming import method, opened, run, send, shown, streams, until
from secondlook.edge.wire import Box
from secondlook.engine.decode.flows import Request
from secondlook.engine.results import FinalAnswer, FirstLook, Question

FOCUS = {"left": REGION.left, "top": REGION.top, "right": REGION.right, "bottom": REGION.bottom}


class Focused(FakeEngine):
    """Unsure of the whole frame; looks closer where it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.regions: list[tuple[str, Box | None, float | None]] = []

    def start_first_look(self, question: Question, **told: Any) -> Request[FirstLook]:
        options = question.options
        self.regions.append((options.second_look, options.region, options.threshold))
        return super().start_first_look(question, **told)


def test_the_focus_is_looked_at_closer() -> None:
    async def scenario() -> None:
        engine, closer = Focused(), jpeg(32, 21)
        async with streams(engine, method=method(focus="crop")) as (service, client):
            name = await opened(client)
            reply = await shown(client, name, 0, {"focus": closer}, focus=FOCUS)
            assert (reply.status, reply.answer, reply.uncertainty) == ("answered", "second to unsure", 0.2)
            assert engine.regions == [("auto", Box(**FOCUS), 0.05)]
            assert engine.local_bytes == [len(closer)]
            await shown(client, name, 1)
            assert engine.regions[1:] == [("never", None, None)]
            # What cannot be looked at leaves the whole frame's answer, and says why.
            broken = await shown(client, name, 2, {"focus": b"no picture"}, focus=FOCUS)
            assert (broken.status, broken.answer) == ("answered", "first to unsure")
            assert "not looked at closer" in broken.reason
            assert service.close(name).answered == 3

    run(scenario)


class Stalled(FakeEngine):
    """Its second looks take until `gate` is set."""

    def start_second_look(self, *arguments: Any, **more: Any) -> Request[FinalAnswer]:
        self.gate.clear()
        return super().start_second_look(*arguments, **more)


def test_a_stream_that_ends_leaves_no_session_open() -> None:
    async def scenario() -> None:
        engine = Stalled()
        async with streams(engine, method=method(focus="crop")) as (service, client):
            name = await opened(client)
            sent = asyncio.create_task(send(client, name, 0, {"focus": jpeg(32, 21)}, focus=FOCUS))
            await entered(engine, looks=2)
            assert service._looks.open_sessions == 1
            service.close(name)
            assert_error(await sent, 404, "unknown_stream", "it was closed")
            await until(lambda: service._looks.open_sessions == 0)
            engine.gate.set()

    run(scenario)
