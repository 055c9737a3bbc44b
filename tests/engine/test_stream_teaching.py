"""What a cloud teaches a site: its answers, whenever they come, and what it wants to see."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from engine.fake_engine import REGION, FakeEngine, jpeg
from engine.streaming import (
    ScriptedCloud,
    Watching,
    method,
    opened,
    run,
    shown,
    streams,
    until,
)
from secondlook.edge.geometry import Region, Size
from secondlook.edge.imaging import JpegSettings
from secondlook.edge.wire import Box, Fixed, View
from secondlook.edge.wire_stream import MOST_DETAILS
from secondlook.engine.errors import (
    LostDetailError,
    ReservedTextError,
)
from secondlook.engine.results import FirstLook, Question
from secondlook.engine.stream.cloud import CloudAnswer
from secondlook.engine.stream.keyframes import KeyFrames

BUSY = method(key_frames=KeyFrames("busy"))
TEMPLATE = "{question} ({age:.1f} s ago: {answer})"
JPEG = JpegSettings()
WIDE = View(size=Fixed(width=64, height=64))
FOCUS = {"left": REGION.left, "top": REGION.top, "right": REGION.right, "bottom": REGION.bottom}


def test_key_frames_teach_later_frames() -> None:
    async def scenario() -> None:
        cloud = ScriptedCloud()
        async with streams(cloud=cloud, method=method(in_flight=2, key_frames=KeyFrames("busy"))) as (
            service,
            client,
        ):
            name = await opened(client)
            watching = Watching(service, name)
            for number in range(4):
                await shown(client, name, number)
            await until(lambda: len(cloud.asked) == 2)  # no more are in flight
            assert sorted(cloud.asked) == [0, 1]
            cloud.answer(1, "seventy")  # out of order
            await until(lambda: ("cloud", 1) in watching.kinds())
            cloud.answer(0, "sixty")
            await until(lambda: ("cloud", 0) in watching.kinds())
            reply = await shown(client, name, 4)
            assert (reply.answer, reply.source, reply.uncertainty) == ("seventy", "history", 0.1)
            assert reply.history is not None
            assert (reply.history.frame, reply.history.by) == (1, "cloud")
            assert reply.age == pytest.approx(0.6)
            await until(lambda: 4 in cloud.asked)
            cloud.answer(4, "doubtful", doubt=0.9)
            await until(lambda: ("cloud", 4) in watching.kinds())
            assert [event.counts for event in watching.seen if event.kind == "cloud"] == [True, True, False]
            assert (await shown(client, name, 5)).answer == "seventy"
            await until(lambda: 5 in cloud.asked)
            summary = service.close(name)
            await until(lambda: cloud.cancelled == [5])
            assert (summary.cloud_calls, summary.cloud_answers, summary.cloud_counted) == (4, 3, 2)
            assert summary.bytes_to_cloud == 3000
            await watching.task
            assert watching.kinds()[-1] == ("ended", 5)

    run(scenario)


def test_a_frame_that_was_answered_late_is_a_key_frame_too() -> None:
    async def scenario() -> None:
        engine, cloud = FakeEngine(), ScriptedCloud()
        async with streams(engine, cloud) as (_, client):
            name = await opened(client, deadline=0.05)
            engine.gate.clear()
            assert (await shown(client, name, 0)).status == "held"
            assert not cloud.asked
            engine.gate.set()
            await until(lambda: 0 in cloud.asked)

    run(scenario)


def test_a_cloud_that_never_answers_holds_no_frame(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        cloud = ScriptedCloud()
        short = method(history_seconds=0.1, key_frames=KeyFrames("busy"))
        async with streams(cloud=cloud, method=short) as (service, client):
            name = await opened(client)
            watching = Watching(service, name)
            for number in range(20):
                assert (await shown(client, name, number)).status == "answered"
                assert len(service._open[name]._asking) <= 1
            await until(lambda: cloud.cancelled)
            await until(lambda: any(event.kind == "lost" for event in watching.seen))
            lost = next(event for event in watching.seen if event.kind == "lost")
            assert (lost.frame, lost.reason) == (0, "the cloud did not answer within 0.1 s")
            await shown(client, name, 20)
            await until(lambda: len(cloud.asked) > 1)  # another is asked about, not the same again
            await until(lambda: sum(event.kind == "lost" for event in watching.seen) > 1)

    run(scenario)
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning == "a key frame has no answer: the cloud did not answer within 0.1 s"


class Reader(FakeEngine):
    """Has learnt to read history, which makes it sure, and refuses some of it."""

    context = TEMPLATE

    def prepare(self, *arguments: Any, **more: Any) -> Question:
        if "<image>" in arguments[1]:
            raise ReservedTextError("the question contains '<image>', which the model reserves; take it out")
        return super().prepare(*arguments, **more)

    def _first_look(self, asked: Question, on_region: Callable[[FirstLook], None]) -> FirstLook:
        found = super()._first_look(asked, on_region)
        if "s ago" not in asked.text:
            return found
        return replace(found, look=replace(found.look, uncertainty=0.02))


def test_history_is_read_behind_the_question() -> None:
    async def scenario() -> None:
        engine, cloud = Reader(), ScriptedCloud()
        async with streams(engine, cloud, method=BUSY) as (service, client):
            name = await opened(client)
            watching = Watching(service, name)
            await shown(client, name, 0)
            await until(lambda: 0 in cloud.asked)
            cloud.answer(0, "seventy\nfive")
            await until(lambda: ("cloud", 0) in watching.kinds())
            reply = await shown(client, name, 4)
            line = "unsure (0.8 s ago: seventy five)"
            assert (reply.answer, reply.source) == (f"first to {line}", "context")
            assert (reply.uncertainty, reply.context_uncertainty) == (0.1, 0.02)
            assert reply.history is not None
            assert reply.history.text == "seventy\nfive"
            await until(lambda: 4 in cloud.asked)
            cloud.answer(4, "an <image> of 75")
            await until(lambda: ("cloud", 4) in watching.kinds())
            without = await shown(client, name, 5)
            assert (without.status, without.source) == ("answered", "history")
            assert without.answer == "an <image> of 75"
            await until(lambda: ("answered", 5) in watching.kinds())
            [dropped] = [event for event in watching.seen if event.kind == "dropped"]
            assert dropped.frame == 5
            assert "'<image>'" in dropped.reason
            assert engine.clients == ["127.0.0.1"] * 4  # the same client, and so the same prefix

    run(scenario)


def test_history_is_not_read_for_a_frame_that_was_answered() -> None:
    async def scenario() -> None:
        engine, cloud = Reader(), ScriptedCloud()
        async with streams(engine, cloud, method=BUSY) as (service, client):
            name = await opened(client)
            watching = Watching(service, name)
            await shown(client, name, 0)
            await until(lambda: 0 in cloud.asked)
            cloud.answer(0, "seventy")
            await until(lambda: ("cloud", 0) in watching.kinds())
            engine.gate.clear()
            service._open[name].deadline = 0.05
            held = await shown(client, name, 1)
            assert (held.status, held.answer) == ("held", "seventy")
            engine.gate.set()
            await until(lambda: watching.kinds().count(("answered", 1)) == 2)
            assert engine.first_looks == 2
            late = [event.reply for event in watching.seen if event.kind == "answered"][-1]
            assert late is not None
            assert (late.status, late.source, late.answer) == ("answered", "history", "seventy")

    run(scenario)


def test_context_is_used_only_where_it_is_wanted() -> None:
    async def scenario() -> None:
        cloud = ScriptedCloud()
        async with streams(Reader(), cloud, method=BUSY, use_context=False) as (service, client):
            name = await opened(client)
            watching = Watching(service, name)
            await shown(client, name, 0)
            await until(lambda: 0 in cloud.asked)
            cloud.answer(0, "seventy")
            await until(lambda: ("cloud", 0) in watching.kinds())
            assert (await shown(client, name, 1)).source == "history"

    run(scenario)


def test_answers_of_the_cloud_stay_with_their_stream() -> None:
    async def scenario() -> None:
        cloud = ScriptedCloud()
        async with streams(cloud=cloud, method=BUSY) as (service, client):
            one, other = await opened(client), await opened(client)
            watching = Watching(service, one)
            await shown(client, one, 0)
            await until(lambda: 0 in cloud.asked)
            cloud.asked[0].set_result(CloudAnswer("seventy", 0.1, REGION, 10, 0.1))
            await until(lambda: ("cloud", 0) in watching.kinds())
            event = next(event for event in watching.seen if event.kind == "cloud")
            assert event.region == Box(**FOCUS)
            assert (await shown(client, other, 1)).source == "picture"
            assert (await shown(client, one, 1)).answer == "seventy"

    run(scenario)


def test_details_go_to_the_cloud_as_they_came() -> None:
    async def scenario() -> None:
        cloud = ScriptedCloud()
        async with streams(cloud=cloud, method=BUSY) as (service, client):
            name = await opened(client)
            await shown(client, name, 0)
            await until(lambda: 0 in cloud.frames)
            key_frame = cloud.frames[0]
            assert key_frame.size == Size(400, 300)
            same = View(size=Fixed(width=32, height=32), filter="bicubic")
            assert (await key_frame.global_image(same, JPEG)).jpeg == jpeg()  # it is there already
            larger = View(size=Fixed(width=64, height=64))
            whole = asyncio.ensure_future(key_frame.global_image(larger, JPEG))
            part = asyncio.ensure_future(key_frame.local_image(REGION, larger, JPEG))
            await asyncio.sleep(0)
            wanted = (await shown(client, name, 1)).wanted
            assert [(each.frame, each.region, each.view) for each in wanted] == [
                (0, None, larger),
                (0, Box(**FOCUS), larger),
            ]
            assert (await shown(client, name, 2)).wanted == wanted  # the reply may have been lost
            sent = {"detail0": b"a part", "detail1": b"a whole"}
            details = [{"frame": 0, "region": FOCUS}, {"frame": 0}]
            late = await shown(client, name, 2, sent, details=details)  # of a frame that is itself too late
            assert late.status == "superseded"
            assert ((await part).jpeg, (await part).size) == (b"a part", Size(64, 64))
            assert ((await whole).jpeg, (await whole).size) == (b"a whole", Size(64, 64))
            assert key_frame.handed == len(jpeg()) + len(b"a part") + len(b"a whole")
            again = [{"frame": 0}, {"frame": 7}]
            more = {"detail0": b"once more", "detail1": b"unasked"}
            assert (await shown(client, name, 3, more, details=again)).wanted == ()
            total = 5 * len(jpeg()) + sum(map(len, (*sent.values(), *more.values())))
            assert service.close(name).bytes_from_camera == total

    run(scenario)


def test_a_detail_that_the_camera_refuses_holds_no_key_frame() -> None:
    async def scenario() -> None:
        cloud = ScriptedCloud()
        async with streams(cloud=cloud, method=BUSY) as (_, client):
            name = await opened(client)
            await shown(client, name, 0)
            await until(lambda: 0 in cloud.frames)
            task = asyncio.ensure_future(cloud.frames[0].local_image(REGION, WIDE, JPEG))
            await asyncio.sleep(0)
            refused = [{"frame": 0, "region": FOCUS}, {"frame": 7}]
            assert (await shown(client, name, 1, refused=refused)).wanted == ()
            with pytest.raises(LostDetailError, match="no such detail any more, of frame 0"):
                await task

    run(scenario)


def test_a_key_frame_that_is_under_way_at_the_end_is_lost() -> None:
    async def scenario() -> None:
        cloud = ScriptedCloud()
        async with streams(cloud=cloud, method=BUSY) as (service, client):
            name = await opened(client)
            await shown(client, name, 0)
            await until(lambda: 0 in cloud.frames)
            same = View(size=Fixed(width=32, height=32), filter="bicubic")
            await cloud.frames[0].global_image(same, JPEG)
            told = service.close(name)
            assert (told.cloud_calls, told.cloud_answers, told.cloud_lost) == (1, 0, 1)
            assert told.bytes_to_cloud == len(jpeg())

    run(scenario)


def test_more_details_than_travel_with_a_frame_are_all_told() -> None:
    async def scenario() -> None:
        cloud = ScriptedCloud()
        async with streams(cloud=cloud, method=BUSY) as (_, client):
            name = await opened(client)
            await shown(client, name, 0)
            await until(lambda: 0 in cloud.frames)
            tasks = [
                asyncio.ensure_future(cloud.frames[0].local_image(Region(at, 0, at + 40, 40), WIDE, JPEG))
                for at in range(MOST_DETAILS + 1)
            ]
            await asyncio.sleep(0)
            assert len((await shown(client, name, 1)).wanted) == MOST_DETAILS + 1
            for task in tasks:
                task.cancel()

    run(scenario)


def test_a_detail_of_a_frame_that_is_too_old_is_lost() -> None:
    async def scenario() -> None:
        cloud = ScriptedCloud()
        async with streams(cloud=cloud, method=BUSY) as (_, client):
            name = await opened(client)
            await shown(client, name, 0)
            await until(lambda: 0 in cloud.frames)
            view = View(size=Fixed(width=64, height=64))
            task = asyncio.ensure_future(cloud.frames[0].local_image(REGION, view, JPEG))
            await asyncio.sleep(0)
            await shown(client, name, 50)
            assert not task.done()
            await shown(client, name, 51)
            with pytest.raises(Exception, match="did not send the detail in time, of frame 0"):
                await task

    run(scenario)
