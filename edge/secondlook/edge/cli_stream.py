"""`secondlook-edge stream`: every frame of a camera is shown to a site, and answered by a deadline."""

from __future__ import annotations

import glob
import math
import os
import random
import time
from typing import Annotated

import typer
from rich.console import Console

from .camera import RingLimits
from .cli_options import (
    DEFAULTS,
    GLOBAL_CHROMA,
    LOCAL_CHROMA,
    ApiKey,
    Certificates,
    GlobalQuality,
    Headers,
    ItsChroma,
    LocalQuality,
    MaxPixels,
    Timeout,
    Verbose,
    configure_logging,
    exit_code,
    fail,
    jpeg_settings,
    json_line,
    note,
    parsed_headers,
)
from .console import one_line
from .errors import (
    ConnectionFailedError,
    GeometryError,
    PictureError,
    RequestRefusedError,
    SecondLookError,
    ServerBusyError,
    SettingsError,
)
from .frames import Frame, Source
from .imaging import GLOBAL_JPEG, LOCAL_JPEG, PictureLimits
from .retry import ClientSettings, backoff_seconds
from .sources import open_source
from .stream import EdgeStream
from .wire_stream import FrameReply, StreamSummary

__all__ = ["frame_json", "frame_line", "has_no_rate", "stream", "told_summary"]

_OF_ONE_FRAME = (400, 413, 422)
"""Statuses of a frame that cannot be used."""


def stream(
    source: Annotated[
        str,
        typer.Argument(
            help="A camera (rtsp://…, http://…, /dev/video0), a video, a folder of pictures, or a "
            "pattern of their names in quotes.",
            show_default=False,
        ),
    ],
    question: Annotated[str, typer.Argument(help="What to ask of every frame.", show_default=False)],
    site: Annotated[
        str, typer.Option(help="The site's address, such as http://host:8000.", envvar="SECONDLOOK_SITE")
    ],
    fps: Annotated[
        float, typer.Option(help="Most frames a second that are shown; also pictures a second of a folder.")
    ] = 5.0,
    deadline: Annotated[
        float | None,
        typer.Option(
            help="Seconds from a frame's arrival at the site to its answer (default: the site's).",
            show_default=False,
        ),
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Begin a video or a folder anew at its end.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a frame instead of a line of text.")
    ] = False,
    global_quality: GlobalQuality = GLOBAL_JPEG.quality,
    global_chroma: ItsChroma = GLOBAL_CHROMA,
    local_quality: LocalQuality = LOCAL_JPEG.quality,
    local_chroma: ItsChroma = LOCAL_CHROMA,
    timeout: Timeout = DEFAULTS.timeout,
    wait_budget: Annotated[
        float, typer.Option(help="Seconds that a site may be away, restart or be busy, at one time.")
    ] = DEFAULTS.wait_budget,
    ring_megabytes: Annotated[
        float, typer.Option(help="Originals that are kept for details that the cloud wants: so much of them.")
    ] = RingLimits().bytes / 1e6,
    api_key: ApiKey = None,
    header: Headers = None,
    ca: Certificates = None,
    max_pixels: MaxPixels = DEFAULTS.limits.max_pixels,
    verbose: Verbose = False,
) -> None:
    """Show every frame of a camera to a site, a line an answer.

    Nothing is queued: after a reply, the frame that is then the newest is shown. One that got no reply is not
    sent again. Ends with the video or the folder, or when interrupted, with a summary on standard error.
    """
    configure_logging(Console(stderr=True, highlight=False), verbose)
    try:
        if not 0 < fps <= 1000:
            raise SettingsError(f"fps must be above 0 and at most 1000, not {fps}")
        settings = ClientSettings(
            timeout=timeout,
            wait_budget=wait_budget,
            api_key=api_key,
            headers=parsed_headers(header),
            ca=ca,
            global_jpeg=jpeg_settings(global_quality, global_chroma),
            local_jpeg=jpeg_settings(local_quality, local_chroma),
            limits=PictureLimits(max_pixels=max_pixels),
        )
        rate = fps if has_no_rate(source) else None
        if not 0 < ring_megabytes < math.inf:
            raise SettingsError(f"--ring-megabytes must be above 0, not {ring_megabytes}")
        ring = RingLimits(bytes=math.ceil(ring_megabytes * 1e6))
        shown = EdgeStream(site, question, deadline=deadline, settings=settings, ring=ring)
        try:
            with shown, open_source(source, fps=rate, loop=loop, limits=settings.limits) as frames:
                _Showing(shown, frames, as_json).run(1 / fps)
        finally:
            _sum_up(shown)
    except SecondLookError as error:
        raise fail(str(error), exit_code(error)) from None
    except KeyboardInterrupt as interrupt:
        raise fail("interrupted", 130) from interrupt


def has_no_rate(source: str) -> bool:
    """Whether it is pictures in files; a video and a camera have a rate of their own."""
    if "://" in source or source.startswith("/dev/video"):  # its options stand behind a question mark
        return False
    return os.path.isdir(source) or (glob.has_magic(source) and not os.path.exists(source))


class _Showing:
    """Frames on their way to the site, one at a time."""

    def __init__(self, stream: EdgeStream, source: Source, as_json: bool) -> None:
        self._stream, self._source, self._as_json = stream, source, as_json
        self._failures = 0
        self._until = 0.0

    def run(self, step: float) -> None:
        """To the source's end; `step` seconds or more from frame to frame."""
        begin = 0.0
        damage: SecondLookError | None = None
        while True:
            time.sleep(max(0.0, begin - time.monotonic()))
            frame = self._source.newest()
            if frame is None:
                break
            begin = time.monotonic() + step
            opened = self._stream.card is not None
            try:
                reply = self._stream.show(frame.picture, frame.captured)
            except (PictureError, GeometryError) as error:
                damage = error
                note(f"warning: frame {frame.number} of {self._source.name} is passed over: {error}")
            except (ConnectionFailedError, ServerBusyError) as error:
                begin = max(begin, self._try_until(error, opened))
            except RequestRefusedError as error:
                if error.status == 404 and opened:
                    note("note: the site has forgotten the stream; another is opened")
                elif error.status >= 500:  # as of a gateway before a site that restarts
                    begin = max(begin, self._try_until(error, opened))
                elif opened and error.status in _OF_ONE_FRAME:
                    damage = error
                    note(f"warning: the site refuses frame {frame.number}: {error}")
                else:
                    raise
            else:
                if self._failures:
                    note("note: the site is back")
                self._failures = 0
                typer.echo(frame_json(frame, reply) if self._as_json else frame_line(reply))
        if damage is not None and self._stream.latest is None:
            raise damage

    def _try_until(self, error: SecondLookError, opened: bool) -> float:
        """When to show a frame again after one got no reply; raises what is known where that is too late."""
        settings, now = self._stream.settings, time.monotonic()
        if not self._failures:
            if not opened:  # to open it was tried for as long already
                raise error
            self._until = now + settings.wait_budget
            note(f"warning: {error}; further frames are tried for up to {settings.wait_budget:.0f} s")
        again = now + backoff_seconds(settings, self._failures, random.random())
        if again > self._until:
            raise error
        self._failures += 1
        return again


def frame_json(frame: Frame, reply: FrameReply) -> str:
    """A frame for programs, in one line."""
    return json_line({**reply.model_dump(mode="json"), "captured": frame.captured})


def frame_line(reply: FrameReply) -> str:
    """A frame in words: the answer, what it rests on, how old that is, and how doubtful."""
    entry = reply.history
    doubts = {"context": reply.context_uncertainty, "history": entry and entry.uncertainty}
    doubt = doubts.get(reply.source, reply.uncertainty)
    rests = reply.source if entry is None else f"{reply.source} ({entry.by}, frame {entry.frame})"
    age = "" if reply.age is None else f", {reply.age:.1f} s old"
    marks = "" if doubt is None else f", doubt {doubt:.2f}"
    marks += "" if reply.status == "answered" else f", {reply.status}"
    marks += ", late" if reply.deadline_missed else ""
    return one_line(f"{reply.frame}: {reply.answer.strip() or '-'}") + f"  [{rests}{age}{marks}]"


def told_summary(told: StreamSummary) -> str:
    """What a stream came to, in words."""
    frames = f"{told.answered} answered, {told.held} held, {told.superseded} superseded"
    cloud = f"{told.cloud_calls} calls of the cloud, {told.cloud_counted} counted"
    return f"{told.frames} frames: {frames}, {told.deadline_misses} late; {cloud}"


def _sum_up(stream: EdgeStream) -> None:
    """What the stream came to, in a line on standard error."""
    told, latest = stream.summary, stream.latest
    if latest is not None:
        account = f"{latest.frame + 1} frames shown" if told is None else told_summary(told)
        note(f"{account}; {stream.bytes_up / 1000:.0f} kB up, {stream.bytes_down / 1000:.0f} kB down")
