"""What gives pictures: cameras, videos, folders, and the pictures of a Python program."""

from __future__ import annotations

import glob
import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TypeAlias
from urllib.parse import parse_qsl

from .errors import PictureError, SettingsError, SourceError, StillPictureError
from .frames import Pulled, Reader, Source, Take, Takes, played, reconnecting
from .imaging import Picture, PictureSource, open_picture
from .limits import PictureLimits
from .mjpeg import mjpeg_takes
from .route import camera_name, without_password
from .snapshots import HttpCamera, Snapshots
from .video import need_pyav, recorded_takes, streamed_takes

__all__ = ["open_source", "source_name"]

Pictures: TypeAlias = Iterable[PictureSource | Picture]

KINDS = (
    "rtsp://… or http://… (MJPEG or snapshots), a device such as /dev/video0, a video file, "
    "a folder of pictures, or a pattern such as 'shots/*.jpg'"
)

_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".ico", ".j2k", ".jp2", ".jpeg", ".jpg"),
    *(".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
_FOLDER_FPS = 1.0
_DEVICE = re.compile(r"(/dev/video[0-9]+)(?:\?(.*))?")
_DEVICE_OPTIONS = frozenset(("framerate", "input_format", "video_size"))


def open_source(
    source: str | os.PathLike[str] | Pictures,
    *,
    fps: float | None = None,
    loop: bool = False,
    paced: bool = True,
    limits: PictureLimits | None = None,
) -> Source:
    """Open what gives pictures, and wait for the first one, but of a program's own.

    A paced source is read in a thread, which keeps the newest frame only. A camera of the network that has
    given a frame is connected to again, with growing pauses, whenever it is lost.

    Args:
        source: `rtsp://…`, `rtsps://…`; `http://…`, `https://…` for MJPEG, or for one picture, which is then
            asked for whenever a frame is; `/dev/video0`, also with V4L2's options, as in
            `/dev/video0?video_size=1920x1080&input_format=mjpeg`; a video file; a picture, a folder of
            pictures or a pattern of their names, taken in the order of their names and of the numbers in
            them; or pictures.
        fps: frames a second: of pictures (1 by default; a program's own come when they come), of a video in
            place of its own times, and asked of a device.
        loop: begin a video, a folder or a pattern anew at its end.
        paced: play a recording as if it were live. Otherwise each frame is read when it is asked for, and
            none is passed over.
        limits: what a frame may cost.

    Raises:
        SourceError: it cannot be opened, or there is nothing in it.
        PictureTooLargeError: its frames have more pixels than the limit.
        SettingsError: a setting is out of its range, or means nothing for this source.
    """
    if fps is not None and not 0 < fps <= 1000:
        raise SettingsError(f"fps must be above 0 and at most 1000, not {fps}")
    limits = limits or PictureLimits()
    if not isinstance(source, str | os.PathLike):
        if loop:
            raise SettingsError("a program's own pictures cannot be looped")
        return _own(source, fps, paced, limits)
    text = os.fspath(source)
    live = _live(text, fps, limits)
    if live is not None:
        if loop or not paced:
            raise SettingsError(f"a live camera can neither be looped nor be read at another pace: {live[0]}")
        try:
            return _seen(Reader(*live))
        except StillPictureError:
            return Snapshots(HttpCamera(text), limits)
    name, begin = _recorded(text, fps, loop, limits)
    if not paced:
        return Pulled(name, begin())
    return _seen(Reader(name, lambda stop: played(begin(), stop)))


def source_name(source: str) -> str:
    """A source's name, fit to be shown; what it says is checked, as far as that goes without opening it.

    Raises:
        SourceError: it is none, or what it takes is not installed.
    """
    limits = PictureLimits()
    return (_live(source, None, limits) or _recorded(source, None, False, limits))[0]


def _seen(reader: Reader) -> Reader:
    try:
        reader.wait_until_seen()
    except BaseException:
        reader.close()
        raise
    return reader


def _live(
    text: str, fps: float | None, limits: PictureLimits
) -> tuple[str, Callable[[threading.Event], Takes]] | None:
    """Name and takes of a camera; None for what is none."""
    device = _DEVICE.fullmatch(text)
    if device is not None:
        name, query = device[1], dict(parse_qsl(device[2] or "", keep_blank_values=True))
        unknown = query.keys() - _DEVICE_OPTIONS
        if unknown:
            raise SettingsError(
                f"unknown option {min(unknown)} of {name}; known are {', '.join(sorted(_DEVICE_OPTIONS))}"
            )
        need_pyav(name)
        options = query if fps is None else {**query, "framerate": f"{fps:g}"}
        return name, lambda stop: streamed_takes(name, name, limits, options)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    if scheme is None:
        return None
    if fps is not None:
        raise SettingsError(
            "fps is for recordings, pictures and devices: a camera of the network has its own"
        )
    name = camera_name(text)
    connect: Callable[[], Takes]
    if scheme[1].lower() in ("rtsp", "rtsps"):
        need_pyav(name)
        connect = partial(streamed_takes, text, name, limits)
    elif scheme[1].lower() in ("http", "https"):
        connect = partial(mjpeg_takes, HttpCamera(text), limits)
    else:
        raise SourceError(f"there are no sources of {scheme[1]}://; known are {KINDS}")
    return name, lambda stop: reconnecting(name, connect, stop)


def _recorded(
    text: str, fps: float | None, loop: bool, limits: PictureLimits
) -> tuple[str, Callable[[], Takes]]:
    """Name and takes of a video, a picture, a folder, or a pattern."""
    path = Path(text)
    if not text:
        raise SourceError(f"no source is named; one is {KINDS}")
    shown, failure = without_password(text), ""  # perhaps a camera's address that lacks its scheme
    try:
        there, is_folder = path.exists(), path.is_dir()
    except (OSError, ValueError) as error:  # a name that no file can have, which an OSError's text repeats
        failure = f"cannot open {shown!r}: {getattr(error, 'strerror', None) or error}"
    if failure:
        raise SourceError(failure)
    if there and not is_folder and path.suffix.lower() not in _SUFFIXES:
        need_pyav(text)
        begin = partial(recorded_takes, text, text, limits, fps)
        return text, partial(_looped, begin) if loop else begin
    if is_folder:
        try:
            files = [file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES]
        except OSError as error:
            raise SourceError(f"cannot read the folder {text}: {error.strerror}") from error
        missing = f"the folder {text} holds no pictures ({', '.join(_SUFFIXES)})"
    elif there:
        files = [path]
        missing = f"{text} is no file, and no folder of pictures"
    else:
        files = [Path(one) for one in glob.glob(text, recursive=True)]
        known = "" if glob.has_magic(text) else f"; a source is {KINDS}"
        missing = f"there is no {'file like ' if glob.has_magic(text) else ''}{shown}{known}"
    files = sorted(
        (file for file in files if file.is_file() and not file.name.startswith(".")), key=_by_numbers
    )
    if not files:
        raise SourceError(missing)
    return text, partial(_pictures, files, fps or _FOLDER_FPS, loop, limits)


def _by_numbers(path: Path) -> list[tuple[int, str]]:
    """Orders names as people do: frame2 before frame10."""
    words = re.split(r"([0-9]+)", str(path))
    return [(int(word), "") if at % 2 else (0, word) for at, word in enumerate(words)]


def _pictures(files: list[Path], fps: float, loop: bool, limits: PictureLimits) -> Takes:
    for at, file in enumerate(cycle(files) if loop else files):
        yield Take(at / fps, partial(open_picture, file, limits))


def _looped(begin: Callable[[], Takes]) -> Takes:
    """A recording again and again; between its end and its beginning, as between its last two frames."""
    start = 0.0
    while True:
        last, step = 0.0, 0.0
        for take in begin():
            last, step = take.captured, take.captured - last
            yield replace(take, captured=start + last)
        start += last + (step or 1 / _FOLDER_FPS)


def _own(pictures: Pictures, fps: float | None, paced: bool, limits: PictureLimits) -> Source:
    """A program's pictures; opened as they come, for it may overwrite them."""

    def takes() -> Takes:
        for at, one in enumerate(pictures):
            yield Take(time.monotonic() if fps is None else at / fps, _opened(one, limits))

    name = "the program's pictures"
    if not paced:
        return Pulled(name, takes())
    return Reader(name, lambda stop: takes() if fps is None else played(takes(), stop))


def _opened(picture: PictureSource | Picture, limits: PictureLimits) -> Callable[[], Picture]:
    """A picture that is opened now; what is wrong with it is raised where it is asked for."""
    try:
        opened = picture if isinstance(picture, Picture) else open_picture(picture, limits)
    except PictureError as error:
        return partial(_raise, error)
    return lambda: opened


def _raise(error: PictureError) -> Picture:
    raise error
