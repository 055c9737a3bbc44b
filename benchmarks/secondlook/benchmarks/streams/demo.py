"""`secondlook demo-stream`: camera, site and cloud over loopback, live in the terminal and as a film."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from secondlook.benchmarks.loopback import loopback_server
from secondlook.benchmarks.streams.film import PICTURE, Shot, film, rests, told
from secondlook.benchmarks.streams.scenes import FPS, SECONDS, SENSOR, DrawnStream, sample_stream
from secondlook.edge.files import check_writable
from secondlook.edge.geometry import Rectangle, Region, inside, moved
from secondlook.edge.stream import AsyncEdgeStream
from secondlook.edge.wire import PROTOCOL, PROTOCOL_HEADER, Box
from secondlook.edge.wire_stream import FrameReply, StreamEvent, StreamSummary, Window
from secondlook.engine.opening import EngineOptions, load_engine, loading_status
from secondlook.engine.serve.stream_routes import streaming
from secondlook.engine.stream.cloud import HttpCloud
from secondlook.engine.stream.local import LateCloud
from secondlook.engine.stream.service import StreamSettings
from secondlook.engine.stream.state import Method

__all__ = ["run_demo_stream"]

_LINES: Final = 12
"""Of the last frames, in the terminal, if there is room beside the others."""
_OTHER_LINES: Final = 4


@dataclass(frozen=True)
class _Seen:
    """A frame of a stream, and what held for it.

    Attributes:
        cloud: the cloud's answers that had come since the frame before.
    """

    stream: DrawnStream
    index: int
    reply: FrameReply
    cloud: tuple[StreamEvent, ...]

    @property
    def shot(self) -> Shot:
        """Without the camera's picture, which the film alone needs."""
        return Shot(None, self.stream.question, self.stream.truths[self.index], self.reply)


@dataclass
class _Run:
    """What came of one stream."""

    seen: list[_Seen] = field(default_factory=list)
    summary: StreamSummary | None = None


def run_demo_stream(out: Path, seed: int, seconds: float, delay: float, model: str, cloud: str) -> None:
    """Show streams of this seed for so many seconds to a site with `model`, which `cloud` teaches, whose
    answers are late by `delay` seconds at least; print every frame, and save the film in `out`."""
    path = out / "stream.mp4"
    check_writable(path)
    streams = [sample_stream("test", seed, index, each) for index, each in enumerate(lengths(seconds))]
    with loading_status(model):
        small, large = load_engine(EngineOptions(model)), load_engine(EngineOptions(cloud))
    settings = StreamSettings(method=Method(focus="crop"))
    transport = httpx.AsyncHTTPTransport(verify=False)  # a proxy of the environment must not come between
    runs = list[_Run]()
    with loopback_server(large) as cloud_url:
        late = LateCloud(HttpCloud(cloud_url, settings.method.history_seconds, transport=transport), delay)
        with loopback_server(small, extend=streaming(settings, late)) as site_url:
            typer.echo(f"camera → site {site_url} ({model}) → cloud {cloud_url} ({cloud}, {delay:g} s late)")
            with _live() as show:
                for stream in streams:
                    runs.append(_Run())
                    asyncio.run(_camera(site_url, stream, runs[-1], show))
    _tell(runs)
    _save(path, runs)


def lengths(seconds: float) -> list[float]:
    """Of the streams that last so many seconds together: the usual, and the last one what is left."""
    whole, left = divmod(seconds, SECONDS)
    return [SECONDS] * int(whole) + [left] * (round(left * FPS) > 0)


async def _camera(url: str, stream: DrawnStream, run: _Run, show: _Terminal) -> None:
    """One stream in real time, its camera's motion known."""
    transport = httpx.AsyncHTTPTransport(verify=False)
    arrived = deque[StreamEvent]()
    loop = asyncio.get_running_loop()
    async with AsyncEdgeStream(url, stream.question, transport=transport) as camera:
        watching: asyncio.Task[None] | None = None
        begin = loop.time()
        for index, moment in enumerate(stream.moments):
            await asyncio.sleep(max(0.0, begin + moment.time - loop.time()))
            window = Window(**dict(zip(Rectangle._fields, moment.window.as_tuple(), strict=True)))
            reply = await camera.show(stream.frame(index), moment.time, window)
            if watching is None and camera.card is not None:
                watching = asyncio.create_task(_watch(url, camera.card.id, arrived))
            run.seen.append(_Seen(stream, index, reply, tuple(arrived)))
            arrived.clear()
            show(run.seen[-1])
    if watching is not None:
        await watching  # the stream's end is the events'
    run.summary = camera.summary


async def _watch(url: str, name: str, arrived: deque[StreamEvent]) -> None:
    """Collect what the cloud says."""
    headers = {PROTOCOL_HEADER: PROTOCOL}
    async with (
        httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(verify=False), timeout=None) as client,
        client.stream("GET", f"{url}/v1/streams/{name}/events", headers=headers) as response,
    ):
        async for line in response.aiter_lines():
            event = StreamEvent.model_validate_json(line)
            if event.kind == "cloud":
                arrived.append(event)


class _Terminal:
    """The last frames, a line each; on no terminal, every frame's line once."""

    def __init__(self, console: Console, live: Live | None) -> None:
        self._console = console
        self._live = live
        self._seen = deque[_Seen](maxlen=max(1, min(_LINES, console.height - _OTHER_LINES)))
        self._shown = self._right = 0

    def __call__(self, seen: _Seen) -> None:
        self._seen.append(seen)
        self._shown += 1
        self._right += seen.shot.right
        if self._live is None:
            words = (f"{seen.index:4}", _answer(seen), _verdict(seen), told(seen.shot), _told_cloud(seen))
            self._console.print(" ".join(words), soft_wrap=True, markup=False)
            return
        whole = [Column(name, no_wrap=True) for name in ("frame", "answer", "", "doubt")]
        table = Table(*whole, "rests on", "cloud", box=None)
        for each in self._seen:
            doubt = each.reply.uncertainty
            table.add_row(
                str(each.index),
                Text(_answer(each), "bold"),
                Text(_verdict(each), "green" if each.shot.right else "red"),
                "" if doubt is None else f"{doubt:.2f}",
                # A line a frame: or a narrow terminal has no room for the newest.
                Text(rests(each.shot), no_wrap=True, overflow="ellipsis"),
                Text(_told_cloud(each), "yellow", no_wrap=True, overflow="ellipsis"),
            )
        share = f"{self._right} of {self._shown} frames right"
        self._live.update(Group(Text(seen.stream.question, "bold"), table, Text(share)), refresh=True)


@contextmanager
def _live() -> Iterator[_Terminal]:
    console = Console()
    if not console.is_terminal:
        yield _Terminal(console, None)
        return
    with Live(console=console, auto_refresh=False) as live:
        yield _Terminal(console, live)


def _answer(seen: _Seen) -> str:
    return seen.reply.answer or "..."


def _verdict(seen: _Seen) -> str:
    return "right" if seen.shot.right else f"wrong, it is {seen.shot.truth}"


def _told_cloud(seen: _Seen) -> str:
    now = seen.stream.moments[seen.index].time
    said = [
        f"cloud: “{event.text}” of {now - seen.stream.moments[event.frame].time:.1f} s ago"
        + ("" if event.counts else ", too unsure")
        for event in seen.cloud
    ]
    return "; ".join(said)


def _tell(runs: list[_Run]) -> None:
    seen = [each for run in runs for each in run.seen]
    summaries = [run.summary for run in runs if run.summary is not None]
    right = sum(each.shot.right for each in seen)
    calls = sum(each.cloud_calls for each in summaries)
    late = sum(each.deadline_misses for each in summaries)
    to_site = sum(each.bytes_from_camera for each in summaries) / len(seen) / 1e3
    to_cloud = sum(each.bytes_to_cloud for each in summaries) / len(seen) / 1e3
    typer.echo(
        f"right: {right} of {len(seen)} frames ({right / len(seen):.0%}), {late} past the deadline\n"
        f"cloud: {calls} calls, {calls / len(seen):.2f} a frame\n"
        f"sent: {to_site:.1f} kB a frame to the site, {to_cloud:.1f} kB to the cloud"
    )


def _save(path: Path, runs: list[_Run]) -> None:
    seen = [each for run in runs for each in run.seen]
    with film(path, FPS, len(seen)) as drawn:
        for run in runs:
            place: tuple[int, Box] | None = None  # where the cloud's last answer was read
            for before, each in zip([None, *run.seen], run.seen, strict=False):
                for event in each.cloud:
                    if event.counts and event.region is not None:
                        place = event.frame, event.region
                focus = None if before is None else before.reply.focus
                drawn.add(
                    Shot(
                        each.stream.frame(each.index).drawn(PICTURE),
                        each.stream.question,
                        each.stream.truths[each.index],
                        each.reply,
                        None if focus is None else _brought(each, focus.frame, focus.region),
                        None if place is None else _brought(each, *place),
                        _told_cloud(each),
                    )
                )
    typer.echo(f"film: {path}")


def _brought(seen: _Seen, frame: int, box: Box) -> Rectangle | None:
    """A box of an earlier frame in shares of this one; None: outside."""
    windows = [Rectangle(*seen.stream.moments[index].window.as_tuple()) for index in (frame, seen.index)]
    place = Rectangle(box.left, box.top, box.right, box.bottom)
    region: Region | None = inside(moved(place, windows[0], windows[1], SENSOR), SENSOR)
    if region is None:
        return None
    across, down = SENSOR.width, SENSOR.height
    return Rectangle(region.left / across, region.top / down, region.right / across, region.bottom / down)
