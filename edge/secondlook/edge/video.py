"""Videos, network cameras and Linux's video devices, by PyAV (FFmpeg): the extra `video`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from .errors import SourceError
from .frames import Take, Takes
from .geometry import Size
from .imaging import Picture
from .limits import PictureLimits

if TYPE_CHECKING:
    from av import VideoFrame

__all__ = ["StreamClock", "need_pyav", "recorded_takes", "streamed_takes"]

_SECONDS = 10.0
"""How long a camera may take to answer, and be silent."""
_LATE = f"no answer within {_SECONDS:g} s"

# Over TCP, where a camera knows that: what is lost on the way comes again. It shows what it sends at once.
_RTSP = {"rtsp_flags": "prefer_tcp", "fflags": "nobuffer", "analyzeduration": "1000000"}

# Of the camera's clock against ours: quartz is ten times better.
_DRIFT = 2e-4


def need_pyav(what: str) -> Any:
    """PyAV.

    Raises:
        SourceError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise SourceError(
            f"{what} needs PyAV, which cannot be imported ({error}): pip install 'secondlook-edge[video]'"
        ) from error
    return av


def recorded_takes(path: str, name: str, limits: PictureLimits, fps: float | None = None) -> Takes:
    """A file's frames, timed from the first one on: by their own times, or by `fps`.

    Raises:
        SourceError: it cannot be read, says no times, or has no frame that can be decoded.
        PictureTooLargeError: a frame has more pixels than the limit.
    """
    first, count = None, 0
    for _, seconds, frame in _frames(path, name, limits):
        if fps is not None:
            seconds = count / fps
        elif seconds is None:
            raise SourceError(f"{name} does not say when its frames are due: tell how many a second (fps)")
        first = seconds if first is None else first
        yield Take(seconds - first, partial(_picture, frame, name))
        count += 1
    if not count:
        raise SourceError(f"{name} has no frame that can be decoded")


def streamed_takes(
    address: str, name: str, limits: PictureLimits, options: dict[str, str] | None = None
) -> Takes:
    """What a network camera gives over one connection; with options, what a V4L2 device gives.

    Raises:
        SourceError: it cannot be opened, or breaks off.
        PictureTooLargeError: a frame has more pixels than the limit.
    """
    clock = StreamClock()
    for arrived, seconds, frame in _frames(address, name, limits, options):
        yield Take(clock.at(arrived, seconds), partial(_picture, frame, name))


class StreamClock:
    """A camera's times on our own clock, as if its fastest frames took no time to get here.

    So a frame that was held up on the way is known to be older than its arrival. The camera's clock is let
    drift slowly, and where its times jump, that is followed.
    """

    def __init__(self) -> None:
        self._offset: float | None = None
        self._last = (0.0, 0.0)

    def at(self, arrived: float, seconds: float | None) -> float:
        """When a frame was captured. Never decreases, as long as `arrived` does not.

        Args:
            arrived: by our clock.
            seconds: by the camera's clock; None: it does not say.
        """
        if seconds is None:
            self._last = (arrived, arrived)
            return arrived
        offset = arrived - seconds
        before, captured = self._last
        if self._offset is not None:
            offset = min(offset, self._offset + _DRIFT * (arrived - before))
        if offset + seconds < captured:  # the camera's times went back
            offset = arrived - seconds
        self._offset, self._last = offset, (arrived, offset + seconds)
        return offset + seconds


def _frames(
    address: str, name: str, limits: PictureLimits, options: dict[str, str] | None = None
) -> Iterator[tuple[float, float | None, VideoFrame]]:
    """Each frame with its arrival by `time.monotonic`, and its own time in seconds."""
    av = need_pyav(name)
    is_device = options is not None
    is_file = not is_device and "://" not in address
    started, failure = time.monotonic(), ""
    try:
        container = av.open(
            f"file:{address}" if is_file else address,  # or "12:30.mp4" would be one of the protocol 12
            format="v4l2" if is_device else None,
            options=options if is_device else {} if is_file else _RTSP,
            timeout=None if is_file else (_SECONDS, _SECONDS),
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        # Of these only the reason: their text has the address, and that a password. Where time ran out, any.
        late = not is_file and time.monotonic() - started >= _SECONDS
        failure = f"cannot open {name}: {_LATE if late else _reason(error)}"
    if failure:  # not where that error would be its context
        raise SourceError(failure)
    with container:
        if not container.streams.video:
            raise SourceError(f"{name} has no video")
        stream = container.streams.video[0]
        context = stream.codec_context
        if context is None:
            raise SourceError(f"{name} has a video in a format that this FFmpeg cannot decode")
        limits.check_pixels(context.width, context.height, name)
        context.options = {"max_pixels": str(limits.max_pixels)}
        try:
            for packet in container.demux(stream):
                arrived = time.monotonic()
                try:
                    frames = packet.decode()
                except av.InvalidDataError:  # damaged; the next ones may not be
                    continue
                for frame in frames:
                    limits.check_pixels(frame.width, frame.height, name)
                    if not frame.is_corrupt:
                        yield arrived, frame.time, frame
        except (av.FFmpegError, OSError) as error:
            raise SourceError(f"{name} has broken off: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    if type(error).__name__ == "ExitError":
        return _LATE
    return getattr(error, "strerror", None) or type(error).__name__


def _picture(frame: VideoFrame, name: str) -> Picture:
    """A decoded frame in RGB, upright."""
    make_image: Any = frame.to_image  # it has no types
    image = make_image()
    if frame.rotation % 360:
        image = image.rotate(frame.rotation, expand=True)
    return Picture(Size(*image.size), image, f"a frame of {name}")
