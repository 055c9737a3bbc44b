"""One picture after another, of which whoever asks gets the newest. What gives them is in `sources`."""

from __future__ import annotations

import logging
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TypeAlias, TypeVar

from .errors import NoFrameError, NotAPictureError, SourceError
from .imaging import Picture
from .retry import ClientSettings, backoff_seconds

__all__ = ["PATIENCE", "Frame", "Pulled", "Reader", "Source", "Take", "Takes", "played", "reconnecting"]

logger = logging.getLogger(__name__)

SourceT = TypeVar("SourceT", bound="Source")

# A machine that is too slow for a recording plays it slower: frames are never later than this.
_LATEST_SECONDS = 1.0
_JOIN_SECONDS = 0.2
# For the first frame, of a source that is not silent: key frames may be far between.
_FIRST_SECONDS = 60.0
# A connection that gave frames for less is another failure.
_STEADY_SECONDS = 10.0
PATIENCE = ClientSettings(first_wait=0.25, longest_wait=8.0)
"""With a camera that is away."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a source.

    Attributes:
        number: counted from 0 at the source; there are gaps where frames were passed over.
        captured: seconds on the camera's clock, for differences. Of live and paced sources they are on the
            scale of `time.monotonic`, so that `time.monotonic() - captured` is the frame's age.
        picture: decoded no further than it must be.
    """

    number: int
    captured: float
    picture: Picture


@dataclass(frozen=True, eq=False)
class Take:
    """A frame that nobody has asked for yet: `open` makes a picture of it.

    `captured` is in seconds, on the scale of `time.monotonic`, or from the beginning of a recording.
    """

    captured: float
    open: Callable[[], Picture]


Takes: TypeAlias = Generator[Take, None, None]


class Source(ABC):
    """Where frames come from; made by `open_source`. A context manager.

    Attributes:
        name: fit to be shown: without a user's name, password, or query.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name})"

    @abstractmethod
    def newest(self, timeout: float | None = None) -> Frame | None:
        """The newest frame, as soon as there is one newer than the last one handed out; None at the end.

        A frame that cannot be decoded is passed over with a warning.

        Args:
            timeout: seconds to wait at most; by default as long as it takes. A source that is not paced does
                not wait, and takes the time it takes.

        Raises:
            NoFrameError: there was none in that time. The source may still give one.
            SourceError: the source has broken off, or none of its frames could be decoded.
            PictureTooLargeError: a frame is above a limit.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the source: what waits in `newest` gets None, as does whoever asks afterwards."""

    def __enter__(self: SourceT) -> SourceT:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Decoding(Source):
    """Makes a picture of what is asked for, and passes over what is none."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._given = False
        self._damage: NotAPictureError | None = None

    def newest(self, timeout: float | None = None) -> Frame | None:
        end = None if timeout is None else time.monotonic() + timeout
        while (taken := self._next(end)) is not None:
            number, take = taken
            try:
                picture = take.open()
            except NotAPictureError as error:
                level = logging.INFO if self._damage else logging.WARNING
                logger.log(level, "frame %d of %s is passed over: %s", number, self.name, error)
                self._damage = error
                continue
            self._given = True
            return Frame(number, take.captured, picture)
        if self._damage is not None and not self._given:
            raise SourceError(f"{self.name} has no frame that can be decoded: {self._damage}")
        return None

    @abstractmethod
    def _next(self, end: float | None) -> tuple[int, Take] | None:
        """The newest take and its number, or None at the end; by `end` on `time.monotonic`'s scale."""


class Pulled(_Decoding):
    """Every frame, one after another, each when it is asked for."""

    def __init__(self, name: str, takes: Takes) -> None:
        super().__init__(name)
        self._takes = takes
        self._numbered: Iterator[tuple[int, Take]] = enumerate(takes)

    def _next(self, end: float | None) -> tuple[int, Take] | None:
        return next(self._numbered, None)

    def close(self) -> None:
        self._takes.close()
        self._numbered = iter(())


class Reader(_Decoding):
    """Reads in a thread of its own, at the source's pace, and keeps the newest frame only, not decoded.

    Args:
        begin: the takes, made in the thread; told what is set when the source is closed.
    """

    def __init__(self, name: str, begin: Callable[[threading.Event], Takes]) -> None:
        super().__init__(name)
        self._begin = begin
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._held: tuple[int, Take] | None = None
        self._seen = self._done = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._read, name=f"reader of {name}", daemon=True)
        self._thread.start()

    def wait_until_seen(self) -> None:
        """Wait for the first frame, or the end; raise what prevents it."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._seen or self._done, _FIRST_SECONDS):
                raise SourceError(f"{self.name} has given no frame within {_FIRST_SECONDS:g} s")
        if not self._seen and self._error is not None:
            raise self._error

    def _read(self) -> None:
        try:
            with closing(self._begin(self._stop)) as takes:
                for taken in enumerate(takes):
                    with self._changed:
                        self._held, self._seen = taken, True
                        self._changed.notify_all()
                    if self._stop.is_set():
                        return
        except Exception as error:  # noqa: BLE001  - whatever it is, it is raised where frames are asked for
            self._error = error
        finally:
            with self._changed:
                self._done = True
                self._changed.notify_all()

    def _next(self, end: float | None) -> tuple[int, Take] | None:
        with self._changed:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not self._changed.wait_for(lambda: self._held or self._done or self._stop.is_set(), left):
                raise NoFrameError(f"{self.name} has given no new frame in time")
            taken, self._held = self._held, None
        if self._stop.is_set():
            return None
        if taken is None and self._error is not None:
            raise self._error
        return taken

    def close(self) -> None:
        """Also ends the thread; one that waits for a camera ends when that answers, or its time is up."""
        self._stop.set()
        with self._changed:
            self._held = None
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=_JOIN_SECONDS)


def played(takes: Takes, stop: threading.Event) -> Takes:
    """A recording's takes, each when it is due; their times are then on the scale of `time.monotonic`."""
    start = time.monotonic()
    for take in takes:
        due = start + take.captured
        late = time.monotonic() - due
        if late > _LATEST_SECONDS:
            start, due = start + late, due + late
        if stop.wait(max(0.0, -late)):
            return
        yield replace(take, captured=due)


def reconnecting(name: str, connect: Callable[[], Takes], stop: threading.Event) -> Takes:
    """What a network camera gives, over one connection after another, with growing pauses between them: also
    where each of them gives a few frames.

    Raises:
        SourceError: the first connection gives no frame. Once there was one, it is tried until `stop` is set.
    """
    seen, failures = False, 0
    while not stop.is_set():
        reason = f"{name} has closed the connection"
        began: float | None = None
        try:
            with closing(connect()) as takes:
                for take in takes:
                    if began is None:
                        began = time.monotonic()
                        if failures:
                            logger.info("%s is back", name)
                    seen = True
                    yield take
        except SourceError as error:
            if not seen:
                raise
            reason = str(error)
        if stop.is_set():
            return
        if not seen:
            raise SourceError(f"{reason} without a frame")
        if began is not None and time.monotonic() - began >= _STEADY_SECONDS:
            failures = 0
        level = logging.INFO if failures else logging.WARNING
        logger.log(level, "%s; connecting again until it is back", reason)
        stop.wait(backoff_seconds(PATIENCE, failures, random.random()))
        failures += 1
