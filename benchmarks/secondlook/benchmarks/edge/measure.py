"""Both ways on the same pictures in turns, and each in a process of its own, whose peak memory and CPU time
are told; among these the command `secondlook-edge` as it is.

Pictures are drawn from a seed: the backgrounds of `signs`, as a camera would send them.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, make_server

import numpy as np
from PIL import Image

from secondlook.benchmarks.commands import MeasurementError
from secondlook.benchmarks.edge.ways import SENT, WAYS, Sent, Source, Task, Wanted, Way, make
from secondlook.benchmarks.options import EdgeRun
from secondlook.benchmarks.signs.render import render
from secondlook.benchmarks.signs.scene import Scene
from secondlook.edge.geometry import Region, Size
from secondlook.edge.wire import Answer, AnswerReply, Box, ModelCard, PendingSession

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Kind = Literal["jpeg", "raw"]
_KINDS: Final[tuple[Kind, ...]] = ("jpeg", "raw")
_CLOCKWISE: Final = 6
"""The EXIF orientation of a phone's picture in portrait: to be turned clockwise."""


class Case(NamedTuple):
    """What arrives, its megapixels, what is sent of it, and how that is made."""

    kind: Kind
    megapixels: float
    sent: Sent
    way: Way


@dataclass(frozen=True)
class Sample:
    """A case, once: seconds, CPU seconds, the bytes that would travel, and those of the original."""

    seconds: float
    cpu_seconds: float
    sent_bytes: int
    original_bytes: int


Round = dict[Case, Sample]


def rounds(run: EdgeRun) -> Iterator[Round]:
    """Every case once in each round, of pictures nobody has seen before; the warm-ups are among them."""
    for number in range(run.warmups + run.rounds):
        generator = np.random.default_rng([run.seed, number])
        turns = WAYS if number % 2 else WAYS[::-1]
        done: Round = {}
        for megapixels in run.sizes:
            size = picture_size(megapixels)
            frame = draw(size, generator)
            jpeg = camera_jpeg(frame)
            wanted = Wanted(run.view, region_at(size, run.image_size, *generator.random(2)))
            for kind, sent, way in itertools.product(_KINDS, SENT, turns):
                source: Source = jpeg if kind == "jpeg" else frame
                original_bytes = len(jpeg) if kind == "jpeg" else 3 * size.pixels
                done[Case(kind, megapixels, sent, way)] = _sample(way, sent, source, wanted, original_bytes)
        yield done


def _sample(way: Way, sent: Sent, source: Source, wanted: Wanted, original_bytes: int) -> Sample:
    began, began_cpu = time.perf_counter(), time.process_time()
    made = make(way, sent, source, wanted)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    return Sample(seconds, cpu_seconds, sum(map(len, made)), original_bytes)


def way_costs(run: EdgeRun, folder: Path) -> Iterator[tuple[Case, ProcessCost]]:
    """A process for each case, with the region where it takes most memory: at the bottom."""
    generator = np.random.default_rng(run.seed)
    jpeg, raw = folder / "picture.jpg", folder / "picture.rgb"
    for megapixels in run.sizes:
        size = picture_size(megapixels)
        frame = draw(size, generator)
        jpeg.write_bytes(camera_jpeg(frame))
        raw.write_bytes(frame.tobytes())
        wanted = Wanted(run.view, region_at(size, run.image_size, 1, 1))
        for kind, sent, way in itertools.product(_KINDS, SENT, WAYS):
            file, shape = (jpeg, None) if kind == "jpeg" else (raw, frame.size)
            yield Case(kind, megapixels, sent, way), task_cost(Task(way, sent, str(file), shape, wanted))


def command_rows(run: EdgeRun, folder: Path) -> Iterator[dict[str, Any]]:
    """`secondlook-edge ask` in a process of its own, both looks, on kinds of the largest picture; the peak is
    in MB (10⁶ bytes). A progressive JPEG is as programs write it, not cameras; libjpeg keeps all its
    coefficients."""
    size = picture_size(max(run.sizes))
    portrait = Size(size.height, size.width)
    frame = draw(size, np.random.default_rng(run.seed))
    turned = Image.Exif()
    turned[0x0112] = _CLOCKWISE
    bottom = region_at(size, run.image_size, 1, 1)
    at_left = region_at(portrait, run.image_size, 0, 0.5)
    pictures: list[tuple[str, Region, dict[str, Any]]] = [
        ("baseline, region in the middle", region_at(size, run.image_size, 0.5, 0.5), {}),
        ("baseline, region at the bottom", bottom, {}),
        # Its left edge is what is stored at the bottom.
        ("portrait by EXIF, region at the left", at_left, {"exif": turned}),
        ("progressive, region at the bottom", bottom, {"progressive": True}),
    ]
    file = folder / "picture.jpg"
    for name, region, options in pictures:
        file.write_bytes(camera_jpeg(frame, **options))
        cost = command_cost(file, Wanted(run.view, region))
        yield {
            "picture": name,
            "progressive": "progressive" in options,
            "peak_mb": cost.peak_bytes / 1e6,
            "cpu_seconds": cost.cpu_seconds,
        }


CAMERA_QUALITY: Final = 95
"""Of the originals, with 4:2:0 chroma: 2 to 5 MB at 12 megapixels, as cameras have it."""

_REGION: Final = 1.5
"""Side of a region, in encoder sides: ViCrop chooses one from 1 to 2 (arXiv 2502.17422)."""


def picture_size(megapixels: float) -> Size:
    """The size of this area with an aspect ratio of 4:3."""
    width = round(math.sqrt(megapixels * 1e6 * 4 / 3))
    return Size(width, round(width * 3 / 4))


def draw(size: Size, generator: np.random.Generator) -> Image.Image:
    """A picture with slow shades, sharp shapes and grain of a random strength: RGB."""
    return render(Scene(size, (), int(generator.integers(2**31))))


def camera_jpeg(image: Image.Image, **options: Any) -> bytes:
    """The picture as a camera's JPEG; `options` are Pillow's."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=CAMERA_QUALITY, subsampling="4:2:0", **options)
    return buffer.getvalue()


def region_at(size: Size, side: int, across: float, down: float) -> Region:
    """A region of a picture of this size, for an encoder of this side, at a place: 0 is at the left or the
    top, 1 at the right or the bottom."""
    length = round(_REGION * side)
    width, height = min(length, size.width), min(length, size.height)
    left, top = round(across * (size.width - width)), round(down * (size.height - height))
    return Region(left, top, left + width, top + height)


# A process's peak counts what its parent held when it was started, so a small process starts it.
_LAUNCHER: Final = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
unit = 1 if sys.platform == "darwin" else 1024
print(json.dumps([done.returncode, used.ru_maxrss * unit, used.ru_utime + used.ru_stime]))
"""
_ANSWER: Final = Answer(text="17", uncertainty=1.0, tokens=3, visual_tokens=0)


@dataclass(frozen=True)
class ProcessCost:
    """Of one process from its start to its end: the most memory in bytes, and CPU seconds."""

    peak_bytes: int
    cpu_seconds: float


def cost(command: Sequence[str]) -> ProcessCost:
    """What a command costs whose errors are on stderr."""
    own = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "no_proxy": "127.0.0.1"}
    launcher = [sys.executable, "-S", "-c", _LAUNCHER, *command]
    done = subprocess.run(launcher, capture_output=True, text=True, check=True, env=os.environ | own)
    status, peak_bytes, cpu_seconds = json.loads(done.stdout)
    if status:
        raise MeasurementError(f"{' '.join(command)} ended with {status}: {' '.join(done.stderr.split())}")
    return ProcessCost(peak_bytes, cpu_seconds)


def task_cost(task: Task) -> ProcessCost:
    """What one way to make pictures costs, imports and reading the file included."""
    return cost([sys.executable, "-m", "secondlook.benchmarks.edge.ways", task.to_json()])


def command_cost(picture: Path, wanted: Wanted) -> ProcessCost:
    """What `secondlook-edge ask` costs: both looks at a picture, over HTTP."""
    asking = [sys.executable, "-m", "secondlook.edge", "ask", str(picture), "What is here?"]
    with _asking_server(wanted) as url:
        return cost([*asking, "--server", url])


@contextmanager
def _asking_server(wanted: Wanted) -> Iterator[str]:
    """A server on the loopback interface that wants to see the same region of every picture."""
    view, side = wanted.view, wanted.region.width
    card = ModelCard(name="none", global_view=view, local_view=view, crop_size=side, threshold=0.5)
    first = AnswerReply(
        status="region",
        decision="unsure",
        answer=_ANSWER,
        first=_ANSWER,
        region=Box(**asdict(wanted.region)),
        session=PendingSession(id="only", expires_in=60.0),
    )
    last = {"status": "final", "decision": "took_second", "second": _ANSWER, "session": None}
    final = first.model_copy(update=last)

    def application(asked: WSGIEnvironment, start: StartResponse) -> list[bytes]:
        asked["wsgi.input"].read(int(asked["CONTENT_LENGTH"] or 0))
        posted = final if asked["PATH_INFO"].endswith("/local") else first
        start("200 OK", [("content-type", "application/json")])
        return [(card if asked["REQUEST_METHOD"] == "GET" else posted).model_dump_json().encode()]

    with make_server("127.0.0.1", 0, application, handler_class=_Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nobody reads it."""
