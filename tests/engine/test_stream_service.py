"""Frames at a site: answered by their deadlines, whatever the model does; streams opened and ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from engine.fake_engine import ORIGINAL, REGION, FakeEngine, jpeg
from engine.serving_harness import assert_error, entered
from engine.streaming import (
    ScriptedCloud,
    Watching,
    method,
    opened,
    run,
    send,
    shown,
    streams,
    until,
)
from engine.test_shares import GatedDecoding
from secondlook.edge.wire_stream import FrameHeader
from secondlook.engine.errors import (
    OutOfMemoryError,
    TooManyStreamsError,
    UnknownStreamError,
)
from secondlook.engine.results import FirstLook, Question
from secondlook.engine.serve.settings import ServerSettings
from secondlook.engine.stream.keyframes import KeyFrames

BUSY = method(key_frames=KeyFrames("busy"))
FOCUS = {"left": REGION.left, "top": REGION.top, "right": REGION.right, "bottom": REGION.bottom}


def test_a_frame_is_answered_from_its_picture() -> None:
    async def scenario() -> None:
        engine = FakeEngine()
        async with streams(engine) as (service, client):
            name = await opened(client)
            for number in range(3):
                reply = await shown(client, name, number)
                assert (reply.frame, reply.status, reply.answer) == (number, "answered", "first to unsure")
                assert (reply.source, reply.uncertainty, reply.age) == ("picture", 0.1, 0.0)
                assert not reply.deadline_missed
                assert reply.seconds > 0
            assert engine.clients == ["127.0.0.1"] * 3
            summary = service.close(name)
            assert (summary.frames, summary.answered, summary.cloud_calls) == (3, 3, 0)
            assert summary.bytes_from_camera == 3 * len(jpeg())
            assert engine.second_looks == 0

    run(scenario)


def test_at_the_deadline_what_held_goes_out_and_the_look_goes_on() -> None:
    async def scenario() -> None:
        engine = FakeEngine()
        async with streams(engine, method=method(memory=True)) as (service, client):
            name = await opened(client, deadline=0.05)
            watching = Watching(service, name)
            engine.gate.clear()
            late = await shown(client, name, 0)
            assert (late.status, late.deadline_missed, late.source) == ("held", True, "nothing")
            assert late.uncertainty is None
            assert late.seconds >= 0.05
            engine.gate.set()
            await until(lambda: ("answered", 0) in watching.kinds()[1:])
            after = watching.seen[-1].reply
            assert after is not None
            assert (after.status, after.deadline_missed, after.answer) == (
                "answered",
                True,
                "first to unsure",
            )
            engine.gate.clear()
            held = await shown(client, name, 1)  # the first frame's answer has entered the history
            assert (held.status, held.answer, held.source) == ("held", "first to unsure", "history")
            assert held.history is not None
            assert (held.history.frame, held.age) == (0, pytest.approx(0.2))
            engine.gate.set()
            summary = service.close(name)
            assert (summary.frames, summary.held, summary.deadline_misses) == (2, 2, 2)

    run(scenario)


def test_a_bad_picture_that_is_found_late_is_told_to_whoever_watches() -> None:
    async def scenario() -> None:
        engine = GatedDecoding()
        engine.decode.set()
        async with streams(engine, ScriptedCloud(), method=BUSY) as (service, client):
            name = await opened(client, deadline=0.05)
            watching = Watching(service, name)
            engine.decode.clear()
            held = await shown(client, name, 0, {"image": jpeg(33, 33)})
            assert (held.status, held.reason) == ("held", "")
            engine.decode.set()
            await until(lambda: len(watching.seen) == 2)
            [_, told] = [event.reply for event in watching.seen]
            assert told is not None
            assert (told.frame, told.status, told.deadline_missed) == (0, "held", True)
            assert "33x33" in told.reason
            assert service.close(name).cloud_calls == 0

    run(scenario)


def test_a_newer_frame_takes_the_place_of_the_one_that_waits() -> None:
    """At thirty a second, say: one is computed, one waits, and the others are answered at once."""

    async def scenario() -> None:
        engine = FakeEngine()
        async with streams(engine) as (service, client):
            name = await opened(client)
            engine.gate.clear()
            sent = [asyncio.create_task(shown(client, name, 0))]
            await entered(engine)
            for number in range(1, 31):
                sent.append(asyncio.create_task(shown(client, name, number)))
                if number > 1:
                    reply = await sent[number - 1]
                    assert (reply.frame, reply.status) == (number - 1, "superseded")
                else:
                    await until(lambda: service._open[name]._waiting is not None)
            engine.gate.set()
            ends = await asyncio.gather(sent[0], sent[-1])
            assert [(reply.frame, reply.status) for reply in ends] == [(0, "answered"), (30, "answered")]
            assert engine.first_looks == 2
            summary = service.close(name)
            assert (summary.frames, summary.superseded, summary.answered) == (31, 29, 2)

    run(scenario)


def test_a_frame_that_is_not_newer_is_superseded() -> None:
    async def scenario() -> None:
        async with streams() as (_, client):
            name = await opened(client)
            await shown(client, name, 5)
            for number in (5, 3):
                reply = await shown(client, name, number)
                assert (reply.status, reply.frame) == ("superseded", number)
            assert (await shown(client, name, 6)).status == "answered"

    run(scenario)


def test_a_clock_that_was_set_back_is_an_error() -> None:
    async def scenario() -> None:
        async with streams() as (_, client):
            name = await opened(client)
            await shown(client, name, 5)
            assert_error(
                await send(client, name, 6, captured=0.5), 422, "invalid_field", "open another stream"
            )
            assert (await shown(client, name, 7)).status == "answered"

    run(scenario)


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"parts": {"image": b"no picture"}}, "not_a_picture"),
        ({"parts": {"image": jpeg(40, 40)}}, "picture_mismatch"),
        ({"parts": {"image": jpeg() + bytes(200_000)}}, "picture_too_large"),
        (
            {"focus": {"left": 5, "top": 5, "right": 5, "bottom": 9}, "parts": {"focus": jpeg()}},
            "picture_mismatch",
        ),
        ({"parts": {"focus": jpeg()}}, "invalid_field"),
        ({"parts": {"detail0": jpeg()}}, "invalid_field"),
        ({"width": 10**6, "height": 10**6}, "picture_mismatch"),
        ({"focus": {"left": 5, "top": 5, "right": 9, "bottom": 9}}, "invalid_field"),
        ({"details": [{"frame": 0}]}, "invalid_field"),
        ({"frame": -1}, "invalid_field"),
        ({"captured": "soon"}, "invalid_field"),
        ({"other": 1}, "invalid_field"),
    ],
)
def test_a_bad_frame_fails_alone(more: dict[str, Any], name: str) -> None:
    async def scenario() -> None:
        cloud = ScriptedCloud()
        async with streams(cloud=cloud, method=BUSY) as (_, client):
            stream = await opened(client)
            assert_error(await send(client, stream, 0, **more), 422, name)
            assert not cloud.asked
            assert (await shown(client, stream, 1)).status == "answered"

    run(scenario)


@pytest.mark.parametrize("error", [OutOfMemoryError("no memory"), RuntimeError("secret detail")])
def test_a_look_that_fails_leaves_what_held(error: Exception) -> None:
    class Failing(FakeEngine):
        failing = False

        def _first_look(self, asked: Question, on_region: Callable[[FirstLook], None]) -> FirstLook:
            if self.failing:
                raise error
            return super()._first_look(asked, on_region)

    async def scenario() -> None:
        engine = Failing()
        async with streams(engine) as (_, client):
            name = await opened(client)
            await shown(client, name, 0)
            engine.failing = True
            held = await shown(client, name, 1)
            assert (held.status, held.answer, held.deadline_missed) == ("held", "first to unsure", False)
            assert held.reason
            assert "secret" not in held.reason
            engine.failing = False
            assert (await shown(client, name, 2)).status == "answered"

    run(scenario)


def test_a_full_queue_holds_a_frame() -> None:
    async def scenario() -> None:
        engine = FakeEngine()
        async with streams(engine, server=ServerSettings(queue_size=3)) as (_, client):
            one, other, third = [await opened(client) for _ in range(3)]
            engine.gate.clear()
            waiting = [asyncio.create_task(shown(client, name, 0)) for name in (one, other)]
            await entered(engine)
            held = await shown(client, third, 0)
            assert (held.status, held.source) == ("held", "nothing")
            assert "2 questions from this client are in progress already" in held.reason
            engine.gate.set()
            assert [(await task).status for task in waiting] == ["answered"] * 2

    run(scenario)


def test_a_stream_ends_when_no_frame_comes() -> None:
    async def scenario() -> None:
        async with streams(idle_seconds=90.0) as (service, client):
            name, other = await opened(client), await opened(client)
            watching = Watching(service, name)
            await shown(client, name, 0)
            service._open[name].touched -= 90
            await watching.task
            assert watching.seen[-1].reason == "no frame came within 90 s"
            assert (await shown(client, other, 0)).status == "answered"
            assert_error(await send(client, name, 1), 404, "unknown_stream", "open another one")
            assert len(service) == 1

    run(scenario)


def test_a_stream_waits_from_its_last_reply_on() -> None:
    """Its deadline may be longer than it waits for a frame."""

    async def scenario() -> None:
        engine = FakeEngine()
        async with streams(engine, idle_seconds=90.0) as (service, client):
            name = await opened(client)
            engine.gate.clear()
            sent = asyncio.create_task(shown(client, name, 0))
            await entered(engine)
            live = service._open[name]
            live.touched -= 90
            engine.gate.set()
            assert (await sent).status == "answered"
            assert service._clock() - live.touched < 90

    run(scenario)


def test_whoever_is_in_progress_hears_that_a_stream_was_closed() -> None:
    async def scenario() -> None:
        async with streams() as (service, client):
            name = await opened(client)
            events = service.events(name)  # nothing of it runs before it is asked for the first one
            live = service._open[name]
            header = FrameHeader(frame=0, captured=0.0, width=ORIGINAL.width, height=ORIGINAL.height)
            frame = asyncio.create_task(live.frame(header, jpeg(), None, ()))
            await until(lambda: live.busy)  # in this turn its task was made, which has not begun
            service.close(name)
            with pytest.raises(UnknownStreamError, match="has ended: it was closed"):
                await frame
            assert [event.reason async for event in events] == ["it was closed"]

    run(scenario)


def test_streams_and_watchers_are_bounded() -> None:
    async def scenario() -> None:
        async with streams(max_streams=4, max_watchers=1, watched=2) as (service, client):
            names = [await opened(client) for _ in range(2)]
            reply = await client.post("/v1/streams", json={"question": "one more"})
            assert_error(reply, 429, "too_many_streams", "2 streams are open already, 2 of this client's")
            assert reply.headers["retry-after"] == "1"
            watching = Watching(service, names[0])
            await asyncio.sleep(0)
            with pytest.raises(TooManyStreamsError, match="1 watch this stream already"):
                service.events(names[0])
            watching.task.cancel()
            service.close(names[0])
            await opened(client)
            slow = service.events(names[1])
            first = asyncio.create_task(anext(slow))
            await asyncio.sleep(0)
            for number in range(4):
                await shown(client, names[1], number)
            assert (await first).frame == 0
            assert [(await anext(slow)).frame for _ in range(2)] == [2, 3]  # the oldest went

    run(scenario)


@pytest.mark.parametrize(
    ("question", "name"), [("", "invalid_field"), ("  ", "empty_question"), ("endless", "question_too_long")]
)
def test_a_question_is_checked_when_a_stream_is_opened(question: str, name: str) -> None:
    async def scenario() -> None:
        async with streams() as (service, client):
            assert_error(await client.post("/v1/streams", json={"question": question}), 422, name)
            assert len(service) == 0

    run(scenario)


def test_the_shutdown_ends_streams() -> None:
    async def scenario() -> None:
        engine, cloud = FakeEngine(), ScriptedCloud()
        async with streams(engine, cloud, method=BUSY) as (service, client):
            name = await opened(client)
            watching = Watching(service, name)
            await shown(client, name, 0)
            await until(lambda: 0 in cloud.asked)
            engine.gate.clear()
            sent = asyncio.create_task(send(client, name, 1))
            await entered(engine, 2)  # frame 0's look, and this one's
            after = asyncio.create_task(send(client, name, 2))
            await until(lambda: service._open[name]._waiting is not None)
            service._looks.begin_shutdown()
            assert_error(await send(client, name, 3), 503, "shutting_down")
            await watching.task
            assert watching.seen[-1].reason == "the server is shutting down"
            for reply in (await sent, await after):
                assert_error(reply, 404, "unknown_stream")
            engine.gate.set()
            with pytest.raises(UnknownStreamError):
                service.check(name)
        assert cloud.closed
        assert cloud.cancelled == [0]

    run(scenario)


def test_a_camera_that_leaves_has_its_frame_computed() -> None:
    async def scenario() -> None:
        engine = FakeEngine()
        async with streams(engine, method=method(memory=True)) as (service, client):
            name = await opened(client)
            watching = Watching(service, name)
            engine.gate.clear()
            sent = asyncio.create_task(shown(client, name, 0))
            await entered(engine)
            sent.cancel()
            await asyncio.gather(sent, return_exceptions=True)
            engine.gate.set()
            await until(lambda: not service._open[name].busy)
            assert watching.seen == []
            engine.gate.clear()
            held = asyncio.create_task(shown(client, name, 1))
            await entered(engine)
            reply = await shown(client, name, 0)
            assert reply.status == "superseded"
            engine.gate.set()
            assert (await held).status == "answered"

    run(scenario)
