"""`secondlook bench site`: a site in real time, while its cloud is well, dead or stalled; and its memory.

The camera is a process of its own, so that it does not take the site's interpreter from it. Every cloud has a
site of its own; the rounds take turns.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import socket
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console

from secondlook.benchmarks.commands import complete_rounds, progress
from secondlook.benchmarks.loopback import loopback_server
from secondlook.benchmarks.options import SiteRun
from secondlook.benchmarks.streams.scenes import sample_stream
from secondlook.benchmarks.timing import milliseconds
from secondlook.edge.geometry import Size
from secondlook.edge.imaging import JpegSettings, encode_jpeg
from secondlook.edge.stream import AsyncEdgeStream
from secondlook.edge.wire_stream import FrameReply
from secondlook.engine.opening import EngineOptions, load_engine
from secondlook.engine.serve.stream_routes import streaming
from secondlook.engine.stream.cloud import HttpCloud
from secondlook.engine.stream.service import StreamSettings
from secondlook.engine.stream.state import Method

__all__ = ["bench_site"]

_CLOUDS: Final = ("none", "dead", "stalled", "well")
_FRAME: Final = Size(1280, 960)
_FRAMES: Final = 25
"""Of different frames, which come again and again."""

_HISTORY_SECONDS: Final = 2.0
"""After which a key frame is given up, and another may be sent: a stalled cloud is to be asked often."""

_CACHE_GB: Final = 0.25
"""Of keys and values, each model: for a single camera."""
_WARM_FRAMES: Final = 500
"""Until all that grows once has grown."""


@dataclass(frozen=True)
class Phase:
    """A camera's frames for a while.

    Attributes:
        fps: frames a second; None: each as soon as the one before is answered.
    """

    url: str
    seed: int
    frames: int
    fps: float | None


@dataclass
class PhaseResult:
    """What came of a phase, an entry for each frame.

    Attributes:
        seconds: from before its pictures were prepared to its reply.
        statuses: of the replies.
        asked: key frames that the cloud was asked about.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    asked: int = 0

    def add(self, seconds: float, reply: FrameReply) -> None:
        self.seconds.append(seconds)
        self.statuses[reply.status] += 1


def bench_site(run: SiteRun) -> dict[str, Any]:
    console = Console(stderr=True)
    spawned = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        camera = stack.enter_context(ProcessPoolExecutor(1, spawned))
        with console.status(f"loading {run.model} ..."):
            urls = _sites(run, stack)
        clouds = [cloud for cloud in _CLOUDS if cloud in urls]
        every = _phases(run, urls, camera, console)
        results, interrupted = complete_rounds(every, len(clouds))
        rows = _rows({cloud: results[place :: len(clouds)] for place, cloud in enumerate(clouds)}, run)
        fast, memory = None, None
        if not interrupted:
            try:
                fast = _fast(run, urls["none"], camera)
                memory = _memory(run, urls["none"], camera, console)
            except KeyboardInterrupt:
                interrupted = True
    return {
        "rows": rows,
        "fast": fast,
        "memory": memory,
        "rounds": len(results) // len(clouds),
        "interrupted": interrupted,
        "inputs": f"JPEGs of {_FRAME} pixels from a camera in one other process here",
    }


def _sites(run: SiteRun, stack: ExitStack) -> dict[str, str]:
    """The address of a site for each kind of cloud."""
    method = Method(focus=run.focus, history_seconds=_HISTORY_SECONDS)
    settings = StreamSettings(method=method, deadline=run.deadline)
    clouds: dict[str, str | None] = {"none": None}
    clouds["dead"] = stack.enter_context(_nobody(listening=False))
    clouds["stalled"] = stack.enter_context(_nobody(listening=True))
    if run.well:
        clouds["well"] = stack.enter_context(
            loopback_server(load_engine(EngineOptions(run.cloud, kv_cache_gb=_CACHE_GB)))
        )
    sites = {}
    for name, url in clouds.items():
        cloud = None
        if url is not None:
            transport = httpx.AsyncHTTPTransport(verify=False)
            cloud = HttpCloud(url, method.history_seconds, transport=transport)
        engine = load_engine(EngineOptions(run.model, kv_cache_gb=_CACHE_GB))
        sites[name] = stack.enter_context(loopback_server(engine, extend=streaming(settings, cloud)))
    return sites


@contextmanager
def _nobody(*, listening: bool) -> Iterator[str]:
    """An address where connections are refused, or made and never answered."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if listening:
            taken.listen(512)
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def _phases(
    run: SiteRun, urls: dict[str, str], camera: ProcessPoolExecutor, console: Console
) -> Iterator[PhaseResult]:
    frames = round(run.seconds * run.fps)
    with progress(console, "phases", run.rounds * len(urls)) as go_on:
        for number, url in itertools.product(range(run.rounds), urls.values()):
            yield camera.submit(run_phase, Phase(url, run.seed + number, frames, run.fps)).result()
            go_on()


def _rows(results: dict[str, list[PhaseResult]], run: SiteRun) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for cloud, phases in results.items():
        seconds = [each for phase in phases for each in phase.seconds]
        times = milliseconds(seconds, 50, 90, 99)
        first = rows[0] if rows else times
        rows.append(
            {
                "cloud": cloud,
                "frames": len(seconds),
                "within_deadline": statistics.fmean(each <= run.deadline for each in seconds),
                **times,
                "max_ms": 1e3 * max(seconds),
                "p50_over_none": times["p50_ms"] / first["p50_ms"],
                "p90_over_none": times["p90_ms"] / first["p90_ms"],
                "p99_over_none": times["p99_ms"] / first["p99_ms"],
                "key_frames": sum(phase.asked for phase in phases),
                "statuses": dict(sum((phase.statuses for phase in phases), Counter[str]())),
            }
        )
    return rows


def _fast(run: SiteRun, url: str, camera: ProcessPoolExecutor) -> dict[str, Any]:
    """Many frames a second: none waits for more than one other."""
    phase = Phase(url, run.seed, round(run.seconds * run.fast_fps), run.fast_fps)
    result = camera.submit(run_phase, phase).result()
    return {
        "fps": run.fast_fps,
        "frames": len(result.seconds),
        "statuses": dict(result.statuses),
        **milliseconds(result.seconds, 50, 99),
        "max_ms": 1e3 * max(result.seconds),
    }


def _memory(run: SiteRun, url: str, camera: ProcessPoolExecutor, console: Console) -> dict[str, Any] | None:
    """Resident bytes of this process, the sites', as frames go on."""
    if run.memory_frames == 0:
        return None
    megabytes = list[float]()
    part = max(1, run.memory_frames // 20)
    camera.submit(run_phase, Phase(url, run.seed, _WARM_FRAMES, None)).result()
    megabytes.append(_resident() / 2**20)
    with progress(console, "memory", 20) as go_on:
        for number in range(20):
            camera.submit(run_phase, Phase(url, run.seed + number, part, None)).result()
            megabytes.append(_resident() / 2**20)
            go_on()
    return {"frames": 20 * part, "start_mib": megabytes[0], "end_mib": megabytes[-1], "mib": megabytes}


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def run_phase(phase: Phase) -> PhaseResult:
    """Show a stream of frames; in the camera's process."""
    return asyncio.run(_show(phase))


async def _show(phase: Phase) -> PhaseResult:
    stream, frames = _frames(phase.seed)
    result = PhaseResult()
    loop = asyncio.get_running_loop()
    transport = httpx.AsyncHTTPTransport(verify=False)

    async def show(jpeg: bytes, captured: float) -> None:
        began = time.perf_counter()
        reply = await camera.show(jpeg, captured)
        result.add(time.perf_counter() - began, reply)

    async with AsyncEdgeStream(phase.url, stream, transport=transport) as camera:
        await camera.show(frames[0], 0.0)  # opens the stream
        begin, showing = loop.time(), set[asyncio.Task[None]]()
        for number in range(phase.frames):
            jpeg = frames[number % _FRAMES]
            if phase.fps is None:
                await show(jpeg, loop.time() - begin + 0.001)
                continue
            await asyncio.sleep(max(0.0, begin + number / phase.fps - loop.time()))
            showing.add(asyncio.create_task(show(jpeg, loop.time() - begin + 0.001)))
        await asyncio.gather(*showing)
        summary = await camera.aclose()
    assert summary is not None, "the site is there"
    result.asked = summary.cloud_calls
    return result


def _frames(seed: int) -> tuple[str, list[bytes]]:
    """A question, and frames as a camera compresses them."""
    stream = sample_stream("calibration", seed, 0)
    drawn = (stream.frame(4 * number).drawn(_FRAME) for number in range(_FRAMES))
    return stream.question, [encode_jpeg(each, JpegSettings(90, "4:2:0")).jpeg for each in drawn]
