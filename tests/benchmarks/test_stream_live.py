"""A replay equals the live run: a site, its camera and a cloud in one process, beside their recording."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import httpx
import pytest

from secondlook.benchmarks.streams.asking import Asker
from secondlook.benchmarks.streams.bench import replay_all
from secondlook.benchmarks.streams.network import Network
from secondlook.benchmarks.streams.recording import Key, Looks
from secondlook.benchmarks.streams.replay import Replayed, Way
from secondlook.benchmarks.streams.scenes import DrawnStream, sample_stream
from secondlook.edge.geometry import Rectangle
from secondlook.edge.stream import AsyncEdgeStream
from secondlook.edge.wire_stream import FrameReply, Window
from secondlook.engine.serve.app import create_app
from secondlook.engine.serve.stream_routes import streaming
from secondlook.engine.stream.cloud import CloudAnswer, KeyFrame
from secondlook.engine.stream.keyframes import KeyFrames
from secondlook.engine.stream.service import StreamSettings
from secondlook.engine.stream.state import Method

SECONDS = 6.0
MEMORY = Method(key_frames=KeyFrames("busy"), in_flight=3)
DELAYS = Network("lognormal", 0.7, seed=3)


@pytest.fixture(scope="module")
def asker() -> Asker:
    return Asker("demo", "demo")


@pytest.fixture(scope="module")
def stream() -> DrawnStream:
    return sample_stream("test", 11, 1, SECONDS)


@pytest.fixture(scope="module")
def looks(asker: Asker, stream: DrawnStream) -> Looks:
    return asker.looks(stream)


@dataclass
class ScriptedCloud:
    """Says what is recorded, once it is let."""

    looks: Looks
    asked: list[int] = field(default_factory=list)
    let: dict[int, asyncio.Event] = field(default_factory=dict)

    async def ask(self, frame: KeyFrame, question: str) -> CloudAnswer:
        self.asked.append(frame.number)
        await self.let.setdefault(frame.number, asyncio.Event()).wait()
        said = self.looks.cloud[frame.number]
        return CloudAnswer(said.text, said.uncertainty, said.region, 0, 0.0)

    async def aclose(self) -> None:
        """Nothing is open."""


async def live(
    asker: Asker, stream: DrawnStream, looks: Looks, way: Way, delays: list[float]
) -> tuple[list[FrameReply], list[int]]:
    """The replies to all frames, and which of them were key frames. Time goes on from frame to frame."""
    cloud = ScriptedCloud(looks)
    site = create_app(
        asker.small, extend=streaming(StreamSettings(way.method, use_context=False, deadline=60.0), cloud)
    )
    replies, heard = list[FrameReply](), set[int]()
    async with (
        site.router.lifespan_context(site),
        AsyncEdgeStream("http://site", stream.question, transport=httpx.ASGITransport(site)) as camera,
    ):
        events = None
        for number, moment in enumerate(stream.moments):
            times = {k: stream.moments[k].time + delays[k] for k in cloud.asked if k not in heard}
            for about in sorted((k for k in times if times[k] <= moment.time + 1e-9), key=times.__getitem__):
                cloud.let.setdefault(about, asyncio.Event()).set()
                assert events is not None
                while (event := await anext(events)).kind != "cloud":
                    pass
                assert event.frame == about
                heard.add(about)
            window = None
            if way.windows:
                window = Window(**dict(zip(Rectangle._fields, moment.window.as_tuple(), strict=True)))
            replies.append(await camera.show(stream.frame(number), moment.time, window))
            if events is None and camera.card is not None:
                events = site.state.streams.events(camera.card.id)
    return replies, cloud.asked


@pytest.mark.parametrize(
    "way",
    [
        Way("memory", MEMORY),
        Way("known", Method(key_frames=KeyFrames("busy"), in_flight=3, focus="crop"), windows=True),
        Way("own", Method(key_frames=KeyFrames("doubt"), focus="crop")),
    ],
    ids=lambda way: way.name,
)
def test_a_replay_equals_the_live_run(asker: Asker, stream: DrawnStream, looks: Looks, way: Way) -> None:
    view = asker.small.card.global_view
    one = Replayed(stream, looks, view, shared=True, features=(1, 1))
    delays = DELAYS.delays(0, one.times)

    def ask(keys: list[Key]) -> None:
        for key, look in asker.further(stream, keys).items():
            looks.keep(key, look)

    (replayed,) = replay_all(one, [(way, delays)], way.method.history_seconds, ask)
    replies, asked = asyncio.run(live(asker, stream, looks, way, delays))
    assert [reply.answer for reply in replies] == replayed.texts
    assert [reply.age for reply in replies] == pytest.approx(replayed.ages)
    assert asked == [number for number, sent in enumerate(replayed.asked) if sent]
    assert {reply.source for reply in replies} == {"picture", "history"}
    assert all(reply.status == "answered" for reply in replies)
    if way.method.focus == "crop":
        assert any(key.frame for key in looks.closer)
