"""`secondlook-edge watch`: one question about a live camera, again and again, a line of JSON an answer."""

from __future__ import annotations

import math
import random
import time
from datetime import datetime, timezone
from typing import Annotated, Any

import typer
from PIL import Image, ImageChops
from rich.console import Console

from .answer import EdgeAnswer
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
    Look,
    LookTwice,
    MaxPixels,
    Server,
    Threshold,
    Timeout,
    Verbose,
    answer_options,
    configure_logging,
    exit_code,
    fail,
    jpeg_settings,
    json_line,
    parsed_headers,
)
from .client import EdgeClient
from .conversation import check_text
from .errors import SecondLookError, SettingsError
from .frames import Frame, Source
from .imaging import GLOBAL_JPEG, LOCAL_JPEG, Picture, PictureLimits
from .retry import ClientSettings, backoff_seconds
from .sources import open_source
from .wire import AnswerOptions, Fixed, View

__all__ = ["watch"]

_THUMBNAIL = View(size=Fixed(width=32, height=18), filter="box")
_GREYS = 255


def watch(
    source: Annotated[
        str,
        typer.Argument(
            help="A camera (rtsp://…, http://…, /dev/video0), a video, a folder of pictures, or a "
            "pattern of their names in quotes.",
            show_default=False,
        ),
    ],
    question: Annotated[str, typer.Argument(help="What to ask about its pictures.", show_default=False)],
    server: Server,
    every: Annotated[float, typer.Option(min=0, help="Least seconds from one question to the next.")] = 0.0,
    on_change: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Ask only about a picture that differs somewhere from the last one asked about by more "
            "than this fraction of the range from black to white.",
            show_default=False,
        ),
    ] = None,
    deadline: Annotated[
        float | None,
        typer.Option(
            help="Seconds from a picture to its answer; a later one is marked. No request waits longer.",
            show_default=False,
        ),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(
            help="Pictures a second, of a folder (default: 1), a video or a device.", show_default=False
        ),
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Begin a video or a folder anew at its end.")] = False,
    threshold: Threshold = None,
    look_twice: LookTwice = Look.auto,
    global_quality: GlobalQuality = GLOBAL_JPEG.quality,
    global_chroma: ItsChroma = GLOBAL_CHROMA,
    local_quality: LocalQuality = LOCAL_JPEG.quality,
    local_chroma: ItsChroma = LOCAL_CHROMA,
    timeout: Timeout = DEFAULTS.timeout,
    api_key: ApiKey = None,
    header: Headers = None,
    ca: Certificates = None,
    max_pixels: MaxPixels = DEFAULTS.limits.max_pixels,
    verbose: Verbose = False,
) -> None:
    """Ask one question about a camera's newest picture, again and again: a line of JSON for each answer.

    Nothing is queued: after an answer, the picture that is then the newest is asked about. A question that
    fails gives a line with the error, and the next picture is tried. Ends with the video or the folder, or
    when interrupted.
    """
    configure_logging(Console(stderr=True, highlight=False), verbose)
    try:
        if deadline is not None and not deadline > 0:
            raise SettingsError(f"the deadline must be above 0 seconds, not {deadline}")
        if not math.isfinite(every):
            raise SettingsError(f"--every must be a finite number of seconds, not {every}")
        check_text(question)
        settings = ClientSettings(
            timeout=timeout if deadline is None else min(timeout, deadline),
            retries=0,  # by then there is a newer picture
            api_key=api_key,
            headers=parsed_headers(header),
            ca=ca,
            global_jpeg=jpeg_settings(global_quality, global_chroma),
            local_jpeg=jpeg_settings(local_quality, local_chroma),
            limits=PictureLimits(max_pixels=max_pixels),
        )
        options = answer_options(threshold, look_twice)
        with (
            EdgeClient(server, settings=settings) as client,
            open_source(source, fps=fps, loop=loop, limits=settings.limits) as opened,
        ):
            _watch(opened, client, question, options, every, on_change, deadline)
    except SecondLookError as error:
        raise fail(str(error), exit_code(error)) from None
    except KeyboardInterrupt as interrupt:
        raise typer.Exit(130) from interrupt


def _watch(
    source: Source,
    client: EdgeClient,
    question: str,
    options: AnswerOptions,
    every: float,
    on_change: float | None,
    deadline: float | None,
) -> None:
    seen: Image.Image | None = None
    begin, failures = 0.0, 0
    while True:
        time.sleep(max(0.0, begin - time.monotonic()))
        frame = source.newest()
        if frame is None:
            return
        asked = time.monotonic()
        begin = asked + every
        told: dict[str, Any]
        try:
            if on_change is not None:
                shown = _thumbnail(frame.picture)
                if seen is not None and _difference(shown, seen) <= on_change:
                    begin = asked
                    continue
                seen = shown
            answer = client.ask(frame.picture, question, options)
        except SecondLookError as error:
            seen = None
            begin = max(begin, asked + backoff_seconds(client.settings, failures, random.random()))
            failures += 1
            told = {"error": str(error)}
        else:
            failures = 0
            told = _account(answer)
        typer.echo(json_line({**_heading(frame, deadline), **told}))


def _heading(frame: Frame, deadline: float | None) -> dict[str, Any]:
    """Which frame it is, and how old; `captured` is for differences only."""
    age = time.monotonic() - frame.captured
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "frame": frame.number,
        "captured": round(frame.captured, 3),
        "age": round(age, 3),
        "deadline_missed": deadline is not None and age > deadline,
    }


def _account(answer: EdgeAnswer) -> dict[str, Any]:
    told = answer.to_dict()
    names = ("text", "uncertainty", "refined", "second_look_failed", "decision", "region")
    return {name: told[name] for name in (*names, "bytes_up", "bytes_down", "pixels", "seconds")}


def _thumbnail(picture: Picture) -> Image.Image:
    return picture.shrunk(_THUMBNAIL).convert("L")


def _difference(one: Image.Image, other: Image.Image) -> float:
    """The greatest difference of two thumbnails anywhere, of their range; 1 where their sizes differ."""
    if one.size != other.size:
        return 1.0
    counts = ImageChops.difference(one, other).histogram()
    return max(level for level, count in enumerate(counts) if count) / _GREYS
